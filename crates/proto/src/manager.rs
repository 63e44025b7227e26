//! The JSON types of the manager API (`/api/v1/…`), shared by the server and its clients.
//!
//! Times are milliseconds since the Unix epoch, sizes are bytes, digests are 64 hex digits.

mod deltas;
mod device_identity;
mod health;
mod plan;
mod signing;

pub use deltas::{Delta, DeltaProfile, DeltaRequest};
pub use health::{Health, HealthSource, HealthVerdict};
pub use plan::{
    Canary, Conditions, DryRun, DryRunPhase, Gates, HeldCount, Limits, Percent, Retries,
    RolloutPlan, RuleVerdict, Schedule, Sequential, Span, Timeouts, Wave, Why, WhyRollout, WhyRule,
};

pub use signing::{
    LogEntry, ProductSigning, ProductSigningRequest, Root, RootKey, SeenHead, SignedRelease,
    Thresholds,
};

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use device_identity::{
    ClaimsAccepted, CredentialKind, CredentialRequest, CredentialSource, CredentialState,
    DeviceCredential, EnrolmentKey, EnrolmentKeyRequest, EnrolmentKeyState, NewCredential,
    NewEnrolmentKey, ReEnrolment,
};

use crate::{AttemptState, Sha256};

/// An error of any endpoint: RFC 9457 `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank#CODE`; the part after `#` is `code`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with which value, and the next step.
    pub detail: String,
    /// Stable code for programs, e.g. `image_invalid`, `not_found`, `field_invalid`.
    pub code: String,
    /// The field of the request that is wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub field: Option<String>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Pass as `after` to go on; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// An immutable firmware version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Number given by the server.
    pub id: i64,
    /// Version: the image's own unless the uploader gave another and allowed the mismatch.
    pub version: String,
    /// Project name of the image's app description.
    pub project: String,
    /// Chip name, e.g. `esp32c3`; absent for a file taken in under `--lab`.
    pub chip: Option<String>,
    /// Length of the image.
    pub bytes: u64,
    /// SHA-256 of the image, also its blob name.
    #[schema(value_type = String)]
    pub sha256: Sha256,
    /// `app_elf_sha256` of the image: what a device that runs it reports.
    #[schema(value_type = Option<String>)]
    pub elf_sha256: Option<Sha256>,
    /// ESP-IDF version it was built with.
    pub idf_version: Option<String>,
    /// Security version of the app description.
    pub secure_version: u32,
    /// Smallest chip revision, major × 100 + minor.
    pub chip_revision_min: u16,
    /// Largest chip revision; absent where the image sets none.
    pub chip_revision_max: Option<u16>,
    /// The operator's notes.
    pub notes: String,
    /// Whether it was taken in under `--lab` although no chip would boot it.
    pub lab: bool,
    /// Whether it was withdrawn: never offered again.
    pub yanked: bool,
    /// When it was uploaded.
    pub uploaded_at: i64,
    /// Devices whose running image is this release.
    pub running_on: u64,
    /// What the release keys have said of it; absent where it is not signed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signed: Option<SignedRelease>,
    /// Bytes that devices which have it by a patch were sent less than without one.
    #[serde(default)]
    pub spared_bytes: i64,
}

/// Query of `POST /api/v1/releases`; the body is the image itself, or a bundle: the image behind
/// its signed release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReleaseUpload {
    /// The version the uploader expects; refused where the image says another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Take `version` although the image says another.
    #[serde(default)]
    pub allow_version_mismatch: bool,
    /// Notes for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}

/// A device as last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// Groups it is in, sorted.
    pub groups: Vec<String>,
    /// Chip name; absent while unknown (devices that speak only the seed's API).
    pub chip: Option<String>,
    /// Project of the image that runs.
    pub project: Option<String>,
    /// Version the device reports.
    pub version: Option<String>,
    /// Digest of the image that runs.
    #[schema(value_type = Option<String>)]
    pub elf_sha256: Option<Sha256>,
    /// Whether the running image is confirmed; absent while unknown.
    pub confirmed: Option<bool>,
    /// Slot that runs.
    pub slot: Option<u8>,
    /// Version that a rollback order would boot; absent where there is no valid image.
    pub rollback_version: Option<String>,
    /// Whether a rollback target exists.
    pub rollback_available: bool,
    /// `native` or `seed`.
    pub protocol: String,
    /// `online`, `late` or `offline`.
    pub presence: Presence,
    /// When it was last seen.
    pub last_seen: i64,
    /// When it was first seen.
    pub first_seen: i64,
    /// What runs is not what the version text says: the sentence to show.
    pub warning: Option<String>,
    /// Its newest attempt.
    pub attempt: Option<Attempt>,
    /// A rollback order that stands.
    pub rollback: Option<RollbackOrder>,
    /// Releases that are never offered to it again (version text).
    pub blocked: Vec<String>,
    /// What operators said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// What its application measured last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, i32>,
    /// Version of the root that it trusts: 0 while it waits for a first one; absent where it
    /// takes unsigned answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub root_version: Option<u32>,
    /// Security epoch below which it starts nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub epoch: Option<u32>,
    /// The head of the release log that it saw last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log: Option<SeenHead>,
    /// What an operator has pinned it to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pin: Option<Pin>,
    /// The last 48 half hours, oldest first: `1` where it checked in, `0` where not.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub heard: String,
}

/// A device that takes one release and no other, or none at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pin {
    /// The release; absent: none at all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub release: Option<i64>,
    /// Version of that release.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: i64,
}

/// Body of `POST /api/v1/devices/{id}/pin`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// Release: its id, or its version where only one release has it; absent: none at all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub release: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// How long ago a device was seen, in its own poll intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// Within two intervals.
    Online,
    /// Within three times that.
    Late,
    /// Longer ago.
    Offline,
}

/// One device in one rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// The rollout.
    pub rollout: i64,
    /// The device.
    pub device: String,
    /// The release it is to bring.
    pub release: i64,
    /// Version of that release.
    pub version: String,
    /// Version it started from.
    pub from_version: Option<String>,
    /// Where it stands, e.g. `downloading`, `failed:hash_mismatch`.
    #[schema(value_type = String)]
    pub state: AttemptState,
    /// What happened, as a sentence with its remedy; for ends that are not `succeeded`.
    pub explanation: Option<String>,
    /// Bytes of the image in flash.
    pub bytes_done: u64,
    /// Bytes of the image.
    pub bytes_total: u64,
    /// Percent, never above 100.
    pub percent: u8,
    /// Bytes of artifact bodies that the server sent it for this attempt.
    pub bytes_sent: u64,
    /// Download requests it made for this attempt.
    pub requests: u64,
    /// Length of the patch that it was offered; absent where it was offered the artifact alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub patch_bytes: Option<u64>,
    /// Whether that patch did not work on the device.
    #[serde(default)]
    pub patch_given_up: bool,
    /// Bytes that go out without a patch: the image with its index.
    #[serde(default)]
    pub artifact_bytes: u64,
    /// When it last changed.
    pub updated_at: i64,
}

/// A rollback order for one device; it stands until the device is seen on another image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackOrder {
    /// Device.
    pub device: String,
    /// Why.
    pub reason: String,
    /// `standing`, `done` or `refused`.
    pub state: RollbackState,
    /// Failure code where refused.
    pub code: Option<String>,
    /// When it was requested.
    pub requested_at: i64,
}

/// Where a rollback order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RollbackState {
    /// The device has not been seen off the image yet.
    Standing,
    /// The device runs another image.
    Done,
    /// The device refused: nothing to go back to.
    Refused,
}

/// Body of `POST /api/v1/rollbacks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// `all`, `group:NAME`, or device ids.
    pub to: Vec<String>,
    /// Only devices that run this release (version or id); with `all` this is what "all updated"
    /// means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Why; shown to the device and in its history.
    pub reason: String,
}

/// Answer of `POST /api/v1/rollbacks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackAccepted {
    /// Orders that now stand.
    pub orders: Vec<RollbackOrder>,
    /// Devices left out and why (`no rollback target`).
    pub excluded: Vec<Excluded>,
}

/// A device that a request names but does not reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Excluded {
    /// The device.
    pub device: String,
    /// Why, e.g. `no_rollback_target`, `incompatible_chip`.
    pub reason: String,
}

/// Body of `POST /api/v1/rollouts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutRequest {
    /// Release: its id, or its version where only one release has it.
    pub release: String,
    /// `all`, `group:NAME`, or device ids.
    pub to: Vec<String>,
    /// Pause when this many devices have failed or rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_max: Option<u32>,
    /// When it pauses so, order the devices that have the release back.
    #[serde(default)]
    pub rollback_on_failure: bool,
    /// Seconds a new image has to confirm itself; 300 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_deadline_s: Option<u32>,
    /// Install although the device's project differs from the release's.
    #[serde(default)]
    pub allow_product_change: bool,
    /// The same key twice gives the same rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Waves, gates, limits; absent: to all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<RolloutPlan>,
}

impl RolloutRequest {
    /// Brings a release to all of these at once, whatever fails.
    pub fn new(release: impl Into<String>, to: Vec<String>) -> Self {
        Self {
            release: release.into(),
            to,
            failures_max: None,
            rollback_on_failure: false,
            trial_deadline_s: None,
            allow_product_change: false,
            idempotency_key: None,
            plan: None,
        }
    }
}

/// Answer of `POST /api/v1/rollouts/preview`, same body as the real one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preview {
    /// Devices that would be offered the release.
    pub matched: u64,
    /// Of those, how many are online now.
    pub online: u64,
    /// Devices named but left out, and why: at most 1,000 of them by name.
    pub excluded: Vec<Excluded>,
    /// All that are left out, by reason, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<ReasonCount>,
    /// The whole plan as one sentence.
    #[serde(default)]
    pub sentence: String,
}

/// Devices left out for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReasonCount {
    /// Why, e.g. `incompatible_chip`.
    pub reason: String,
    /// What of the device is in the way, where it is one word, e.g. `esp32s3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Devices.
    pub devices: u64,
}

/// A rollout and its counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// Number; shown as `r-42`.
    pub id: i64,
    /// Release id.
    pub release: i64,
    /// Version of the release.
    pub version: String,
    /// Targets as requested.
    pub to: Vec<String>,
    /// Whether it offers.
    pub state: RolloutState,
    /// Why it is paused or aborted.
    pub reason: Option<String>,
    /// Failure limit.
    pub failures_max: Option<u32>,
    /// Whether a breach orders updated devices back.
    pub rollback_on_failure: bool,
    /// When it started.
    pub created_at: i64,
    /// Devices by state.
    pub counts: Counts,
    /// Bytes of artifact bodies sent for it.
    pub bytes_sent: u64,
    /// Bytes that devices which updated by a patch were sent less than without one.
    #[serde(default)]
    pub spared_bytes: i64,
    /// The whole plan as one sentence.
    #[serde(default)]
    pub sentence: String,
    /// The plan as given; absent where it is to all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<RolloutPlan>,
    /// Where it stands in its waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<WaveStatus>,
    /// Who started it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who approved it, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// Devices ordered back because it breached a gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackCounts>,
    /// How the updated devices are against the others, where the sequential test looks at them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// Where a rollout stands in its waves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaveStatus {
    /// Number of the wave, from 1.
    pub number: u32,
    /// Number of waves.
    pub of: u32,
    /// Whom it reaches, e.g. `25 %`.
    pub reaches: String,
    /// When it began.
    pub since: i64,
    /// Devices known that it reaches for the first time, once they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<u64>,
    /// Devices of it that started.
    pub started: u64,
    /// Devices of it that are proven healthy.
    pub healthy: u64,
    /// What it waits for, as a sentence.
    pub waits_for: String,
    /// When that may be, where only time is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

impl fmt::Display for WaveStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            of,
            reaches,
            started,
            healthy,
            waits_for,
            ..
        } = self;
        write!(
            f,
            "{number} of {of} ({reaches}): {healthy} of {started} started are healthy; {waits_for}"
        )
    }
}

impl fmt::Display for RollbackCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            standing,
            proven,
            refused,
        } = self;
        write!(
            f,
            "{proven} proven on their earlier image, {standing} not seen there yet, {refused} \
             refused"
        )
    }
}

/// Devices ordered back by the rollout itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackCounts {
    /// Not seen off the release yet.
    pub standing: u64,
    /// Seen on their earlier image: proven.
    pub proven: u64,
    /// Had nothing to go back to.
    pub refused: u64,
}

/// State of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RolloutState {
    /// It offers the release.
    Active,
    /// It offers nothing; attempts under way go on.
    Paused,
    /// Ended by an operator.
    Aborted,
    /// Every device it names has ended.
    Complete,
}

/// Devices of a rollout by state; the sum is the number of devices it names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Not seen since the start.
    pub waiting: u64,
    /// Offered to installing.
    pub updating: u64,
    /// Runs it, unconfirmed.
    pub trial: u64,
    /// Runs it, confirmed.
    pub succeeded: u64,
    /// Failed.
    pub failed: u64,
    /// Went back.
    pub rolled_back: u64,
    /// Left out.
    pub skipped: u64,
    /// Timed out, aborted or superseded.
    pub ended: u64,
}

/// A rollout with its attempts: `GET /api/v1/rollouts/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutDetail {
    /// The rollout.
    #[serde(flatten)]
    pub rollout: Rollout,
    /// Attempts, and `waiting` rows for devices not seen yet; at most 1,000, worst first.
    pub attempts: Vec<Attempt>,
}

/// Body of the pause, abort and yank calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// Which secure boot keys the images of a product must be signed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProductSecureBoot {
    /// Project name of the images.
    pub product: String,
    /// SHA-256 of the public keys as `espsecure digest-sbv2-public-key` tells them; one of them
    /// must have signed. Empty: nothing is asked.
    #[schema(value_type = Vec<String>)]
    pub digests: Vec<Sha256>,
}

/// Body of `PUT /api/v1/products/{name}/secure-boot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecureBootKeys {
    /// The key digests; empty asks for nothing any more.
    #[schema(value_type = Vec<String>)]
    pub digests: Vec<Sha256>,
}

/// A group and its size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Devices in it, sorted.
    pub devices: Vec<String>,
    /// Devices of which this holds are in it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Bytes that may go to it each second, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
}

/// Body of `POST /api/v1/groups/{name}/rule`: what the group is besides its list of devices. What
/// is left out is taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GroupRule {
    /// Devices of which this holds are in it too, whenever they come.
    pub filter: Option<String>,
    /// Bytes that may go to it each second, on average.
    pub bytes_per_s: Option<u64>,
}

/// Body of `POST /api/v1/devices/{id}/tags`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TagsRequest {
    /// Tags to set; the device need not have been seen yet.
    pub set: BTreeMap<String, String>,
    /// Tags to take away.
    pub remove: Vec<String>,
}

/// The tags of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceTags {
    /// The device.
    pub device: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// Body of `POST /api/v1/groups`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupRequest {
    /// Name: as a device id.
    pub name: String,
}

/// Body of `POST /api/v1/groups/{name}/devices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupDevices {
    /// Devices to add; they need not have been seen yet.
    pub add: Vec<String>,
}

/// `GET /api/v1/fleet/summary`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetSummary {
    /// Devices known.
    pub total: u64,
    /// Of these online.
    pub online: u64,
    /// Late.
    pub late: u64,
    /// Offline.
    pub offline: u64,
    /// Offered to trial.
    pub updating: u64,
    /// Failed or rolled back in the last 24 hours.
    pub failed_24h: u64,
    /// Devices by running version, most first.
    pub versions: Vec<VersionCount>,
    /// Bytes that devices which updated by a patch were sent less than without one.
    #[serde(default)]
    pub spared_bytes: i64,
}

/// Devices that run one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionCount {
    /// Version text; `unknown` where never reported.
    pub version: String,
    /// Devices.
    pub devices: u64,
}

/// A line of history; never rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Position in the history; grows.
    pub id: i64,
    /// When.
    pub at: i64,
    /// What: `device.seen`, `release.uploaded`, `rollout.started`, `rollout.paused`,
    /// `attempt.<state>`, `rollback.requested`, `rollback.done` …
    pub kind: String,
    /// Device it concerns.
    pub device: Option<String>,
    /// Rollout it concerns.
    pub rollout: Option<i64>,
    /// Release it concerns.
    pub release: Option<i64>,
    /// Who did it: `operator`, `device`, `server`.
    pub actor: String,
    /// A sentence for people.
    pub text: String,
    /// State after it, for attempt events.
    #[schema(value_type = Option<String>)]
    pub state: Option<AttemptState>,
    /// Bytes in flash, for progress events (these are streamed, not stored).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_done: Option<u64>,
    /// Bytes of the image, likewise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_total: Option<u64>,
}

/// `GET /api/v1/server`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerInfo {
    /// Version of the server.
    pub version: String,
    /// `sqlite` or `postgres`.
    pub database: String,
    /// Whether the seed's operator paths need no token.
    pub legacy_open: bool,
    /// Whether files that are no ESP images are taken.
    pub lab: bool,
    /// Seconds between check-ins that devices are told.
    pub poll_s: u32,
    /// Public key that signs answers to devices: 130 hex digits of an uncompressed P-256 point,
    /// for the online role of a root.
    #[serde(default)]
    pub online_key: String,
    /// Version of the newest root; 0 where there is none.
    #[serde(default)]
    pub root_version: u32,
}
