use axum::extract::State;

use super::problem::Refusal;
use crate::AppState;

/// The process runs.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, body = String)))]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The database answers.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, body = String), (status = 503, body = fota_proto::manager::Problem)))]
pub async fn readyz(State(state): State<AppState>) -> Result<&'static str, Refusal> {
    match state.store.ping().await {
        Ok(()) => Ok("ready\n"),
        Err(error) => {
            tracing::error!(%error, "not ready: the database does not answer");
            let status = axum::http::StatusCode::SERVICE_UNAVAILABLE;
            let detail = "the database does not answer: see the server's log";
            Err(Refusal::new(status, "not_ready", detail))
        }
    }
}
