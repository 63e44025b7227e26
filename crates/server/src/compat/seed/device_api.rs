//! What a seed device asks and tells. Open to everybody, as its firmware sends no credentials.

use axum::{
    Json,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use fota_proto::DeviceId;
use serde_json::{Value, json};

use super::{
    chunk::{Asked, ChunkBytes, ChunkReply, Chunks, Psk, asked},
    device::{Context, Given, Memory, asks_for_chunk, check_in, sighting},
    reply::{Manifest, SeedError},
    status::{Claim, StatusPost},
    upload::{object, text},
};
use crate::{
    AppState,
    api::extract::whole_body,
    domain::{
        model::{Attempt, Device, OrderId, Protocol, Release, RollbackOrder},
        step::Order,
    },
    service::{
        checkin,
        credentials::no_random,
        trust::{self, TrustError},
    },
    store::StoreError,
    web::time,
};
use fota_proto::AttemptState;

/// Longest body of a status post: an envelope and a sentence.
const BODY_BYTES_MAX: u64 = 16 * 1024;
/// A download is written down at most this often, in parts of the image.
const PROGRESS_STEPS: u64 = 50;

/// All that is known of one device, as read at the start of a request.
pub(super) struct Known {
    pub id: DeviceId,
    pub device: Option<Device>,
    pub memory: Memory,
    pub attempt: Option<(Attempt, Release)>,
    pub rollback: Option<RollbackOrder>,
}

impl Known {
    /// A refusal where the device proves itself, or every device must: this API cannot.
    pub(super) async fn load(state: &AppState, id: DeviceId) -> Result<Self, SeedError> {
        trust::open_legacy(state, &id)
            .await
            .map_err(|error| untrusted(&id, error))?;
        let mut tx = state.store.read().await?;
        let plan = state.fleet.plan(&mut tx).await?;
        let memory = tx.seed_state(id.as_str()).await?;
        // What does not parse was written by a newer server: the device is asked anew.
        let memory: Memory = memory
            .and_then(|json| serde_json::from_str(&json).ok())
            .unwrap_or_default();
        let given = memory.given.map(|given| given.attempt);
        let standing = tx.standing_attempts(id.as_str()).await?;
        let mut open = standing
            .into_iter()
            .filter(|attempt| !attempt.state.is_end());
        let attempt = match open.find(|attempt| Some(attempt.id) == given) {
            Some(attempt) => Some(attempt),
            None => tx.newest_attempt(id.as_str()).await?,
        };
        let attempt = attempt.and_then(|attempt| {
            let release = plan.releases.get(&attempt.release)?.clone();
            Some((attempt, release))
        });
        Ok(Self {
            device: tx.device(id.as_str()).await?,
            rollback: tx.standing_rollback(id.as_str()).await?,
            id,
            memory,
            attempt,
        })
    }

    fn context(&self) -> Context<'_> {
        Context {
            device: self.device.as_ref(),
            attempt: self
                .attempt
                .as_ref()
                .map(|(attempt, release)| (attempt, release)),
            rollback: self.rollback.as_ref(),
        }
    }

    /// A device that speaks the native protocol is not turned into another by somebody who tries
    /// the seed's paths with its id: only its own status post does that.
    fn is_native(&self) -> bool {
        let native = |device: &Device| device.protocol == Protocol::Native;
        self.device.as_ref().is_some_and(native)
    }

    async fn remember(&self, state: &AppState) -> Result<(), StoreError> {
        let json = serde_json::to_string(&self.memory).expect("plain data has a JSON form");
        let mut tx = state.store.write().await?;
        tx.put_seed_state(self.id.as_str(), &json).await?;
        tx.commit().await
    }

    /// What it is downloading now, if anything.
    async fn downloading(&self, state: &AppState) -> Result<Option<(Release, Chunks)>, StoreError> {
        let given = self.memory.given.map(|given| given.attempt);
        let is_on = |(attempt, _): &(Attempt, Release)| {
            attempt.state == AttemptState::Downloading && given == Some(attempt.id)
        };
        if !self.attempt.as_ref().is_some_and(is_on) {
            return Ok(None);
        }
        let given = self.given(state).await?;
        Ok(given.map(|(_, release, chunks)| (release, chunks)))
    }

    /// The chunks of what the device was last given.
    async fn given(
        &self,
        state: &AppState,
    ) -> Result<Option<(Given, Release, Chunks)>, StoreError> {
        let Some(given) = self.memory.given else {
            return Ok(None);
        };
        let mut tx = state.store.read().await?;
        let release = tx.release(given.release).await?;
        let attempt = tx.attempt(given.attempt).await?;
        // An operator has stopped it: the device gives up at the next chunk.
        let is_stopped = |attempt: &Attempt| attempt.state == AttemptState::Aborted;
        if attempt.as_ref().is_none_or(is_stopped) {
            return Ok(None);
        }
        let usable = release.filter(|release| !release.yanked);
        Ok(usable.map(|release| {
            let chunks = Chunks {
                image_bytes: release.bytes,
                chunk_bytes: ChunkBytes::nearest(i64::from(given.chunk_bytes)),
            };
            (given, release, chunks)
        }))
    }
}

/// `GET /api/inverter/fota/manifest`: the release that this device is to install, or `{}`.
pub async fn manifest(
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Result<Json<Value>, SeedError> {
    let mut known = Known::load(&state, device_id(&state, &headers)?).await?;
    Ok(Json(match offer(&state, &mut known).await? {
        Some(manifest) => json!({ "fota": { "manifest": manifest } }),
        None => json!({}),
    }))
}

/// Asks for the device's order as a check-in does, and remembers what it is given.
async fn offer(state: &AppState, known: &mut Known) -> Result<Option<Manifest>, SeedError> {
    if known.is_native() {
        return Ok(None);
    }
    let report = sighting(&known.id, known.device.as_ref());
    let decision = checkin::check_in(state, &report).await?;
    let Some(Order::Install { id, release, .. }) = decision.order else {
        return Ok(None);
    };
    let OrderId::Install(attempt) = OrderId::of(id) else {
        return Ok(None);
    };
    let mut tx = state.store.read().await?;
    let (Some(attempt), Some(release)) = (tx.attempt(attempt).await?, tx.release(release).await?)
    else {
        return Ok(None);
    };
    drop(tx);
    // It has said `pending_reboot`: told again it would install again, at every start for ever.
    if matches!(
        attempt.state,
        AttemptState::Installing | AttemptState::Trial
    ) {
        return Ok(None);
    }
    let chunks = chunks_of(&release);
    let given = Given {
        release: release.id,
        attempt: attempt.id,
        chunk_bytes: chunks.chunk_bytes.get(),
    };
    let manifest = Manifest::new(&release, chunks);
    known.attempt = Some((attempt, release));
    if known.memory.given != Some(given) {
        known.memory.given = Some(given);
        known.remember(state).await?;
    }
    Ok(Some(manifest))
}

/// The chunks of a release for a device that is told of it now.
pub(super) fn chunks_of(release: &Release) -> Chunks {
    let named = release
        .seed_chunk_bytes
        .map(|bytes| ChunkBytes::nearest(i64::from(bytes)));
    Chunks {
        image_bytes: release.bytes,
        chunk_bytes: named.unwrap_or(ChunkBytes::DEFAULT),
    }
}

/// `GET /api/inverter/fota/chunk?chunk_number=N`: of the release that this device was last given,
/// so that an upload meanwhile cannot mix two images.
pub async fn chunk(
    State(state): State<AppState>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, SeedError> {
    let id = device_id(&state, &headers)?;
    let not_found = || SeedError::new(StatusCode::NOT_FOUND, "not_found", "Chunk not found");
    let number = match asked(parameter(query.as_deref(), "chunk_number").as_deref()) {
        Asked::Chunk(number) => number,
        Asked::Nowhere => return Err(not_found()),
        Asked::Malformed => {
            let error = "chunk_number must be a whole number";
            return Err(SeedError::field("chunk_number", error));
        }
    };
    let mut known = Known::load(&state, id).await?;
    if known.memory.given.is_none() {
        offer(&state, &mut known).await?;
    }
    let (_, release, chunks) = known.given(&state).await?.ok_or_else(not_found)?;
    let range = chunks.range(number).ok_or_else(not_found)?;
    let psk = psk(&state)?;
    let blob = state
        .blobs
        .find(release.sha256)
        .await?
        .ok_or_else(not_found)?;
    let (start, end) = (range.start as usize, range.end as usize);
    let bytes = blob.bytes.get(start..end).ok_or_else(not_found)?;
    let body = serde_json::to_vec(&ChunkReply::new(number, bytes, &psk));
    let body = body.expect("plain data has a JSON form");
    note_chunk(&state, &known, number, chunks).await?;
    state
        .fleet
        .sent(known.id.as_str(), release.sha256, body.len() as u64, 1);
    Ok(([("content-type", "application/json")], body).into_response())
}

/// A device that asks for a chunk has all before it; written down now and then, as the device
/// itself reports only every five seconds.
async fn note_chunk(
    state: &AppState,
    known: &Known,
    number: u64,
    chunks: Chunks,
) -> Result<(), StoreError> {
    let Some((attempt, _)) = &known.attempt else {
        return Ok(());
    };
    let is_first = attempt.state == AttemptState::Offered;
    let is_on = attempt.state == AttemptState::Downloading;
    let every = chunks.count().div_ceil(PROGRESS_STEPS).max(1);
    if is_first || (is_on && number.is_multiple_of(every)) {
        let report = asks_for_chunk(&known.id, chunks.bytes_of(number), &known.context());
        checkin::listen(state, &report).await?;
    }
    Ok(())
}

/// The chunk key; without one the seed's devices would refuse every chunk.
fn psk(state: &AppState) -> Result<Psk, SeedError> {
    let psk = state.config.legacy_psk.map(Psk::from);
    psk.ok_or_else(|| {
        SeedError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "legacy_psk_missing",
            "this server has no chunk key: start it with FOTA_LEGACY_PSK set to the 64 hex digits \
             that the devices' firmware holds",
        )
    })
}

/// `POST /api/inverter/fota/status`.
pub async fn status(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, SeedError> {
    let id = device_id(&state, &headers)?;
    let post = StatusPost::parse(&whole_body(body, BODY_BYTES_MAX).await?)?;
    let mut known = Known::load(&state, id).await?;
    let works = matches!(
        post.claim(),
        Claim::Taking | Claim::Verified | Claim::Restarting { .. }
    );
    if works && known.memory.given.is_none() {
        // It got its manifest from a server that this one replaces.
        offer(&state, &mut known).await?;
    }
    let given = known.memory.given.map(|given| given.chunk_bytes);
    let chunk_bytes = given.unwrap_or(ChunkBytes::DEFAULT.get());
    let report = check_in(&known.id, &post, chunk_bytes, &known.context());
    checkin::listen(&state, &report).await?;
    known.memory.last = known.memory.last.followed_by(post);
    known.memory.last_at = state.now_ms();
    known.remember(&state).await?;
    Ok(Json(json!({ "status": "success" })))
}

/// `GET /api/inverter/fota/rollback-status`: true for as long as the order stands.
pub async fn rollback_status(
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Result<Json<Value>, SeedError> {
    let known = Known::load(&state, device_id(&state, &headers)?).await?;
    see(&state, &known).await?;
    Ok(Json(match &known.rollback {
        Some(order) => json!({ "rollback_required": true, "reason": order.reason }),
        None => json!({ "rollback_required": false }),
    }))
}

/// Notes that the device is there.
async fn see(state: &AppState, known: &Known) -> Result<(), StoreError> {
    if known.is_native() {
        return Ok(());
    }
    if known.device.is_some() {
        state.fleet.saw(known.id.as_str(), state.now_ms());
        return Ok(());
    }
    checkin::listen(state, &sighting(&known.id, known.device.as_ref())).await
}

/// `GET /api/inverter/status`: what a device runs. The seed's manager polls it after an update,
/// and its server never had it.
pub async fn running(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, SeedError> {
    let mut tx = state.store.read().await?;
    let id = match parameter(query.as_deref(), "device_id") {
        Some(id) => Some(id),
        None => tx.last_seen_device().await?,
    };
    let device = match &id {
        Some(id) => tx.device(id).await?,
        None => None,
    };
    let Some(device) = device else {
        let error = match id {
            Some(id) => format!("no device {:?} has been seen", shown(&id)),
            None => "no device has been seen yet".to_owned(),
        };
        return Err(SeedError::new(StatusCode::NOT_FOUND, "not_found", error));
    };
    let last_seen = state.fleet.last_seen(&device.id, device.last_seen);
    Ok(Json(json!({
        "firmware_version": device.version,
        "device_id": device.id,
        "last_seen": time::iso_micros(last_seen),
    })))
}

/// `POST /api/device/status`: one poll for everything.
pub async fn poll(State(state): State<AppState>, body: Body) -> Result<Json<Value>, SeedError> {
    let fields = object(&whole_body(body, BODY_BYTES_MAX).await?)?;
    let id = match text(&fields, "device_id")? {
        "" => default_id(&state),
        id => parse_id("device_id", id),
    }?;
    let mut known = Known::load(&state, id).await?;
    // While it downloads it is told of that download, whatever was uploaded meanwhile: its next
    // chunk is one of these.
    let manifest = match known.downloading(&state).await? {
        Some((release, chunks)) => Some(Manifest::new(&release, chunks)),
        None => offer(&state, &mut known).await?,
    };
    let Some(manifest) = manifest else {
        return Ok(Json(json!({})));
    };
    let attempt = known.attempt.as_ref();
    let done = attempt.map_or(0, |(attempt, _)| attempt.bytes_done);
    let given = known.memory.given;
    let chunk_bytes = given.map_or(1, |given| u64::from(given.chunk_bytes.max(1)));
    Ok(Json(json!({
        "fota": { "manifest": manifest, "next_chunk": done / chunk_bytes }
    })))
}

/// The device that a request comes from. The seed's real firmware sends no `Device-ID` with these
/// requests; all of them are booked under one configured name then.
fn device_id(state: &AppState, headers: &HeaderMap) -> Result<DeviceId, SeedError> {
    match headers.get("device-id") {
        None => default_id(state),
        Some(value) => parse_id("Device-ID", &String::from_utf8_lossy(value.as_bytes())),
    }
}

fn untrusted(id: &DeviceId, error: TrustError) -> SeedError {
    match error {
        TrustError::Untrusted(_) => SeedError::new(
            StatusCode::FORBIDDEN,
            "device_not_trusted",
            format!(
                "{id} must prove itself, which this API cannot: use the native protocol, or start \
                 the server with --legacy-allow {id} where the device has no credential"
            ),
        ),
        TrustError::Store(error) => error.into(),
        TrustError::Random(error) => no_random(error).into(),
    }
}

fn default_id(state: &AppState) -> Result<DeviceId, SeedError> {
    parse_id("Device-ID", &state.config.legacy_default_device_id)
}

pub(super) fn parse_id(field: &'static str, text: &str) -> Result<DeviceId, SeedError> {
    text.trim()
        .parse()
        .map_err(|error| SeedError::field(field, format!("{field} {:?}: {error}", shown(text))))
}

/// As much of a caller's text as belongs into an error.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A parameter of the query; the first where it is given twice.
pub(super) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or("").as_bytes());
    pairs
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
