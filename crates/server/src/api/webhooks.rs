use axum::{Json, extract::State, http::StatusCode};
use fota_proto::{
    manager::{Page, Problem, ReasonBody},
    notify::{NewWebhook, Webhook, WebhookDelivery, WebhookEnable, WebhookRequest},
};

use super::{
    extract::{Json as JsonBody, JsonOrNothing, Query, Segment},
    page::{PageQuery, after, limit, page},
    problem::Refusal,
};
use crate::{AppState, auth::By, service::webhooks};

/// Webhooks by name.
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "webhooks", params(PageQuery),
    responses((status = 200, body = Page<Webhook>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Webhook>>, Refusal> {
    let limit = limit(query.limit)?;
    let after = query.after.unwrap_or_default();
    let stored = state.store.read().await?.webhooks(&after, limit).await?;
    let items = stored.into_iter().map(|stored| stored.webhook).collect();
    Ok(Json(page(items, limit, |webhook: &Webhook| {
        webhook.name.clone()
    })))
}

/// Adds a webhook. The answer holds the key of its signatures, which is shown this once.
#[utoipa::path(post, path = "/api/v1/webhooks", tag = "webhooks", request_body = WebhookRequest,
    responses((status = 201, body = NewWebhook), (status = 400, body = Problem),
        (status = 409, body = Problem)))]
pub async fn create(
    State(state): State<AppState>,
    by: By,
    JsonBody(body): JsonBody<WebhookRequest>,
) -> Result<(StatusCode, Json<NewWebhook>), Refusal> {
    let made = webhooks::create(&state, body, &by).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Removes a webhook with its deliveries.
#[utoipa::path(delete, path = "/api/v1/webhooks/{name}", tag = "webhooks",
    params(("name" = String, Path, description = "Webhook")),
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn remove(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
) -> Result<StatusCode, Refusal> {
    webhooks::remove(&state, &name, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delivers again, from where it stopped.
#[utoipa::path(post, path = "/api/v1/webhooks/{name}/enable", tag = "webhooks",
    params(("name" = String, Path, description = "Webhook")), request_body = WebhookEnable,
    responses((status = 200, body = Webhook), (status = 404, body = Problem)))]
pub async fn enable(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
    JsonOrNothing(body): JsonOrNothing<WebhookEnable>,
) -> Result<Json<Webhook>, Refusal> {
    webhooks::enable(&state, &name, &body, &by).await.map(Json)
}

/// Delivers nothing until it is enabled.
#[utoipa::path(post, path = "/api/v1/webhooks/{name}/disable", tag = "webhooks",
    params(("name" = String, Path, description = "Webhook")), request_body = ReasonBody,
    responses((status = 200, body = Webhook), (status = 404, body = Problem)))]
pub async fn disable(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
    JsonOrNothing(body): JsonOrNothing<ReasonBody>,
) -> Result<Json<Webhook>, Refusal> {
    let done = webhooks::disable(&state, &name, &body.reason, &by).await;
    done.map(Json)
}

/// Sends a message of the kind `webhook.test`, once, and answers with what came of it.
#[utoipa::path(post, path = "/api/v1/webhooks/{name}/test", tag = "webhooks",
    params(("name" = String, Path, description = "Webhook")),
    responses((status = 200, body = WebhookDelivery), (status = 404, body = Problem)))]
pub async fn test(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
) -> Result<Json<WebhookDelivery>, Refusal> {
    webhooks::test(&state, &name, &by).await.map(Json)
}

/// The last tries, newest first; 200 of each webhook are kept.
#[utoipa::path(get, path = "/api/v1/webhooks/{name}/deliveries", tag = "webhooks",
    params(("name" = String, Path, description = "Webhook"), PageQuery),
    responses((status = 200, body = Page<WebhookDelivery>), (status = 404, body = Problem)))]
pub async fn deliveries(
    State(state): State<AppState>,
    Segment(name): Segment,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<WebhookDelivery>>, Refusal> {
    let limit = limit(query.limit)?;
    let before = after(query.after.as_deref())?.unwrap_or(i64::MAX);
    let mut tx = state.store.read().await?;
    let found = webhooks::find(&mut tx, &name).await?;
    let items = tx.deliveries(found.id, before, limit).await?;
    Ok(Json(page(items, limit, |tried: &WebhookDelivery| {
        tried.id.to_string()
    })))
}
