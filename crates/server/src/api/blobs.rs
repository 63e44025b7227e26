use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use fota_proto::{DeviceId, Sha256};

use super::{extract::Segment, problem::Refusal};
use crate::{AppState, service::download};

/// The device that asks, so that what it takes is counted for its attempt.
const DEVICE_ID: &str = "device-id";

/// An artifact by its digest; one `Range`, `If-Range` and `HEAD` work.
#[utoipa::path(get, path = "/d/v1/blobs/{sha256}", tag = "device", security(()),
    params(("sha256" = String, Path, description = "SHA-256 of the artifact"),
        ("Device-ID" = Option<String>, Header, description = "Counts the bytes for this device's attempt")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, body = fota_proto::manager::Problem), (status = 416, body = fota_proto::manager::Problem)))]
pub async fn download(
    State(state): State<AppState>,
    Segment(name): Segment,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let sha256: Sha256 = name
        .parse()
        .map_err(|error| Refusal::field("sha256", format!("sha256: {error}")))?;
    let device = headers.get(DEVICE_ID).and_then(|value| value.to_str().ok());
    // The header only serves accounting, so a wrong one costs the count and not the download.
    let device = device.and_then(|id| id.parse::<DeviceId>().ok());
    let device = device.map(|id| id.to_string());
    download::send(&state, sha256, &method, &headers, device).await
}
