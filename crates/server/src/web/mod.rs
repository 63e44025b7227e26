//! The screens. Rendered here, so they work without JavaScript; with it, the script fetches what
//! changes again after every event, and opens questions in a dialog.
//!
//! Whom the server does not know sees the login. A link with `?token=` is exchanged for a session
//! and leaves the address bar and the history.
//!
//! Nothing on a screen comes from another origin, and nothing in it is inline: a device's texts are
//! escaped by the templates, and the content security policy would not run them either.
//!
//! One file per screen; `chrome.rs` is the frame around all of them, `pieces.rs` and `words.rs` what
//! they share. A deed is a question on a page of its own (`confirm.rs`) and a form whose fields only
//! come with the session's CSRF token (`form.rs`); it calls the function of the JSON API that does
//! the same.

mod activity;
mod assets;
mod bulk;
mod chart;
mod chrome;
mod confirm;
mod connect;
mod device;
mod devices;
mod door;
mod fault;
mod fleet;
mod form;
mod heard;
mod misread;
mod pieces;
#[cfg_attr(not(feature = "oidc"), path = "no_provider.rs")]
mod provider;
mod reference;
mod releases;
mod rollout;
mod rollouts;
mod settings;
mod start;
pub mod time;
mod words;

use axum::{
    Router,
    extract::{FromRequestParts, Path, RawQuery, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::{get, post},
};

use crate::{AppState, api::problem::Refusal, auth::Principal};
use chrome::Ask;
use fault::Fault;

/// The screens and their files.
pub fn routes(_state: &AppState) -> Router<AppState> {
    Router::new()
        .route("/", get(home))
        .route("/login", post(door::login))
        .route("/logout", post(door::logout))
        .route("/login/oidc", get(provider::begin))
        .route("/login/oidc/callback", get(provider::end))
        .route("/assets/{name}", get(asset))
        .route("/devices", get(devices::list))
        .route("/devices.csv", get(devices::export))
        .route("/bulk/{action}", get(bulk::ask).post(bulk::act))
        .route("/devices/{id}", get(device::show))
        .route("/devices/{id}/{action}", get(device::ask).post(device::act))
        .route("/releases", get(releases::list))
        .route("/releases/{id}", get(releases::show))
        .route(
            "/releases/{id}/yank",
            get(releases::ask_yank).post(releases::yank),
        )
        .route("/rollouts", get(rollouts::list).post(start::start))
        .route("/rollouts/new", get(start::form))
        .route("/rollouts/{id}", get(rollout::show))
        .route(
            "/rollouts/{id}/{action}",
            get(rollout::ask).post(rollout::act),
        )
        .route("/activity", get(activity::events))
        .route("/activity/reasons", get(activity::reasons))
        .route("/activity/audit", get(activity::audit))
        .route("/settings", get(settings::show))
        .route("/settings/groups", post(settings::change_group))
        .route("/settings/tokens", post(settings::create_token))
        .route("/settings/tokens/{id}/revoke", post(settings::revoke_token))
        .route("/settings/users", post(settings::create_user))
        .route("/connect", get(connect::show))
        .route("/reference", get(reference::show))
        .layer(map_response(guarded))
}

/// Only our own files: no inline script or style, no frame, no other origin. An address of ours is
/// told to no other server. (`no-referrer` would also take the origin away from our own forms,
/// which the server wants to see.)
const GUARDS: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
];

async fn guarded(response: Response) -> Response {
    with_guards(response)
}

fn with_guards(mut response: Response) -> Response {
    for (name, value) in GUARDS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `GET /`: the fleet; with `token=T` a session and back here.
async fn home(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Fault> {
    let (mut parts, _) = request.into_parts();
    if let Some(token) = parameter(query.as_deref(), "token") {
        return Ok(door::exchange(&state, &parts, &token).await?);
    }
    if parts.extensions.get::<Principal>().is_none() {
        return Ok(door::shut(&state, None));
    }
    let ask = Ask::from_request_parts(&mut parts, &state).await?;
    fleet::show(&state, &ask).await
}

/// The answer to whom the guard lets on no screen: the login, or the reason.
pub fn refused(state: &AppState, refusal: &Refusal) -> Response {
    let response = match refusal.status() {
        StatusCode::UNAUTHORIZED => door::shut(state, None),
        _ => Fault::from(refusal.clone()).into_response(),
    };
    with_guards(response)
}

fn html_response(status: StatusCode, html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, html).into_response()
}

/// `GET /assets/{hash}.{ext}`.
async fn asset(Path(name): Path<String>) -> Result<Response, Refusal> {
    let shown: String = name.chars().take(80).collect();
    let asset =
        assets::named(&name).ok_or_else(|| Refusal::not_found(format!("asset {shown:?}")))?;
    let headers = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((headers, asset.body).into_response())
}

fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query?.as_bytes());
    pairs
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
