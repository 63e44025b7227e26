use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use fota_proto::{
    limits::{IMAGE_BYTES_MAX, OBJECT_BYTES_MAX},
    manager::{Page, Problem, ReasonBody, Release, ReleaseUpload},
};

use super::{
    extract::{JsonOrNothing, Query, Segment, whole_body},
    page::{PageQuery, after, limit, page},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::By,
    service::{
        download,
        releases::{self, Upload},
        view::{self, ReleaseSums},
    },
};

/// What a bundle may have beside its image: the magic, a length, and the signed release.
const BUNDLE_HEAD_BYTES_MAX: u64 = 12 + OBJECT_BYTES_MAX as u64;

/// Takes in an image, or a bundle: the image behind its signed release. 200 with the same release
/// where it is there already.
#[utoipa::path(post, path = "/api/v1/releases", tag = "releases", params(ReleaseUpload),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = Release), (status = 200, body = Release),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem)))]
pub async fn upload(
    State(state): State<AppState>,
    by: By,
    Query(wanted): Query<ReleaseUpload>,
    request: Request,
) -> Result<(StatusCode, Json<Release>), Refusal> {
    let turn = state.uploads.acquire().await;
    let bytes = whole_body(request.into_body(), IMAGE_BYTES_MAX + BUNDLE_HEAD_BYTES_MAX).await?;
    let upload = Upload {
        bytes,
        wanted,
        seed_chunk_bytes: None,
        lab: state.config.lab,
    };
    let (release, is_new) = releases::take_in(&state, upload, &by).await?;
    drop(turn);
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let sums = ReleaseSums::read(&mut state.store.read().await?).await?;
    Ok((status, Json(view::release(&release, &sums))))
}

/// Releases, newest first.
#[utoipa::path(get, path = "/api/v1/releases", tag = "releases", params(PageQuery),
    responses((status = 200, body = Page<Release>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Release>>, Refusal> {
    let limit = limit(query.limit)?;
    let before = after(query.after.as_deref())?.unwrap_or(i64::MAX);
    let mut tx = state.store.read().await?;
    let sums = ReleaseSums::read(&mut tx).await?;
    let releases = tx.releases_page(before, limit).await?;
    let items = releases
        .iter()
        .map(|release| view::release(release, &sums))
        .collect();
    Ok(Json(page(items, limit, |release: &Release| {
        release.id.to_string()
    })))
}

/// One release.
#[utoipa::path(get, path = "/api/v1/releases/{id}", tag = "releases",
    params(("id" = i64, Path, description = "Release id")),
    responses((status = 200, body = Release), (status = 404, body = Problem)))]
pub async fn show(
    State(state): State<AppState>,
    Segment(id): Segment,
) -> Result<Json<Release>, Refusal> {
    let id = number(&id)?;
    let mut tx = state.store.read().await?;
    let found = tx.release(id).await?;
    let release = found.ok_or_else(|| Refusal::not_found(format!("release {id}")).of("id"))?;
    let sums = ReleaseSums::read(&mut tx).await?;
    Ok(Json(view::release(&release, &sums)))
}

/// The image of a release; one `Range` works.
#[utoipa::path(get, path = "/api/v1/releases/{id}/image", tag = "releases",
    params(("id" = i64, Path, description = "Release id")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, body = Problem)))]
pub async fn image(
    State(state): State<AppState>,
    Segment(id): Segment,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let id = number(&id)?;
    let found = state.store.read().await?.release(id).await?;
    let release = found.ok_or_else(|| Refusal::not_found(format!("release {id}")).of("id"))?;
    download::send(&state, release.sha256, &method, &headers, None).await
}

/// Withdraws a release: it is never offered again.
#[utoipa::path(post, path = "/api/v1/releases/{id}/yank", tag = "releases",
    params(("id" = i64, Path, description = "Release id")), request_body = ReasonBody,
    responses((status = 200, body = Release), (status = 404, body = Problem)))]
pub async fn yank(
    State(state): State<AppState>,
    by: By,
    Segment(id): Segment,
    JsonOrNothing(body): JsonOrNothing<ReasonBody>,
) -> Result<Json<Release>, Refusal> {
    let id = number(&id)?;
    let release = releases::yank(&state, id, &body.reason, &by).await?;
    let sums = ReleaseSums::read(&mut state.store.read().await?).await?;
    Ok(Json(view::release(&release, &sums)))
}

fn number(text: &str) -> Result<i64, Refusal> {
    let shown: String = text.chars().take(40).collect();
    text.parse()
        .map_err(|_| Refusal::field("id", format!("id is {shown:?}: give a release's number")))
}
