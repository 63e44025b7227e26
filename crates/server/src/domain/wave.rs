//! When a rollout goes on to its next wave, and when it stops.
//!
//! | what holds | it |
//! |---|---|
//! | failures reach their limit, or their share does among enough ended attempts, or the sequential test stops | is breached: pauses, holds attempts back, rolls back where asked to |
//! | its end has come | ends |
//! | the last wave is reached | stays |
//! | the wave was counted, and nobody known is in it | advances |
//! | an operator promotes it | advances |
//! | nobody of the wave has started | stays |
//! | its `min_time`, at least two polls, is not over since the first start | stays |
//! | a device of the wave waits for a window, a retry or a free place | stays |
//! | the sequential test speaks against the release, though not for long enough to stop it | stays |
//! | the plan asks for proof, and the sequential test has none yet | stays |
//! | too few are healthy: confirmed, and so for the soak time | stays; past `max_time` pauses |
//! | otherwise | advances |
//!
//! Only what was started counts: a device that does not come blocks nobody. Counts are read from
//! the attempts each time, so a restart, or another node, finds the same.

use super::{
    health::Health,
    model::Rollout,
    plan::{Reach, sentence::reach},
    sequential,
};

/// Polls that a wave lasts at least, so that every device that is online has had its turn.
const POLLS_MIN: i64 = 2;

/// The current attempts of a rollout, counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// Of the wave that it has reached.
    pub wave: WaveCount,
    /// Attempts of all waves that ended as succeeded, or as a failure for good.
    pub ended: u64,
    /// Of these, failures.
    pub failures: u64,
    /// Until when a device that the wave has reached waits for its turn, as far as known.
    pub waits_until: i64,
    /// What the sequential test found, where the plan asks for it.
    pub health: Option<Health>,
}

/// The current attempts of one wave; those left out are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaveCount {
    /// Started, without those that stalled.
    pub started: u64,
    /// Confirmed, for the soak time or longer.
    pub healthy: u64,
    /// Confirmed, not for so long yet.
    pub soaking: u64,
    /// When the last of those was confirmed.
    pub confirmed_last: Option<i64>,
    /// Under way, not stalled.
    pub live: u64,
    /// Failed for a passing reason, to be tried again.
    pub retrying: u64,
    /// When the first started.
    pub first_start: Option<i64>,
}

/// What a rollout is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing now.
    Stay {
        /// What is missing.
        why: String,
        /// When it may be there, where only time is missing.
        until: Option<i64>,
    },
    /// Go on to the next wave.
    Advance {
        /// What was proven.
        why: String,
    },
    /// Offer to nobody new, and wait for a person.
    Pause {
        /// What did not come.
        why: String,
    },
    /// Pause, hold back, and roll back where the plan says so.
    Breach {
        /// What went wrong.
        why: String,
    },
    /// Its time is over.
    End {
        /// Since when.
        why: String,
    },
}

/// What an active rollout is to do now.
pub fn judge(rollout: &Rollout, counted: &Counted, poll_ms: i64, now: i64) -> Verdict {
    if let Some(why) = breach(rollout, counted) {
        return Verdict::Breach { why };
    }
    let plan = &rollout.plan;
    if plan.download.ends_at.is_some_and(|end| now >= end) {
        let why = "its end has come".to_owned();
        return Verdict::End { why };
    }
    if rollout.wave >= plan.last_wave() {
        return stay("every wave has begun", None);
    }
    if rollout.needs_approval() {
        return stay("it waits for approval", None);
    }
    match is_proven(rollout, counted, poll_ms, now) {
        Ok(why) => Verdict::Advance { why },
        Err((why, until)) => {
            let is_over = |max: i64| now >= rollout.wave_since.saturating_add(max);
            match plan.wave(rollout.wave).max_ms.is_some_and(is_over) {
                true => Verdict::Pause {
                    why: format!("wave {} has taken too long: {why}", rollout.wave + 1),
                },
                false => Verdict::Stay { why, until },
            }
        }
    }
}

fn stay(why: &str, until: Option<i64>) -> Verdict {
    let why = why.to_owned();
    Verdict::Stay { why, until }
}

/// Why the rollout must stop, where it must.
pub fn breach(rollout: &Rollout, counted: &Counted) -> Option<String> {
    let Counted {
        ended, failures, ..
    } = *counted;
    if let Some(max) = rollout.failures_max
        && failures >= u64::from(max)
    {
        return Some(format!("{failures} failed, the limit is {max}"));
    }
    let stops = |health: &&Health| health.finding.verdict == sequential::Verdict::Stop;
    if let Some(health) = counted.health.as_ref().filter(stops) {
        return Some(format!(
            "the updated devices fail more often than {:.1} %, which is normal for the others: {}",
            health.finding.normal * 100.0,
            health.text(&rollout.plan.gates.unwell)
        ));
    }
    let gates = &rollout.plan.gates;
    let max = gates.failure_percent?;
    let is_above = ended >= u64::from(gates.failure_sample)
        && failures.saturating_mul(10_000) > ended.saturating_mul(u64::from(max.hundredths()));
    is_above.then(|| format!("{failures} of {ended} failed, the limit is {max}"))
}

/// What was proven, or what is missing and when it may be there.
fn is_proven(
    rollout: &Rollout,
    counted: &Counted,
    poll_ms: i64,
    now: i64,
) -> Result<String, (String, Option<i64>)> {
    let missing = |why: String, until: Option<i64>| Err((why, until));
    let (plan, wave) = (&rollout.plan, &counted.wave);
    let polls = poll_ms.saturating_mul(POLLS_MIN);
    let Some(first) = wave.first_start else {
        let is_empty = rollout.wave_devices == Some(0);
        let asked_all = rollout.wave_since.saturating_add(polls);
        return match (is_empty, now >= asked_all) {
            (true, true) => Ok("no known device is in the wave".to_owned()),
            (true, false) => missing("no known device is in the wave".into(), Some(asked_all)),
            (false, _) => missing("no device of the wave has started".into(), None),
        };
    };
    let min = plan.wave(rollout.wave).min_ms.unwrap_or(0).max(polls);
    let lasts_until = first.saturating_add(min);
    if now < lasts_until {
        return missing("its least time is not over".into(), Some(lasts_until));
    }
    if now < counted.waits_until {
        let why = "a device of the wave waits for its turn";
        return missing(why.into(), Some(counted.waits_until));
    }
    let WaveCount {
        started, healthy, ..
    } = *wave;
    let percent = plan.gates.healthy_percent;
    let needed = needed(rollout, plan.gates.healthy_min);
    if counted
        .health
        .as_ref()
        .is_some_and(|health| health.against_since.is_some())
    {
        let why = "the updated devices look worse than the others: it is looked at once more";
        return missing(why.into(), None);
    }
    let is_more = |health: &Health| health.finding.verdict == sequential::Verdict::More;
    if plan.gates.prove && counted.health.as_ref().is_none_or(is_more) {
        return missing(
            "it is not proven yet that failures do not rise".into(),
            None,
        );
    }
    if healthy >= needed && percent.reached(healthy, started) {
        return Ok(format!("{healthy} of {started} devices are healthy"));
    }
    let soaked = wave.confirmed_last.map(|at| at + plan.gates.soak_ms);
    let until = soaked.filter(|_| wave.soaking > 0 && wave.live == 0);
    missing(
        format!(
            "{healthy} of {started} devices are healthy, {} soak, {} are under way; \
             {percent} and at least {needed} are asked for",
            wave.soaking,
            wave.live + wave.retrying
        ),
        until,
    )
}

/// Healthy devices that the wave needs at least: of the first to come all, as the share says; and
/// never more than are known to be in it.
fn needed(rollout: &Rollout, healthy_min: u32) -> u64 {
    let plan = &rollout.plan;
    let first = match &plan.wave(rollout.wave).reach {
        Reach::First(devices) => {
            let share = u64::from(plan.gates.healthy_percent.hundredths());
            (u64::from(*devices) * share).div_ceil(10_000)
        }
        Reach::Named(_) | Reach::Buckets(_) => 0,
    };
    let known = rollout.wave_devices.filter(|known| *known > 0);
    let needed = first.max(u64::from(healthy_min));
    needed.min(known.unwrap_or(u64::MAX))
}

/// Whom the wave that was reached reaches, in words.
pub fn reaches(rollout: &Rollout) -> String {
    reach(&rollout.plan.wave(rollout.wave).reach)
}

#[cfg(test)]
mod tests;
