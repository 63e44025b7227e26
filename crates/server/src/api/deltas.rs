use axum::{Json, extract::State, http::StatusCode};
use fota_proto::manager::{Delta, DeltaRequest, Page, Problem};
use serde::Deserialize;

use super::{
    extract::{Json as JsonBody, Query},
    page::{after, limit, page},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::By,
    service::{deltas, rollouts::find_release},
    store::DeltaFilter,
};

/// The parameters of the list.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeltasQuery {
    /// Only those that make this release: its id, or its version where only one release has it.
    pub release: Option<String>,
    /// `next` of the page before.
    pub after: Option<String>,
    /// Rows, 1 to 1,000; 100 if absent.
    pub limit: Option<u32>,
}

/// Patches, newest first, with what they have spared.
#[utoipa::path(get, path = "/api/v1/deltas", tag = "deltas", params(DeltasQuery),
    responses((status = 200, body = Page<Delta>), (status = 404, body = Problem)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<DeltasQuery>,
) -> Result<Json<Page<Delta>>, Refusal> {
    let limit = limit(query.limit)?;
    let before = after(query.after.as_deref())?.unwrap_or(i64::MAX);
    state.fleet.flush(&state.store).await?;
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let release = match &query.release {
        Some(name) => Some(find_release(&mut tx, name).await?.id),
        None => None,
    };
    let filter = DeltaFilter {
        release,
        before,
        limit,
    };
    let stored = tx.deltas(filter).await?;
    let items = stored.iter().map(|stored| deltas::view(&plan, stored));
    Ok(Json(page(items.collect(), limit, |delta: &Delta| {
        delta.id.to_string()
    })))
}

/// Asks for patches; those that are there already stay, those that failed are made again.
#[utoipa::path(post, path = "/api/v1/deltas", tag = "deltas", request_body = DeltaRequest,
    responses((status = 202, body = Vec<Delta>), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn build(
    State(state): State<AppState>,
    by: By,
    JsonBody(request): JsonBody<DeltaRequest>,
) -> Result<(StatusCode, Json<Vec<Delta>>), Refusal> {
    let built = deltas::build(&state, &request, &by).await?;
    Ok((StatusCode::ACCEPTED, Json(built)))
}
