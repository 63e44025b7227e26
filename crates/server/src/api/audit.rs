use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fota_proto::{
    manager::{Page, Problem},
    operators::AuditEntry,
};
use futures_util::stream;

use super::{
    extract::Query,
    page::{PageQuery, after, limit, page},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::{By, Record},
    service::commit_by,
    store::StoreError,
};

/// Entries read at a time for an export.
const BATCH: i64 = 500;

/// The audit log, oldest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(PageQuery),
    responses((status = 200, body = Page<AuditEntry>), (status = 403, body = Problem)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<AuditEntry>>, Refusal> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?.unwrap_or(0);
    let items = state.store.read().await?.audit(after, limit).await?;
    Ok(Json(page(items, limit, |entry: &AuditEntry| {
        entry.seq.to_string()
    })))
}

/// The whole audit log, one JSON object per line. That it was exported is its last entry.
#[utoipa::path(get, path = "/api/v1/audit/export", tag = "audit",
    responses((status = 200, content_type = "application/x-ndjson", body = String), (status = 403, body = Problem)))]
pub async fn export(State(state): State<AppState>, by: By) -> Result<Response, Refusal> {
    let tx = state.store.write().await?;
    let record = Record::new("audit.exported", "audit", "");
    commit_by(&state, tx, &by, record, &[], false).await?;
    let end = state.store.read().await?.audit_head().await?.seq;
    let lines = stream::unfold(Some((state, 0)), move |place| async move {
        let (state, after) = place?;
        match batch(&state, after, end).await {
            // The connection breaks off: an export that only looked whole would be worse.
            Err(error) => {
                tracing::error!(%error, "an export of the audit log breaks off");
                Some((Err(error), None))
            }
            Ok((_, last)) if last == after => None,
            Ok((lines, last)) => Some((Ok(lines), Some((state, last)))),
        }
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    let headers = [(header::CONTENT_TYPE, kind)];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Lines for the entries after `after`, and the number of the last.
async fn batch(state: &AppState, after: i64, end: i64) -> Result<(Bytes, i64), StoreError> {
    let mut tx = state.store.read().await?;
    let mut entries = tx.audit(after, BATCH).await?;
    entries.retain(|entry| entry.seq <= end);
    let last = entries.last().map_or(after, |entry| entry.seq);
    let mut lines = Vec::new();
    for entry in &entries {
        // Our own types always serialize; a line that is missing is found by verifying.
        lines.extend(serde_json::to_vec(entry).unwrap_or_default());
        lines.push(b'\n');
    }
    Ok((lines.into(), last))
}
