//! The one verb of the native device protocol: a check-in and its answer (CBOR maps with integer
//! keys, at most [`crate::limits::CHECK_IN_BYTES_MAX`] bytes each way; byte for byte in
//! `docs/protocol.md`).
//!
//! It is level-triggered: each check-in says what *is*, each answer gives the order that stands.
//! Losing either costs a poll, never a state. Unknown keys are skipped, so both sides may grow.

use minicbor::{Decode, Encode};

use crate::{
    Sha256,
    limits::{
        ATTRIBUTES_MAX, CHALLENGE_BYTES, HELD_DIGEST_BYTES, HELD_MAX, METRICS_MAX, SLOTS_MAX,
    },
    list::List,
};

/// The protocol version in key 0 of both messages.
pub const VERSION: u8 = 1;

/// Encodes a message into `buffer`; none where it does not fit.
pub fn encode<'o, T: Encode<()>>(message: &T, buffer: &'o mut [u8]) -> Option<&'o [u8]> {
    let whole = buffer.len();
    let mut rest = &mut buffer[..];
    minicbor::encode(message, &mut rest).ok()?;
    let used = whole - rest.len();
    Some(&buffer[..used])
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct CheckIn<'a> {
    /// Protocol version, [`VERSION`].
    #[n(0)]
    pub protocol: u8,
    /// Device id; see [`crate::DeviceId`] for what is allowed.
    #[b(1)]
    pub device: &'a str,
    /// A number the answer repeats, so that an old answer is not taken for a new one.
    #[n(2)]
    pub nonce: u64,
    /// ESP chip id of the image header (0 ESP32, 5 ESP32-C3 …).
    #[n(3)]
    pub chip: u16,
    /// Chip revision, major × 100 + minor.
    #[n(4)]
    pub chip_revision: Option<u16>,
    /// `app_elf_sha256` of the image that runs.
    #[n(5)]
    pub running_elf: Sha256,
    /// Version text of the image that runs.
    #[b(6)]
    pub version: &'a str,
    /// Project name of the image that runs.
    #[b(7)]
    pub project: &'a str,
    /// How far the device trusts what it runs.
    #[n(8)]
    pub confirmed: Running,
    /// Number of the slot that runs; 255 for the factory partition.
    #[n(9)]
    pub slot: u8,
    /// The slots of the device.
    #[n(10)]
    pub slots: List<SlotReport<'a>, SLOTS_MAX>,
    /// The slot that a rollback order would boot, where one holds a valid image.
    #[n(11)]
    pub rollback_slot: Option<u8>,
    /// What the device is doing about its order.
    #[n(12)]
    pub progress: Option<Progress>,
    /// How the last order ended, repeated until the server acknowledges it.
    #[b(13)]
    pub outcome: Option<Outcome<'a>>,
    /// Prefixes of the ordered image that the slot may already hold (see [`Held`]).
    #[n(14)]
    pub held: List<Held, HELD_MAX>,
    /// Why the device last reset.
    #[n(15)]
    pub reset: ResetReason,
    /// Seconds since that reset.
    #[n(16)]
    pub uptime_s: u32,
    /// Version of the root that the device trusts: it takes only answers that an online key of
    /// this root has signed. 0 asks for a first root to trust; none takes unsigned answers.
    #[n(17)]
    pub root: Option<u32>,
    /// Security epoch below which it starts nothing.
    #[n(18)]
    pub epoch: Option<u32>,
    /// The challenge of the last answer, where the check-in is sealed.
    #[cbor(n(19), with = "minicbor::bytes")]
    pub challenge: Option<[u8; CHALLENGE_BYTES]>,
    /// The head of the release log that the device has seen last.
    #[n(20)]
    pub log: Option<LogHead>,
    /// The largest patches that the device can apply to the image it runs; none where it takes
    /// whole images only.
    #[n(21)]
    pub patches: Option<PatchProfile>,
    /// What the device says of itself for filters, e.g. `tz` and the name of its time zone.
    #[b(22)]
    pub attributes: Option<List<Attribute<'a>, ATTRIBUTES_MAX>>,
    /// What the application measured, for the gates of a rollout.
    #[b(23)]
    pub metrics: Option<List<Metric<'a>, METRICS_MAX>>,
    /// Why it does not install now. A device that knows [`Install::hold`] and
    /// [`Install::conditions`] always says this; one that does not is never told to hold.
    #[n(24)]
    pub waits: Option<Waits>,
}

impl<'a> CheckIn<'a> {
    /// What a device says that was switched on a second ago, runs this image, confirmed, and has
    /// nothing to do or to tell.
    pub fn idle(device: &'a str, project: &'a str, version: &'a str, running_elf: Sha256) -> Self {
        Self {
            protocol: VERSION,
            device,
            nonce: 1,
            chip: 0,
            chip_revision: None,
            running_elf,
            version,
            project,
            confirmed: Running::Confirmed,
            slot: 0,
            slots: List::new(),
            rollback_slot: None,
            progress: None,
            outcome: None,
            held: List::new(),
            reset: ResetReason::PowerOn,
            uptime_s: 1,
            root: None,
            epoch: None,
            challenge: None,
            log: None,
            patches: None,
            attributes: None,
            metrics: None,
            waits: None,
        }
    }
}

/// A fact about a device under a short name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Attribute<'a> {
    /// Names and values of all together: at most [`crate::limits::ATTRIBUTES_TEXT_BYTES_MAX`]
    /// bytes.
    #[b(0)]
    pub name: &'a str,
    /// What it is.
    #[b(1)]
    pub value: &'a str,
}

/// A number under a short name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Metric<'a> {
    /// Names of all together: at most [`crate::limits::METRICS_NAME_BYTES_MAX`] bytes.
    #[b(0)]
    pub name: &'a str,
    /// What was measured.
    #[n(1)]
    pub value: i32,
}

/// Why a device does not install now what it was ordered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Waits {
    /// For nothing.
    #[n(0)]
    Nothing,
    /// For its battery.
    #[n(1)]
    Battery,
    /// For a better signal.
    #[n(2)]
    Signal,
    /// Until it is idle.
    #[n(3)]
    Busy,
    /// For its user to say yes.
    #[n(4)]
    Consent,
    /// Its user said later.
    #[n(5)]
    Postponed,
    /// For the install window: it was told to hold.
    #[n(6)]
    Window,
}

/// How much memory a device has for applying a patch (numbered as in
/// `docs/delta-format.md`). Who can apply the
/// larger ones can apply the smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum PatchProfile {
    /// 16 KB.
    #[n(1)]
    Small,
    /// 32 KB.
    #[n(0)]
    Default,
}

/// The head of the release log: how many releases it holds, and the root of the Merkle tree over
/// them (RFC 9162 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(array)]
pub struct LogHead {
    /// Number of entries.
    #[n(0)]
    pub size: u64,
    /// Root hash.
    #[n(1)]
    pub root: Sha256,
}

/// How far the running image is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Running {
    /// Confirmed: it stays.
    #[n(0)]
    Confirmed,
    /// On trial: it goes back unless it confirms itself.
    #[n(1)]
    Trial,
}

/// One application slot.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct SlotReport<'a> {
    /// Slot number, 0 for `ota_0`; 255 for factory.
    #[n(0)]
    pub slot: u8,
    /// Size of the partition.
    #[n(1)]
    pub bytes: u32,
    /// What it holds.
    #[n(2)]
    pub state: SlotState,
    /// `app_elf_sha256` of the image it holds.
    #[n(3)]
    pub elf: Option<Sha256>,
    /// Version of the image it holds.
    #[b(4)]
    pub version: Option<&'a str>,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SlotState {
    /// No bootable image.
    #[n(0)]
    Empty,
    /// A valid image that may be booted.
    #[n(1)]
    Image,
    /// A valid image that was rejected: it crashed, or was rolled back.
    #[n(2)]
    Rejected,
}

/// What the device is doing about its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Progress {
    /// The order.
    #[n(0)]
    pub order: u64,
    /// How far it has come.
    #[n(1)]
    pub phase: Phase,
    /// Bytes of the image in flash.
    #[n(2)]
    pub bytes: u32,
}

/// The phases of an install on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Phase {
    /// Taking bytes.
    #[n(0)]
    Downloading,
    /// All bytes are in flash, not yet proven.
    #[n(1)]
    Downloaded,
    /// Proven; the boot slot is switched and a restart follows.
    #[n(2)]
    Installing,
    /// The new image runs, not yet confirmed.
    #[n(3)]
    Trial,
}

/// How an order ended, where the running image alone does not tell.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Outcome<'a> {
    /// The order that ended.
    #[n(0)]
    pub order: u64,
    /// How.
    #[n(1)]
    pub end: End,
    /// [`crate::FailureCode`] number.
    #[n(2)]
    pub code: u16,
    /// Why the trial reset, where it did.
    #[n(3)]
    pub reset: Option<ResetReason>,
    /// Free text of at most [`crate::limits::REASON_BYTES_MAX`] bytes.
    #[b(4)]
    pub detail: Option<&'a str>,
}

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum End {
    /// The new image was never the one to boot.
    #[n(0)]
    Failed,
    /// The new image booted and reset before it confirmed; the earlier image runs again.
    #[n(1)]
    RolledBackBoot,
    /// The new image ran, judged itself unfit or missed its deadline; the earlier one runs again.
    #[n(2)]
    RolledBackHealth,
    /// The order is refused and changed nothing.
    #[n(3)]
    Refused,
}

/// A claim "the first `bytes` bytes of the slot may be the image": the server answers with the
/// longest claim that is true, which is where the download resumes. Nothing is kept in flash for
/// this. The digest covers bytes [`crate::limits::HEAD_BYTES`]`..bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Held {
    /// Length of the prefix.
    #[n(0)]
    pub bytes: u32,
    /// First bytes of its SHA-256.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub digest: [u8; HELD_DIGEST_BYTES],
}

/// Why the chip reset, reduced to what an update decision needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ResetReason {
    /// Not known.
    #[n(0)]
    Unknown,
    /// Power came on.
    #[n(1)]
    PowerOn,
    /// The supply sagged.
    #[n(2)]
    BrownOut,
    /// The software asked for it.
    #[n(3)]
    Software,
    /// Panic or exception.
    #[n(4)]
    Panic,
    /// A watchdog.
    #[n(5)]
    Watchdog,
    /// Wake-up from deep sleep.
    #[n(6)]
    DeepSleep,
    /// The reset pin.
    #[n(7)]
    External,
}

/// The server's answer: the order that stands.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Answer<'a> {
    /// Protocol version, [`VERSION`].
    #[n(0)]
    pub protocol: u8,
    /// The check-in's nonce.
    #[n(1)]
    pub nonce: u64,
    /// When to check in again, seconds; a device adds its own jitter.
    #[n(2)]
    pub retry_after_s: u32,
    /// The order whose outcome the server has stored; the device may forget it.
    #[n(3)]
    pub acknowledged: Option<u64>,
    /// The order that stands; none is "nothing for you".
    #[b(4)]
    pub order: Option<Order<'a>>,
    /// The device it is for; a signed answer must name it.
    #[b(5)]
    pub device: Option<&'a str>,
    /// Version of the newest root; a device that trusts an older one fetches the next of
    /// `GET /d/v1/roots/{version}`.
    #[n(6)]
    pub root: Option<u32>,
    /// What the next sealed check-in is to repeat.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub challenge: Option<[u8; CHALLENGE_BYTES]>,
    /// The head of the release log.
    #[n(8)]
    pub log: Option<LogHead>,
}

impl<'a> Answer<'a> {
    /// "Nothing for you, come back then."
    pub fn nothing(nonce: u64, retry_after_s: u32) -> Self {
        Self {
            protocol: VERSION,
            nonce,
            retry_after_s,
            acknowledged: None,
            order: None,
            device: None,
            root: None,
            challenge: None,
            log: None,
        }
    }
}

/// An order that stands until the device is seen to have carried it out.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Order<'a> {
    /// Its number: the same number is the same order, however often it is repeated.
    #[n(0)]
    pub id: u64,
    /// What to do.
    #[b(1)]
    pub action: Action<'a>,
}

/// What an order asks for.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Action<'a> {
    /// Bring this image into the other slot, prove it, boot it on trial.
    #[n(0)]
    Install(#[b(0)] Install<'a>),
    /// Stop running the image named here and boot the other slot.
    #[n(1)]
    Rollback(#[b(0)] Rollback<'a>),
    /// Drop the install of this number where it has not been activated.
    #[n(2)]
    Cancel,
}

/// An image to install.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Install<'a> {
    /// SHA-256 of the whole image, also its name: `GET /d/v1/blobs/{sha256}`.
    #[n(0)]
    pub image: Sha256,
    /// Its length.
    #[n(1)]
    pub bytes: u32,
    /// Its first [`crate::limits::HEAD_BYTES`] bytes, which stay erased until the rest is proven.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub head: [u8; crate::limits::HEAD_BYTES],
    /// `app_elf_sha256` that the image must carry.
    #[n(3)]
    pub elf: Sha256,
    /// Its version, for logs.
    #[b(4)]
    pub version: &'a str,
    /// Length of the longest [`Held`] prefix that is true; the download starts there.
    #[n(5)]
    pub resume_from: u32,
    /// Seconds after its first start within which the image must confirm itself.
    #[n(6)]
    pub trial_deadline_s: u32,
    /// The signed release, by the SHA-256 of its envelope: `GET /d/v1/blobs/{sha256}`.
    #[n(7)]
    pub release: Option<Sha256>,
    /// Where the image lies with its index (see [`crate::signed::index`]).
    #[n(8)]
    pub artifact: Option<Sha256>,
    /// A shorter way to the same image, for a device that said it can go it.
    #[n(9)]
    pub patch: Option<Patch>,
    /// Download and prove it, and do not activate it yet: the answer that no longer says so comes
    /// when the install window opens.
    #[n(10)]
    pub hold: Option<bool>,
    /// What must hold on the device before it activates.
    #[n(11)]
    pub conditions: Option<Conditions>,
}

/// What a device asks itself before it activates an image; what is absent asks nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Conditions {
    /// Battery of at least so many percent.
    #[n(0)]
    pub battery_min: Option<u8>,
    /// Signal of at least so many dBm.
    #[n(1)]
    pub rssi_min: Option<i8>,
    /// Only while it has nothing else to do.
    #[n(2)]
    pub idle: Option<bool>,
    /// Only once its user has said yes.
    #[n(3)]
    pub consent: Option<bool>,
}

/// A patch that makes the image out of the one that runs, or out of nothing. Nothing vouches for
/// it: what comes out is proven by the index of the signed release. A device for which it does not
/// work takes the rest from the artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Patch {
    /// Its SHA-256 and its name: `GET /d/v1/blobs/{sha256}`.
    #[n(0)]
    pub sha256: Sha256,
    /// Its length.
    #[n(1)]
    pub bytes: u32,
}

/// An image to leave.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Rollback<'a> {
    /// `app_elf_sha256` of the image to leave; a device that runs another one has nothing to do.
    #[n(0)]
    pub leave: Sha256,
    /// Why, for the device's log.
    #[b(1)]
    pub reason: &'a str,
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::limits::{
        ATTRIBUTES_TEXT_BYTES_MAX, CHECK_IN_BYTES_MAX, DEVICE_ID_BYTES_MAX, METRICS_NAME_BYTES_MAX,
        REASON_BYTES_MAX,
    };
    use std::vec;

    fn longest<'a>(id: &'a str, text: &'a str, reason: &'a str) -> CheckIn<'a> {
        let elf = Sha256([0xff; 32]);
        let mut slots = List::new();
        let mut held = List::new();
        for slot in 0..SLOTS_MAX as u8 {
            let report = SlotReport {
                slot: slot | 0x80,
                bytes: u32::MAX,
                state: SlotState::Rejected,
                elf: Some(elf),
                version: Some(text),
            };
            slots.push(report).expect("fits");
        }
        while held
            .push(Held {
                bytes: u32::MAX,
                digest: [9; 8],
            })
            .is_ok()
        {}
        CheckIn {
            protocol: VERSION,
            device: id,
            nonce: u64::MAX,
            chip: u16::MAX,
            chip_revision: Some(u16::MAX),
            running_elf: elf,
            version: text,
            project: text,
            confirmed: Running::Trial,
            slot: 255,
            slots,
            rollback_slot: Some(255),
            progress: Some(Progress {
                order: u64::MAX,
                phase: Phase::Trial,
                bytes: u32::MAX,
            }),
            outcome: Some(Outcome {
                order: u64::MAX,
                end: End::RolledBackHealth,
                code: u16::MAX,
                reset: Some(ResetReason::External),
                detail: Some(reason),
            }),
            held,
            reset: ResetReason::External,
            uptime_s: u32::MAX,
            root: Some(u32::MAX),
            epoch: Some(u32::MAX),
            challenge: Some([9; CHALLENGE_BYTES]),
            log: Some(LogHead {
                size: u64::MAX,
                root: elf,
            }),
            patches: Some(PatchProfile::Default),
            attributes: Some(attributes(text)),
            metrics: Some(metrics()),
            waits: Some(Waits::Window),
        }
    }

    /// 64 bytes of text: two long values, two short ones.
    fn attributes(text: &str) -> List<Attribute<'_>, ATTRIBUTES_MAX> {
        let values = [("tz", 30), ("site", 24), ("a", 1), ("b", 1)];
        list(values.map(|(name, bytes)| Attribute {
            name,
            value: &text[..bytes],
        }))
    }

    fn metrics() -> List<Metric<'static>, METRICS_MAX> {
        let names = ["heap", "rssi", "temp", "errs", "boot", "wifi"];
        let value = i32::MIN;
        list(names.map(|name| Metric { name, value }))
    }

    fn list<T: core::fmt::Debug, const N: usize>(values: [T; N]) -> List<T, N> {
        let mut list = List::new();
        for value in values {
            list.push(value).expect("fits");
        }
        list
    }

    #[test]
    fn the_longest_attributes_and_metrics_are_as_long_as_allowed() {
        let (id, text) = ("i".repeat(DEVICE_ID_BYTES_MAX), "v".repeat(32));
        let check_in = longest(&id, &text, "");
        let attributes = check_in.attributes.expect("given");
        let text_bytes = attributes.iter().map(|it| it.name.len() + it.value.len());
        assert_eq!(text_bytes.sum::<usize>(), ATTRIBUTES_TEXT_BYTES_MAX);
        let metrics = check_in.metrics.expect("given");
        let name_bytes = metrics.iter().map(|metric| metric.name.len());
        assert_eq!(name_bytes.sum::<usize>(), METRICS_NAME_BYTES_MAX);
    }

    #[test]
    fn the_longest_check_in_fits_and_round_trips() {
        let (id, text) = ("i".repeat(DEVICE_ID_BYTES_MAX), "v".repeat(32));
        let reason = "r".repeat(REASON_BYTES_MAX);
        let check_in = longest(&id, &text, &reason);
        let mut buffer = [0; CHECK_IN_BYTES_MAX];
        let bytes = encode(&check_in, &mut buffer).expect("fits the limit");
        assert_eq!(
            minicbor::decode::<CheckIn>(bytes).expect("decodes"),
            check_in
        );
    }

    #[test]
    fn an_install_answer_round_trips() {
        let install = Install {
            image: Sha256([1; 32]),
            bytes: 1_065_968,
            head: [0xe9; 16],
            elf: Sha256([2; 32]),
            version: "1.0.6",
            resume_from: 4096,
            trial_deadline_s: 300,
            release: Some(Sha256([3; 32])),
            artifact: Some(Sha256([4; 32])),
            patch: Some(Patch {
                sha256: Sha256([5; 32]),
                bytes: 2144,
            }),
            hold: Some(true),
            conditions: Some(Conditions {
                battery_min: Some(40),
                rssi_min: Some(-75),
                idle: Some(true),
                consent: None,
            }),
        };
        let answer = Answer {
            acknowledged: Some(41),
            order: Some(Order {
                id: 42,
                action: Action::Install(install),
            }),
            ..Answer::nothing(7, 60)
        };
        let mut buffer = [0; CHECK_IN_BYTES_MAX];
        let bytes = encode(&answer, &mut buffer).expect("fits");
        assert_eq!(minicbor::decode::<Answer>(bytes).expect("decodes"), answer);
    }

    #[test]
    fn a_list_that_is_too_long_is_refused() {
        let mut buffer = vec![0x98, 200];
        buffer.extend([0x82, 0x01, 0x48, 0, 0, 0, 0, 0, 0, 0, 0].repeat(200));
        assert!(minicbor::decode::<List<Held, HELD_MAX>>(&buffer).is_err());
    }
}
