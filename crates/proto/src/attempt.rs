//! The states of an attempt: one device in one rollout.
//!
//! | from | may go to |
//! |---|---|
//! | `waiting` | `offered`, `skipped`, or any end |
//! | `offered` … `installing` | any later running state, or any end |
//! | `trial` | any end |
//! | an end (`succeeded`, `failed` …) | nothing: history is never rewritten |

use core::{fmt, str::FromStr};

use crate::FailureCode;

/// Why a device went back to its earlier image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RollbackCause {
    /// The new image reset before it confirmed itself.
    Boot,
    /// The new image ran, but its self-test failed or its deadline passed.
    Health,
    /// An operator ordered it.
    Operator,
}

/// Why a device was left out of a rollout that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// It already runs the release.
    AlreadyInstalled,
    /// The release is for another chip.
    IncompatibleChip,
    /// The release is for another product.
    IncompatibleProduct,
    /// The image is larger than the device's slot.
    NoSpace,
    /// The release was rolled back on this device before.
    BlockedRelease,
    /// The device's owner said no.
    OptedOut,
    /// The release carries no signature that this device would take.
    UntrustedRelease,
    /// Its makers signed the release for a time that is over.
    ExpiredRelease,
    /// The release is older than what the device runs, or below its security epoch.
    NotNewer,
}

/// Where one device stands in one rollout. Shown and stored as text, e.g. `trial` or
/// `failed:hash_mismatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptState {
    /// The device has not been seen since the rollout started; that is not a failure.
    Waiting,
    /// The device was told of the release.
    Offered,
    /// It has taken the first bytes.
    Downloading,
    /// It has all bytes; they are not proven yet.
    Downloaded,
    /// The image is proven in flash and the boot slot is being switched.
    Installing,
    /// It runs the new image, not yet confirmed.
    Trial,
    /// It runs the new image, confirmed.
    Succeeded,
    /// It ended without the new image running.
    Failed(FailureCode),
    /// It ran the new image and went back.
    RolledBack(RollbackCause),
    /// It was left out.
    Skipped(SkipReason),
    /// It did not get there in the time the plan allows.
    TimedOut,
    /// The rollout was aborted before this device started.
    Aborted,
    /// A newer rollout took this device over.
    Superseded,
}

impl AttemptState {
    /// Whether this state is final.
    pub const fn is_end(self) -> bool {
        self.rank().is_none()
    }

    /// Whether the state may follow `self`: forward only, and never out of an end.
    pub fn may_become(self, next: Self) -> bool {
        match (self.rank(), next.rank()) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(now), Some(then)) => then > now,
        }
    }

    const fn rank(self) -> Option<u8> {
        Some(match self {
            Self::Waiting => 0,
            Self::Offered => 1,
            Self::Downloading => 2,
            Self::Downloaded => 3,
            Self::Installing => 4,
            Self::Trial => 5,
            _ => return None,
        })
    }
}

const PLAIN: [(AttemptState, &str); 10] = [
    (AttemptState::Waiting, "waiting"),
    (AttemptState::Offered, "offered"),
    (AttemptState::Downloading, "downloading"),
    (AttemptState::Downloaded, "downloaded"),
    (AttemptState::Installing, "installing"),
    (AttemptState::Trial, "trial"),
    (AttemptState::Succeeded, "succeeded"),
    (AttemptState::TimedOut, "timed_out"),
    (AttemptState::Aborted, "aborted"),
    (AttemptState::Superseded, "superseded"),
];

const CAUSES: [(RollbackCause, &str); 3] = [
    (RollbackCause::Boot, "boot"),
    (RollbackCause::Health, "health"),
    (RollbackCause::Operator, "operator"),
];

const SKIPS: [(SkipReason, &str); 9] = [
    (SkipReason::AlreadyInstalled, "already_installed"),
    (SkipReason::IncompatibleChip, "incompatible_chip"),
    (SkipReason::IncompatibleProduct, "incompatible_product"),
    (SkipReason::NoSpace, "no_space"),
    (SkipReason::BlockedRelease, "blocked_release"),
    (SkipReason::OptedOut, "opted_out"),
    (SkipReason::UntrustedRelease, "untrusted_release"),
    (SkipReason::ExpiredRelease, "expired_release"),
    (SkipReason::NotNewer, "not_newer"),
];

fn name_of<T: PartialEq + Copy>(table: &[(T, &'static str)], value: T) -> &'static str {
    let found = table.iter().find(|(entry, _)| *entry == value);
    found
        .map(|(_, name)| *name)
        .expect("every value is in its table")
}

fn value_of<T: Copy>(table: &[(T, &str)], name: &str) -> Option<T> {
    table
        .iter()
        .find(|(_, entry)| *entry == name)
        .map(|(value, _)| *value)
}

impl fmt::Display for RollbackCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&CAUSES, *self))
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&SKIPS, *self))
    }
}

impl fmt::Display for AttemptState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(code) => write!(f, "failed:{}", code.name()),
            Self::RolledBack(cause) => write!(f, "rolled_back:{cause}"),
            Self::Skipped(reason) => write!(f, "skipped:{reason}"),
            plain => f.write_str(name_of(&PLAIN, *plain)),
        }
    }
}

/// A text that is no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateError;

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an attempt state")
    }
}

impl core::error::Error for StateError {}

impl FromStr for AttemptState {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        let state = match text.split_once(':') {
            None => value_of(&PLAIN, text),
            Some(("failed", code)) => FailureCode::from_name(code).map(Self::Failed),
            Some(("rolled_back", cause)) => value_of(&CAUSES, cause).map(Self::RolledBack),
            Some(("skipped", reason)) => value_of(&SKIPS, reason).map(Self::Skipped),
            Some(_) => None,
        };
        state.ok_or(StateError)
    }
}

#[cfg(feature = "manager")]
mod json {
    use super::AttemptState;

    impl serde::Serialize for AttemptState {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.collect_str(self)
        }
    }

    impl<'de> serde::Deserialize<'de> for AttemptState {
        fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{string::ToString, vec::Vec};

    fn all() -> Vec<AttemptState> {
        let plain = PLAIN.iter().map(|(state, _)| *state);
        let failed = FailureCode::ALL
            .iter()
            .map(|code| AttemptState::Failed(*code));
        let back = CAUSES
            .iter()
            .map(|(cause, _)| AttemptState::RolledBack(*cause));
        let skipped = SKIPS
            .iter()
            .map(|(reason, _)| AttemptState::Skipped(*reason));
        plain.chain(failed).chain(back).chain(skipped).collect()
    }

    #[test]
    fn text_round_trips() {
        for state in all() {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        for bad in [
            "",
            "failed",
            "failed:",
            "done",
            "trial:x",
            "rolled_back:all",
        ] {
            assert_eq!(bad.parse::<AttemptState>(), Err(StateError));
        }
    }

    #[test]
    fn an_attempt_never_goes_backwards() {
        for from in all() {
            for to in all() {
                if from.may_become(to) {
                    assert!(!from.is_end() && !to.may_become(from), "{from} -> {to}");
                }
            }
        }
    }
}
