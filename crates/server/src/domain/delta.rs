//! Which patch a device is offered, and which ones are to be made.
//!
//! A patch is made for a release out of another release that devices run, or out of nothing: the
//! compressed image. What a device is offered is the shortest way to the image that it can go;
//! while the one that is likely to be the shortest is being made, it is asked to come back, but not
//! for ever.
//!
//! | what the server has | the device |
//! |---|---|
//! | it takes no patches, trusts no root, or the release is not signed | gets the artifact |
//! | the patch from what it runs has been in the making for less than [`WAIT_MS`] | waits |
//! | there can be none, and the same is true of the compressed image | waits |
//! | otherwise | gets the shortest of what is ready, the artifact included |
//!
//! Once offered, an attempt keeps its patch: what a device has of it is worth nothing for another.

use fota_proto::{
    Sha256,
    checkin::{Patch, PatchProfile},
    limits::{CHUNK_BYTES, PATCH_REFETCHED_BYTES_MAX},
    signed::index,
};

use super::model::{Device, Plan, Protocol, Release};

/// How long a device waits for a patch from when it was queued. Sixteen patches of real images
/// are made in less on one core; who comes later finds what is there.
pub const WAIT_MS: i64 = 60_000;
/// When a device that waits comes back: it is answered from memory, so soon.
pub const WAIT_RETRY_S: u32 = 3;
/// Versions for which a rollout has patches made when it starts, those of most devices first; the
/// others are made when a device asks.
pub const SOURCES_AT_START_MAX: usize = 16;
/// Patches of one release. A fleet on more versions than this gets compressed images.
pub const PER_RELEASE_MAX: usize = 64;

/// A patch as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    pub id: i64,
    pub release: i64,
    /// The release whose image it is applied to; none for the compressed image.
    pub from: Option<i64>,
    pub profile: PatchProfile,
    pub state: State,
    pub queued_at: i64,
}

/// Where the making of a patch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Queued,
    Making,
    /// Made, and decoded to the very image.
    Ready(Patch),
    /// It could not be made, or did not decode to the image: never offered.
    Failed,
    /// It is hardly shorter than the image.
    Useless,
}

impl State {
    fn is_pending(self) -> bool {
        matches!(self, Self::Queued | Self::Making)
    }
}

/// A patch that somebody should make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub release: i64,
    pub from: Option<i64>,
    pub profile: PatchProfile,
}

impl Wanted {
    fn is(&self, delta: &Delta) -> bool {
        (self.release, self.from, self.profile) == (delta.release, delta.from, delta.profile)
    }
}

/// A patch that an attempt was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    pub patch: Patch,
    /// Whether it did not work on the device, which takes the rest from the artifact.
    pub given_up: bool,
}

/// The way to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The whole artifact.
    Artifact,
    Patch(Patch),
    /// A shorter way is being made; at this time the device goes another.
    Wait {
        until: i64,
    },
}

/// A device as far as patches to it are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker {
    /// The largest patches that it can apply.
    pub profile: PatchProfile,
    /// The release that it runs, where it is one of ours.
    pub runs: Option<i64>,
    /// The smallest slot that the image may be written into.
    pub slot_bytes: u32,
}

/// The device as a taker of patches to the release; none where it gets the artifact.
pub fn taker(device: &Device, plan: &Plan, release: &Release) -> Option<Taker> {
    let profile = device.patches?;
    let is_proven = device.trust.needs_signature() && release.signed.is_some();
    if device.protocol != Protocol::Native || !is_proven {
        return None;
    }
    // The store takes in one release for one ELF digest, so there is no other image to mean.
    let runs = device.elf.and_then(|elf| plan.by_elf(elf));
    let other = device
        .slots
        .iter()
        .filter(|slot| Some(slot.slot) != device.slot);
    let fits = other
        .map(|slot| slot.bytes)
        .filter(|bytes| u64::from(*bytes) >= release.bytes);
    Some(Taker {
        profile,
        runs: runs.map(|runs| runs.id),
        slot_bytes: fits.min().unwrap_or(0),
    })
}

/// The patch that is likely to be the shortest way of this device to the release: out of what it
/// runs; where there can be none, out of nothing.
pub fn wanted(taker: Taker, release: &Release, deltas: &[Delta]) -> Wanted {
    let wanted = |from| Wanted {
        release: release.id,
        from,
        profile: taker.profile,
    };
    let from = wanted(taker.runs.filter(|runs| *runs != release.id));
    let is_dead =
        |delta: &Delta| from.is(delta) && matches!(delta.state, State::Failed | State::Useless);
    match deltas.iter().any(is_dead) {
        true => wanted(None),
        false => from,
    }
}

/// The wanted patch, where nobody has asked for it and there is room for it.
pub fn missing(taker: Taker, release: &Release, deltas: &[Delta]) -> Option<Wanted> {
    let wanted = wanted(taker, release, deltas);
    let is_known = deltas.iter().any(|delta| wanted.is(delta));
    (!is_known && deltas.len() < PER_RELEASE_MAX).then_some(wanted)
}

/// Chooses the way of a device to the release among the patches that the server has.
pub fn choose(taker: Taker, release: &Release, deltas: &[Delta], now: i64) -> Choice {
    let wanted = wanted(taker, release, deltas);
    let pending = deltas
        .iter()
        .find(|delta| wanted.is(delta) && delta.state.is_pending());
    let until = pending.map(|delta| delta.queued_at.saturating_add(WAIT_MS));
    match until.filter(|until| now < *until) {
        Some(until) => Choice::Wait { until },
        None => best(taker, release, deltas),
    }
}

/// The shortest of what is ready.
fn best(taker: Taker, release: &Release, deltas: &[Delta]) -> Choice {
    let usable = deltas.iter().filter_map(|delta| match delta.state {
        State::Ready(patch) if is_usable(taker, release, delta, patch) => Some(patch),
        _ => None,
    });
    let shortest = usable.min_by_key(|patch| (patch.bytes, patch.sha256));
    match shortest {
        Some(patch) if wire_bytes(release, patch) < artifact_bytes(release) => Choice::Patch(patch),
        _ => Choice::Artifact,
    }
}

fn is_usable(taker: Taker, release: &Release, delta: &Delta, patch: Patch) -> bool {
    let is_for_it = delta.release == release.id
        && delta.profile <= taker.profile
        && (delta.from.is_none() || delta.from == taker.runs);
    is_for_it && has_room(taker, release, patch)
}

/// Whether the slot can hold what it must: a device keeps a patch that is too long to be fetched
/// again behind the image while it is under way, both in whole sectors, with one to spare for the
/// patch's name.
fn has_room(taker: Taker, release: &Release, patch: Patch) -> bool {
    let sectors = |bytes: u64| bytes.next_multiple_of(CHUNK_BYTES.into());
    let kept = u64::from(patch.bytes) + u64::from(CHUNK_BYTES);
    let needed = sectors(release.bytes) + sectors(kept);
    patch.bytes <= PATCH_REFETCHED_BYTES_MAX || needed <= taker.slot_bytes.into()
}

/// Bytes that go out where a device takes the artifact: the image and its index.
pub fn artifact_bytes(release: &Release) -> u64 {
    with_index(release.bytes)
}

/// Length of an image with its index.
pub fn with_index(image_bytes: u64) -> u64 {
    image_bytes + index_bytes(image_bytes)
}

/// Bytes that go out where it takes the patch: it fetches the pages of the index as well.
pub fn wire_bytes(release: &Release, patch: Patch) -> u64 {
    u64::from(patch.bytes) + index_bytes(release.bytes)
}

fn index_bytes(image_bytes: u64) -> u64 {
    image_bytes.div_ceil(CHUNK_BYTES.into()) * index::HASH_BYTES as u64
}

const PROFILES: [(PatchProfile, &str); 2] = [
    (PatchProfile::Small, "small"),
    (PatchProfile::Default, "default"),
];

/// The name of a profile in the API and in the database.
pub fn profile_name(profile: PatchProfile) -> &'static str {
    let found = PROFILES.iter().find(|(known, _)| *known == profile);
    found.map_or("default", |(_, name)| name)
}

/// The profile of this name.
pub fn profile_of(name: &str) -> Option<PatchProfile> {
    let found = PROFILES.iter().find(|(_, known)| *known == name);
    found.map(|(profile, _)| *profile)
}

const STATES: [&str; 5] = ["queued", "making", "ready", "failed", "useless"];

/// The name of a state in the API and in the database.
pub fn state_name(state: State) -> &'static str {
    STATES[match state {
        State::Queued => 0,
        State::Making => 1,
        State::Ready(_) => 2,
        State::Failed => 3,
        State::Useless => 4,
    }]
}

/// The state of this name; `blob` is what a ready one is.
pub fn state_of(name: &str, blob: Option<(Sha256, u32)>) -> Option<State> {
    Some(match (name, blob) {
        ("queued", _) => State::Queued,
        ("making", _) => State::Making,
        ("ready", Some((sha256, bytes))) => State::Ready(Patch { sha256, bytes }),
        ("failed", _) => State::Failed,
        ("useless", _) => State::Useless,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
