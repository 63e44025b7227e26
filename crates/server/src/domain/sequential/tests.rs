use proptest::prelude::*;

use super::*;

fn sample(devices: u64, failures: u64) -> Sample {
    Sample { devices, failures }
}

fn verdict(updated: Sample, control: Sample) -> Verdict {
    judge(updated, control, &Rates::default()).verdict
}

#[test]
fn a_disaster_is_stopped_after_a_few_devices_and_a_good_release_passes() {
    let fleet = sample(1_000, 5);
    assert_eq!(verdict(sample(0, 0), fleet), Verdict::More);
    assert_eq!(verdict(sample(1, 1), fleet), Verdict::More);
    assert_eq!(verdict(sample(3, 3), fleet), Verdict::Stop);
    assert_eq!(verdict(sample(10, 4), fleet), Verdict::Stop);
    assert_eq!(verdict(sample(200, 1), fleet), Verdict::Go);
    // One failure in twenty devices proves nothing yet.
    assert_eq!(verdict(sample(20, 1), fleet), Verdict::More);
}

#[test]
fn what_is_normal_comes_from_the_devices_that_were_not_updated() {
    // A fleet in which a tenth fails anyway, such as for lost contact.
    let rough = sample(1_000, 100);
    assert_eq!(verdict(sample(100, 12), rough), Verdict::More);
    assert_eq!(verdict(sample(100, 12), sample(1_000, 5)), Verdict::Stop);
    let finding = judge(sample(100, 12), rough, &Rates::default());
    assert!((0.1..0.14).contains(&finding.normal), "{finding:?}");
    let few = judge(sample(0, 0), sample(10, 0), &Rates::default());
    assert!(few.normal > 0.3, "ten devices say little: {few:?}");
    let none = judge(sample(0, 0), sample(0, 0), &Rates::default());
    assert_eq!(none.normal, NORMAL_WITHOUT_CONTROL);
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

    fn failures(&mut self, devices: u64, ratio: f64) -> u64 {
        (0..devices).filter(|_| self.chance() < ratio).count() as u64
    }
}

struct Characteristics {
    stopped: f64,
    passed: f64,
    /// Devices until the half of those that stop have stopped.
    median_to_stop: u64,
    median_to_go: u64,
}

const RUNS: u64 = 1_000;
const DEVICES_MAX: u64 = 2_000;

/// Looks after each device, as a rollout does.
fn simulate(ratio: f64, risen: f64, control_devices: u64) -> Characteristics {
    let mut random = SplitMix((ratio * 1e6) as u64 ^ ((risen * 1e6) as u64) << 20);
    let (mut stops, mut goes) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let control = sample(control_devices, random.failures(control_devices, ratio));
        let normal = highest(control, Rates::default().false_stop / 2.0);
        let worse = lowest(control, Rates::default().false_go / 2.0) + 0.05;
        let mut updated = sample(0, 0);
        while updated.devices < DEVICES_MAX {
            updated.devices += 1;
            updated.failures += u64::from(random.chance() < risen);
            if against(updated, normal) >= 2.0 / Rates::default().false_stop {
                stops.push(updated.devices);
                break;
            }
            if in_favour(updated, super::ratio(control), worse) >= 2.0 / Rates::default().false_go {
                goes.push(updated.devices);
                break;
            }
        }
    }
    let median = |found: &mut Vec<u64>| {
        found.sort_unstable();
        found.get(found.len() / 2).copied().unwrap_or(0)
    };
    Characteristics {
        stopped: stops.len() as f64 / RUNS as f64,
        passed: goes.len() as f64 / RUNS as f64,
        median_to_stop: median(&mut stops),
        median_to_go: median(&mut goes),
    }
}

#[test]
fn the_error_rates_are_as_stated() {
    println!("| normal | updated | control | stopped | passed | devices to stop | to go |");
    println!("|--:|--:|--:|--:|--:|--:|--:|");
    for (ratio, risen, control) in [
        (0.01, 0.01, 500),
        (0.01, 0.01, 5_000),
        (0.05, 0.05, 1_000),
        (0.01, 0.06, 1_000),
        (0.01, 0.11, 1_000),
        (0.01, 0.31, 1_000),
        (0.01, 1.0, 1_000),
        (0.05, 0.10, 1_000),
        (0.05, 0.15, 1_000),
    ] {
        let found = simulate(ratio, risen, control);
        println!(
            "| {:.0} % | {:.0} % | {control} | {:.2} % | {:.1} % | {} | {} |",
            ratio * 100.0,
            risen * 100.0,
            found.stopped * 100.0,
            found.passed * 100.0,
            found.median_to_stop,
            found.median_to_go
        );
        let rise = risen - ratio;
        if rise == 0.0 {
            assert!(found.stopped <= 0.01, "false stops: {}", found.stopped);
        }
        if rise >= 0.3 {
            assert!(found.median_to_stop <= 15 && found.stopped == 1.0);
        }
        if rise >= 0.05 {
            assert!(found.passed <= 0.01, "false goes: {}", found.passed);
        }
        if rise >= 0.1 {
            assert!(found.stopped >= 0.99 && found.median_to_stop <= 250);
        }
    }
}

proptest! {
    #[test]
    fn more_failures_never_speak_for_a_release(
        devices in 1_u64..100_000, failures in 0_u64..1_000, control in 0_u64..100_000, normal in 0.0..0.5_f64,
    ) {
        let control = sample(control, (control as f64 * normal) as u64);
        let failures = failures.min(devices - 1);
        let better = judge(sample(devices, failures), control, &Rates::default());
        let worse = judge(sample(devices, failures + 1), control, &Rates::default());
        prop_assert!(worse.against >= better.against && worse.in_favour <= better.in_favour);
        for figure in [better.normal, better.against, better.in_favour] {
            prop_assert!(figure.is_finite() && figure >= 0.0);
        }
    }
}
