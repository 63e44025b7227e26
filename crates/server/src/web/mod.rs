//! The page at `/`: the fleet, live. Rendered here, so it works without JavaScript; with it, the
//! script fetches the changing part again after every event.
//!
//! Nothing on it comes from another origin, and nothing in it is inline: a device's texts are
//! escaped by the templates, and the content security policy would not run them either.

mod assets;
pub mod time;
pub(crate) mod view;

use askama::Template;
use axum::{
    Json, Router,
    extract::{Path, RawQuery, State},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};

use crate::{
    AppState,
    api::{fleet, problem::Refusal},
    auth::{COOKIE, is_operator},
    http::public_base,
    service::view as facts,
    store::DeviceFilter,
};
use view::{
    DEVICES_SHOWN_MAX, Door, EVENTS_SHOWN_MAX, Facts, Fleet, Page, ROLLOUTS_ENDED_SHOWN_MAX,
    ROLLOUTS_READ_MAX,
};

/// The page and its files.
pub fn routes(_state: &AppState) -> Router<AppState> {
    Router::new()
        .route("/", get(page))
        .route("/rollouts/{id}", get(rollout))
        .route("/assets/{name}", get(asset))
        .layer(map_response(guarded))
}

/// Only our own files: no inline script or style, no frame, no other origin. A token in the
/// address is not told on.
const GUARDS: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

async fn guarded(mut response: Response) -> Response {
    for (name, value) in GUARDS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `GET /`: the page; with `part=fleet` only what changes; with `token=T` a cookie and back here.
async fn page(
    State(state): State<AppState>,
    extensions: Extensions,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let base = public_base(&state.config, &extensions, &headers);
    if let Some(token) = parameter(query.as_deref(), "token") {
        return Ok(match state.token.is(token.trim()) {
            true => let_in(token.trim(), base.starts_with("https:")),
            false => door(true),
        });
    }
    if !is_operator(&state, &headers) {
        return Ok(door(false));
    }
    let part = parameter(query.as_deref(), "part");
    let html = render(&state, &base, part.as_deref() == Some("fleet")).await?;
    Ok(html_response(StatusCode::OK, html))
}

async fn render(state: &AppState, origin: &str, only_fleet: bool) -> Result<String, Refusal> {
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
            rollouts.push(facts::rollout(&mut tx, &plan, &rollout).await?);
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
    let rendered = match only_fleet {
        true => Fleet::new(&facts).render(),
        false => Page::new(&facts).render(),
    };
    rendered.map_err(|error| {
        tracing::error!(%error, "the page could not be rendered");
        let detail = "the page could not be made: please report it with the server's log";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "bug", detail)
    })
}

/// Puts the token into a cookie that no script can read and no other site can make a browser
/// send, and takes it out of the address.
fn let_in(token: &str, only_https: bool) -> Response {
    let secure = if only_https { "; Secure" } else { "" };
    let cookie =
        format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000{secure}");
    let Ok(cookie) = HeaderValue::from_str(&cookie) else {
        return door(true);
    };
    let headers = [
        (header::LOCATION, HeaderValue::from_static("/")),
        (header::SET_COOKIE, cookie),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// What a browser without a token sees.
fn door(refused: bool) -> Response {
    let html = Door::new(refused).render().unwrap_or_default();
    html_response(StatusCode::UNAUTHORIZED, html)
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
