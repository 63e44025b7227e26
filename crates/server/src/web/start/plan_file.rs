//! The same rollout as a file, for `fota rollout plan -f`.

use fota_proto::manager::RolloutRequest;

/// The request as the command reads it: the rollout's own words, then the sections of its plan.
pub fn plan_file(request: &RolloutRequest) -> Option<String> {
    let mut table = toml::Table::try_from(request.plan.as_ref()?).ok()?;
    table.insert("release".into(), request.release.clone().into());
    table.insert("to".into(), request.to.clone().into());
    if let Some(max) = request.failures_max {
        table.insert("failures_max".into(), i64::from(max).into());
    }
    if let Some(seconds) = request.trial_deadline_s {
        table.insert("trial_deadline".into(), format!("{seconds}s").into());
    }
    let flags = [
        ("rollback_on_failure", request.rollback_on_failure),
        ("allow_product_change", request.allow_product_change),
    ];
    for (name, _) in flags.into_iter().filter(|(_, is)| *is) {
        table.insert(name.into(), true.into());
    }
    toml::to_string(&table).ok()
}

#[cfg(test)]
mod tests {
    use fota_proto::manager::RolloutPlan;

    use super::*;

    #[test]
    fn the_file_holds_the_whole_plan() {
        let plan = serde_json::json!({
            "filter": "tag.site == north",
            "canary": {"devices": 1, "min_time": "1h"},
            "waves": [{"percent": 12.5, "min_time": "1h"}, {"percent": 100}],
            "gates": {"sequential": {}},
            "schedule": {"zone": "Europe/Berlin", "download": ["22:00-06:00"]},
            "retries": {},
        });
        let plan: RolloutPlan = serde_json::from_value(plan).expect("a plan");
        let request = serde_json::json!({
            "release": "1.0.6", "to": ["all"], "failures_max": 2, "plan": plan,
        });
        let request = serde_json::from_value(request).expect("a request");
        let text = plan_file(&request).expect("a plan");
        let mut table: toml::Table = text.parse().expect("TOML");
        assert_eq!(table.remove("release"), Some("1.0.6".into()));
        assert_eq!(table.remove("failures_max"), Some(2.into()));
        assert!(table.remove("to").is_some());
        let again: RolloutPlan = table.try_into().expect("a plan");
        assert_eq!(again, plan);
    }
}
