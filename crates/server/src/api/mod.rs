//! The HTTP interface. Every route is in [`ROUTES`]; `POST /api/v1/rollouts/{id}/pause` is
//! `rollouts::pause`, and so on for all.

pub mod audit;
pub mod blobs;
pub mod checkin;
pub mod clusters;
pub mod credentials;
pub mod deltas;
pub mod devices;
pub mod enrol;
pub mod enrolment_keys;
pub mod events;
pub mod extract;
pub mod fleet;
pub mod groups;
pub mod health;
pub mod log;
pub mod openapi;
pub mod page;
pub mod pins;
pub mod problem;
pub mod products;
pub mod releases;
pub mod rollbacks;
pub mod rollouts;
pub mod roots;
pub mod session;
pub mod tags;
pub mod tokens;
pub mod users;
pub mod webhooks;

use axum::{
    Router, middleware,
    routing::{delete, get, post},
};
use fota_proto::operators::Role;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{AppState, auth, compat, tls, web};

/// What it takes to use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: health, the API's description, and devices, which trust signatures and digests and
    /// are trusted with nothing but their own state.
    Open,
    /// At least this role.
    Role(Role),
    /// At least this role, unless the server was started with `--legacy-open`.
    Legacy(Role),
    /// A page that looks who is there and shows the login to whom it does not know.
    Page,
    /// A screen for at least this role: whom the server does not know gets the login, and whoever
    /// may less is told so on a page.
    Screen(Role),
}

const VIEWER: Access = Access::Role(Role::Viewer);
const OPERATOR: Access = Access::Role(Role::Operator);
const RELEASER: Access = Access::Role(Role::Releaser);
const ADMIN: Access = Access::Role(Role::Admin);

/// A method, a path, and what it takes.
pub type Route = (&'static str, &'static str, Access);

/// Every route of the native device API and the manager API, and who may use it: this table is what
/// [`auth::guard`] goes by, and a route without a row here is refused to everybody.
pub const ROUTES: &[Route] = &[
    ("GET", "/healthz", Access::Open),
    ("GET", "/readyz", Access::Open),
    ("GET", "/api/openapi.json", Access::Open),
    ("GET", "/api/schemas/{name}", Access::Open),
    ("POST", "/d/v1/check-in", Access::Open),
    ("POST", "/d/v1/enrol", Access::Open),
    ("GET", "/d/v1/blobs/{sha256}", Access::Open),
    ("GET", "/d/v1/roots/{version}", Access::Open),
    ("GET", "/d/v1/log/head", Access::Open),
    ("GET", "/d/v1/log/proof", Access::Open),
    ("GET", "/d/v1/log/consistency", Access::Open),
    ("GET", "/api/v1/server", VIEWER),
    ("GET", "/api/v1/fleet/summary", VIEWER),
    ("POST", "/api/v1/releases", RELEASER),
    ("GET", "/api/v1/releases", VIEWER),
    ("GET", "/api/v1/releases/{id}", VIEWER),
    ("GET", "/api/v1/releases/{id}/image", VIEWER),
    ("POST", "/api/v1/releases/{id}/yank", RELEASER),
    ("GET", "/api/v1/deltas", VIEWER),
    ("POST", "/api/v1/deltas", OPERATOR),
    ("GET", "/api/v1/devices", VIEWER),
    ("GET", "/api/v1/devices/{id}", VIEWER),
    ("GET", "/api/v1/devices/{id}/events", VIEWER),
    ("GET", "/api/v1/devices/{id}/why", VIEWER),
    ("POST", "/api/v1/devices/{id}/block", OPERATOR),
    ("POST", "/api/v1/devices/{id}/unblock", OPERATOR),
    ("POST", "/api/v1/devices/{id}/pin", OPERATOR),
    ("DELETE", "/api/v1/devices/{id}/pin", OPERATOR),
    ("POST", "/api/v1/devices/{id}/tags", OPERATOR),
    ("GET", "/api/v1/devices/{id}/credentials", VIEWER),
    ("POST", "/api/v1/devices/{id}/credentials", OPERATOR),
    ("DELETE", "/api/v1/devices/{id}/credentials", OPERATOR),
    (
        "DELETE",
        "/api/v1/devices/{id}/credentials/{credential}",
        OPERATOR,
    ),
    ("POST", "/api/v1/devices/{id}/re-enrol", OPERATOR),
    ("POST", "/api/v1/device-claims", ADMIN),
    ("GET", "/api/v1/enrolment-keys", OPERATOR),
    ("POST", "/api/v1/enrolment-keys", ADMIN),
    ("DELETE", "/api/v1/enrolment-keys/{name}", ADMIN),
    ("GET", "/api/v1/groups", VIEWER),
    ("POST", "/api/v1/groups", OPERATOR),
    ("DELETE", "/api/v1/groups/{name}", OPERATOR),
    ("POST", "/api/v1/groups/{name}/devices", OPERATOR),
    ("POST", "/api/v1/groups/{name}/rule", OPERATOR),
    ("DELETE", "/api/v1/groups/{name}/devices/{id}", OPERATOR),
    ("POST", "/api/v1/rollouts/preview", VIEWER),
    ("POST", "/api/v1/rollouts/dry-run", VIEWER),
    ("GET", "/api/v1/rollouts", VIEWER),
    ("POST", "/api/v1/rollouts", OPERATOR),
    ("GET", "/api/v1/rollouts/{id}", VIEWER),
    ("POST", "/api/v1/rollouts/{id}/pause", OPERATOR),
    ("POST", "/api/v1/rollouts/{id}/resume", OPERATOR),
    ("POST", "/api/v1/rollouts/{id}/abort", OPERATOR),
    ("POST", "/api/v1/rollouts/{id}/retry", OPERATOR),
    ("POST", "/api/v1/rollouts/{id}/promote", OPERATOR),
    ("POST", "/api/v1/rollouts/{id}/approve", OPERATOR),
    ("GET", "/api/v1/clusters", VIEWER),
    ("GET", "/api/v1/rollouts/{id}/clusters", VIEWER),
    ("POST", "/api/v1/rollbacks", OPERATOR),
    ("GET", "/api/v1/roots", VIEWER),
    ("POST", "/api/v1/roots", ADMIN),
    ("GET", "/api/v1/roots/current", VIEWER),
    ("GET", "/api/v1/products/{name}/signing", VIEWER),
    ("PUT", "/api/v1/products/{name}/signing", ADMIN),
    ("GET", "/api/v1/products/{name}/secure-boot", VIEWER),
    ("PUT", "/api/v1/products/{name}/secure-boot", ADMIN),
    ("GET", "/api/v1/log", VIEWER),
    ("GET", "/api/v1/events", VIEWER),
    ("GET", "/api/v1/events/stream", VIEWER),
    // A URL may hold a secret of its receiver, and adding one makes the server send requests.
    ("GET", "/api/v1/webhooks", OPERATOR),
    ("POST", "/api/v1/webhooks", ADMIN),
    ("DELETE", "/api/v1/webhooks/{name}", ADMIN),
    ("POST", "/api/v1/webhooks/{name}/enable", ADMIN),
    ("POST", "/api/v1/webhooks/{name}/disable", ADMIN),
    ("POST", "/api/v1/webhooks/{name}/test", ADMIN),
    ("GET", "/api/v1/webhooks/{name}/deliveries", OPERATOR),
    ("POST", "/api/v1/session", Access::Open),
    ("DELETE", "/api/v1/session", VIEWER),
    ("GET", "/api/v1/whoami", VIEWER),
    // Of their own; those of others are an admin's, which the handler sees to.
    ("GET", "/api/v1/tokens", VIEWER),
    ("POST", "/api/v1/tokens", VIEWER),
    ("DELETE", "/api/v1/tokens/{id}", VIEWER),
    ("POST", "/api/v1/users/{name}/password", VIEWER),
    ("GET", "/api/v1/users", ADMIN),
    ("POST", "/api/v1/users", ADMIN),
    ("DELETE", "/api/v1/users/{name}", ADMIN),
    ("POST", "/api/v1/users/{name}/role", ADMIN),
    ("GET", "/api/v1/audit", ADMIN),
    ("GET", "/api/v1/audit/export", ADMIN),
];

/// The seed's paths.
pub const COMPAT_ROUTES: &[Route] = &[
    (
        "POST",
        "/api/cloud/fota/upload",
        Access::Legacy(Role::Releaser),
    ),
    (
        "GET",
        "/api/cloud/fota/status",
        Access::Legacy(Role::Viewer),
    ),
    (
        "POST",
        "/api/cloud/fota/rollback",
        Access::Legacy(Role::Operator),
    ),
    (
        "POST",
        "/api/cloud/fota/clear",
        Access::Legacy(Role::Operator),
    ),
    (
        "GET",
        "/api/cloud/logs/{kind}",
        Access::Legacy(Role::Viewer),
    ),
    ("GET", "/api/inverter/fota/manifest", Access::Open),
    ("GET", "/api/inverter/fota/chunk", Access::Open),
    ("POST", "/api/inverter/fota/status", Access::Open),
    ("GET", "/api/inverter/fota/rollback-status", Access::Open),
    ("GET", "/api/inverter/status", Access::Open),
    ("POST", "/api/device/status", Access::Open),
];

/// The screens.
pub const WEB_ROUTES: &[Route] = &[
    ("GET", "/", Access::Page),
    ("POST", "/login", Access::Page),
    ("GET", "/login/oidc", Access::Page),
    ("GET", "/login/oidc/callback", Access::Page),
    ("POST", "/logout", Access::Page),
    ("GET", "/assets/{name}", Access::Open),
    ("GET", "/devices", Access::Screen(Role::Viewer)),
    ("GET", "/devices.csv", Access::Screen(Role::Viewer)),
    ("GET", "/bulk/{action}", SCREEN_OPERATOR),
    ("POST", "/bulk/{action}", SCREEN_OPERATOR),
    ("GET", "/devices/{id}", Access::Screen(Role::Viewer)),
    ("GET", "/devices/{id}/{action}", SCREEN_OPERATOR),
    ("POST", "/devices/{id}/{action}", SCREEN_OPERATOR),
    ("GET", "/releases", Access::Screen(Role::Viewer)),
    ("GET", "/releases/{id}", Access::Screen(Role::Viewer)),
    ("GET", "/releases/{id}/yank", SCREEN_RELEASER),
    ("POST", "/releases/{id}/yank", SCREEN_RELEASER),
    ("GET", "/rollouts", Access::Screen(Role::Viewer)),
    ("GET", "/rollouts/new", SCREEN_OPERATOR),
    ("POST", "/rollouts", SCREEN_OPERATOR),
    ("GET", "/rollouts/{id}", Access::Screen(Role::Viewer)),
    ("GET", "/rollouts/{id}/{action}", SCREEN_OPERATOR),
    ("POST", "/rollouts/{id}/{action}", SCREEN_OPERATOR),
    ("GET", "/activity", Access::Screen(Role::Viewer)),
    ("GET", "/activity/reasons", Access::Screen(Role::Viewer)),
    ("GET", "/activity/audit", Access::Screen(Role::Admin)),
    ("GET", "/settings", Access::Screen(Role::Viewer)),
    ("POST", "/settings/groups", SCREEN_OPERATOR),
    ("POST", "/settings/tokens", Access::Screen(Role::Viewer)),
    (
        "POST",
        "/settings/tokens/{id}/revoke",
        Access::Screen(Role::Viewer),
    ),
    ("POST", "/settings/users", Access::Screen(Role::Admin)),
    ("GET", "/connect", Access::Screen(Role::Viewer)),
    ("GET", "/reference", Access::Screen(Role::Viewer)),
];

const SCREEN_OPERATOR: Access = Access::Screen(Role::Operator);
const SCREEN_RELEASER: Access = Access::Screen(Role::Releaser);

/// The whole server as a service.
pub fn router(state: AppState) -> Router {
    let guard = middleware::from_fn_with_state(state.clone(), auth::guard::guard);
    let device = middleware::from_fn_with_state(state.clone(), tls::require_client_certificate);
    Router::new()
        .merge(open())
        .merge(devices().route_layer(device))
        .merge(manager())
        .merge(operators())
        .merge(notifications())
        .merge(compat::routes(&state))
        .merge(web::routes(&state))
        .route_layer(guard)
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
        .route("/api/schemas/{name}", get(openapi::schema))
}

/// What needs no token because it is for devices, which trust signatures and digests and are
/// trusted with nothing but their own state.
fn devices() -> Router<AppState> {
    Router::new()
        .route("/d/v1/check-in", post(checkin::check_in))
        .route("/d/v1/enrol", post(enrol::enrol))
        .route("/d/v1/blobs/{sha256}", get(blobs::download))
        .route("/d/v1/roots/{version}", get(roots::download))
        .route("/d/v1/log/head", get(log::head))
        .route("/d/v1/log/proof", get(log::proof))
        .route("/d/v1/log/consistency", get(log::consistency))
}

/// The fleet and what is brought to it.
fn manager() -> Router<AppState> {
    device_identity()
        .route("/api/v1/server", get(fleet::server))
        .route("/api/v1/fleet/summary", get(fleet::summary))
        .route(
            "/api/v1/releases",
            get(releases::list).post(releases::upload),
        )
        .route("/api/v1/releases/{id}", get(releases::show))
        .route("/api/v1/releases/{id}/image", get(releases::image))
        .route("/api/v1/releases/{id}/yank", post(releases::yank))
        .route("/api/v1/deltas", get(deltas::list).post(deltas::build))
        .route("/api/v1/devices", get(devices::list))
        .route("/api/v1/devices/{id}", get(devices::show))
        .route("/api/v1/devices/{id}/events", get(devices::events))
        .route("/api/v1/devices/{id}/why", get(devices::why))
        .route("/api/v1/devices/{id}/block", post(devices::block))
        .route("/api/v1/devices/{id}/unblock", post(devices::unblock))
        .route(
            "/api/v1/devices/{id}/pin",
            post(pins::pin).delete(pins::unpin),
        )
        .route("/api/v1/devices/{id}/tags", post(tags::change))
        .route("/api/v1/groups", get(groups::list).post(groups::create))
        .route("/api/v1/groups/{name}", delete(groups::remove))
        .route("/api/v1/groups/{name}/devices", post(groups::add_devices))
        .route("/api/v1/groups/{name}/rule", post(groups::set_rule))
        .route(
            "/api/v1/groups/{name}/devices/{id}",
            delete(groups::remove_device),
        )
        .route(
            "/api/v1/rollouts",
            get(rollouts::list).post(rollouts::start),
        )
        .route("/api/v1/rollouts/preview", post(rollouts::preview))
        .route("/api/v1/rollouts/dry-run", post(rollouts::dry_run))
        .route("/api/v1/rollouts/{id}", get(rollouts::show))
        .route("/api/v1/rollouts/{id}/pause", post(rollouts::pause))
        .route("/api/v1/rollouts/{id}/resume", post(rollouts::resume))
        .route("/api/v1/rollouts/{id}/abort", post(rollouts::abort))
        .route("/api/v1/rollouts/{id}/retry", post(rollouts::retry))
        .route("/api/v1/rollouts/{id}/promote", post(rollouts::promote))
        .route("/api/v1/rollouts/{id}/approve", post(rollouts::approve))
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

/// Who may do what, and who did what.
fn operators() -> Router<AppState> {
    Router::new()
        .route(
            "/api/v1/session",
            post(session::login).delete(session::logout),
        )
        .route("/api/v1/whoami", get(session::whoami))
        .route("/api/v1/users", get(users::list).post(users::create))
        .route("/api/v1/users/{name}", delete(users::remove))
        .route("/api/v1/users/{name}/role", post(users::set_role))
        .route("/api/v1/users/{name}/password", post(users::set_password))
        .route("/api/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/api/v1/tokens/{id}", delete(tokens::revoke))
        .route("/api/v1/audit", get(audit::list))
        .route("/api/v1/audit/export", get(audit::export))
}

/// Who is told of what happens, and what stands out in it.
fn notifications() -> Router<AppState> {
    Router::new()
        .route(
            "/api/v1/webhooks",
            get(webhooks::list).post(webhooks::create),
        )
        .route("/api/v1/rollouts/{id}/clusters", get(clusters::clusters))
        .route("/api/v1/clusters", get(clusters::recent))
        .route("/api/v1/webhooks/{name}", delete(webhooks::remove))
        .route("/api/v1/webhooks/{name}/enable", post(webhooks::enable))
        .route("/api/v1/webhooks/{name}/disable", post(webhooks::disable))
        .route("/api/v1/webhooks/{name}/test", post(webhooks::test))
        .route(
            "/api/v1/webhooks/{name}/deliveries",
            get(webhooks::deliveries),
        )
}

/// What devices prove themselves with.
fn device_identity() -> Router<AppState> {
    Router::new()
        .route(
            "/api/v1/devices/{id}/credentials",
            get(credentials::list)
                .post(credentials::provision)
                .delete(credentials::revoke_all),
        )
        .route(
            "/api/v1/devices/{id}/credentials/{credential}",
            delete(credentials::revoke),
        )
        .route(
            "/api/v1/devices/{id}/re-enrol",
            post(credentials::allow_re_enrolment),
        )
        .route("/api/v1/device-claims", post(credentials::claim))
        .route(
            "/api/v1/enrolment-keys",
            get(enrolment_keys::list).post(enrolment_keys::create),
        )
        .route(
            "/api/v1/enrolment-keys/{name}",
            delete(enrolment_keys::revoke),
        )
}
