//! The waves of a rollout: which are done, which one runs and what it waits for, which come.

use fota_proto::manager::{Rollout, RolloutState};

use super::super::pieces::{Badge, Clock};
use crate::{
    domain::plan::{RolloutPlan, sentence::reach},
    store::WaveDevices,
};

/// The waves in their order.
pub struct Waves {
    pub steps: Vec<Step>,
    /// What the next one waits for.
    pub gate: String,
    /// When that may be, where only time is missing.
    pub until: Option<Clock>,
}

/// One wave.
pub struct Step {
    pub number: u32,
    pub reaches: String,
    pub badge: Badge,
    pub is_here: bool,
    pub devices: WaveDevices,
    /// Devices that ended well or badly, of those that started, in percent.
    pub healthy_percent: f64,
    pub failed_percent: f64,
}

impl Waves {
    /// None where everything goes at once.
    pub fn new(rollout: &Rollout, counts: &[WaveDevices]) -> Option<Self> {
        let wave = rollout.wave.as_ref()?;
        let plan = RolloutPlan::check(rollout.plan.as_ref()?).ok()?;
        let is_over = rollout.state == RolloutState::Complete;
        let steps = (1..).zip(&plan.waves).map(|(number, planned)| {
            let found = counts.iter().find(|count| count.wave + 1 == number);
            let devices = found.copied().unwrap_or_default();
            let share = |part: u64| part as f64 * 100.0 / devices.started.max(1) as f64;
            Step {
                number,
                reaches: reach(&planned.reach),
                badge: badge(number, wave.number, is_over),
                is_here: number == wave.number && !is_over,
                devices,
                healthy_percent: share(devices.healthy),
                failed_percent: share(devices.failed),
            }
        });
        Some(Self {
            steps: steps.collect(),
            gate: match rollout.state {
                RolloutState::Paused => "paused: it waits for a person".to_owned(),
                RolloutState::Aborted => "it was ended".to_owned(),
                RolloutState::Active | RolloutState::Complete => wave.waits_for.clone(),
            },
            until: wave.until.map(|at| Clock::new(at, &plan.zone)),
        })
    }
}

fn badge(number: u32, here: u32, is_over: bool) -> Badge {
    if number < here || is_over {
        return Badge::new("tick", "done", "ok");
    }
    match number - here {
        0 => Badge::new("turn", "now", "busy"),
        1 => Badge::new("clock", "next", "wait"),
        _ => Badge::new("ring", "later", "idle"),
    }
}
