use proptest::prelude::*;

use super::*;

const MINUTE_MS: i64 = 60_000;

fn zone(name: &str) -> Zone {
    name.parse().expect("a zone")
}

/// `2026-03-29T02:30:00+01:00` as milliseconds.
fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().expect("a time").as_millisecond()
}

fn schedule(windows: &[&str]) -> Schedule {
    Schedule {
        windows: windows
            .iter()
            .map(|text| text.parse().expect("a window"))
            .collect(),
        ..Schedule::default()
    }
}

fn opens(schedule: &Schedule, now: &str, in_zone: &str) -> Option<i64> {
    match schedule.gate(at(now), &zone(in_zone)) {
        Gate::Closed { opens_at } => opens_at,
        open @ Gate::Open { .. } => panic!("{now}: {open:?}"),
    }
}

fn closes(schedule: &Schedule, now: &str, in_zone: &str) -> Option<i64> {
    match schedule.gate(at(now), &zone(in_zone)) {
        Gate::Open { until, .. } => until,
        closed @ Gate::Closed { .. } => panic!("{now}: {closed:?}"),
    }
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_it_begins_on() {
    let nights = schedule(&["fri 22:00-06:00"]);
    // 2026-11-27 is a Friday.
    let (friday, saturday) = (
        at("2026-11-27T22:00:00+01:00"),
        at("2026-11-28T06:00:00+01:00"),
    );
    assert_eq!(
        opens(&nights, "2026-11-25T12:00:00Z", "Europe/Berlin"),
        Some(friday)
    );
    assert_eq!(
        closes(&nights, "2026-11-28T05:59:59+01:00", "Europe/Berlin"),
        Some(saturday)
    );
    let gate = nights.gate(at("2026-11-28T01:00:00+01:00"), &zone("Europe/Berlin"));
    let (since, until) = (friday, Some(saturday));
    assert_eq!(gate, Gate::Open { since, until });
    let next = at("2026-12-04T22:00:00+01:00");
    assert_eq!(
        opens(&nights, "2026-11-28T06:00:00+01:00", "Europe/Berlin"),
        Some(next)
    );
}

#[test]
fn the_same_window_opens_at_another_time_in_another_zone() {
    let morning = schedule(&["03:00-04:00"]);
    for (name, when) in [
        ("UTC", "2026-07-02T03:00:00Z"),
        ("Europe/Berlin", "2026-07-02T03:00:00+02:00"),
        ("Asia/Kolkata", "2026-07-02T03:00:00+05:30"),
        ("America/New_York", "2026-07-02T03:00:00-04:00"),
    ] {
        let now = "2026-07-01T10:00:00Z";
        assert_eq!(opens(&morning, now, name), Some(at(when)), "{name}");
    }
}

#[test]
fn a_window_in_the_hour_that_is_skipped_begins_with_the_change() {
    // Europe/Berlin goes from 02:00 to 03:00 on 2026-03-29.
    let berlin = "Europe/Berlin";
    let change = at("2026-03-29T03:00:00+02:00");
    let early = schedule(&["02:30-04:00"]);
    assert_eq!(
        opens(&early, "2026-03-29T00:00:00+01:00", berlin),
        Some(change)
    );
    assert_eq!(
        closes(&early, "2026-03-29T03:10:00+02:00", berlin),
        Some(at("2026-03-29T04:00:00+02:00"))
    );
    // One that lies wholly in the hour does not open on this day.
    let gone = schedule(&["02:15-02:45"]);
    assert_eq!(
        opens(&gone, "2026-03-29T00:00:00+01:00", berlin),
        Some(at("2026-03-30T02:15:00+02:00"))
    );
}

#[test]
fn a_window_in_the_hour_that_comes_twice_opens_twice() {
    // Europe/Berlin goes from 03:00 back to 02:00 on 2026-10-25.
    let berlin = "Europe/Berlin";
    let half = schedule(&["02:00-02:30"]);
    assert_eq!(
        opens(&half, "2026-10-25T01:00:00+02:00", berlin),
        Some(at("2026-10-25T02:00:00+02:00"))
    );
    assert_eq!(
        closes(&half, "2026-10-25T02:10:00+02:00", berlin),
        Some(at("2026-10-25T02:30:00+02:00"))
    );
    assert_eq!(
        opens(&half, "2026-10-25T02:40:00+02:00", berlin),
        Some(at("2026-10-25T02:00:00+01:00"))
    );
    // One over the whole hour stays open through both.
    let whole = schedule(&["01:00-04:00"]);
    assert_eq!(
        closes(&whole, "2026-10-25T01:30:00+02:00", berlin),
        Some(at("2026-10-25T04:00:00+01:00"))
    );
}

#[test]
fn blackouts_start_and_end_close_it() {
    let mut plan = schedule(&["01:00-05:00"]);
    plan.blackouts = vec!["2026-12-24..2027-01-01".parse().expect("two days")];
    assert_eq!(
        opens(&plan, "2026-12-23T12:00:00Z", "UTC"),
        Some(at("2027-01-02T01:00:00Z"))
    );
    plan.starts_at = Some(at("2027-01-02T02:00:00Z"));
    plan.ends_at = Some(at("2027-01-02T03:00:00Z"));
    assert_eq!(opens(&plan, "2026-12-01T12:00:00Z", "UTC"), plan.starts_at);
    assert_eq!(closes(&plan, "2027-01-02T02:30:00Z", "UTC"), plan.ends_at);
    assert_eq!(opens(&plan, "2027-01-02T03:00:00Z", "UTC"), None);
    let far = Schedule {
        starts_at: Some(at("2031-01-01T00:00:00Z")),
        ..Schedule::default()
    };
    assert_eq!(opens(&far, "2026-12-01T12:00:00Z", "UTC"), far.starts_at);
}

#[test]
fn texts_are_read_and_printed_or_refused_with_an_example() {
    for text in ["22:00-06:00", "sat,sun 08:00-20:00", "00:00-24:00"] {
        let window: Window = text.parse().expect("a window");
        assert_eq!(window.to_string(), text);
    }
    let week: Window = "fri-mon 01:00-02:00".parse().expect("a window");
    assert_eq!(week.to_string(), "mon,fri,sat,sun 01:00-02:00");
    for text in [
        "",
        "25:00-26:00",
        "1:00-2:00",
        "01:00",
        "moo 01:00-02:00",
        "01:00-01:00",
        "24:00-01:00",
    ] {
        let error = text.parse::<Window>().expect_err(text).to_string();
        assert!(error.contains("write it like"), "{error}");
    }
    for text in ["2026-12-24", "2026-12-24..2027-01-01"] {
        assert_eq!(text.parse::<Blackout>().expect("days").to_string(), text);
    }
    for text in ["", "yesterday", "2027-01-01..2026-12-24"] {
        assert!(text.parse::<Blackout>().is_err(), "{text}");
    }
    let unknown = "Mars/Olympus"
        .parse::<Zone>()
        .expect_err("no zone")
        .to_string();
    assert!(unknown.contains("IANA"), "{unknown}");
    assert_eq!(zone("Europe/Berlin").to_string(), "Europe/Berlin");
}

#[test]
fn devices_start_spread_over_the_window() {
    let (since, until) = (1_000_000, Some(1_000_000 + 4 * 60 * MINUTE_MS));
    assert_eq!(own_start(since, until, 0), since);
    let last = own_start(since, until, u32::MAX);
    assert!(last < since + SPREAD_MS_MAX && last > since + SPREAD_MS_MAX - 2);
    // Half of a short window.
    let short = own_start(since, Some(since + 10 * MINUTE_MS), u32::MAX);
    assert!(short < since + 5 * MINUTE_MS);
}

/// The definition, minute by minute.
fn slowly_next_change(schedule: &Schedule, now_ms: i64, zone: &Zone, minutes: i64) -> Option<i64> {
    let is_open = schedule.is_open(now_ms, zone);
    let first = now_ms.div_euclid(MINUTE_MS) + 1;
    (first..first + minutes)
        .map(|minute| minute * MINUTE_MS)
        .find(|at| schedule.is_open(*at, zone) != is_open)
}

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe", // half an hour of summer time
    "Asia/Kathmandu",      // +05:45
    "America/Santiago",    // changes at midnight
    "Pacific/Apia",        // +13
    "Africa/Casablanca",   // negative summer time
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Around every change of the clocks too: 2026 has them in spring and autumn.
    #[test]
    fn the_next_change_is_the_one_that_a_clock_would_show(
        name in prop::sample::select(&ZONES[..]),
        day in 0_i64..365,
        minute in 0_i64..1440,
        windows in prop::collection::vec((1_u8..128, 0_u16..1440, 0_u16..=1440), 1..3),
    ) {
        let windows = windows.into_iter().filter(|(_, from, to)| from != to);
        let schedule = Schedule {
            windows: windows.map(|(days, from, to)| Window { days: Days(days), from, to }).collect(),
            ..Schedule::default()
        };
        let (zone, now) = (zone(name), at("2026-01-01T00:00:00Z") + (day * 1440 + minute) * MINUTE_MS);
        let days = 9 * 1440;
        let found = schedule.next_change(now, &zone);
        let wanted = slowly_next_change(&schedule, now, &zone, days);
        if wanted.is_some() || found.is_some_and(|at| at < now + days * MINUTE_MS) {
            prop_assert_eq!(found, wanted);
        }
        if let Gate::Open { since, until } = schedule.gate(now, &zone) {
            prop_assert!(since <= now && until.is_none_or(|until| until > now));
            let own = own_start(since, until, u32::MAX / 3);
            prop_assert!(own >= since && until.is_none_or(|until| own < until));
        }
    }
}
