//! Signing, roots and the release log, as the manager API says them. Times that were signed are
//! seconds since the Unix epoch, as in the signed object.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Sha256;

/// What the release keys have said of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedRelease {
    /// SHA-256 of the signed release, also its blob name and its entry in the release log.
    #[schema(value_type = String)]
    pub digest: Sha256,
    /// SHA-256 of the image with its index, also its blob name.
    #[schema(value_type = String)]
    pub artifact: Sha256,
    /// Its place in the order of releases.
    pub sequence: u32,
    /// Security epoch.
    pub epoch: u32,
    /// When it stops being offered, seconds.
    pub expires: Option<u64>,
    /// Until when its maker supports it, seconds.
    pub support_until: Option<u64>,
    /// Where to read about it.
    pub advisory: Option<String>,
    /// Seconds that its maker gives it to confirm itself.
    pub self_test_deadline_s: Option<u16>,
    /// Ids of the keys that signed it.
    pub signed_by: Vec<String>,
    /// Whether those keys count under the newest root.
    pub trusted: bool,
}

/// A root of trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Root {
    /// Its version.
    pub version: u32,
    /// SHA-256 of its bytes.
    #[schema(value_type = String)]
    pub digest: Sha256,
    /// Every key of any role.
    pub keys: Vec<RootKey>,
    /// How many keys of each role must sign.
    pub thresholds: Thresholds,
    /// When it may no longer be used, seconds.
    pub expires: Option<u64>,
    /// The one product it is for; absent: all.
    pub product: Option<String>,
    /// When it was uploaded.
    pub added_at: i64,
}

/// A key of a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootKey {
    /// Its id, 16 hex digits.
    pub id: String,
    /// `esp256` or `ed25519`.
    pub algorithm: String,
    /// The public key, hex.
    pub public: String,
    /// What it may sign: `root`, `release`, `online`.
    pub roles: Vec<String>,
}

/// How many keys of each role must sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Thresholds {
    /// Of the root keys, for the next root.
    pub root: u8,
    /// Of the release keys.
    pub release: u8,
    /// Of the online keys: always 1.
    pub online: u8,
}

/// Whether a product's releases must be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProductSigning {
    /// The product: the project name in its images.
    pub name: String,
    /// Whether unsigned images of it are taken although the server has a root.
    pub unsigned: bool,
}

/// Body of `PUT /api/v1/products/{name}/signing`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProductSigningRequest {
    /// Whether unsigned images of it are taken although the server has a root.
    pub unsigned: bool,
}

/// An entry of the release log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// Its number, from 0.
    pub index: u64,
    /// SHA-256 of the signed release; of the image where the release is not signed.
    #[schema(value_type = String)]
    pub digest: Sha256,
    /// The release.
    pub release: Option<i64>,
    /// When it was added.
    pub at: i64,
}

/// The head of the release log, as a device saw it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeenHead {
    /// Number of entries.
    pub size: u64,
    /// Root hash.
    #[schema(value_type = String)]
    pub root: Sha256,
}
