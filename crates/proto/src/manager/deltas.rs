//! Patches.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Sha256;

/// A patch that the server made, or is to make, for a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delta {
    /// Number given by the server.
    pub id: i64,
    /// The release that it makes.
    pub release: i64,
    /// Version of that release.
    pub version: String,
    /// The release that it is applied to; absent for the compressed image.
    pub from: Option<i64>,
    /// Version of that release.
    pub from_version: Option<String>,
    /// How much memory it asks of a device.
    pub profile: DeltaProfile,
    /// `queued`, `making`, `ready`, `failed` or `useless`: hardly shorter than the image.
    pub state: String,
    /// SHA-256 of the patch, also its blob name; where it is ready.
    #[schema(value_type = Option<String>)]
    pub sha256: Option<Sha256>,
    /// Length of the patch; where it is ready.
    pub bytes: Option<u64>,
    /// Length of the image.
    pub image_bytes: u64,
    /// How long it took to make and to prove.
    pub made_in_ms: Option<u64>,
    /// Why it failed or is useless.
    pub detail: Option<String>,
    /// When it was asked for.
    pub queued_at: i64,
    /// Attempts that were offered it.
    pub offered: u64,
    /// Of those, how many have the release now.
    pub succeeded: u64,
    /// Bytes that those were sent less than the image with its index has.
    pub spared_bytes: i64,
}

/// How much memory a patch asks of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeltaProfile {
    /// 16 KB.
    Small,
    /// 32 KB.
    #[default]
    Default,
}

/// Body of `POST /api/v1/deltas`. Without `from` and `all_running` it asks for the compressed image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeltaRequest {
    /// The release to make: its id, or its version where only one release has it.
    pub release: String,
    /// Releases that it is made from, named alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// From every release of the same product and chip that a device runs.
    #[serde(default)]
    pub all_running: bool,
    /// For devices with how much memory.
    #[serde(default)]
    pub profile: DeltaProfile,
}
