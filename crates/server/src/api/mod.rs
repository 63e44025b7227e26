//! The HTTP interface. Every route is in [`ROUTES`]; `POST /api/v1/rollouts/{id}/pause` is
//! `rollouts::pause`, and so on for all.

pub mod blobs;
pub mod checkin;
pub mod devices;
pub mod events;
pub mod extract;
pub mod fleet;
pub mod groups;
pub mod health;
pub mod log;
pub mod openapi;
pub mod page;
pub mod problem;
pub mod products;
pub mod releases;
pub mod rollbacks;
pub mod rollouts;
pub mod roots;

use axum::{
    Router, middleware,
    routing::{delete, get, post},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{AppState, auth, compat, tls, web};

/// Every route of the native device API and the manager API, for tests that must miss none.
pub const ROUTES: &[(&str, &str)] = &[
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/api/openapi.json"),
    ("POST", "/d/v1/check-in"),
    ("GET", "/d/v1/blobs/{sha256}"),
    ("GET", "/d/v1/roots/{version}"),
    ("GET", "/d/v1/log/head"),
    ("GET", "/d/v1/log/proof"),
    ("GET", "/d/v1/log/consistency"),
    ("GET", "/api/v1/server"),
    ("GET", "/api/v1/fleet/summary"),
    ("POST", "/api/v1/releases"),
    ("GET", "/api/v1/releases"),
    ("GET", "/api/v1/releases/{id}"),
    ("GET", "/api/v1/releases/{id}/image"),
    ("POST", "/api/v1/releases/{id}/yank"),
    ("GET", "/api/v1/devices"),
    ("GET", "/api/v1/devices/{id}"),
    ("GET", "/api/v1/devices/{id}/events"),
    ("POST", "/api/v1/devices/{id}/unblock"),
    ("GET", "/api/v1/groups"),
    ("POST", "/api/v1/groups"),
    ("DELETE", "/api/v1/groups/{name}"),
    ("POST", "/api/v1/groups/{name}/devices"),
    ("DELETE", "/api/v1/groups/{name}/devices/{id}"),
    ("POST", "/api/v1/rollouts/preview"),
    ("GET", "/api/v1/rollouts"),
    ("POST", "/api/v1/rollouts"),
    ("GET", "/api/v1/rollouts/{id}"),
    ("POST", "/api/v1/rollouts/{id}/pause"),
    ("POST", "/api/v1/rollouts/{id}/resume"),
    ("POST", "/api/v1/rollouts/{id}/abort"),
    ("POST", "/api/v1/rollouts/{id}/retry"),
    ("POST", "/api/v1/rollbacks"),
    ("GET", "/api/v1/roots"),
    ("POST", "/api/v1/roots"),
    ("GET", "/api/v1/roots/current"),
    ("GET", "/api/v1/products/{name}/signing"),
    ("PUT", "/api/v1/products/{name}/signing"),
    ("GET", "/api/v1/log"),
    ("GET", "/api/v1/products/{name}/secure-boot"),
    ("PUT", "/api/v1/products/{name}/secure-boot"),
    ("GET", "/api/v1/events"),
    ("GET", "/api/v1/events/stream"),
];

/// The whole server as a service.
pub fn router(state: AppState) -> Router {
    let operator = middleware::from_fn_with_state(state.clone(), auth::require_operator);
    let device = middleware::from_fn_with_state(state.clone(), tls::require_client_certificate);
    Router::new()
        .merge(open())
        .merge(devices().route_layer(device))
        .merge(manager().route_layer(operator))
        .merge(compat::routes(&state))
        .merge(web::routes(&state))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn(extract::refuse_encoded))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .with_state(state)
}

/// What needs no token: health and the API's description.
fn open() -> Router<AppState> {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/api/openapi.json", get(openapi::document))
}

/// What needs no token because it is for devices, which trust signatures and digests and are
/// trusted with nothing but their own state.
fn devices() -> Router<AppState> {
    Router::new()
        .route("/d/v1/check-in", post(checkin::check_in))
        .route("/d/v1/blobs/{sha256}", get(blobs::download))
        .route("/d/v1/roots/{version}", get(roots::download))
        .route("/d/v1/log/head", get(log::head))
        .route("/d/v1/log/proof", get(log::proof))
        .route("/d/v1/log/consistency", get(log::consistency))
}

/// What needs the operator's token.
fn manager() -> Router<AppState> {
    Router::new()
        .route("/api/v1/server", get(fleet::server))
        .route("/api/v1/fleet/summary", get(fleet::summary))
        .route(
            "/api/v1/releases",
            get(releases::list).post(releases::upload),
        )
        .route("/api/v1/releases/{id}", get(releases::show))
        .route("/api/v1/releases/{id}/image", get(releases::image))
        .route("/api/v1/releases/{id}/yank", post(releases::yank))
        .route("/api/v1/devices", get(devices::list))
        .route("/api/v1/devices/{id}", get(devices::show))
        .route("/api/v1/devices/{id}/events", get(devices::events))
        .route("/api/v1/devices/{id}/unblock", post(devices::unblock))
        .route("/api/v1/groups", get(groups::list).post(groups::create))
        .route("/api/v1/groups/{name}", delete(groups::remove))
        .route("/api/v1/groups/{name}/devices", post(groups::add_devices))
        .route(
            "/api/v1/groups/{name}/devices/{id}",
            delete(groups::remove_device),
        )
        .route(
            "/api/v1/rollouts",
            get(rollouts::list).post(rollouts::start),
        )
        .route("/api/v1/rollouts/preview", post(rollouts::preview))
        .route("/api/v1/rollouts/{id}", get(rollouts::show))
        .route("/api/v1/rollouts/{id}/pause", post(rollouts::pause))
        .route("/api/v1/rollouts/{id}/resume", post(rollouts::resume))
        .route("/api/v1/rollouts/{id}/abort", post(rollouts::abort))
        .route("/api/v1/rollouts/{id}/retry", post(rollouts::retry))
        .route("/api/v1/rollbacks", post(rollbacks::request))
        .route("/api/v1/roots", get(roots::list).post(roots::add))
        .route("/api/v1/roots/current", get(roots::current))
        .route(
            "/api/v1/products/{name}/signing",
            get(products::signing).put(products::set_signing),
        )
        .route("/api/v1/log", get(log::list))
        .route(
            "/api/v1/products/{name}/secure-boot",
            get(products::secure_boot).put(products::set_secure_boot),
        )
        .route("/api/v1/events", get(events::list))
        .route("/api/v1/events/stream", get(events::stream))
}
