//! Whether now is a good time to install: what the order asks for, and what the device knows of
//! itself. An image is downloaded and complete; until then it only waits.
//!
//! | the order says | the device | then |
//! |---|---|---|
//! | hold | – | waits for the window |
//! | a battery, a signal of at least so much | knows that it has less | waits; one that has no battery, or does not know, does not |
//! | only while idle | is busy | waits |
//! | only with consent | has no yes of its user | waits |

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_proto::{
    checkin::{Attribute, Conditions, Install, Metric, Waits},
    limits::{ATTRIBUTES_MAX, ATTRIBUTES_TEXT_BYTES_MAX, METRICS_MAX, METRICS_NAME_BYTES_MAX},
    list::List,
};

use crate::{
    job::{Job, Stage},
    updater::{Next, Updater},
};

/// What a device knows of itself. Give it with [`Updater::set_readiness`] whenever it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Charge; none without a battery.
    pub battery_percent: Option<u8>,
    /// Strength of the signal; none where there is none to know.
    pub rssi_dbm: Option<i8>,
    /// Doing what must not be interrupted.
    pub is_busy: bool,
    /// What the user says to updates.
    pub consent: Consent,
}

/// What a user says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consent {
    /// Nothing yet.
    #[default]
    Unasked,
    /// Yes.
    Given,
    /// Later.
    Postponed,
}

/// What a device tells besides what it is: for filters, and for the gates of a rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told<'a> {
    /// E.g. `tz`, its time zone. What is beyond the limits of the protocol is left out.
    pub attributes: &'a [Attribute<'a>],
    /// What its application measured. As above.
    pub metrics: &'a [Metric<'a>],
}

impl<'a> Told<'a> {
    pub(crate) fn attributes(&self) -> Option<List<Attribute<'a>, ATTRIBUTES_MAX>> {
        let bytes = |told: &Attribute| told.name.len() + told.value.len();
        within(self.attributes, bytes, ATTRIBUTES_TEXT_BYTES_MAX)
    }

    pub(crate) fn metrics(&self) -> Option<List<Metric<'a>, METRICS_MAX>> {
        let bytes = |metric: &Metric| metric.name.len();
        within(self.metrics, bytes, METRICS_NAME_BYTES_MAX)
    }
}

/// What fits, in order; none for nothing.
fn within<T: Copy, const N: usize>(
    all: &[T],
    bytes: impl Fn(&T) -> usize,
    bytes_max: usize,
) -> Option<List<T, N>> {
    let mut list = List::new();
    let mut left = bytes_max;
    for item in all {
        let Some(rest) = left.checked_sub(bytes(item)) else {
            continue;
        };
        if list.push(*item).is_ok() {
            left = rest;
        }
    }
    (!list.is_empty()).then_some(list)
}

/// What an order asks of the time at which it is activated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asks {
    hold: bool,
    conditions: Option<Conditions>,
}

impl Asks {
    pub(crate) fn of(install: &Install) -> Self {
        Self {
            hold: install.hold == Some(true),
            conditions: install.conditions,
        }
    }

    /// The first thing that is waited for.
    fn waits(&self, ready: &Readiness) -> Waits {
        if self.hold {
            return Waits::Window;
        }
        let Some(asked) = self.conditions else {
            return Waits::Nothing;
        };
        let is_low =
            |has: Option<u8>, least: Option<u8>| has.zip(least).is_some_and(|(a, b)| a < b);
        let is_weak =
            |has: Option<i8>, least: Option<i8>| has.zip(least).is_some_and(|(a, b)| a < b);
        if is_low(ready.battery_percent, asked.battery_min) {
            Waits::Battery
        } else if is_weak(ready.rssi_dbm, asked.rssi_min) {
            Waits::Signal
        } else if asked.idle == Some(true) && ready.is_busy {
            Waits::Busy
        } else {
            match (asked.consent == Some(true), ready.consent) {
                (false, _) | (true, Consent::Given) => Waits::Nothing,
                (true, Consent::Unasked) => Waits::Consent,
                (true, Consent::Postponed) => Waits::Postponed,
            }
        }
    }
}

impl<F: MultiwriteNorFlash> Updater<'_, F> {
    /// Says what the device knows of itself; it counts from now on. Then ask [`Updater::next`].
    pub fn set_readiness(&mut self, readiness: Readiness) {
        self.readiness = readiness;
    }

    /// What a complete image waits for before it is installed. Where that is
    /// [`Waits::Consent`], ask the user.
    pub fn waits(&self) -> Waits {
        let complete = |job: &&Job| matches!(job.stage, Stage::Complete);
        let job = self.job.as_ref().filter(complete);
        job.map_or(Waits::Nothing, |job| job.asks.waits(&self.readiness))
    }

    /// What a complete image is to do next: nothing but come back, while it waits.
    pub(crate) fn next_when_complete(&self) -> Next {
        match self.waits() {
            Waits::Nothing => Next::Prove,
            _ => Next::CheckIn,
        }
    }
}
