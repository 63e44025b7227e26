//! What the manager API says about the credentials of devices.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a device proves itself with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    /// A P-256 key of the device: it signs, the server has the public half only.
    Key,
    /// A secret of 32 bytes that device and server share.
    Secret,
}

/// Whether a credential opens check-ins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CredentialState {
    /// It does.
    Active,
    /// No more, for good.
    Revoked,
}

/// How a credential came to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CredentialSource {
    /// In a factory's list.
    Claim,
    /// From the device, with an enrolment key.
    Enrolment,
    /// From an operator, for one device.
    Operator,
}

/// A credential of a device. A secret itself is never told again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceCredential {
    /// Number given by the server.
    pub id: i64,
    /// The device.
    pub device: String,
    /// Key or secret.
    pub kind: CredentialKind,
    /// The public key, 130 hex digits beginning with 04; absent for a secret.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub public_key: Option<String>,
    /// First 8 bytes of the SHA-256 of the public key, 16 hex digits; absent for a secret.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key_id: Option<String>,
    /// Whether it opens check-ins.
    pub state: CredentialState,
    /// How it came.
    pub source: CredentialSource,
    /// Name of the enrolment key it came with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub enrolment_key: Option<String>,
    /// When it came.
    pub created_at: i64,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revoked_at: Option<i64>,
    /// When it last opened a check-in; written in batches.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_used: Option<i64>,
}

/// Body of `POST /api/v1/devices/{id}/credentials`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialRequest {
    /// Key or secret.
    pub kind: CredentialKind,
    /// The public key, 130 hex digits beginning with 04; absent for a secret, which the server
    /// makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// Answer of `POST /api/v1/devices/{id}/credentials`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewCredential {
    /// The credential.
    pub credential: DeviceCredential,
    /// The secret, 64 hex digits: shown this once.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<String>,
}

/// Answer of `POST /api/v1/device-claims`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClaimsAccepted {
    /// Devices whose credential is new.
    pub claimed: u64,
    /// Devices that had the same credential already.
    pub unchanged: u64,
}

/// Answer of `POST /api/v1/devices/{id}/re-enrol`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReEnrolment {
    /// The device that may enrol another key, once.
    pub device: String,
    /// Until then.
    pub expires_at: i64,
}

/// A key that lets devices enrol by themselves. Its secret is never told again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnrolmentKey {
    /// Its name.
    pub name: String,
    /// Its short name on the wire, 16 hex digits.
    pub key_id: String,
    /// How many devices it may enrol.
    pub devices_max: u32,
    /// How many it has enrolled.
    pub devices: u32,
    /// When it ends.
    pub expires_at: i64,
    /// Group that its devices join.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    /// What the ids of its devices must begin with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id_prefix: Option<String>,
    /// Whether it enrols.
    pub state: EnrolmentKeyState,
    /// When it was made.
    pub created_at: i64,
}

/// Whether an enrolment key enrols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EnrolmentKeyState {
    /// It does.
    Active,
    /// It has enrolled as many devices as it may.
    Full,
    /// Its time is over.
    Expired,
    /// An operator ended it.
    Revoked,
}

/// Body of `POST /api/v1/enrolment-keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentKeyRequest {
    /// Name: as a device id.
    pub name: String,
    /// How many devices it may enrol, 1 to 100,000.
    pub devices_max: u32,
    /// How long it lives, seconds; at most a year.
    pub expires_in_s: u32,
    /// Group that its devices join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What the ids of its devices must begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_prefix: Option<String>,
}

/// Answer of `POST /api/v1/enrolment-keys`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewEnrolmentKey {
    /// The key.
    pub enrolment_key: EnrolmentKey,
    /// Its secret, 64 hex digits, for the firmware: shown this once.
    pub secret: String,
}
