use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fota_proto::{
    limits::OBJECT_BYTES_MAX,
    manager::{Page, Problem, Root},
    signed,
};

use super::{
    checkin::COSE,
    extract::{Query, Segment, require_type_of, whole_body},
    page::{PageQuery, after, limit, page},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::By,
    service::{download::FOREVER, roots},
};

/// Adds a root: the first one, or the one that follows the newest. 200 where it is there already.
#[utoipa::path(post, path = "/api/v1/roots", tag = "roots",
    request_body(content = Vec<u8>, content_type = "application/cose"),
    responses((status = 201, body = Root), (status = 200, body = Root),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn add(
    State(state): State<AppState>,
    by: By,
    request: Request,
) -> Result<(StatusCode, Json<Root>), Refusal> {
    let (parts, body) = request.into_parts();
    require_type_of(&parts.headers, &[COSE, "application/octet-stream"])?;
    let bytes = whole_body(body, OBJECT_BYTES_MAX as u64).await?;
    let (root, is_new) = roots::add(&state, bytes, &by).await?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(root)))
}

/// Roots, newest first.
#[utoipa::path(get, path = "/api/v1/roots", tag = "roots", params(PageQuery),
    responses((status = 200, body = Page<Root>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Root>>, Refusal> {
    let limit = limit(query.limit)?;
    let before = after(query.after.as_deref())?.unwrap_or(i64::MAX);
    let stored = state.store.read().await?.roots(before, limit).await?;
    let mut items = Vec::new();
    for stored in &stored {
        let bytes = roots::read(&state, stored).await?;
        let root = signed::Root::first(&bytes).map_err(roots::damaged)?;
        items.push(roots::view(stored, &root));
    }
    Ok(Json(page(items, limit, |root: &Root| {
        root.version.to_string()
    })))
}

/// The newest root, as it was signed.
#[utoipa::path(get, path = "/api/v1/roots/current", tag = "roots",
    responses((status = 200, content_type = "application/cose", body = Vec<u8>),
        (status = 404, body = Problem)))]
pub async fn current(State(state): State<AppState>) -> Result<Response, Refusal> {
    let newest = state.store.read().await?.newest_root().await?;
    let newest = newest.ok_or_else(|| Refusal::not_found("root: add one").of("path"))?;
    let bytes = roots::read(&state, &newest).await?;
    Ok(cose(bytes, HeaderValue::from_static("no-store")))
}

/// A root by its version, for devices that follow from the one they trust.
#[utoipa::path(get, path = "/d/v1/roots/{version}", tag = "device", operation_id = "root",
    security(()),
    params(("version" = u32, Path, description = "Version of the root")),
    responses((status = 200, content_type = "application/cose", body = Vec<u8>),
        (status = 404, body = Problem)))]
pub async fn download(
    State(state): State<AppState>,
    Segment(version): Segment,
) -> Result<Response, Refusal> {
    let shown: String = version.chars().take(40).collect();
    let version: u32 = version.parse().map_err(|_| {
        Refusal::field(
            "version",
            format!("version is {shown:?}: give a root's number"),
        )
    })?;
    let stored = state.store.read().await?.root(version).await?;
    let stored =
        stored.ok_or_else(|| Refusal::not_found(format!("root {version}")).of("version"))?;
    Ok(cose(roots::read(&state, &stored).await?, FOREVER))
}

fn cose(bytes: Bytes, caching: HeaderValue) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(COSE)),
        (header::CACHE_CONTROL, caching),
    ];
    (headers, bytes).into_response()
}
