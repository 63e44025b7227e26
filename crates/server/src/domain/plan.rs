//! The plan of a rollout, checked: a value of this type makes sense.
//!
//! It is stored as the JSON that the operator gave ([`manager::RolloutPlan`]) and read from it, so
//! a plan says the same for ever. What a plan leaves out asks for nothing: the empty plan is one
//! wave of all devices without limits.

use std::{collections::BTreeSet, str::FromStr};

use fota_proto::{
    AttemptState, FailureCode,
    checkin::Conditions,
    limits::{DEVICE_ID_BYTES_MAX, METRICS_MAX, VERSION_BYTES_MAX},
    manager::{self, Limits, Percent, Retries, Span, Timeouts},
};

use super::{
    filter::Filter,
    health::Bound,
    model::Attempt,
    sequential::Rates,
    window::{BLACKOUTS_MAX, Schedule, WINDOWS_MAX, Zone},
};

pub mod sentence;

pub use sentence::sentence;

/// Buckets that devices fall into; a wave is a share of them.
pub const BUCKETS: u32 = 10_000;
/// Waves of one plan: each takes at least minutes, and more is no plan.
pub const WAVES_MAX: usize = 20;
/// Devices that may be named as canaries; more are a group.
pub const CANARIES_MAX: usize = 1000;
/// Versions that a device may have to pass through.
pub const VIA_MAX: usize = 16;
/// Priority of a plan that gives none.
pub const PRIORITY: u8 = 50;
/// Without progress for so long an attempt is stalled where the plan says nothing: an hour.
pub const STALLED_MS: i64 = 60 * 60 * 1000;

/// A checked plan.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutPlan {
    given: manager::RolloutPlan,
    pub filter: Option<Filter>,
    pub priority: u8,
    /// Oldest first.
    pub via: Vec<String>,
    pub approval: bool,
    /// At least one; the last reaches all.
    pub waves: Vec<Wave>,
    pub gates: Gates,
    pub limits: Limits,
    /// When an offer may be made and bytes be taken.
    pub download: Schedule,
    /// When what was taken may be activated; none: at once.
    pub install: Option<Schedule>,
    /// Of devices that tell none.
    pub zone: Zone,
    pub conditions: Option<Conditions>,
    pub retries: Option<Retries>,
    pub timeouts: Timeouts,
}

/// One wave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wave {
    pub reach: Reach,
    /// Least time from its first start to the next wave.
    pub min_ms: Option<i64>,
    /// Time after which it pauses the rollout.
    pub max_ms: Option<i64>,
}

/// Whom a wave reaches, those of the waves before included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// So many devices, whichever come first.
    First(u32),
    /// These devices.
    Named(BTreeSet<String>),
    /// The devices in so many buckets, from the first.
    Buckets(u32),
}

/// What must be proven before the next wave, and what stops a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Gates {
    pub healthy_percent: Percent,
    pub healthy_min: u32,
    pub soak_ms: i64,
    pub failure_percent: Option<Percent>,
    pub failure_sample: u32,
    pub sequential: Option<Rates>,
    /// Bounds of metrics beyond which the sequential test counts a device as unwell.
    pub unwell: Vec<Bound>,
    /// Whether the next wave waits for the sequential test to pass.
    pub prove: bool,
}

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plan.{field}: {detail}")]
pub struct PlanError {
    /// Which part.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub detail: String,
}

fn refuse<T>(field: &'static str, detail: impl ToString) -> Result<T, PlanError> {
    let detail = detail.to_string();
    Err(PlanError { field, detail })
}

impl Default for RolloutPlan {
    fn default() -> Self {
        Self::check(&manager::RolloutPlan::default()).expect("the empty plan asks for nothing")
    }
}

impl RolloutPlan {
    /// Checks what an operator gave.
    pub fn check(given: &manager::RolloutPlan) -> Result<Self, PlanError> {
        let priority = given.priority.unwrap_or(PRIORITY);
        if priority > 100 {
            return refuse("priority", format!("is {priority}: give 0 to 100"));
        }
        let zone = zone(given)?;
        let (download, install) = schedules(given, &zone)?;
        Ok(Self {
            filter: filter(given)?,
            priority,
            via: via(given)?,
            approval: given.approval,
            waves: waves(given)?,
            gates: gates(given)?,
            limits: limits(given)?,
            download,
            install,
            zone,
            conditions: conditions(given)?,
            retries: retries(given)?,
            timeouts: given.timeouts.clone(),
            given: given.clone(),
        })
    }

    /// The plan as it was given.
    pub fn given(&self) -> &manager::RolloutPlan {
        &self.given
    }

    /// Whether it asks for anything.
    pub fn is_empty(&self) -> bool {
        self.given == manager::RolloutPlan::default()
    }

    /// The wave of that number; past the last one the last.
    pub fn wave(&self, number: u32) -> &Wave {
        let last = self.waves.len() - 1;
        &self.waves[last.min(number as usize)]
    }

    /// Number of the last wave, from 0.
    pub fn last_wave(&self) -> u32 {
        u32::try_from(self.waves.len() - 1).unwrap_or(u32::MAX)
    }

    /// The first wave that reaches a device, whoever else comes: not one of "the first to come".
    pub fn wave_of(&self, device: &str, bucket: u32) -> u32 {
        let reaches = |wave: &Wave| match &wave.reach {
            Reach::First(_) => false,
            Reach::Named(names) => names.contains(device),
            Reach::Buckets(below) => bucket < *below,
        };
        let first = self.waves.iter().position(reaches);
        first.map_or(self.last_wave(), |number| number as u32)
    }

    /// When an attempt that has just ended is followed by another: for a passing failure, while
    /// its class has tries left. The pause doubles with each, and devices come apart by up to a
    /// quarter of it.
    pub fn retry_at(&self, ended: &Attempt, now: i64) -> Option<i64> {
        let retries = self.retries.as_ref()?;
        let class = match ended.state {
            AttemptState::Failed(code) => FailureClass::of(code),
            AttemptState::TimedOut => FailureClass::Timeout,
            _ => FailureClass::Final,
        };
        if ended.tries > class.budget(retries) {
            return None;
        }
        let doublings = ended.tries.saturating_sub(1).min(30);
        let pause = retries.base.ms().saturating_mul(1 << doublings);
        let pause = pause.min(retries.max.ms());
        let apart = i64::from(share("retry", ended.rollout, &ended.device));
        Some(now + pause + (pause / 4).saturating_mul(apart) / (1 << 32))
    }

    /// After how long without progress an attempt is stalled.
    pub fn stalled_ms(&self) -> i64 {
        self.timeouts.stalled.map_or(STALLED_MS, Span::ms)
    }
}

/// Where a device stands in the order of a rollout, 0 to [`BUCKETS`]: the same on every node and
/// after every restart. FNV-1a with a final mix, so that neighbouring names fall far apart; it
/// spreads devices, nobody's security rests on it.
pub fn bucket(rollout: i64, device: &str) -> u32 {
    ((u64::from(share("bucket", rollout, device)) * u64::from(BUCKETS)) >> 32) as u32
}

/// A stable number of a device in a rollout, evenly spread; another one for each `salt`.
pub fn share(salt: &str, rollout: i64, device: &str) -> u32 {
    let bytes = salt.bytes().chain(rollout.to_le_bytes());
    let hash = bytes
        .chain(device.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

fn filter(given: &manager::RolloutPlan) -> Result<Option<Filter>, PlanError> {
    let parsed = given.filter.as_deref().map(Filter::from_str).transpose();
    parsed.or_else(|error| refuse("filter", error))
}

fn via(given: &manager::RolloutPlan) -> Result<Vec<String>, PlanError> {
    let via = &given.via;
    if via.len() > VIA_MAX {
        return refuse(
            "via",
            format!("names {} versions; at most {VIA_MAX} are taken", via.len()),
        );
    }
    let fits = |version: &String| (1..=VERSION_BYTES_MAX).contains(&version.len());
    match via.iter().all(fits) {
        true => Ok(via.clone()),
        false => refuse(
            "via",
            format!("a version has 1 to {VERSION_BYTES_MAX} bytes"),
        ),
    }
}

fn waves(given: &manager::RolloutPlan) -> Result<Vec<Wave>, PlanError> {
    let mut waves: Vec<Wave> = given
        .canary
        .as_ref()
        .map(canary)
        .transpose()?
        .into_iter()
        .collect();
    if given.waves.len() > WAVES_MAX {
        let detail = format!("are {}; at most {WAVES_MAX} are taken", given.waves.len());
        return refuse("waves", detail);
    }
    let mut before = 0;
    for wave in &given.waves {
        let buckets = wave.percent.hundredths();
        if buckets <= before {
            let detail = format!("{} is not more than the wave before", wave.percent);
            return refuse("waves.percent", detail);
        }
        before = buckets;
        waves.push(Wave {
            reach: Reach::Buckets(buckets),
            min_ms: wave.min_time.map(Span::ms),
            max_ms: wave.max_time.map(Span::ms),
        });
    }
    if given.waves.is_empty() {
        waves.push(Wave {
            reach: Reach::Buckets(BUCKETS),
            min_ms: None,
            max_ms: None,
        });
    } else if before < BUCKETS {
        let detail = "the last wave must be 100: leave devices out with the filter or the targets";
        return refuse("waves.percent", detail);
    }
    Ok(waves)
}

fn canary(canary: &manager::Canary) -> Result<Wave, PlanError> {
    let reach = match (canary.devices, canary.names.as_slice()) {
        (Some(devices @ 1..), []) => Reach::First(devices),
        (None, names @ [_, ..]) if names.len() <= CANARIES_MAX => {
            let fits = |name: &String| (1..=DEVICE_ID_BYTES_MAX).contains(&name.len());
            if !names.iter().all(fits) {
                return refuse("canary.names", "holds a text that is no device id");
            }
            Reach::Named(names.iter().cloned().collect())
        }
        (None, [_, ..]) => {
            let detail = format!("are more than {CANARIES_MAX}: make a group");
            return refuse("canary.names", detail);
        }
        _ => return refuse("canary", "give devices, at least 1, or names"),
    };
    Ok(Wave {
        reach,
        min_ms: canary.min_time.map(Span::ms),
        max_ms: canary.max_time.map(Span::ms),
    })
}

fn gates(given: &manager::RolloutPlan) -> Result<Gates, PlanError> {
    let gates = &given.gates;
    if gates.failure_sample == Some(0) {
        return refuse("gates.failure_sample", "is 0: give at least 1");
    }
    Ok(Gates {
        healthy_percent: gates.healthy_percent.unwrap_or(Percent::whole(90)),
        healthy_min: gates.healthy_min.unwrap_or(1),
        soak_ms: gates.soak.map_or(0, Span::ms),
        failure_percent: gates.failure_percent,
        failure_sample: gates.failure_sample.unwrap_or(20),
        sequential: gates.sequential.as_ref().map(rates).transpose()?,
        unwell: unwell(gates.sequential.as_ref())?,
        prove: gates.sequential.as_ref().is_some_and(|test| test.prove),
    })
}

fn unwell(given: Option<&manager::Sequential>) -> Result<Vec<Bound>, PlanError> {
    let bounds = given.map_or(&[][..], |test| &test.unwell);
    all("gates.sequential.unwell", bounds, METRICS_MAX)
}

fn rates(given: &manager::Sequential) -> Result<Rates, PlanError> {
    let share = |percent: Percent| f64::from(percent.hundredths()) / 10_000.0;
    let within = |percent: Percent| (1..=5000).contains(&percent.hundredths());
    let all = [given.false_stop, given.false_go, given.tolerance];
    if !all.into_iter().all(within) {
        let detail = "false_stop, false_go and tolerance are 0.01 to 50 percent each";
        return refuse("gates.sequential", detail);
    }
    Ok(Rates {
        false_stop: share(given.false_stop),
        false_go: share(given.false_go),
        tolerance: share(given.tolerance),
    })
}

fn limits(given: &manager::RolloutPlan) -> Result<Limits, PlanError> {
    let limits = &given.limits;
    let zero = [
        ("limits.parallel", limits.parallel == Some(0)),
        (
            "limits.starts_per_minute",
            limits.starts_per_minute == Some(0),
        ),
        ("limits.bytes_per_s", limits.bytes_per_s == Some(0)),
    ];
    match zero.iter().find(|(_, is_zero)| *is_zero) {
        Some((field, _)) => refuse(
            field,
            "is 0, which would start nothing: pause the rollout instead",
        ),
        None => Ok(limits.clone()),
    }
}

fn zone(given: &manager::RolloutPlan) -> Result<Zone, PlanError> {
    let Some(name) = &given.schedule.zone else {
        return Ok(Zone::UTC);
    };
    name.parse().or_else(|error| refuse("schedule.zone", error))
}

fn schedules(
    given: &manager::RolloutPlan,
    zone: &Zone,
) -> Result<(Schedule, Option<Schedule>), PlanError> {
    let schedule = &given.schedule;
    let blackouts = all("schedule.blackout", &schedule.blackout, BLACKOUTS_MAX)?;
    let download = Schedule {
        starts_at: moment("schedule.starts_at", schedule.starts_at.as_deref(), zone)?,
        ends_at: moment("schedule.ends_at", schedule.ends_at.as_deref(), zone)?,
        windows: all("schedule.download", &schedule.download, WINDOWS_MAX)?,
        blackouts: blackouts.clone(),
    };
    if let (Some(start), Some(end)) = (download.starts_at, download.ends_at)
        && end <= start
    {
        return refuse("schedule.ends_at", "is not after starts_at");
    }
    let windows = all("schedule.install", &schedule.install, WINDOWS_MAX)?;
    let install = (!windows.is_empty()).then(|| Schedule {
        windows,
        blackouts,
        ..Schedule::default()
    });
    Ok((download, install))
}

fn all<T: FromStr<Err: ToString>>(
    field: &'static str,
    texts: &[String],
    max: usize,
) -> Result<Vec<T>, PlanError> {
    if texts.len() > max {
        return refuse(
            field,
            format!("are {}; at most {max} are taken", texts.len()),
        );
    }
    let parsed = texts.iter().map(|text| text.parse::<T>());
    parsed
        .collect::<Result<_, _>>()
        .or_else(|error| refuse(field, error))
}

fn moment(field: &'static str, text: Option<&str>, zone: &Zone) -> Result<Option<i64>, PlanError> {
    let Some(text) = text else { return Ok(None) };
    match zone.moment(text) {
        Some(at) => Ok(Some(at)),
        None => {
            let shown: String = text.chars().take(40).collect();
            refuse(
                field,
                format!("{shown:?} is no time: write 2026-12-01 22:00"),
            )
        }
    }
}

fn conditions(given: &manager::RolloutPlan) -> Result<Option<Conditions>, PlanError> {
    let conditions = &given.conditions;
    if conditions.battery_min.is_some_and(|percent| percent > 100) {
        return refuse("conditions.battery_min", "is above 100 percent");
    }
    let checked = Conditions {
        battery_min: conditions.battery_min,
        rssi_min: conditions.rssi_min,
        idle: conditions.idle.then_some(true),
        consent: conditions.consent.then_some(true),
    };
    Ok((checked != Conditions::default()).then_some(checked))
}

fn retries(given: &manager::RolloutPlan) -> Result<Option<Retries>, PlanError> {
    let Some(retries) = &given.retries else {
        return Ok(None);
    };
    if retries.base > retries.max {
        return refuse("retries.base", "is longer than retries.max");
    }
    Ok(Some(retries.clone()))
}

/// Why something went wrong, as far as trying again goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The way was bad, not what came.
    Network,
    /// The device could not for now.
    Device,
    /// What is in flash is not what was sent.
    Integrity,
    /// It took too long.
    Timeout,
    /// It shows the release, or the match of the two, to be bad.
    Final,
}

impl FailureClass {
    /// The class of a code that a device gave.
    pub fn of(code: FailureCode) -> Self {
        use FailureCode::*;
        match code {
            NetTimeout | NetRefused | Http5xx | Tls => Self::Network,
            LowBattery | OutOfMemory => Self::Device,
            HashMismatch | FlashWrite | Http4xx => Self::Integrity,
            _ => Self::Final,
        }
    }

    /// How often the plan tries again after it.
    pub fn budget(self, retries: &Retries) -> u32 {
        match self {
            Self::Network => retries.network,
            Self::Device => retries.device,
            Self::Integrity => retries.integrity,
            Self::Timeout => retries.timeout,
            Self::Final => 0,
        }
    }
}

#[cfg(test)]
mod tests;
