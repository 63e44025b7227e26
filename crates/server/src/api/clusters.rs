use axum::{Json, extract::State};
use fota_proto::{manager::Problem, notify::RolloutClusters};
use serde::Deserialize;

use super::{
    extract::{Query, Segment},
    problem::Refusal,
};
use crate::{AppState, service::clusters};

/// What stands out among the failures of a rollout: code, chip, version before, signal, reset reason.
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

/// Days that are looked at where none are given.
const DAYS: u32 = 7;
/// And at most.
const DAYS_MAX: u32 = 365;

/// Which days.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DaysQuery {
    /// The last so many, 1 to 365; 7 if absent.
    pub days: Option<u32>,
}

/// What stands out among the failures of all rollouts in the last days.
#[utoipa::path(get, path = "/api/v1/clusters", tag = "rollouts", params(DaysQuery),
    responses((status = 200, body = RolloutClusters), (status = 400, body = Problem)))]
pub async fn recent(
    State(state): State<AppState>,
    Query(query): Query<DaysQuery>,
) -> Result<Json<RolloutClusters>, Refusal> {
    let days = query.days.unwrap_or(DAYS);
    if !(1..=DAYS_MAX).contains(&days) {
        let detail = format!("days is {days}: give 1 to {DAYS_MAX}");
        return Err(Refusal::field("days", detail));
    }
    let mut tx = state.store.read().await?;
    Ok(Json(
        clusters::of_days(&mut tx, days, state.now_ms()).await?,
    ))
}
