use std::collections::BTreeSet;

use axum::{Json, extract::State, http::StatusCode};
use fota_proto::manager::{
    DryRun, Page, Preview, Problem, ReasonBody, Rollout, RolloutDetail, RolloutRequest,
};

use super::{
    extract::{Json as JsonBody, JsonOrNothing, Query, Segment},
    page::{PageQuery, after, limit, page},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::By,
    domain::{
        kind::Selection,
        model::{self, Standing},
    },
    service::{
        dry_run,
        population::some_ids,
        preview,
        rollouts::{self, Command},
        view,
    },
};

/// Attempts in the detail of a rollout.
const ATTEMPTS_MAX: usize = 1000;

/// What starting this rollout would do.
#[utoipa::path(post, path = "/api/v1/rollouts/preview", tag = "rollouts", request_body = RolloutRequest,
    responses((status = 200, body = Preview), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn preview(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<RolloutRequest>,
) -> Result<Json<Preview>, Refusal> {
    preview::preview(&state, &request).await.map(Json)
}

/// What this rollout would do, played through in virtual time: its phases, bytes and end.
#[utoipa::path(post, path = "/api/v1/rollouts/dry-run", tag = "rollouts", request_body = RolloutRequest,
    responses((status = 200, body = DryRun), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn dry_run(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<RolloutRequest>,
) -> Result<Json<DryRun>, Refusal> {
    dry_run::dry_run(&state, &request).await.map(Json)
}

/// Starts a rollout.
#[utoipa::path(post, path = "/api/v1/rollouts", tag = "rollouts", request_body = RolloutRequest,
    responses((status = 201, body = Rollout), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn start(
    State(state): State<AppState>,
    by: By,
    JsonBody(request): JsonBody<RolloutRequest>,
) -> Result<(StatusCode, Json<Rollout>), Refusal> {
    let rollout = rollouts::start(&state, &request, &by).await?;
    let shown = shown(&state, &rollout).await?;
    Ok((StatusCode::CREATED, Json(shown)))
}

async fn shown(state: &AppState, rollout: &model::Rollout) -> Result<Rollout, Refusal> {
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    Ok(view::rollout(state, &mut tx, &plan, rollout).await?)
}

/// Rollouts, newest first.
#[utoipa::path(get, path = "/api/v1/rollouts", tag = "rollouts", params(PageQuery),
    responses((status = 200, body = Page<Rollout>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Rollout>>, Refusal> {
    let limit = limit(query.limit)?;
    let before = after(query.after.as_deref())?.unwrap_or(i64::MAX);
    state.fleet.flush(&state.store).await?;
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let mut items = Vec::new();
    for rollout in tx.rollouts_page(before, limit).await? {
        items.push(view::rollout(&state, &mut tx, &plan, &rollout).await?);
    }
    Ok(Json(page(items, limit, |rollout: &Rollout| {
        rollout.id.to_string()
    })))
}

/// A rollout with its devices.
#[utoipa::path(get, path = "/api/v1/rollouts/{id}", tag = "rollouts",
    params(("id" = String, Path, description = "42 or r-42")),
    responses((status = 200, body = RolloutDetail), (status = 404, body = Problem)))]
pub async fn show(
    State(state): State<AppState>,
    Segment(id): Segment,
) -> Result<Json<RolloutDetail>, Refusal> {
    let id = number(&id)?;
    state.fleet.flush(&state.store).await?;
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let found = tx.rollout(id).await?;
    let rollout = found.ok_or_else(|| Refusal::not_found(format!("rollout r-{id}")).of("id"))?;
    let stored = tx.rollout_attempts(id, ATTEMPTS_MAX as i64).await?;
    let mut attempts: Vec<_> = stored
        .iter()
        .map(|stored| view::attempt(&plan, stored))
        .collect();
    if matches!(rollout.standing, Standing::Active | Standing::Paused) {
        let begun: BTreeSet<&str> = stored.iter().map(|it| it.device.as_str()).collect();
        let room = ATTEMPTS_MAX.saturating_sub(attempts.len());
        if room > 0 {
            let named = Selection::of(&plan, &rollout);
            let named = some_ids(&mut tx, &named, room + begun.len()).await?;
            let waiting = named.into_iter().filter(|id| !begun.contains(id.as_str()));
            let waiting = waiting.take(room);
            attempts.extend(waiting.map(|name| view::waiting(&plan, &rollout, name)));
        }
    }
    let rollout = view::rollout(&state, &mut tx, &plan, &rollout).await?;
    Ok(Json(RolloutDetail { rollout, attempts }))
}

/// Stops offering; attempts under way go on.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/pause", tag = "rollouts",
    params(("id" = String, Path, description = "42 or r-42")), request_body = ReasonBody,
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn pause(
    state: State<AppState>,
    by: By,
    id: Segment,
    body: JsonOrNothing<ReasonBody>,
) -> Result<Json<Rollout>, Refusal> {
    command(state, by, id, Command::Pause, body).await
}

/// Offers again.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/resume", tag = "rollouts",
    params(("id" = String, Path, description = "42 or r-42")), request_body = ReasonBody,
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn resume(
    state: State<AppState>,
    by: By,
    id: Segment,
    body: JsonOrNothing<ReasonBody>,
) -> Result<Json<Rollout>, Refusal> {
    command(state, by, id, Command::Resume, body).await
}

/// Ends a rollout: devices that have not begun to install drop it.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/abort", tag = "rollouts",
    params(("id" = String, Path, description = "42 or r-42")), request_body = ReasonBody,
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn abort(
    state: State<AppState>,
    by: By,
    id: Segment,
    body: JsonOrNothing<ReasonBody>,
) -> Result<Json<Rollout>, Refusal> {
    command(state, by, id, Command::Abort, body).await
}

/// Offers the release again to the devices that failed; not where it is blocked.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/retry", tag = "rollouts",
    params(("id" = String, Path, description = "42 or r-42")),
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn retry(
    state: State<AppState>,
    by: By,
    id: Segment,
    body: JsonOrNothing<ReasonBody>,
) -> Result<Json<Rollout>, Refusal> {
    command(state, by, id, Command::Retry, body).await
}

/// Goes on to the next wave, whatever its gates say.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/promote", tag = "rollouts",
    params(("id" = String, Path, description = "42 or r-42")), request_body = ReasonBody,
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn promote(
    state: State<AppState>,
    by: By,
    id: Segment,
    body: JsonOrNothing<ReasonBody>,
) -> Result<Json<Rollout>, Refusal> {
    command(state, by, id, Command::Promote, body).await
}

/// Lets a rollout begin whose plan asks for a second person; not for who started it.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/approve", tag = "rollouts",
    params(("id" = String, Path, description = "42 or r-42")), request_body = ReasonBody,
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn approve(
    state: State<AppState>,
    by: By,
    id: Segment,
    body: JsonOrNothing<ReasonBody>,
) -> Result<Json<Rollout>, Refusal> {
    command(state, by, id, Command::Approve, body).await
}

async fn command(
    State(state): State<AppState>,
    by: By,
    Segment(id): Segment,
    command: Command,
    JsonOrNothing(body): JsonOrNothing<ReasonBody>,
) -> Result<Json<Rollout>, Refusal> {
    let id = number(&id)?;
    let rollout = rollouts::command(&state, id, command, &body.reason, &by).await?;
    shown(&state, &rollout).await.map(Json)
}

/// `42` or `r-42`.
pub fn number(text: &str) -> Result<i64, Refusal> {
    let digits = text.strip_prefix("r-").unwrap_or(text);
    let shown: String = text.chars().take(40).collect();
    digits.parse().map_err(|_| {
        Refusal::field(
            "id",
            format!("id is {shown:?}: give a rollout such as r-42"),
        )
    })
}
