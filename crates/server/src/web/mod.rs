//! The page at `/`: the fleet, live. Rendered here, so it works without JavaScript; with it, the
//! script fetches the changing part again after every event.
//!
//! Whom the server does not know sees the login. A link with `?token=` is exchanged for a session
//! and leaves the address bar and the history.
//!
//! Nothing on it comes from another origin, and nothing in it is inline: a device's texts are
//! escaped by the templates, and the content security policy would not run them either.

mod assets;
mod door;
#[cfg_attr(not(feature = "oidc"), path = "no_provider.rs")]
mod provider;
pub mod time;
pub(crate) mod view;

use askama::Template;
use axum::{
    Json, Router,
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};

use crate::{
    AppState,
    api::{fleet, problem::Refusal},
    auth::{Principal, Via, cookie, guard},
    http::public_base,
    service::view as facts,
    store::DeviceFilter,
};
use view::{
    DEVICES_SHOWN_MAX, EVENTS_SHOWN_MAX, Facts, Fleet, Page, ROLLOUTS_ENDED_SHOWN_MAX,
    ROLLOUTS_READ_MAX, Visitor,
};

/// The page and its files.
pub fn routes(_state: &AppState) -> Router<AppState> {
    Router::new()
        .route("/", get(page))
        .route("/login", post(door::login))
        .route("/logout", post(door::logout))
        .route("/login/oidc", get(provider::begin))
        .route("/login/oidc/callback", get(provider::end))
        .route("/rollouts/{id}", get(rollout))
        .route("/assets/{name}", get(asset))
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

async fn guarded(mut response: Response) -> Response {
    for (name, value) in GUARDS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `GET /`: the page; with `part=fleet` only what changes; with `token=T` a session and back here.
async fn page(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    if let Some(token) = parameter(query.as_deref(), "token") {
        return door::exchange(&state, &parts, &token).await;
    }
    let Some(principal) = parts.extensions.get::<Principal>() else {
        return Ok(door::shut(&state, None));
    };
    let origin = public_base(&state.config, &parts.extensions, &parts.headers);
    let visitor = match parameter(query.as_deref(), "part").as_deref() {
        Some("fleet") => None,
        _ => Some(visitor(principal, &parts.headers)),
    };
    let html = render(&state, &origin, visitor).await?;
    Ok(html_response(StatusCode::OK, html))
}

fn visitor(principal: &Principal, headers: &HeaderMap) -> Visitor {
    let id = cookie(headers).filter(|_| principal.via == Via::Cookie);
    Visitor {
        actor: principal.actor(),
        role: principal.role.word(),
        csrf: id.map(guard::csrf_token),
    }
}

/// The page for a visitor, or without one only the part that changes.
async fn render(
    state: &AppState,
    origin: &str,
    visitor: Option<Visitor>,
) -> Result<String, Refusal> {
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let filter = DeviceFilter {
        limit: DEVICES_SHOWN_MAX as i64,
        ..DeviceFilter::default()
    };
    let mut devices = Vec::new();
    for device in tx.devices(&filter).await? {
        devices.push(facts::device(state, &mut tx, &plan, &device).await?);
    }
    let mut rollouts = Vec::new();
    let mut ended = 0;
    for rollout in tx.rollouts_page(i64::MAX, ROLLOUTS_READ_MAX).await? {
        let may_offer = plan.rollout(rollout.id).is_some();
        if may_offer || ended < ROLLOUTS_ENDED_SHOWN_MAX {
            ended += usize::from(!may_offer);
            // Counting a rollout's devices is the dear part of this page.
            rollouts.push(facts::rollout(state, &mut tx, &plan, &rollout).await?);
        }
    }
    let Json(summary) = fleet::summary(State(state.clone())).await?;
    let Json(server) = fleet::server(State(state.clone())).await?;
    let facts = Facts {
        summary: &summary,
        devices: &devices,
        rollouts: &rollouts,
        events: &tx.last_events("", EVENTS_SHOWN_MAX as i64).await?,
        server: &server,
        origin,
        now_ms: state.now_ms(),
    };
    let rendered = match visitor {
        None => Fleet::new(&facts).render(),
        Some(visitor) => Page::new(&facts, visitor).render(),
    };
    rendered.map_err(|error| {
        tracing::error!(%error, "the page could not be rendered");
        let detail = "the page could not be made: please report it with the server's log";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "bug", detail)
    })
}

fn html_response(status: StatusCode, html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, html).into_response()
}

/// `GET /rollouts/r-42`, the address that the commands print: its card on the page.
async fn rollout(Path(id): Path<String>) -> Response {
    let number = id.strip_prefix("r-").unwrap_or(&id).parse::<u32>();
    let place = number.map_or_else(|_| "/".to_owned(), |number| format!("/#r-{number}"));
    Redirect::to(&place).into_response()
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
