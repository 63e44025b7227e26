//! The manager API: one method per endpoint.

use bytes::Bytes;
use fota_proto::{
    Sha256,
    manager::{
        ClaimsAccepted, CredentialRequest, Delta, DeltaRequest, Device, DeviceCredential,
        DeviceTags, DryRun, EnrolmentKey, EnrolmentKeyRequest, Event, FleetSummary, Group,
        GroupDevices, GroupRequest, GroupRule, NewCredential, NewEnrolmentKey, Page, PinRequest,
        Preview, ProductSecureBoot, ReEnrolment, ReasonBody, Release, ReleaseUpload,
        RollbackAccepted, RollbackRequest, Rollout, RolloutDetail, RolloutRequest, SecureBootKeys,
        ServerInfo, TagsRequest, Why,
    },
};
use futures_util::stream;
use reqwest::{Method, RequestBuilder, header};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

use crate::{Client, Error, REQUEST_TIMEOUT, Result, SILENCE_MAX, segment, send};

/// Bytes handed to the connection at a time while uploading; also the grain of the progress.
const UPLOAD_STEP_BYTES: usize = 64 * 1024;
/// How long an upload may take: the largest image over 5 kB/s.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long a factory's list may take: two thousand lines, each looked up and stored.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(120);
/// Pages that one listing follows; a server that never ends its list must not hang a client.
const PAGES_MAX: usize = 10_000;

/// Which devices to list; empty means all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceFilter {
    /// Only devices in this group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Only devices in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only devices of which this holds (docs/filter.md).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// Which events to list; empty means all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EventFilter {
    /// Only events after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// Only events of this device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Only events of this rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<i64>,
    /// At most this many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[derive(Serialize)]
struct Unblock<'a> {
    release: &'a str,
}

/// Bytes as they arrive: of a release, or of an export.
#[derive(Debug)]
pub struct Download {
    response: reqwest::Response,
    url: String,
}

impl Download {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where the connection breaks before the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        chunk(&mut self.response, &self.url).await
    }
}

pub(crate) async fn chunk(response: &mut reqwest::Response, url: &str) -> Result<Option<Bytes>> {
    match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(Error::unreachable(url, &error)),
        Err(silence) => Err(Error::unreachable(url, &silence)),
    }
}

impl Client {
    /// What the server is.
    pub async fn server(&self) -> Result<ServerInfo> {
        self.fetch("/api/v1/server").await
    }

    /// Counts over the whole fleet.
    pub async fn fleet_summary(&self) -> Result<FleetSummary> {
        self.fetch("/api/v1/fleet/summary").await
    }

    /// Uploads an image; `progress` hears how many bytes the connection has taken so far.
    pub async fn upload(
        &self,
        image: Bytes,
        options: &ReleaseUpload,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<Release> {
        let bytes = image.len();
        let request = self
            .request(Method::POST, "/api/v1/releases")
            .query(options)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, bytes)
            .timeout(UPLOAD_TIMEOUT)
            .body(reqwest::Body::wrap_stream(stepwise(image, progress)));
        self.answer(request).await
    }

    /// Every release.
    pub async fn releases(&self) -> Result<Vec<Release>> {
        self.list("/api/v1/releases", &()).await
    }

    /// One release by its number.
    pub async fn release(&self, id: i64) -> Result<Release> {
        self.fetch(&format!("/api/v1/releases/{id}")).await
    }

    /// The image of a release.
    pub async fn release_image(&self, id: i64) -> Result<Download> {
        self.download(&format!("/api/v1/releases/{id}/image")).await
    }

    pub(crate) async fn download(&self, path: &str) -> Result<Download> {
        let response = send(self.request(Method::GET, path)).await?;
        Ok(Download {
            response,
            url: self.url(path),
        })
    }

    /// Withdraws a release: it is never offered again.
    pub async fn yank(&self, id: i64, reason: &str) -> Result<Release> {
        self.post(&format!("/api/v1/releases/{id}/yank"), &because(reason))
            .await
    }

    /// Every patch, or those that make this release.
    pub async fn deltas(&self, release: Option<i64>) -> Result<Vec<Delta>> {
        let named = release.map(|id| ("release", format!("id:{id}")));
        self.list("/api/v1/deltas", &named.as_slice()).await
    }

    /// Asks for patches.
    pub async fn build_deltas(&self, request: &DeltaRequest) -> Result<Vec<Delta>> {
        self.post("/api/v1/deltas", request).await
    }

    /// Every device that `filter` takes.
    pub async fn devices(&self, filter: &DeviceFilter) -> Result<Vec<Device>> {
        self.list("/api/v1/devices", filter).await
    }

    /// One device.
    pub async fn device(&self, id: &str) -> Result<Device> {
        self.fetch(&format!("/api/v1/devices/{}", segment(id)))
            .await
    }

    /// The history of one device, oldest first.
    pub async fn device_events(&self, id: &str) -> Result<Vec<Event>> {
        self.list(&format!("/api/v1/devices/{}/events", segment(id)), &())
            .await
    }

    /// Why a device gets, or does not get, an order now.
    pub async fn why(&self, id: &str) -> Result<Why> {
        self.fetch(&format!("/api/v1/devices/{}/why", segment(id)))
            .await
    }

    /// Sets and takes away tags of a device.
    pub async fn tag(&self, id: &str, tags: &TagsRequest) -> Result<DeviceTags> {
        self.post(&format!("/api/v1/devices/{}/tags", segment(id)), tags)
            .await
    }

    /// Says what a group is besides its list of devices.
    pub async fn set_group_rule(&self, name: &str, rule: &GroupRule) -> Result<Group> {
        self.post(&format!("/api/v1/groups/{}/rule", segment(name)), rule)
            .await
    }

    /// What a rollout would do, played through in virtual time.
    pub async fn dry_run(&self, request: &RolloutRequest) -> Result<DryRun> {
        self.post("/api/v1/rollouts/dry-run", request).await
    }

    /// Goes on to the next wave of a rollout.
    pub async fn promote(&self, id: i64, reason: &str) -> Result<Rollout> {
        self.post(&format!("/api/v1/rollouts/{id}/promote"), &because(reason))
            .await
    }

    /// Says yes to a rollout that somebody else started.
    pub async fn approve(&self, id: i64, reason: &str) -> Result<Rollout> {
        self.post(&format!("/api/v1/rollouts/{id}/approve"), &because(reason))
            .await
    }

    /// Lets a release be offered again to a device that went back from it.
    pub async fn unblock(&self, device: &str, release: &str) -> Result<Device> {
        self.post(
            &format!("/api/v1/devices/{}/unblock", segment(device)),
            &Unblock { release },
        )
        .await
    }

    /// Never offers a release to a device until it is unblocked there.
    pub async fn block(&self, device: &str, release: &str) -> Result<Device> {
        self.post(
            &format!("/api/v1/devices/{}/block", segment(device)),
            &Unblock { release },
        )
        .await
    }

    /// Pins a device to a release, or to none at all.
    pub async fn pin(&self, device: &str, request: &PinRequest) -> Result<Device> {
        self.post(&format!("/api/v1/devices/{}/pin", segment(device)), request)
            .await
    }

    /// Lets a device take releases again as rollouts bring them.
    pub async fn unpin(&self, device: &str) -> Result<()> {
        self.delete(&format!("/api/v1/devices/{}/pin", segment(device)))
            .await
    }

    /// The credentials of a device, oldest first; secrets are never told.
    pub async fn credentials(&self, device: &str) -> Result<Vec<DeviceCredential>> {
        self.list(&credentials(device), &()).await
    }

    /// Gives a device a credential. A secret is in the answer, and never again.
    pub async fn provision(
        &self,
        device: &str,
        credential: &CredentialRequest,
    ) -> Result<NewCredential> {
        self.post(&credentials(device), credential).await
    }

    /// Revokes all credentials of a device, or the one with this number.
    pub async fn revoke_credentials(&self, device: &str, only: Option<i64>) -> Result<()> {
        let all = credentials(device);
        match only {
            None => self.delete(&all).await,
            Some(id) => self.delete(&format!("{all}/{id}")).await,
        }
    }

    /// Lets a device enrol another key within a day, once.
    pub async fn allow_re_enrolment(&self, device: &str) -> Result<ReEnrolment> {
        let path = format!("/api/v1/devices/{}/re-enrol", segment(device));
        let request = self.request(Method::POST, &path).timeout(REQUEST_TIMEOUT);
        self.answer(request).await
    }

    /// Hands in a factory's list of devices (CSV), all of it or nothing.
    pub async fn claim(&self, list: String) -> Result<ClaimsAccepted> {
        let request = self
            .request(Method::POST, "/api/v1/device-claims")
            .header(header::CONTENT_TYPE, "text/csv")
            .timeout(CLAIM_TIMEOUT)
            .body(list);
        self.answer(request).await
    }

    /// Every enrolment key, by name; secrets are never told.
    pub async fn enrolment_keys(&self) -> Result<Vec<EnrolmentKey>> {
        self.list("/api/v1/enrolment-keys", &()).await
    }

    /// Makes an enrolment key. Its secret is in the answer, and never again.
    pub async fn create_enrolment_key(&self, key: &EnrolmentKeyRequest) -> Result<NewEnrolmentKey> {
        self.post("/api/v1/enrolment-keys", key).await
    }

    /// Ends an enrolment key for good.
    pub async fn revoke_enrolment_key(&self, name: &str) -> Result<()> {
        let path = format!("/api/v1/enrolment-keys/{}", segment(name));
        self.delete(&path).await
    }

    /// Every group.
    pub async fn groups(&self) -> Result<Vec<Group>> {
        self.list("/api/v1/groups", &()).await
    }

    /// Makes an empty group.
    pub async fn create_group(&self, name: &str) -> Result<Group> {
        let name = name.to_owned();
        self.post("/api/v1/groups", &GroupRequest { name }).await
    }

    /// Adds devices to a group.
    pub async fn add_to_group(&self, name: &str, add: Vec<String>) -> Result<Group> {
        self.post(
            &format!("/api/v1/groups/{}/devices", segment(name)),
            &GroupDevices { add },
        )
        .await
    }

    /// Takes a device out of a group.
    pub async fn remove_from_group(&self, name: &str, device: &str) -> Result<()> {
        let (name, device) = (segment(name), segment(device));
        self.delete(&format!("/api/v1/groups/{name}/devices/{device}"))
            .await
    }

    /// Removes a group; its devices stay.
    pub async fn remove_group(&self, name: &str) -> Result<()> {
        self.delete(&format!("/api/v1/groups/{}", segment(name)))
            .await
    }

    /// Whom a rollout would reach.
    pub async fn preview(&self, rollout: &RolloutRequest) -> Result<Preview> {
        self.post("/api/v1/rollouts/preview", rollout).await
    }

    /// Starts a rollout. With an idempotency key it may be sent again after a lost answer.
    pub async fn start_rollout(&self, rollout: &RolloutRequest) -> Result<Rollout> {
        self.post("/api/v1/rollouts", rollout).await
    }

    /// Every rollout.
    pub async fn rollouts(&self) -> Result<Vec<Rollout>> {
        self.list("/api/v1/rollouts", &()).await
    }

    /// A rollout with its attempts.
    pub async fn rollout(&self, id: i64) -> Result<RolloutDetail> {
        self.fetch(&format!("/api/v1/rollouts/{id}")).await
    }

    /// Stops offering; attempts under way go on.
    pub async fn pause(&self, id: i64, reason: &str) -> Result<Rollout> {
        self.post(&format!("/api/v1/rollouts/{id}/pause"), &because(reason))
            .await
    }

    /// Offers again.
    pub async fn resume(&self, id: i64, reason: &str) -> Result<Rollout> {
        self.post(&format!("/api/v1/rollouts/{id}/resume"), &because(reason))
            .await
    }

    /// Ends a rollout for good.
    pub async fn abort(&self, id: i64, reason: &str) -> Result<Rollout> {
        self.post(&format!("/api/v1/rollouts/{id}/abort"), &because(reason))
            .await
    }

    /// Gives devices that failed a new attempt.
    pub async fn retry(&self, id: i64) -> Result<Rollout> {
        let path = format!("/api/v1/rollouts/{id}/retry");
        let request = self.request(Method::POST, &path).timeout(REQUEST_TIMEOUT);
        self.answer(request).await
    }

    /// Orders devices back to their earlier image.
    pub async fn roll_back(&self, request: &RollbackRequest) -> Result<RollbackAccepted> {
        self.post("/api/v1/rollbacks", request).await
    }

    /// Which secure boot keys a product's images must be signed with.
    pub async fn secure_boot(&self, product: &str) -> Result<ProductSecureBoot> {
        self.fetch(&secure_boot_path(product)).await
    }

    /// Sets them; empty asks for nothing any more.
    pub async fn set_secure_boot(
        &self,
        product: &str,
        digests: Vec<Sha256>,
    ) -> Result<ProductSecureBoot> {
        let path = secure_boot_path(product);
        let request = self.request(Method::PUT, &path).timeout(REQUEST_TIMEOUT);
        self.answer(request.json(&SecureBootKeys { digests })).await
    }

    /// One page of the history, oldest first.
    pub async fn events(&self, filter: &EventFilter) -> Result<Page<Event>> {
        let request = self.request(Method::GET, "/api/v1/events").query(filter);
        self.answer(request.timeout(REQUEST_TIMEOUT)).await
    }

    pub(crate) async fn fetch<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = self.request(Method::GET, path).timeout(REQUEST_TIMEOUT);
        self.answer(request).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let request = self.request(Method::POST, path).timeout(REQUEST_TIMEOUT);
        self.answer(request.json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        let request = self.request(Method::DELETE, path).timeout(REQUEST_TIMEOUT);
        send(request).await.map(drop)
    }

    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        filter: &impl Serialize,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let request = self.request(Method::GET, path).query(filter);
            let request = request.query(&[("after", &after)]).timeout(REQUEST_TIMEOUT);
            let page: Page<T> = self.answer(request).await?;
            items.extend(page.items);
            if page.next.is_none() {
                return Ok(items);
            }
            after = page.next;
        }
        Err(Error::protocol(&self.url(path), "the list does not end"))
    }

    pub(crate) async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = send(request).await?;
        let url = response.url().to_string();
        let body = response
            .bytes()
            .await
            .map_err(|error| Error::unreachable(&url, &error))?;
        serde_json::from_slice(&body).map_err(|error| Error::protocol(&url, error))
    }
}

fn secure_boot_path(product: &str) -> String {
    format!("/api/v1/products/{}/secure-boot", segment(product))
}

fn credentials(device: &str) -> String {
    format!("/api/v1/devices/{}/credentials", segment(device))
}

fn because(reason: &str) -> ReasonBody {
    let reason = reason.to_owned();
    ReasonBody { reason }
}

/// The image in steps, telling `progress` when the connection takes one. The connection stops
/// asking at the announced length, so the last step has to be told when it is handed over.
fn stepwise(
    image: Bytes,
    progress: impl Fn(u64) + Send + Sync + 'static,
) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let whole = image.len();
    stream::unfold((image, progress), move |(mut rest, progress)| async move {
        if rest.is_empty() {
            return None;
        }
        let step = rest.split_to(rest.len().min(UPLOAD_STEP_BYTES));
        progress((whole - rest.len()) as u64);
        Some((Ok(step), (rest, progress)))
    })
}
