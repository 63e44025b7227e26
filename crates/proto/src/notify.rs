//! The JSON types for whoever wants to be told: webhooks and their deliveries, and what stands out
//! among the failures of a rollout.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::operators::Secret;

/// Who is told of events: a URL that stored events are posted to, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Name, unique.
    pub name: String,
    /// Where events are posted to.
    pub url: String,
    /// Kinds of events that it is told of: `attempt.failed`, `rollout.*`, `*`.
    pub events: Vec<String>,
    /// Whether events are delivered.
    pub enabled: bool,
    /// Why it is disabled.
    pub reason: Option<String>,
    /// The last event that is done with: delivered, or of no matching kind.
    pub done_event: i64,
    /// Since when deliveries fail; absent while they do not.
    pub failing_since: Option<i64>,
    /// Times that the event which is next was tried.
    pub attempts: u32,
    /// When it is tried again; absent while deliveries do not fail.
    pub retry_at: Option<i64>,
    /// When it was added.
    pub created_at: i64,
}

/// Body of `POST /api/v1/webhooks`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookRequest {
    /// Name: 1 to 64 letters, digits and `-_.:`.
    pub name: String,
    /// `http://…` or `https://…`, without a user or a fragment.
    pub url: String,
    /// Kinds of events: `attempt.failed`, `rollout.*`, `*`; 1 to 32 of them.
    pub events: Vec<String>,
    /// Key of the signatures, `whsec_` and 24 to 64 bytes as base64; made by the server if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub secret: Option<Secret>,
}

/// A webhook that was just added.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewWebhook {
    /// Key of the signatures; it is shown this once.
    #[schema(value_type = String)]
    pub secret: Secret,
    /// What is listed of it.
    pub webhook: Webhook,
}

/// Body of `POST /api/v1/webhooks/{name}/enable`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookEnable {
    /// Leave out what happened while it was disabled.
    #[serde(default)]
    pub skip_missed: bool,
}

/// One try to tell a webhook of one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookDelivery {
    /// Number of the try among all of this webhook; grows.
    pub id: i64,
    /// The event; 0 for a test.
    pub event: i64,
    /// Its kind.
    pub kind: String,
    /// Which try for this event, from 1.
    pub attempt: u32,
    /// When.
    pub at: i64,
    /// How long the answer took.
    pub took_ms: u64,
    /// HTTP status of the answer; absent where there was none.
    pub status: Option<u16>,
    /// Why it does not count as delivered; absent where it does.
    pub error: Option<String>,
}

/// What stands out among the failures of a rollout: `GET /api/v1/rollouts/{id}/clusters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutClusters {
    /// The rollout; absent where all were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<i64>,
    /// The days that were looked at, where all rollouts were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// Devices whose attempt has succeeded or failed.
    pub devices: u64,
    /// Of these, how many failed, timed out or went back by themselves.
    pub failed: u64,
    /// The failures by state, most first.
    pub states: Vec<StateCount>,
    /// What stands out, most first; each beyond what those before it explain.
    pub clusters: Vec<Cluster>,
    /// Whether there were more kinds of devices than were looked at.
    pub partial: bool,
}

/// Devices whose attempt ended in one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateCount {
    /// Such as `failed:hash_mismatch`.
    pub state: String,
    /// Devices.
    pub devices: u64,
}

/// A kind of device that fails more often than the others, or otherwise. What is absent is not
/// part of what these devices have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// In one sentence.
    pub text: String,
    /// Their chip.
    pub chip: Option<String>,
    /// Its revision: 100 times the major and the minor number.
    pub chip_revision: Option<u16>,
    /// The version that they came from.
    pub from_version: Option<String>,
    /// Their signal: `weak`, `fair` or `good`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// How they failed.
    pub state: Option<String>,
    /// The reset reason that they reported with it.
    pub reset: Option<String>,
    /// Devices of this kind that failed so.
    pub failed: u64,
    /// Devices of this kind.
    pub devices: u64,
    /// All other devices that failed so.
    pub elsewhere_failed: u64,
    /// All other devices.
    pub elsewhere_devices: u64,
    /// How sure it is, and how much it explains: the log-likelihood ratio in nats, against the same
    /// chance of failure everywhere.
    pub score: f64,
}
