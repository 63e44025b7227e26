//! The seed's API (`/api/inverter/*`, `/api/cloud/*`, `/api/device/status`), as its firmware and
//! its tools speak it: the same paths, names and types, errors as `{"error": "…"}`.
//!
//! Where the seed was wrong, this is right behind the same words: a rollback stands until the
//! device is seen to have left the image, `all` reaches every device, an upload during a download
//! changes nothing for the device that downloads, and what is uploaded stays.

mod chunk;
mod device;
mod device_api;
mod operator_api;
mod reply;
mod status;
mod upload;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    routing::{get, post},
};

use crate::{AppState, tls::require_client_certificate};

/// Every path of the seed, and the three that its tools ask for and it never had a route for.
pub fn routes(state: &AppState) -> Router<AppState> {
    let operator = Router::new()
        .route("/api/cloud/fota/upload", post(operator_api::upload))
        .route("/api/cloud/fota/status", get(operator_api::status))
        .route("/api/cloud/fota/rollback", post(operator_api::rollback))
        .route("/api/cloud/fota/clear", post(operator_api::clear))
        .route("/api/cloud/logs/{kind}", get(operator_api::logs))
        // Bodies are read, and limited, by the handlers.
        .layer(DefaultBodyLimit::disable());
    let devices = Router::new()
        .route("/api/inverter/fota/manifest", get(device_api::manifest))
        .route("/api/inverter/fota/chunk", get(device_api::chunk))
        .route("/api/inverter/fota/status", post(device_api::status))
        .route(
            "/api/inverter/fota/rollback-status",
            get(device_api::rollback_status),
        )
        .route("/api/inverter/status", get(device_api::running))
        .route("/api/device/status", post(device_api::poll))
        .layer(DefaultBodyLimit::disable())
        .route_layer(from_fn_with_state(
            state.clone(),
            require_client_certificate,
        ));
    operator.merge(devices)
}
