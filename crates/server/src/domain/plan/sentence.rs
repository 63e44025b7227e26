//! A plan as one sentence, which an operator reads before it starts.

use fota_proto::manager::{self, Span};

use super::{Reach, RolloutPlan, Wave};
use crate::domain::{model::Rollout, step::TRIAL_DEADLINE_S};

/// "Bring 1.0.6 to all where version < 1.0.6: first …". Whatever an operator chose is in it.
pub fn sentence(version: &str, rollout: &Rollout) -> String {
    let plan = &*rollout.plan;
    let mut parts = vec![waves(plan)];
    parts.extend(schedule(&plan.given.schedule));
    parts.extend(limits(plan));
    parts.extend(conditions(&plan.given.conditions));
    parts.push(stop(
        plan,
        rollout.failures_max,
        rollout.rollback_on_failure,
    ));
    parts.extend(retries(plan));
    parts.extend(trial(rollout.trial_deadline_s));
    let filter = plan.filter.as_ref();
    let filter = filter.map_or_else(String::new, |filter| format!(" where {filter}"));
    let product = match rollout.allow_product_change {
        true => ", whatever product they run",
        false => "",
    };
    let via = match plan.via.as_slice() {
        [] => String::new(),
        via => format!(", through {}", via.join(" and ")),
    };
    let approval = match plan.approval {
        true => "Once somebody else has approved it, bring",
        false => "Bring",
    };
    let targets = rollout.target.shown();
    format!(
        "{approval} {version} to {targets}{filter}{product}{via}: {}.",
        parts.join("; ")
    )
}

fn waves(plan: &RolloutPlan) -> String {
    if let [only] = plan.waves.as_slice() {
        return format!("{} at once", reach(&only.reach));
    }
    let mut said = Vec::new();
    for (number, wave) in plan.waves.iter().enumerate() {
        let word = if number == 0 { "first" } else { "then" };
        let mut text = format!("{word} {}", reach(&wave.reach));
        if number + 1 < plan.waves.len() {
            text += &times(wave);
        }
        said.push(text);
    }
    let gates = &plan.gates;
    let soak = match plan.given.gates.soak {
        Some(soak) => format!(" for {soak}"),
        None => String::new(),
    };
    let min = match gates.healthy_min {
        0 | 1 => String::new(),
        min => format!(" and at least {min} of them"),
    };
    let proof = match gates.prove {
        true => " and failures are proven not to rise",
        false => "",
    };
    format!(
        "{}, each once {}{min} of those that started before are proven healthy{soak}{proof}",
        said.join(", "),
        gates.healthy_percent,
    )
}

/// Whom a wave reaches, in words.
pub fn reach(reach: &Reach) -> String {
    match reach {
        Reach::First(1) => "1 device".to_owned(),
        Reach::First(devices) => format!("{devices} devices"),
        Reach::Named(names) => match names.len() {
            0..=3 => names.iter().cloned().collect::<Vec<_>>().join(", "),
            many => format!("{many} named devices"),
        },
        Reach::Buckets(super::BUCKETS) => "all".to_owned(),
        Reach::Buckets(buckets) => {
            let (whole, rest) = (buckets / 100, buckets % 100);
            match rest {
                0 => format!("{whole} %"),
                rest => format!("{whole}.{rest:02} %"),
            }
        }
    }
}

fn times(wave: &Wave) -> String {
    let span = |ms: i64| Span::seconds(ms.unsigned_abs() / 1000);
    match (wave.min_ms, wave.max_ms) {
        (None, None) => String::new(),
        (Some(min), None) => format!(" (for at least {})", span(min)),
        (None, Some(max)) => format!(" (paused after {})", span(max)),
        (Some(min), Some(max)) => {
            format!(" (for at least {}, paused after {})", span(min), span(max))
        }
    }
}

fn schedule(schedule: &manager::Schedule) -> Option<String> {
    let mut said = Vec::new();
    if let Some(start) = &schedule.starts_at {
        said.push(format!("from {start}"));
    }
    if let Some(end) = &schedule.ends_at {
        said.push(format!("until {end}"));
    }
    if !schedule.download.is_empty() {
        said.push(format!("downloading {}", schedule.download.join(" or ")));
    }
    if !schedule.install.is_empty() {
        said.push(format!("installing {}", schedule.install.join(" or ")));
    }
    if !schedule.blackout.is_empty() {
        said.push(format!("never on {}", schedule.blackout.join(", ")));
    }
    if said.is_empty() {
        return None;
    }
    let zone = schedule.zone.as_deref().unwrap_or("UTC");
    Some(format!(
        "{} in each device's own time ({zone} where it tells none)",
        said.join(", ")
    ))
}

fn limits(plan: &RolloutPlan) -> Option<String> {
    let limits = &plan.limits;
    let said: Vec<String> = [
        limits
            .parallel
            .map(|max| format!("{max} devices at a time")),
        limits
            .starts_per_minute
            .map(|max| format!("{max} starts a minute")),
        limits
            .bytes_per_s
            .map(|max| format!("{max} bytes a second")),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!said.is_empty()).then(|| format!("at most {}", said.join(", ")))
}

fn conditions(conditions: &manager::Conditions) -> Option<String> {
    let said: Vec<String> = [
        conditions
            .battery_min
            .map(|min| format!("its battery has {min} %")),
        conditions
            .rssi_min
            .map(|min| format!("its signal is {min} dBm or better")),
        conditions.idle.then(|| "it is idle".to_owned()),
        conditions.consent.then(|| "its user says yes".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!said.is_empty()).then(|| format!("a device installs when {}", said.join(" and ")))
}

fn stop(plan: &RolloutPlan, failures_max: Option<u32>, rollback: bool) -> String {
    let gates = &plan.gates;
    let said: Vec<String> = [
        failures_max.map(|max| match max {
            1 => "after 1 failure".to_owned(),
            max => format!("after {max} failures"),
        }),
        gates.failure_percent.map(|max| {
            let sample = gates.failure_sample;
            format!("when more than {max} of at least {sample} devices fail")
        }),
        plan.given.gates.sequential.as_ref().map(|test| {
            let unwell = gates.unwell.iter().map(|bound| format!(" or have {bound}"));
            format!(
                "when the updated devices fail{} more often than the others (wrong at most {} of \
                 the time)",
                unwell.collect::<String>(),
                test.false_stop
            )
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    if said.is_empty() {
        return "it goes on whatever fails".to_owned();
    }
    let then = match rollback {
        true => ", and sends the updated devices back to their earlier image",
        false => "",
    };
    format!("it pauses {}{then}", said.join(" or "))
}

fn retries(plan: &RolloutPlan) -> Option<String> {
    let retries = plan.retries.as_ref()?;
    Some(format!(
        "what fails for a passing reason is tried again after {} to {}",
        retries.base, retries.max
    ))
}

fn trial(deadline_s: u32) -> Option<String> {
    let said = format!("a new image has {deadline_s} s to confirm itself");
    (deadline_s != TRIAL_DEADLINE_S).then_some(said)
}
