//! `/api/v1/devices/{id}/pin`: a device that takes one release and no other, or none at all.

use axum::{Json, extract::State};
use fota_proto::{
    limits::NOTES_BYTES_MAX,
    manager::{Device, PinRequest, Problem},
};

use super::{
    devices::{done, expect_known},
    extract::{Json as JsonBody, Segment},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::By,
    domain::model::Pin,
    service::rollouts::{device_id, find_release},
};

/// Pins a device to a release, or to what it runs; a later pin replaces an earlier one.
#[utoipa::path(post, path = "/api/v1/devices/{id}/pin", tag = "devices",
    params(("id" = String, Path, description = "Device id")), request_body = PinRequest,
    responses((status = 200, body = Device), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn pin(
    State(state): State<AppState>,
    by: By,
    Segment(id): Segment,
    JsonBody(body): JsonBody<PinRequest>,
) -> Result<Json<Device>, Refusal> {
    if body.reason.len() > NOTES_BYTES_MAX {
        let detail = format!(
            "reason has {} bytes; at most {NOTES_BYTES_MAX} are taken",
            body.reason.len()
        );
        return Err(Refusal::field("reason", detail));
    }
    let id = device_id("id", &id)?;
    let mut tx = state.store.write().await?;
    expect_known(&mut tx, &id).await?;
    let release = match &body.release {
        Some(name) => Some(find_release(&mut tx, name).await?),
        None => None,
    };
    let mut text = match &release {
        Some(release) => format!("takes {} and no other release", release.version),
        None => "takes no release".to_owned(),
    };
    if !body.reason.is_empty() {
        text.push_str(&format!(": {}", body.reason));
    }
    let pin = Pin {
        release: release.map(|release| release.id),
        reason: body.reason,
        at: state.now_ms(),
    };
    tx.put_pin(id.as_str(), &pin).await?;
    done(&state, tx, &by, &id, ("device.pinned", None, text)).await
}

/// Lets a device take releases again as rollouts bring them.
#[utoipa::path(delete, path = "/api/v1/devices/{id}/pin", tag = "devices",
    params(("id" = String, Path, description = "Device id")),
    responses((status = 200, body = Device), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn unpin(
    State(state): State<AppState>,
    by: By,
    Segment(id): Segment,
) -> Result<Json<Device>, Refusal> {
    let id = device_id("id", &id)?;
    let mut tx = state.store.write().await?;
    expect_known(&mut tx, &id).await?;
    if !tx.remove_pin(id.as_str()).await? {
        return Err(Refusal::conflict("not_pinned", format!("{id} is not pinned")).of("id"));
    }
    let text = "takes releases as rollouts bring them".to_owned();
    done(&state, tx, &by, &id, ("device.unpinned", None, text)).await
}
