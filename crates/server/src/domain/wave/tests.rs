use std::sync::Arc;

use super::*;
use crate::domain::{
    health,
    model::{Standing, Target},
    plan::RolloutPlan,
};

const POLL: i64 = 60_000;
const HOUR: i64 = 60 * POLL;

fn rollout(plan: serde_json::Value) -> Rollout {
    let given = serde_json::from_value(plan).expect("a plan");
    Rollout {
        id: 1,
        release: 1,
        target: Target::default(),
        standing: Standing::Active,
        held: false,
        reason: None,
        failures_max: Some(3),
        rollback_on_failure: false,
        trial_deadline_s: 300,
        allow_product_change: false,
        idempotency_key: None,
        created_at: 0,
        plan: Arc::new(RolloutPlan::check(&given).expect("valid")),
        wave: 0,
        wave_since: 0,
        wave_devices: Some(10),
        created_by: "operator-token".to_owned(),
        approved_by: None,
        forgiven: 0,
    }
}

fn two_waves() -> Rollout {
    let gates = serde_json::json!({"soak": "10m", "healthy_min": 3, "failure_percent": 10});
    rollout(serde_json::json!({
        "waves": [{"percent": 5, "min_time": "30m", "max_time": "4h"}, {"percent": 100}],
        "gates": gates,
    }))
}

fn counted(started: u64, healthy: u64) -> Counted {
    Counted {
        wave: WaveCount {
            started,
            healthy,
            first_start: Some(0),
            ..WaveCount::default()
        },
        ended: healthy,
        ..Counted::default()
    }
}

#[test]
fn a_wave_lasts_its_least_time_and_needs_its_healthy_devices() {
    let rollout = two_waves();
    let early = judge(&rollout, &counted(5, 5), POLL, 29 * POLL);
    let until = Some(30 * POLL);
    assert!(
        matches!(early, Verdict::Stay { until: at, .. } if at == until),
        "{early:?}"
    );
    let at = HOUR;
    let advanced =
        |counted: &Counted| matches!(judge(&rollout, counted, POLL, at), Verdict::Advance { .. });
    assert!(advanced(&counted(5, 5)));
    assert!(!advanced(&counted(5, 4)), "90 % of 5 are 5");
    assert!(advanced(&counted(10, 9)));
    assert!(!advanced(&counted(2, 2)), "at least 3");
    let waiting = Counted {
        waits_until: at + 1,
        ..counted(5, 5)
    };
    assert!(!advanced(&waiting));
}

#[test]
fn a_wave_of_few_devices_needs_no_more_than_it_has() {
    let mut few = two_waves();
    few.wave_devices = Some(2);
    let verdict = judge(&few, &counted(2, 2), POLL, HOUR);
    assert!(matches!(verdict, Verdict::Advance { .. }), "{verdict:?}");
    few.wave_devices = Some(0);
    let nobody = Counted::default();
    let verdict = judge(&few, &nobody, POLL, HOUR);
    assert!(matches!(verdict, Verdict::Advance { .. }), "{verdict:?}");
    few.wave_devices = None;
    let verdict = judge(&few, &nobody, POLL, HOUR);
    assert!(
        matches!(verdict, Verdict::Stay { until: None, .. }),
        "not counted yet: {verdict:?}"
    );
}

#[test]
fn a_wave_that_takes_too_long_pauses_and_a_breach_comes_first() {
    let rollout = two_waves();
    let verdict = judge(&rollout, &counted(5, 2), POLL, 4 * HOUR);
    assert!(matches!(verdict, Verdict::Pause { .. }), "{verdict:?}");
    let failed = Counted {
        failures: 3,
        ended: 5,
        ..counted(5, 2)
    };
    let verdict = judge(&rollout, &failed, POLL, 4 * HOUR);
    let why = "3 failed, the limit is 3".to_owned();
    assert_eq!(verdict, Verdict::Breach { why });
}

#[test]
fn a_share_of_failures_needs_its_sample() {
    let rollout = Rollout {
        failures_max: None,
        ..two_waves()
    };
    let failed = |failures, ended| Counted {
        failures,
        ended,
        ..Counted::default()
    };
    assert_eq!(breach(&rollout, &failed(10, 19)), None);
    assert_eq!(breach(&rollout, &failed(2, 20)), None);
    let why = breach(&rollout, &failed(3, 20)).expect("above");
    assert_eq!(why, "3 of 20 failed, the limit is 10 %");
}

#[test]
fn of_the_first_to_come_the_share_must_be_healthy() {
    let mut rollout = rollout(serde_json::json!({"canary": {"devices": 5}}));
    rollout.wave_devices = None;
    let verdict = judge(&rollout, &counted(4, 4), POLL, HOUR);
    assert!(matches!(verdict, Verdict::Stay { .. }), "{verdict:?}");
    let verdict = judge(&rollout, &counted(5, 5), POLL, HOUR);
    assert!(matches!(verdict, Verdict::Advance { .. }), "{verdict:?}");
}

#[test]
fn the_last_wave_stays_and_an_end_ends() {
    let mut last = two_waves();
    last.wave = 1;
    let verdict = judge(&last, &counted(5, 5), POLL, HOUR);
    assert!(matches!(verdict, Verdict::Stay { .. }), "{verdict:?}");
    let ends = rollout(serde_json::json!({"schedule": {"ends_at": "1970-01-01 01:00"}}));
    let verdict = judge(&ends, &counted(5, 5), POLL, HOUR);
    assert!(matches!(verdict, Verdict::End { .. }), "{verdict:?}");
}

#[test]
fn while_the_test_speaks_against_the_release_its_wave_waits() {
    let rollout = two_waves();
    let tally = |devices, unwell| health::Tally {
        devices,
        unwell,
        ..health::Tally::default()
    };
    let judged = |unwell| {
        let rates = sequential::Rates::default();
        health::judge(
            tally(5, unwell),
            tally(1_000, 0),
            &rates,
            None,
            (POLL, HOUR),
        )
    };
    let with = |unwell| Counted {
        health: Some(judged(unwell)),
        ..counted(5, 5)
    };
    assert!(matches!(
        judge(&rollout, &with(0), POLL, HOUR),
        Verdict::Advance { .. }
    ));
    let Verdict::Stay { why, .. } = judge(&rollout, &with(5), POLL, HOUR) else {
        panic!("it goes on");
    };
    assert!(why.contains("look worse"), "{why}");
}
