use axum::{Json, extract::State, http::StatusCode};
use fota_proto::manager::{
    ClaimsAccepted, CredentialRequest, DeviceCredential, NewCredential, Page, Problem, ReEnrolment,
};

use super::{
    extract::{Json as JsonBody, Segment, Segments, require_type, whole_body},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::By,
    domain::claim,
    service::{credentials, rollouts::device_id},
};

/// Largest list of a factory, bytes: 2,000 lines fit.
const LIST_BYTES_MAX: u64 = 512 * 1024;

/// The credentials of a device, oldest first; secrets are never shown.
#[utoipa::path(get, path = "/api/v1/devices/{id}/credentials", tag = "credentials",
    params(("id" = String, Path, description = "Device id")),
    responses((status = 200, body = Page<DeviceCredential>), (status = 404, body = Problem)))]
pub async fn list(
    State(state): State<AppState>,
    Segment(id): Segment,
) -> Result<Json<Page<DeviceCredential>>, Refusal> {
    let id = device_id("id", &id)?;
    let items = credentials::list(&state, &id).await?;
    Ok(Json(Page { items, next: None }))
}

/// Gives a device a credential; it need not have been seen yet. A secret is shown this once.
#[utoipa::path(post, path = "/api/v1/devices/{id}/credentials", tag = "credentials",
    params(("id" = String, Path, description = "Device id")), request_body = CredentialRequest,
    responses((status = 201, body = NewCredential), (status = 409, body = Problem)))]
pub async fn provision(
    State(state): State<AppState>,
    by: By,
    Segment(id): Segment,
    JsonBody(body): JsonBody<CredentialRequest>,
) -> Result<(StatusCode, Json<NewCredential>), Refusal> {
    let id = device_id("id", &id)?;
    let new = credentials::provision(&state, &by, &id, &body).await?;
    Ok((StatusCode::CREATED, Json(new)))
}

/// Revokes all credentials of a device for good.
#[utoipa::path(delete, path = "/api/v1/devices/{id}/credentials", tag = "credentials",
    params(("id" = String, Path, description = "Device id")),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn revoke_all(
    State(state): State<AppState>,
    by: By,
    Segment(id): Segment,
) -> Result<StatusCode, Refusal> {
    let id = device_id("id", &id)?;
    credentials::revoke(&state, &by, &id, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes one credential for good.
#[utoipa::path(delete, path = "/api/v1/devices/{id}/credentials/{credential}", tag = "credentials",
    params(("id" = String, Path, description = "Device id"),
        ("credential" = i64, Path, description = "Number of the credential")),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn revoke(
    State(state): State<AppState>,
    by: By,
    Segments(id, credential): Segments,
) -> Result<StatusCode, Refusal> {
    let id = device_id("id", &id)?;
    let number = credential.parse().ok().filter(|number: &i64| *number > 0);
    let number = number.ok_or_else(|| {
        let shown: String = credential.chars().take(40).collect();
        let detail = format!("credential is {shown:?}: give its number");
        Refusal::field("credential", detail)
    })?;
    credentials::revoke(&state, &by, &id, Some(number)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a device enrol another key within a day, once; it replaces those that the device has.
#[utoipa::path(post, path = "/api/v1/devices/{id}/re-enrol", tag = "credentials",
    params(("id" = String, Path, description = "Device id")),
    responses((status = 200, body = ReEnrolment), (status = 404, body = Problem)))]
pub async fn allow_re_enrolment(
    State(state): State<AppState>,
    by: By,
    Segment(id): Segment,
) -> Result<Json<ReEnrolment>, Refusal> {
    let id = device_id("id", &id)?;
    credentials::allow_re_enrolment(&state, &by, &id)
        .await
        .map(Json)
}

/// Takes a factory's list, all of it or nothing: CSV with the columns id, kind (`key`, `secret`)
/// and key (130 or 64 hex digits).
#[utoipa::path(post, path = "/api/v1/device-claims", tag = "credentials",
    request_body(content = String, content_type = "text/csv", description = "At most 2,000 lines"),
    responses((status = 200, body = ClaimsAccepted), (status = 400, body = Problem), (status = 409, body = Problem)))]
pub async fn claim(
    State(state): State<AppState>,
    by: By,
    request: axum::extract::Request,
) -> Result<Json<ClaimsAccepted>, Refusal> {
    let (parts, body) = request.into_parts();
    require_type(&parts.headers, "text/csv")?;
    let body = whole_body(body, LIST_BYTES_MAX).await?;
    let text = str::from_utf8(&body).map_err(|_| Refusal::field("body", "body is not UTF-8"))?;
    let claims = claim::parse(text).map_err(|wrong| {
        credentials::wrong_lines("claims_invalid", StatusCode::BAD_REQUEST, &wrong)
    })?;
    if claims.is_empty() {
        let detail = "body names no device: give lines of id,kind,key";
        return Err(Refusal::field("body", detail));
    }
    credentials::claim(&state, &by, &claims).await.map(Json)
}
