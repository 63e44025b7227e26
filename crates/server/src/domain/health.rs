//! Which devices are unwell, and from what: the same question to those that a rollout has updated
//! and to those that it has not, so that the sequential test compares like with like.
//!
//! | source | a device is unwell when |
//! |---|---|
//! | failed | its attempt failed, or it went back by itself (updated devices only) |
//! | crashed | since it was updated, and within a day, it restarted by panic or watchdog |
//! | silent | it has not been heard of for ten polls |
//! | a metric | what it measured last is beyond the bound that the plan gives |
//!
//! A device counts once, whatever it suffers from. Of the others the same is asked since the rollout
//! began. They are watched at least as long as the updated ones, so chance alone never makes the
//! updated ones look worse.

use std::{collections::BTreeMap, fmt, str::FromStr};

use fota_proto::limits::METRICS_NAME_BYTES_MAX;

use super::sequential::{self, Finding, Rates, Sample};

/// Polls without a word after which a device counts as lost.
pub const LOST_POLLS: i64 = 10;
/// A crash is held against a device for so long: a day.
pub const CRASH_MS: i64 = 24 * 60 * 60 * 1000;
/// Polls for which what may pass, such as silence or a metric, must speak against a release before
/// it is stopped: each device has said something new by then. Without it, a value that is beyond its
/// bound now and then would be looked at so often that chance finds two at once.
pub const STANDS_POLLS: i64 = 2;

/// A bound of a metric, e.g. `errs > 10`: beyond it a device is unwell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    metric: String,
    beyond: Beyond,
    value: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beyond {
    Above,
    Below,
}

impl Bound {
    /// Whether the device measures this at all; none where it is not known.
    fn is_broken_by(&self, metrics: &BTreeMap<String, i32>) -> Option<bool> {
        let value = *metrics.get(&self.metric)?;
        Some(match self.beyond {
            Beyond::Above => value > self.value,
            Beyond::Below => value < self.value,
        })
    }
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(40).collect();
        let wrong = || format!("{shown:?} is no bound: write `errs > 10` or `heap < 20000`");
        let (at, beyond) = match (text.find('>'), text.find('<')) {
            (Some(at), None) => (at, Beyond::Above),
            (None, Some(at)) => (at, Beyond::Below),
            _ => return Err(wrong()),
        };
        let (metric, value) = (text[..at].trim(), text[at + 1..].trim());
        let is_name = (1..=METRICS_NAME_BYTES_MAX).contains(&metric.len())
            && !metric.contains(|c: char| c.is_whitespace() || c.is_control());
        match (is_name, value.parse()) {
            (true, Ok(value)) => Ok(Self {
                metric: metric.to_owned(),
                beyond,
                value,
            }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.beyond {
            Beyond::Above => '>',
            Beyond::Below => '<',
        };
        write!(f, "{} {sign} {}", self.metric, self.value)
    }
}

/// What is known of one device.
#[derive(Clone, Copy, Debug)]
pub struct Signs<'a> {
    /// Whether its attempt ended as a failure.
    pub failed: bool,
    /// Since when it is watched.
    pub since: i64,
    pub last_seen: i64,
    /// When it was last seen to have restarted by panic or watchdog.
    pub crashed_at: Option<i64>,
    pub metrics: &'a BTreeMap<String, i32>,
}

/// By what devices are judged.
#[derive(Clone, Copy, Debug)]
pub struct Scale<'a> {
    pub bounds: &'a [Bound],
    pub poll_ms: i64,
    pub now: i64,
}

/// Devices, and what they suffer from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub devices: u64,
    /// Those that suffer from anything.
    pub unwell: u64,
    pub failed: u64,
    pub crashed: u64,
    pub silent: u64,
    /// By bound, in the order of the plan.
    pub metrics: Vec<u64>,
    /// Those that failed or crashed: what passes by itself counts only against others.
    pub broken: u64,
}

impl Tally {
    /// Counts a device that was updated.
    pub fn count(&mut self, signs: &Signs, scale: &Scale) {
        self.metrics.resize(scale.bounds.len(), 0);
        self.devices += 1;
        let crashed = signs
            .crashed_at
            .is_some_and(|at| at > signs.since && at >= scale.now - CRASH_MS);
        let silent = signs.last_seen < scale.now - LOST_POLLS * scale.poll_ms;
        let mut unwell = signs.failed || crashed || silent;
        for (bound, count) in scale.bounds.iter().zip(&mut self.metrics) {
            let is_beyond = bound.is_broken_by(signs.metrics) == Some(true);
            *count += u64::from(is_beyond && !signs.failed);
            unwell |= is_beyond;
        }
        self.failed += u64::from(signs.failed);
        self.crashed += u64::from(crashed && !signs.failed);
        self.silent += u64::from(silent && !signs.failed);
        self.broken += u64::from(signs.failed || crashed);
        self.unwell += u64::from(unwell);
    }

    /// Counts a device that was not updated; one that does not measure what the plan asks for says
    /// nothing of what is normal.
    pub fn count_other(&mut self, signs: &Signs, scale: &Scale) {
        let mut bounds = scale.bounds.iter();
        if bounds.all(|bound| bound.is_broken_by(signs.metrics).is_some()) {
            self.count(signs, scale);
        }
    }

    fn sample(&self, failures: u64) -> Sample {
        Sample {
            devices: self.devices,
            failures,
        }
    }
}

/// How the updated devices are, against the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub updated: Tally,
    pub others: Tally,
    pub finding: Finding,
    /// Since when it speaks against the release, where it does.
    pub against_since: Option<i64>,
}

/// Judges the updated devices by the others. Attempts that failed stay so, and stop a release at
/// once; what may pass must stand for [`STANDS_POLLS`].
pub fn judge(
    updated: Tally,
    others: Tally,
    rates: &Rates,
    earlier: Option<i64>,
    (poll_ms, now): (i64, i64),
) -> Health {
    let normal = others.sample(others.unwell);
    // Devices are away, and values bad, now and then: how often is normal, only others can tell.
    let all = match others.devices {
        0 => updated.broken,
        _ => updated.unwell,
    };
    let mut finding = sequential::judge(updated.sample(all), normal, rates);
    let lasting = sequential::judge(updated.sample(updated.failed), normal, rates);
    let is_against = finding.verdict == sequential::Verdict::Stop;
    let against_since = is_against.then(|| earlier.unwrap_or(now));
    let stands = against_since.is_some_and(|since| now - since >= STANDS_POLLS * poll_ms);
    if is_against && !stands && lasting.verdict != sequential::Verdict::Stop {
        finding.verdict = sequential::Verdict::More;
    }
    Health {
        updated,
        others,
        finding,
        against_since,
    }
}

impl Health {
    /// `6 of 20 are unwell (2 failed, 4 errs > 10), without the release 3 of 180`
    pub fn text(&self, bounds: &[Bound]) -> String {
        let (updated, others) = (&self.updated, &self.others);
        let named = sources(updated, bounds).into_iter();
        let said: Vec<String> = named
            .filter(|(_, devices)| *devices > 0)
            .map(|(name, devices)| format!("{devices} {name}"))
            .collect();
        let said = match said.is_empty() {
            true => String::new(),
            false => format!(" ({})", said.join(", ")),
        };
        format!(
            "{} of {} are unwell{said}, without the release {} of {}",
            updated.unwell, updated.devices, others.unwell, others.devices
        )
    }
}

/// The counts of a tally by the name of their source.
pub fn sources(tally: &Tally, bounds: &[Bound]) -> Vec<(String, u64)> {
    let metrics = tally.metrics.iter().copied().chain(std::iter::repeat(0));
    let fixed = [
        ("failed", tally.failed),
        ("crashed", tally.crashed),
        ("silent", tally.silent),
    ];
    let fixed = fixed.map(|(name, devices)| (name.to_owned(), devices));
    let bounds = bounds.iter().map(ToString::to_string);
    fixed.into_iter().chain(bounds.zip(metrics)).collect()
}

/// Slack for a check-in that was slow on its way.
const UPTIME_SLACK_MS: i64 = 2_000;

/// Whether a device has restarted since it was heard of: it has been up for less time than that.
pub fn has_restarted(uptime_s: u32, heard_at: i64, now: i64) -> bool {
    i64::from(uptime_s) * 1000 + UPTIME_SLACK_MS < now - heard_at
}

#[cfg(test)]
mod tests;
