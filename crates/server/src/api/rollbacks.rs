use axum::{Json, extract::State};
use fota_proto::manager::{Problem, RollbackAccepted, RollbackRequest};

use super::{extract::Json as JsonBody, problem::Refusal};
use crate::{
    AppState,
    auth::By,
    service::{rollbacks, view},
};

/// Orders devices back to the image in their other slot. An order stands until the device is seen
/// on another image, and the release it leaves is blocked on it afterwards.
#[utoipa::path(post, path = "/api/v1/rollbacks", tag = "rollbacks", request_body = RollbackRequest,
    responses((status = 200, body = RollbackAccepted), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn request(
    State(state): State<AppState>,
    by: By,
    JsonBody(body): JsonBody<RollbackRequest>,
) -> Result<Json<RollbackAccepted>, Refusal> {
    let ordered = rollbacks::order(&state, &body, &by).await?;
    Ok(Json(RollbackAccepted {
        orders: ordered.orders.iter().map(view::rollback_order).collect(),
        excluded: ordered.excluded,
    }))
}
