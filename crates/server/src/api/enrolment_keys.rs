use axum::{Json, extract::State, http::StatusCode};
use fota_proto::manager::{EnrolmentKey, EnrolmentKeyRequest, NewEnrolmentKey, Page, Problem};

use super::{
    extract::{Json as JsonBody, Segment},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::By,
    service::{enrolment, rollouts::device_id},
};

/// Enrolment keys by name; their secrets are never shown.
#[utoipa::path(get, path = "/api/v1/enrolment-keys", tag = "enrolment_keys",
    responses((status = 200, body = Page<EnrolmentKey>)))]
pub async fn list(State(state): State<AppState>) -> Result<Json<Page<EnrolmentKey>>, Refusal> {
    let items = enrolment::list(&state).await?;
    Ok(Json(Page { items, next: None }))
}

/// Makes an enrolment key; its secret is shown this once.
#[utoipa::path(post, path = "/api/v1/enrolment-keys", tag = "enrolment_keys",
    request_body = EnrolmentKeyRequest,
    responses((status = 201, body = NewEnrolmentKey), (status = 409, body = Problem)))]
pub async fn create(
    State(state): State<AppState>,
    by: By,
    JsonBody(body): JsonBody<EnrolmentKeyRequest>,
) -> Result<(StatusCode, Json<NewEnrolmentKey>), Refusal> {
    let new = enrolment::create(&state, &by, &body).await?;
    Ok((StatusCode::CREATED, Json(new)))
}

/// Ends an enrolment key for good; the devices that it enrolled stay.
#[utoipa::path(delete, path = "/api/v1/enrolment-keys/{name}", tag = "enrolment_keys",
    params(("name" = String, Path, description = "Enrolment key")),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn revoke(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
) -> Result<StatusCode, Refusal> {
    let name = device_id("name", &name)?;
    enrolment::revoke(&state, &by, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
