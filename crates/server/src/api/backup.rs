use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fota_proto::manager::Problem;

use super::problem::Refusal;
use crate::{
    AppState,
    auth::{By, Record},
    backup,
    service::commit_by,
    web::time::iso,
};

/// A backup of everything, keys and tokens included, as a tar. One at a time is made. Where the
/// connection breaks off, what has arrived is none: the end says what the whole must be.
#[utoipa::path(post, path = "/api/v1/backup", tag = "backup",
    responses((status = 200, content_type = "application/x-tar", body = Vec<u8>),
        (status = 403, body = Problem), (status = 409, body = Problem)))]
pub async fn make(State(state): State<AppState>, by: By) -> Result<Response, Refusal> {
    let Ok(turn) = state.backups.clone().try_acquire_owned() else {
        let detail = "a backup is being made: wait until it is done";
        return Err(Refusal::new(StatusCode::CONFLICT, "backup_running", detail));
    };
    let tx = state.store.write().await?;
    let record = Record::new("backup.made", "backup", "");
    commit_by(&state, tx, &by, record, &[], false).await?;
    let day = iso(state.now_ms());
    let day = day.split('T').next().unwrap_or("");
    let name = format!("attachment; filename=\"fota-{day}.tar\"");
    let name = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment"));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-tar"),
        ),
        (header::CONTENT_DISPOSITION, name),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(backup::make(state, turn))).into_response())
}
