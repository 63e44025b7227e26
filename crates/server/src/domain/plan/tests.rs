use std::sync::Arc;

use super::*;
use crate::domain::{model::Target, sample};

fn given(json: serde_json::Value) -> Result<RolloutPlan, PlanError> {
    let given = serde_json::from_value(json).expect("a plan");
    RolloutPlan::check(&given)
}

#[test]
fn the_empty_plan_is_one_wave_of_all() {
    let plan = RolloutPlan::default();
    assert!(plan.is_empty());
    assert_eq!(plan.waves.len(), 1);
    assert_eq!(plan.wave(7).reach, Reach::Buckets(BUCKETS));
    assert_eq!(plan.wave_of("a", 9_999), 0);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_field() {
    let cases = [
        (serde_json::json!({"priority": 101}), "priority"),
        (serde_json::json!({"filter": "version <"}), "filter"),
        (
            serde_json::json!({"waves": [{"percent": 5}]}),
            "waves.percent",
        ),
        (
            serde_json::json!({"waves": [{"percent": 25}, {"percent": 5}, {"percent": 100}]}),
            "waves.percent",
        ),
        (serde_json::json!({"canary": {}}), "canary"),
        (serde_json::json!({"canary": {"devices": 0}}), "canary"),
        (
            serde_json::json!({"canary": {"devices": 1, "names": ["a"]}}),
            "canary",
        ),
        (
            serde_json::json!({"limits": {"parallel": 0}}),
            "limits.parallel",
        ),
        (
            serde_json::json!({"schedule": {"zone": "Mars/Base"}}),
            "schedule.zone",
        ),
        (
            serde_json::json!({"schedule": {"download": ["late"]}}),
            "schedule.download",
        ),
        (
            serde_json::json!({"schedule": {"starts_at": "soon"}}),
            "schedule.starts_at",
        ),
        (
            serde_json::json!({"schedule": {"starts_at": "2026-12-02 00:00", "ends_at": "2026-12-01 00:00"}}),
            "schedule.ends_at",
        ),
        (
            serde_json::json!({"conditions": {"battery_min": 101}}),
            "conditions.battery_min",
        ),
        (
            serde_json::json!({"retries": {"base": "2h", "max": "1h"}}),
            "retries.base",
        ),
        (
            serde_json::json!({"gates": {"failure_sample": 0}}),
            "gates.failure_sample",
        ),
        (serde_json::json!({"via": [""]}), "via"),
    ];
    for (json, field) in cases {
        let error = given(json.clone()).expect_err(&json.to_string());
        assert_eq!(error.field, field, "{json}: {error}");
    }
}

#[test]
fn a_plan_reads_as_one_sentence() {
    let plan = given(serde_json::json!({
        "filter": "tag.site == north",
        "via": ["1.0.4"],
        "canary": {"devices": 5},
        "waves": [{"percent": 5, "min_time": "30m", "max_time": "1d"}, {"percent": 100}],
        "gates": {"soak": "10m", "failure_percent": 2.5},
        "limits": {"parallel": 50},
        "schedule": {"zone": "Europe/Berlin", "install": ["01:00-05:00"]},
        "conditions": {"battery_min": 40, "consent": true},
        "retries": {},
    }));
    let mut rollout = sample::rollout(1, 1);
    let simple = sentence("1.0.6", &rollout);
    assert_eq!(
        simple,
        "Bring 1.0.6 to all: all at once; it goes on whatever fails."
    );
    rollout.target = Target::parse(&["group:hall".to_owned()]).expect("a target");
    rollout.plan = Arc::new(plan.expect("valid"));
    rollout.failures_max = Some(1);
    rollout.rollback_on_failure = true;
    rollout.trial_deadline_s = 60;
    assert_eq!(
        sentence("1.0.6", &rollout),
        "Bring 1.0.6 to group:hall where tag.site == north, through 1.0.4: first 5 devices, then \
         5 % (for at least 30m, paused after 1d), then all, each once 90 % of those that started \
         before are proven healthy for 10m; installing 01:00-05:00 in each device's own time \
         (Europe/Berlin where it tells none); at most 50 devices at a time; a device installs \
         when its battery has 40 % and its user says yes; it pauses after 1 failure or when more \
         than 2.5 % of at least 20 devices fail, and sends the updated devices back to their \
         earlier image; what fails for a passing reason is tried again after 5m to 6h; a new \
         image has 60 s to confirm itself."
    );
}

#[test]
fn buckets_are_stable_and_evenly_spread() {
    // Never change these: a running rollout would reach other devices.
    assert_eq!(bucket(1, "ESP32-001"), bucket(1, "ESP32-001"));
    let pinned = [
        bucket(1, "ESP32-001"),
        bucket(1, "ESP32-002"),
        bucket(2, "ESP32-001"),
    ];
    assert_eq!(pinned, PINNED);
    let mut tenths = [0_u32; 10];
    for number in 0..10_000 {
        let bucket = bucket(7, &format!("ESP32-{number:05}"));
        assert!(bucket < BUCKETS);
        tenths[bucket as usize / 1000] += 1;
    }
    assert!(
        tenths.iter().all(|devices| (900..1100).contains(devices)),
        "{tenths:?}"
    );
}

const PINNED: [u32; 3] = [6178, 9294, 7497];

#[test]
fn a_higher_share_only_adds_devices() {
    let small =
        given(serde_json::json!({"waves": [{"percent": 5}, {"percent": 100}]})).expect("valid");
    let large =
        given(serde_json::json!({"waves": [{"percent": 25}, {"percent": 100}]})).expect("valid");
    for number in 0..2000 {
        let device = format!("d{number}");
        let bucket = bucket(3, &device);
        assert!(large.wave_of(&device, bucket) <= small.wave_of(&device, bucket));
    }
}
