use super::*;

const POLL: i64 = 60_000;
const NOW: i64 = 100 * CRASH_MS;

fn bounds(texts: &[&str]) -> Vec<Bound> {
    let parsed = texts.iter().map(|text| text.parse());
    parsed.collect::<Result<_, _>>().expect("bounds")
}

fn metrics(pairs: &[(&str, i32)]) -> BTreeMap<String, i32> {
    let pairs = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value));
    pairs.collect()
}

fn signs(metrics: &BTreeMap<String, i32>) -> Signs<'_> {
    Signs {
        failed: false,
        since: NOW - POLL,
        last_seen: NOW,
        crashed_at: None,
        metrics,
    }
}

#[test]
fn a_bound_is_written_as_it_is_read() {
    for text in ["errs > 10", "heap < 20000", "rssi < -85"] {
        assert_eq!(text.parse::<Bound>().expect("a bound").to_string(), text);
    }
    assert_eq!(
        "errs>10".parse::<Bound>().expect("a bound").to_string(),
        "errs > 10"
    );
    for bad in [
        "",
        "errs",
        "> 10",
        "errs > ten",
        "errs > 1 > 2",
        "a b > 1",
        "errs >= 1",
        "errs = 1",
    ] {
        assert!(bad.parse::<Bound>().is_err(), "{bad}");
    }
}

#[test]
fn a_device_counts_once_whatever_it_suffers_from() {
    let bounds = bounds(&["errs > 10", "heap < 20000"]);
    let scale = Scale {
        bounds: &bounds,
        poll_ms: POLL,
        now: NOW,
    };
    let (well, bad) = (
        metrics(&[("errs", 10), ("heap", 20_000)]),
        metrics(&[("errs", 11), ("heap", 9)]),
    );
    let mut tally = Tally::default();
    tally.count(&signs(&well), &scale);
    assert_eq!(tally.unwell, 0, "on the bound is within it");
    tally.count(&signs(&bad), &scale);
    tally.count(
        &Signs {
            last_seen: NOW - 10 * POLL - 1,
            ..signs(&well)
        },
        &scale,
    );
    tally.count(
        &Signs {
            crashed_at: Some(NOW),
            ..signs(&bad)
        },
        &scale,
    );
    tally.count(
        &Signs {
            failed: true,
            ..signs(&well)
        },
        &scale,
    );
    let expected = Tally {
        devices: 5,
        unwell: 4,
        failed: 1,
        crashed: 1,
        silent: 1,
        metrics: vec![2, 2],
        broken: 2,
    };
    assert_eq!(tally, expected);
}

#[test]
fn a_crash_before_the_update_or_of_yesterday_says_nothing() {
    let scale = Scale {
        bounds: &[],
        poll_ms: POLL,
        now: NOW,
    };
    let none = metrics(&[]);
    let mut tally = Tally::default();
    let old = Signs {
        since: NOW - 2 * CRASH_MS,
        crashed_at: Some(NOW - CRASH_MS - 1),
        ..signs(&none)
    };
    tally.count(&old, &scale);
    tally.count(
        &Signs {
            crashed_at: Some(NOW - POLL),
            ..signs(&none)
        },
        &scale,
    );
    assert_eq!(tally.unwell, 0);
}

#[test]
fn who_does_not_measure_a_metric_does_not_say_what_is_normal() {
    let bounds = bounds(&["errs > 10"]);
    let scale = Scale {
        bounds: &bounds,
        poll_ms: POLL,
        now: NOW,
    };
    let (with, without) = (metrics(&[("errs", 0)]), metrics(&[("heap", 0)]));
    let mut others = Tally::default();
    others.count_other(&signs(&without), &scale);
    others.count_other(&signs(&with), &scale);
    assert_eq!(others.devices, 1);
}

fn tally(devices: u64, failed: u64, errs: u64) -> Tally {
    let unwell = failed + errs;
    Tally {
        devices,
        unwell,
        failed,
        broken: failed,
        metrics: vec![errs],
        ..Tally::default()
    }
}

#[test]
fn a_failed_attempt_stops_at_once_and_a_metric_when_it_stands() {
    let rates = Rates::default();
    let found = judge(
        tally(10, 5, 0),
        tally(1000, 0, 5),
        &rates,
        None,
        (POLL, NOW),
    );
    assert_eq!(found.finding.verdict, sequential::Verdict::Stop);
    let first = judge(
        tally(10, 0, 5),
        tally(1000, 0, 5),
        &rates,
        None,
        (POLL, NOW),
    );
    assert_eq!(first.finding.verdict, sequential::Verdict::More);
    let later = |at| {
        judge(
            tally(10, 0, 5),
            tally(1000, 0, 5),
            &rates,
            first.against_since,
            (POLL, at),
        )
    };
    assert_eq!(later(NOW + POLL).finding.verdict, sequential::Verdict::More);
    assert_eq!(
        later(NOW + 2 * POLL).finding.verdict,
        sequential::Verdict::Stop
    );
    let better = judge(
        tally(10, 0, 0),
        tally(1000, 0, 5),
        &rates,
        first.against_since,
        (POLL, NOW + POLL),
    );
    assert_eq!(better.against_since, None, "it is counted afresh");
}

#[test]
fn without_others_a_metric_says_nothing() {
    let found = judge(
        tally(10, 0, 9),
        Tally::default(),
        &Rates::default(),
        Some(0),
        (POLL, NOW),
    );
    assert_eq!(found.finding.verdict, sequential::Verdict::More);
}

#[test]
fn the_reason_names_the_sources() {
    let found = judge(
        tally(20, 2, 4),
        tally(180, 0, 3),
        &Rates::default(),
        None,
        (POLL, NOW),
    );
    let text = found.text(&bounds(&["errs > 10"]));
    assert_eq!(
        text,
        "6 of 20 are unwell (2 failed, 4 errs > 10), without the release 3 of 180"
    );
}

#[test]
fn a_short_uptime_is_a_restart_and_a_slow_message_is_none() {
    assert!(has_restarted(5, 0, 60_000));
    assert!(!has_restarted(60, 0, 60_000));
    assert!(!has_restarted(1, 0, 2_900));
}

/// Small and good enough for a simulation (Steele, Lea and Flood, "SplitMix").
struct SplitMix(u64);

impl SplitMix {
    fn chance(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn unwell(&mut self, devices: u64, ratio: f64) -> u64 {
        (0..devices).filter(|_| self.chance() < ratio).count() as u64
    }
}

const RUNS: u64 = 400;
/// One device more is updated at each look, until so many are.
const UPDATED_MAX: u64 = 60;

/// A rollout that is looked at each poll for `looks` polls, by a metric alone: how many of the runs
/// were stopped, and after how many updated devices half of these. Where `flaps`, each device's
/// value is drawn anew for each look; else it stays as it was at first.
fn simulate(normal: f64, risen: f64, others: u64, flaps: bool, looks: u64) -> (f64, u64) {
    let mut random = SplitMix((normal * 1e6) as u64 ^ others << 20);
    let mut stops = Vec::new();
    for _ in 0..RUNS {
        let (mut devices, mut errs, mut since) = (0, 0, None);
        let mut watched = random.unwell(others, normal);
        for look in 0..looks {
            let is_more = devices < UPDATED_MAX;
            devices += u64::from(is_more);
            match flaps {
                true => errs = random.unwell(devices, risen),
                false => errs += u64::from(is_more && random.chance() < risen),
            }
            if flaps && look % 10 == 0 {
                watched = random.unwell(others, normal);
            }
            let times = (POLL, NOW + look as i64 * POLL);
            let (updated, others) = (tally(devices, 0, errs), tally(others, 0, watched));
            let found = judge(updated, others, &Rates::default(), since, times);
            since = found.against_since;
            if found.finding.verdict == sequential::Verdict::Stop {
                stops.push(devices);
                break;
            }
        }
    }
    stops.sort_unstable();
    let median = stops.get(stops.len() / 2).copied().unwrap_or(0);
    (stops.len() as f64 / RUNS as f64, median)
}

#[test]
fn the_error_rates_hold_for_metrics_against_others() {
    println!("| unwell normally | updated | others | the value | stopped | devices to stop |");
    println!("|--:|--:|--:|---|--:|--:|");
    for (normal, risen, others, flaps) in [
        (0.01, 0.01, 1_000, false),
        (0.05, 0.05, 1_000, false),
        (0.05, 0.05, 100, false),
        (0.01, 0.01, 1_000, true),
        (0.01, 0.01, 100, true),
        (0.05, 0.05, 1_000, true),
        (0.01, 0.31, 1_000, false),
        (0.05, 0.35, 1_000, false),
        (0.05, 0.35, 100, false),
        (0.01, 0.31, 1_000, true),
    ] {
        let looks = if flaps { 720 } else { 3 * UPDATED_MAX };
        let (stopped, median) = simulate(normal, risen, others, flaps, looks);
        println!(
            "| {:.0} % | {:.0} % | {others} | {} | {:.1} % | {median} |",
            normal * 100.0,
            risen * 100.0,
            if flaps { "flaps" } else { "stays" },
            stopped * 100.0
        );
        match risen > normal {
            false => assert!(stopped <= 0.01, "false stops: {stopped}"),
            // A hundred others say too little of what is normal for a quick answer.
            true if others < 1_000 => {}
            true => assert!(stopped >= 0.95 && median <= 25, "{stopped}, {median}"),
        }
    }
}
