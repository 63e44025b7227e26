//! How a rollout goes about it: waves, gates, limits, windows, retries. What is left out asks for
//! nothing; an empty plan offers to all its devices at once.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

/// The plan of a rollout. The same words are in the file of `fota rollout plan -f`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutPlan {
    /// Only devices of which this holds, e.g. `tag.site == north and version < 1.0.6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Of the rollouts that name a device, that of the highest priority goes first; 0 to 100, 50
    /// if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Versions that a device below them gets first, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<String>,
    /// Whether somebody else than who started it must approve it first.
    #[serde(skip_serializing_if = "is_false")]
    pub approval: bool,
    /// A first wave of a few devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// The waves, each larger than the one before, the last 100 %.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<Wave>,
    /// What must be proven before the next wave, and what stops the rollout.
    #[serde(skip_serializing_if = "is_default")]
    pub gates: Gates,
    /// How much may happen at once.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// When it may happen.
    #[serde(skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// What the device asks itself before it installs.
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Conditions,
    /// How often a failure is tried again by itself; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// How long an attempt may stay in a state.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
}

/// A first wave: so many devices, whichever come first, or these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Canary {
    /// So many devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<u32>,
    /// These devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The next wave begins this long after the first device started, at the earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub min_time: Option<Span>,
    /// A wave that has not passed its gates by then pauses the rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub max_time: Option<Span>,
}

/// A wave by percent of the devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// Devices reached when it ends, those of the waves before included.
    #[schema(value_type = f64)]
    pub percent: Percent,
    /// The next wave begins this long after the first device started, at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub min_time: Option<Span>,
    /// A wave that has not passed its gates by then pauses the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub max_time: Option<Span>,
}

/// What must be proven before the next wave, and what stops the rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gates {
    /// Devices of a wave that must be proven healthy before the next one, of those that started;
    /// 90 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub healthy_percent: Option<Percent>,
    /// And at least so many; 1 if absent. A wave of fewer devices needs all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_min: Option<u32>,
    /// How long a device must have run the release confirmed to count as healthy; 0 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub soak: Option<Span>,
    /// A larger share of failures among the attempts that ended stops the rollout …
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub failure_percent: Option<Percent>,
    /// … once so many have ended; 20 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_sample: Option<u32>,
    /// A statistical test of the updated devices against those that were not updated yet: it
    /// stops as soon as they fail more often beyond doubt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequential: Option<Sequential>,
}

/// The sequential test: its chances of error hold however often it looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sequential {
    /// Chance to stop a release that is no worse, at most.
    #[schema(value_type = f64)]
    pub false_stop: Percent,
    /// Chance to pass one that is worse by `tolerance`, at most.
    #[schema(value_type = f64)]
    pub false_go: Percent,
    /// The rise of failures, in points of percent, that must not pass.
    #[schema(value_type = f64)]
    pub tolerance: Percent,
    /// Whether the next wave waits until it is proven that they do not rise so.
    pub prove: bool,
    /// What besides failures, crashes and silence makes a device unwell, e.g. `errs > 10`: a
    /// metric that it reports at check-in, and a bound.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unwell: Vec<String>,
}

impl Default for Sequential {
    fn default() -> Self {
        Self {
            false_stop: Percent::whole(1),
            false_go: Percent::whole(1),
            tolerance: Percent::whole(5),
            prove: false,
            unwell: Vec::new(),
        }
    }
}

/// How much may happen at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Devices under way at the same time, from the offer to the end of the trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// Offers in any 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts_per_minute: Option<u32>,
    /// Bytes that the rollout may send each second, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
}

/// When it may happen, in the device's own time zone: its attribute or tag `tz`, else `zone`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// IANA zone of devices that tell none, and of the dates here; UTC if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// No offer before, e.g. `2026-12-01 22:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<String>,
    /// No offer from then on; the rollout ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<String>,
    /// When devices may download, e.g. `mon-fri 22:00-06:00`; empty: always.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub download: Vec<String>,
    /// When devices may install what they have; empty: as soon as they have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub install: Vec<String>,
    /// Days without, e.g. `2026-12-24..2027-01-01`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blackout: Vec<String>,
}

/// What a device asks itself before it installs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Conditions {
    /// Battery of at least so many percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery_min: Option<u8>,
    /// Signal of at least so many dBm, e.g. -75.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rssi_min: Option<i8>,
    /// Only while the device has nothing else to do.
    #[serde(skip_serializing_if = "is_false")]
    pub idle: bool,
    /// Only once its user has said yes.
    #[serde(skip_serializing_if = "is_false")]
    pub consent: bool,
}

/// How often a failure is tried again by itself, by its class (docs/rollouts.md), and when. What
/// shows the release to be bad, such as a crash loop, is never tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// Tries again after the network failed.
    pub network: u32,
    /// After the device could not for now: low battery, no memory.
    pub device: u32,
    /// After the bytes in flash were wrong.
    pub integrity: u32,
    /// After a timeout.
    pub timeout: u32,
    /// Pause before the first; each next one is twice as long …
    #[schema(value_type = String)]
    pub base: Span,
    /// … up to this.
    #[schema(value_type = String)]
    pub max: Span,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            network: 5,
            device: 5,
            integrity: 1,
            timeout: 2,
            base: Span::seconds(5 * 60),
            max: Span::seconds(6 * 3600),
        }
    }
}

/// How long an attempt may stay in a state before it ends as `timed_out`; absent: for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Offered, nothing taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub offered: Option<Span>,
    /// Downloading, without a further byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub downloading: Option<Span>,
    /// Downloaded or installing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub installing: Option<Span>,
    /// On trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub trial: Option<Span>,
    /// Without progress for so long it counts as stalled: it is told, and holds no place of the
    /// limits; an hour if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub stalled: Option<Span>,
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A length of time, written `90s`, `30m`, `2h` or `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    ms: u64,
}

/// Longest span: two years, which keeps sums of times far from overflow.
const SPAN_MS_MAX: u64 = 731 * 86_400_000;

const UNITS: [(&str, u64); 4] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
];

impl Span {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self { ms: seconds * 1000 }
    }

    /// Milliseconds.
    pub fn ms(self) -> i64 {
        i64::try_from(self.ms).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, unit): &&(&str, u64)| self.ms > 0 && self.ms.is_multiple_of(*unit);
        match UNITS.iter().find(whole) {
            Some((name, unit)) => write!(f, "{}{name}", self.ms / unit),
            None => write!(f, "{}s", self.ms / 1000),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no length of time: write 90s, 30m, 2h or 1d");
        let digits = text.find(|c: char| !c.is_ascii_digit());
        let (number, unit) = text.split_at(digits.ok_or_else(wrong)?);
        let unit = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, unit_ms) = unit.ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let ms = number.checked_mul(*unit_ms);
        let ms = ms.filter(|ms| *ms <= SPAN_MS_MAX).ok_or_else(wrong)?;
        Ok(Self { ms })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A share in hundredths of a percent; as a number of percent in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent {
    hundredths: u16,
}

impl Percent {
    /// All.
    pub const ALL: Self = Self { hundredths: 10_000 };

    /// So many percent, at most 100.
    pub const fn whole(percent: u8) -> Self {
        assert!(percent <= 100);
        Self {
            hundredths: percent as u16 * 100,
        }
    }

    /// A ratio, 0 to 1; what is beyond it is cut off.
    pub fn of_ratio(ratio: f64) -> Self {
        Self {
            hundredths: (ratio.clamp(0.0, 1.0) * 10_000.0).round() as u16,
        }
    }

    /// A share that is none, NaN too, is not in the range.
    fn of(percent: f64) -> Option<Self> {
        let hundredths = (percent * 100.0).round();
        let is_share = (0.0..=10_000.0).contains(&hundredths);
        is_share.then_some(Self {
            hundredths: hundredths as u16,
        })
    }

    /// 0 to 10,000.
    pub fn hundredths(self) -> u32 {
        u32::from(self.hundredths)
    }

    /// Whether `part` of `whole` is at least this share.
    pub fn reached(self, part: u64, whole: u64) -> bool {
        part.saturating_mul(10_000) >= whole.saturating_mul(u64::from(self.hundredths))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.hundredths / 100, self.hundredths % 100);
        match (rest, rest % 10) {
            (0, _) => write!(f, "{whole} %"),
            (rest, 0) => write!(f, "{whole}.{} %", rest / 10),
            (rest, _) => write!(f, "{whole}.{rest:02} %"),
        }
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_suffix('%').unwrap_or(text).trim();
        let percent: Option<f64> = digits.parse().ok();
        let share = percent.and_then(Self::of);
        share.ok_or_else(|| format!("{text:?} is no percent: give 0 to 100"))
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.hundredths % 100 {
            0 => serializer.serialize_u16(self.hundredths / 100),
            _ => serializer.serialize_f64(f64::from(self.hundredths) / 100.0),
        }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let percent = f64::deserialize(deserializer)?;
        let wrong = || de::Error::custom(format!("{percent} is no percent: give 0 to 100"));
        Self::of(percent).ok_or_else(wrong)
    }
}

/// What a rollout would do, played through in virtual time on a copy of the fleet:
/// `POST /api/v1/rollouts/dry-run`. Devices that were online are taken to come each poll and to
/// install without a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// The whole plan as one sentence.
    pub sentence: String,
    /// Devices that would be offered the release.
    pub matched: u64,
    /// Devices that were played through: those that were online, at most 2,000.
    pub played: u64,
    /// The waves, in their order.
    pub phases: Vec<DryRunPhase>,
    /// Bytes of images that all matched devices take.
    pub bytes: u64,
    /// When the last device that was played through had the release; absent where it does not end
    /// within a year.
    pub finished_at: Option<i64>,
    /// What holds the devices that did not get it.
    pub held: Vec<HeldCount>,
}

/// A wave as played through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRunPhase {
    /// Number of the wave, from 1.
    pub number: u32,
    /// Whom it reaches.
    pub reaches: String,
    /// When it begins.
    pub begins_at: i64,
    /// When the last of its devices had the release.
    pub ends_at: Option<i64>,
    /// Devices that it brings in, of those played through.
    pub devices: u64,
}

/// Devices that a rule holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldCount {
    /// The rule.
    pub rule: String,
    /// Devices.
    pub devices: u64,
}

/// Why a device gets, or does not get, an order now: `GET /api/v1/devices/{id}/why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// The device.
    pub device: String,
    /// What holds it, or what it is told, as one sentence.
    pub answer: String,
    /// When that may change by itself; absent where it waits for a person or a device.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<i64>,
    /// What holds for the device whatever the rollout.
    pub rules: Vec<WhyRule>,
    /// The rollouts that name it, in the order in which they are asked.
    pub rollouts: Vec<WhyRollout>,
}

/// What a rollout means for a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyRollout {
    /// The rollout.
    pub rollout: i64,
    /// Version that it brings.
    pub version: String,
    /// Where the device stands in the order of all, 0 to 9,999; waves are shares of this.
    pub bucket: u32,
    /// The wave that reaches the device; absent where one before it reached it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wave: Option<u32>,
    /// Its rules in their order; the first that does not pass decides.
    pub rules: Vec<WhyRule>,
}

/// A rule and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyRule {
    /// Its name, as in docs/rollouts.md.
    pub rule: String,
    /// What it says.
    pub verdict: RuleVerdict,
    /// Why, as a sentence.
    pub sentence: String,
    /// When that may change by itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<i64>,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RuleVerdict {
    /// Nothing against it.
    Pass,
    /// Not now.
    Hold,
    /// Never: the device is left out.
    Skip,
}

impl RuleVerdict {
    /// It as a word, louder where the rule decides.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Hold => "HOLD",
            Self::Skip => "SKIP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_they_are_read() {
        for text in ["90s", "30m", "2h", "1d", "0s"] {
            assert_eq!(text.parse::<Span>().expect("valid").to_string(), text);
        }
        assert_eq!("60m".parse::<Span>().expect("valid").to_string(), "1h");
        for bad in ["", "5", "5w", "-1s", "1.5h", "9999999999d", "1h30m"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_compared_without_rounding() {
        let ninety = Percent::whole(90);
        assert!(ninety.reached(9, 10));
        assert!(!ninety.reached(8, 9));
        assert!(ninety.reached(0, 0));
        assert_eq!(ninety.to_string(), "90 %");
        assert_eq!(Percent { hundredths: 50 }.to_string(), "0.5 %");
        assert_eq!(Percent { hundredths: 1205 }.to_string(), "12.05 %");
    }
}
