use axum::{Json, extract::State};
use fota_proto::{manager::Problem, notify::RolloutClusters};

use super::{extract::Segment, problem::Refusal};
use crate::{AppState, service::clusters};

/// What stands out among the failures of a rollout: code, chip, version before, reset reason.
#[utoipa::path(get, path = "/api/v1/rollouts/{id}/clusters", tag = "rollouts",
    params(("id" = String, Path, description = "42 or r-42")),
    responses((status = 200, body = RolloutClusters), (status = 404, body = Problem)))]
pub async fn clusters(
    State(state): State<AppState>,
    Segment(id): Segment,
) -> Result<Json<RolloutClusters>, Refusal> {
    let id = super::rollouts::number(&id)?;
    let mut tx = state.store.read().await?;
    let found = tx.rollout(id).await?;
    found.ok_or_else(|| Refusal::not_found(format!("rollout r-{id}")).of("id"))?;
    Ok(Json(clusters::of_rollout(&mut tx, id).await?))
}
