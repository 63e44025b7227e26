//! What the seed's tools ask for: upload, status, rollback, logs. For operators only, unless the
//! server was started with `--legacy-open`.

use axum::{
    Json,
    body::Body,
    extract::{Path, RawQuery, State},
    http::StatusCode,
};
use fota_proto::{
    AttemptState, RollbackCause,
    manager::{Event, ReleaseUpload, RollbackRequest, RolloutRequest},
};
use serde_json::{Map, Value, json};

use super::{
    device::Memory,
    device_api::{chunks_of, parameter, parse_id, shown},
    reply::{Manifest, SeedError},
    upload::{self, Upload, object, text},
};
use crate::{
    AppState,
    api::{extract::whole_body, problem::Refusal},
    auth::{By, Record},
    domain::{
        attempt::percent,
        model::{Attempt, Plan, Release, RollbackOrder, SEED_DEVICES, Standing},
    },
    service::{commit_by, releases, rollbacks, rollouts},
    store::{DeviceFilter, StoreError, Tx},
    web::time,
};

/// Longest body of a small request.
const BODY_BYTES_MAX: u64 = 16 * 1024;
/// Lines of log that one request gives at most, and those that it gives unasked.
const LOG_LINES_MAX: i64 = 1_000;
const LOG_LINES: i64 = 100;
/// Devices that the status lists; a fleet beyond this has the manager API.
const STATUS_DEVICES_MAX: i64 = 1_000;

type Reply = Result<Json<Value>, SeedError>;

/// `POST /api/cloud/fota/upload`: a release like any other, and a rollout of it to every device
/// that speaks the seed's API, since that is what an upload meant there.
pub async fn upload(State(state): State<AppState>, by: By, body: Body) -> Reply {
    let turn = state.uploads.acquire().await;
    let body = whole_body(body, upload::BODY_BYTES_MAX as u64).await?;
    let lab = state.config.lab;
    let parsed = tokio::task::spawn_blocking(move || upload::parse(&body, lab)).await;
    let upload = parsed.map_err(|_| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        SeedError::new(
            status,
            "bug",
            "the upload could not be read: please report it",
        )
    })??;
    if upload.hash_skipped {
        tracing::warn!(hash = %upload.sha256.short(), "--lab: skip_validation let a wrong hash pass; the true one is used");
    }
    let (release, chunk_bytes) = take_in(&state, upload, &by).await?;
    drop(turn);
    let release = Release {
        seed_chunk_bytes: Some(chunk_bytes),
        ..release
    };
    offer_to_seed_devices(&state, &release, &by).await?;
    let chunks = chunks_of(&release);
    let mut reply = json!({
        "status": "success",
        "message": "Firmware uploaded and chunked",
        "total_chunks": chunks.count(),
        // What one of the seed's own clients expects beside the manifest.
        "version": release.version,
        "size": release.bytes,
        "chunks": chunks.count(),
        "chunk_size": chunks.chunk_bytes.get(),
    });
    reply["manifest"] = json!(Manifest::new(&release, chunks));
    if release.lab {
        reply["lab"] = true.into();
        reply["warning"] = "no chip would boot this file: it was taken in under --lab".into();
    }
    Ok(Json(reply))
}

/// Stores the release as every upload does, and gives its chunk size.
async fn take_in(state: &AppState, upload: Upload, by: &By) -> Result<(Release, u32), SeedError> {
    let (version, chunk_bytes) = (upload.version.clone(), upload.chunk_bytes.get());
    let wanted = ReleaseUpload {
        version: Some(upload.version),
        // Images of the Arduino core name the core's version, not the sketch's.
        allow_version_mismatch: true,
        notes: Some(upload.notes),
    };
    let taken = releases::take_in(
        state,
        releases::Upload {
            bytes: upload.image.into(),
            wanted,
            seed_chunk_bytes: Some(chunk_bytes),
            lab: state.config.lab,
        },
        by,
    );
    let (release, is_new) = taken.await.map_err(refused_image)?;
    if release.version != version {
        let error = format!(
            "these bytes are release {} already, as version {}: a version never changes, upload \
             them under it or build {version} anew",
            release.id, release.version
        );
        return Err(SeedError::new(
            StatusCode::CONFLICT,
            "version_exists",
            error,
        ));
    }
    if release.yanked {
        let error = format!(
            "release {} was withdrawn: upload a new version",
            release.version
        );
        return Err(SeedError::new(
            StatusCode::CONFLICT,
            "release_yanked",
            error,
        ));
    }
    if !is_new {
        let mut tx = state.store.write().await?;
        tx.set_seed_chunk_bytes(release.id, chunk_bytes).await?;
        let detail = format!("{version} again, in chunks of {chunk_bytes} bytes");
        let record = Record::new(
            "release.uploaded",
            format!("release:{}", release.id),
            detail,
        );
        commit_by(state, tx, by, record, &[], true).await?;
    }
    Ok((release, chunk_bytes))
}

/// The seed's clients know 400 for whatever is wrong with an upload.
fn refused_image(refusal: Refusal) -> SeedError {
    match refusal.code() {
        "image_invalid" => {
            SeedError::new(StatusCode::BAD_REQUEST, refusal.code(), refusal.detail())
        }
        _ => refusal.into(),
    }
}

/// Starts the rollout that an upload stands for, unless it is under way already.
async fn offer_to_seed_devices(
    state: &AppState,
    release: &Release,
    by: &By,
) -> Result<(), SeedError> {
    let mut tx = state.store.read().await?;
    let newest = seed_rollouts(&mut tx).await?.into_iter().next();
    drop(tx);
    let under_way = newest.filter(|rollout| rollout.standing == Standing::Active);
    if under_way.is_some_and(|rollout| rollout.release == release.id) {
        return Ok(());
    }
    let request = RolloutRequest {
        allow_product_change: true,
        ..RolloutRequest::new(format!("id:{}", release.id), vec![SEED_DEVICES.to_owned()])
    };
    rollouts::start(state, &request, by).await?;
    Ok(())
}

/// Rollouts that uploads of the seed's API started and that may offer, newest first.
async fn seed_rollouts(tx: &mut Tx) -> Result<Vec<crate::domain::model::Rollout>, StoreError> {
    let mut standing = tx.standing_rollouts().await?;
    standing.retain(|rollout| rollout.target.to_texts() == [SEED_DEVICES]);
    Ok(standing)
}

/// `POST /api/cloud/fota/clear`: stops offering what was uploaded. Releases and history stay.
pub async fn clear(State(state): State<AppState>, by: By) -> Reply {
    let mut tx = state.store.read().await?;
    let standing = seed_rollouts(&mut tx).await?;
    drop(tx);
    for rollout in &standing {
        let abort = rollouts::Command::Abort;
        let reason = "cleared through the seed's API";
        rollouts::command(&state, rollout.id, abort, reason, &by).await?;
    }
    Ok(Json(json!({
        "status": "success",
        "message": "Firmware cleared: nothing is offered; releases and history are kept",
        "cleared": standing.len(),
    })))
}

/// `POST /api/cloud/fota/rollback`: without `device_id`, or with `all`, every device.
pub async fn rollback(State(state): State<AppState>, by: By, body: Body) -> Reply {
    let fields = object(&whole_body(body, BODY_BYTES_MAX).await?)?;
    let reason = match text(&fields, "reason")?.trim() {
        "" => "Manual rollback requested",
        reason => reason,
    };
    let asked = text(&fields, "device_id")?.trim();
    let is_all = asked.is_empty() || asked.eq_ignore_ascii_case("all");
    let device_id = match is_all {
        true => "all".to_owned(),
        false => parse_id("device_id", asked)?.to_string(),
    };
    if !is_all {
        must_be_known(&state, &device_id).await?;
    }
    let request = RollbackRequest {
        to: vec![device_id.clone()],
        release: None,
        reason: reason.to_owned(),
    };
    let ordered = rollbacks::order(&state, &request, &by).await?;
    if let (false, Some(excluded)) = (is_all, ordered.excluded.first()) {
        let why = &excluded.reason;
        let error = format!(
            "device {device_id} cannot be rolled back: {}",
            why.replace('_', " ")
        );
        return Err(SeedError::new(
            StatusCode::CONFLICT,
            "rollback_refused",
            error,
        ));
    }
    Ok(Json(json!({
        "success": true,
        "message": format!("Rollback requested for device: {device_id}"),
        "device_id": device_id,
        "reason": reason,
        "devices": ordered.orders.len(),
        "excluded": ordered.excluded,
    })))
}

async fn must_be_known(state: &AppState, id: &str) -> Result<(), SeedError> {
    if state.store.read().await?.device(id).await?.is_some() {
        return Ok(());
    }
    let error = format!("no device {id:?} has been seen; see /api/cloud/fota/status");
    Err(SeedError::new(StatusCode::NOT_FOUND, "not_found", error))
}

/// `GET /api/cloud/fota/status`: what is offered, and where every device stands.
pub async fn status(State(state): State<AppState>) -> Reply {
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let mut devices = Map::new();
    let first = DeviceFilter {
        limit: STATUS_DEVICES_MAX,
        ..DeviceFilter::default()
    };
    for device in tx.devices(&first).await? {
        let memory = tx.seed_state(&device.id).await?;
        let memory = memory.and_then(|json| serde_json::from_str::<Memory>(&json).ok());
        let attempt = tx.newest_attempt(&device.id).await?;
        let standing = Standings {
            memory: memory.unwrap_or_default(),
            rollback: tx.standing_rollback(&device.id).await?,
            last_seen: state.fleet.last_seen(&device.id, device.last_seen),
        };
        let mut record = standing.record(&plan, attempt.as_ref());
        record["current_version"] = json!(device.version);
        record["protocol"] = device.protocol.name().into();
        devices.insert(device.id, record);
    }
    let offered = seed_rollouts(&mut tx).await?.into_iter().next();
    let release = match offered {
        Some(rollout) => plan.releases.get(&rollout.release),
        None => plan
            .rollouts
            .first()
            .and_then(|rollout| plan.releases.get(&rollout.release)),
    };
    let chunks = release.map(chunks_of);
    Ok(Json(json!({
        "manifest": release.map(|release| Manifest::new(release, chunks_of(release))),
        "total_chunks": chunks.map_or(0, |chunks| chunks.count()),
        "device_status": devices,
    })))
}

/// What one entry of `device_status` is made from.
struct Standings {
    memory: Memory,
    rollback: Option<RollbackOrder>,
    last_seen: i64,
}

impl Standings {
    /// The device's own words where it has posted any, else what its attempt says.
    fn record(&self, plan: &Plan, attempt: Option<&Attempt>) -> Value {
        let last = &self.memory.last;
        let release = attempt.and_then(|attempt| plan.releases.get(&attempt.release));
        let mut chunks = release.map(chunks_of);
        if let (Some(chunks), Some(given)) = (&mut chunks, self.memory.given) {
            chunks.chunk_bytes = super::chunk::ChunkBytes::nearest(i64::from(given.chunk_bytes));
        }
        let state = attempt.map(|attempt| attempt.state);
        let done = attempt.map_or(0, |attempt| attempt.bytes_done);
        let total = last
            .total_chunks
            .or(chunks.map(|chunks| chunks.count()))
            .unwrap_or(0);
        let counted = chunks.map_or(0, |chunks| done / u64::from(chunks.chunk_bytes.get()));
        let received = last.chunk_received.unwrap_or(counted);
        let received = if total > 0 {
            received.min(total)
        } else {
            received
        };
        let of_total = f64::from(percent(received, total));
        let progress = match (last.progress, attempt) {
            (Some(progress), _) => progress,
            (None, Some(attempt)) => f64::from(percent(done, attempt.bytes_total)).max(of_total),
            (None, None) => of_total,
        };
        let mut record = json!({
            "chunk_received": received,
            "total_chunks": total,
            "progress": progress.clamp(0.0, 100.0),
            "verified": last.verified || state.is_some_and(is_verified),
            "boot_status": last.boot_status.as_deref().or(state.and_then(boot_status)),
            "rollback": last.rollback || matches!(state, Some(AttemptState::RolledBack(_))),
            "error": last.error.clone().or(attempt.and_then(error_of)),
            "last_update": time::iso_micros(self.last_seen.max(self.memory.last_at)),
            "state": state,
            "updating": state.is_some_and(rollouts::is_under_way),
        });
        if let Some(order) = &self.rollback {
            record["rollback_requested"] = true.into();
            record["rollback_reason"] = order.reason.as_str().into();
            record["rollback_timestamp"] = time::iso_micros(order.requested_at).into();
        }
        record
    }
}

fn is_verified(state: AttemptState) -> bool {
    use AttemptState as S;
    matches!(
        state,
        S::Downloaded | S::Installing | S::Trial | S::Succeeded | S::RolledBack(_)
    )
}

fn boot_status(state: AttemptState) -> Option<&'static str> {
    match state {
        AttemptState::Installing => Some("pending_reboot"),
        AttemptState::Trial | AttemptState::Succeeded => Some("success"),
        AttemptState::RolledBack(RollbackCause::Boot) => Some("failed"),
        _ => None,
    }
}

fn error_of(attempt: &Attempt) -> Option<String> {
    let AttemptState::Failed(code) = attempt.state else {
        return None;
    };
    Some(
        attempt
            .detail
            .clone()
            .unwrap_or_else(|| code.sentence().to_owned()),
    )
}

/// `GET /api/cloud/logs/{fota,security,commands,all}?device_id=&limit=`: the history, in the
/// seed's form, oldest first.
pub async fn logs(
    State(state): State<AppState>,
    Path(kind): Path<String>,
    RawQuery(query): RawQuery,
) -> Reply {
    let wanted: fn(&Event) -> bool = match kind.as_str() {
        "all" => |_| true,
        "fota" => |event| !event.kind.starts_with("security."),
        "security" => |event| event.kind.starts_with("security."),
        "commands" => |event| event.actor == "operator",
        _ => {
            let error = format!(
                "no log {:?}: there are fota, security, commands and all",
                shown(&kind)
            );
            return Err(SeedError::new(StatusCode::NOT_FOUND, "not_found", error));
        }
    };
    let limit = match parameter(query.as_deref(), "limit") {
        None => LOG_LINES,
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| SeedError::field("limit", "limit must be a whole number"))?,
    };
    let limit = limit.clamp(1, LOG_LINES_MAX);
    let device = parameter(query.as_deref(), "device_id").unwrap_or_default();
    let mut tx = state.store.read().await?;
    let mut events = tx.last_events(&device, LOG_LINES_MAX).await?;
    events.retain(wanted);
    events.truncate(usize::try_from(limit).expect("clamped above 0"));
    let logs: Vec<Value> = events.iter().rev().map(log_line).collect();
    Ok(Json(json!({ "total": logs.len(), "logs": logs })))
}

fn log_line(event: &Event) -> Value {
    json!({
        "timestamp": time::iso_micros(event.at),
        "device_id": event.device,
        "event_type": event_type(&event.kind),
        "details": event.text,
        "id": event.id,
        "state": event.state,
        "actor": event.actor,
    })
}

/// The seed's name of an event, where it had one.
fn event_type(kind: &str) -> &str {
    const NAMES: [(&str, &str); 8] = [
        ("release.uploaded", "firmware_uploaded"),
        ("attempt.downloading", "chunk_received"),
        ("attempt.downloaded", "firmware_verified"),
        ("attempt.installing", "boot_status"),
        ("attempt.succeeded", "fota_completed"),
        ("attempt.failed", "verification_failed"),
        ("attempt.rolled_back", "boot_failed"),
        ("rollback.requested", "rollback_triggered"),
    ];
    let found = NAMES.iter().find(|(ours, _)| *ours == kind);
    found.map_or(kind, |(_, seeds)| seeds)
}
