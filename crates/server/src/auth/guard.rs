//! Stands before every route: finds its row in the table of routes, and lets through who may.
//!
//! **Why a cookie needs more than a cookie.** A browser adds it to whatever request a page causes,
//! also a page of somebody else; so that a cookie came says nothing about who wanted the request.
//! Two things must be added to a request that changes something. The browser's own word that the
//! request comes from this server's page (`Sec-Fetch-Site`, or `Origin` where a browser on plain
//! HTTP does not send it), which no page can forge. And the session's CSRF token, as a header or
//! form field, which a page of another origin cannot read, and which it cannot send as a header
//! without a preflight that is never answered. `SameSite=Strict` on the cookie is the third lock.
//! A bearer token is added by no browser by itself, so it needs none of this.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::LazyLock,
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use fota_proto::operators::Role;

use super::{By, Principal, Via, cookie, identify, secret, session::Origin};
use crate::{
    AppState,
    api::problem::Refusal,
    api::{self, Access, problem},
    http::{self, ClientAddr},
    web,
};

/// The header that carries the CSRF token of a browser's session.
pub const CSRF_HEADER: &str = "x-fota-csrf";
/// The header of the answer with the number of the request in the audit log.
const REQUEST_ID_HEADER: &str = "x-request-id";

static ACCESS: LazyLock<HashMap<(&str, &str), Access>> = LazyLock::new(|| {
    let tables = [api::ROUTES, api::COMPAT_ROUTES, api::WEB_ROUTES];
    let rows = tables.into_iter().flatten();
    rows.map(|(method, path, access)| ((*method, *path), *access))
        .collect()
});

/// Lets a request through to its handler, or refuses it. A route without a row in the tables is
/// refused to everybody: forgetting one opens nothing.
pub async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(path) = request.extensions().get::<MatchedPath>() else {
        return next.run(request).await;
    };
    let method = match *request.method() {
        Method::HEAD => "GET",
        ref method => method.as_str(),
    };
    let Some(access) = ACCESS.get(&(method, path.as_str())) else {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        return problem::method_not_allowed(method, uri)
            .await
            .into_response();
    };
    if *access == Access::Open {
        return next.run(request).await;
    }
    guarded(&state, *access, request, next).await
}

async fn guarded(state: &AppState, access: Access, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let origin = Origin {
        address: client_address(&parts.extensions),
        request: state.auth.request_id(),
    };
    let admitted = admit(state, access, &parts, &origin).await;
    let mut response = match admitted {
        Err(refusal) if matches!(access, Access::Screen(_)) => web::refused(state, &refusal),
        Err(refusal) => refusal.into_response(),
        Ok((principal, by)) => {
            if let Some(principal) = principal {
                parts.extensions.insert(principal);
            }
            if let Some(by) = by {
                parts.extensions.insert(by);
            }
            parts.extensions.insert(origin.clone());
            next.run(Request::from_parts(parts, body)).await
        }
    };
    if let Ok(value) = HeaderValue::from_str(&origin.request) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

type Admitted = (Option<Principal>, Option<By>);

async fn admit(
    state: &AppState,
    access: Access,
    parts: &Parts,
    origin: &Origin,
) -> Result<Admitted, Refusal> {
    let principal = identify(state, &parts.headers).await?;
    let by = |principal: &Principal| By::principal(principal, &origin.request, origin.address);
    let need = match access {
        Access::Open => return Ok((principal, None)),
        Access::Page => {
            if changes(&parts.method) {
                must_be_same_origin(&parts.headers, &parts.extensions)?;
            }
            let by = principal.as_ref().map(by);
            return Ok((principal, by));
        }
        Access::Legacy(need) if state.config.legacy_open => {
            let may = principal.filter(|principal| principal.role >= need);
            let nobody = || By::nobody("legacy-open", &origin.request, origin.address);
            let by = may.as_ref().map_or_else(nobody, by);
            return Ok((may, Some(by)));
        }
        Access::Legacy(need) | Access::Role(need) | Access::Screen(need) => need,
    };
    let principal = principal.ok_or_else(token_needed)?;
    if principal.role < need {
        return Err(role_needed(&principal, need));
    }
    if principal.via == Via::Cookie && changes(&parts.method) {
        must_be_same_origin(&parts.headers, &parts.extensions)?;
        // A form carries its token in its body, where `web::form` looks before it gives a field.
        if !matches!(access, Access::Screen(_)) {
            must_carry_csrf(&parts.headers)?;
        }
    }
    let by = by(&principal);
    Ok((Some(principal), Some(by)))
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Where the connection came from; what has no connection is this process itself.
pub fn client_address(extensions: &Extensions) -> IpAddr {
    let found = extensions.get::<ClientAddr>();
    found.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ClientAddr(address)| {
        *address
    })
}

/// Whether a browser says that its request comes from a page of this server.
fn must_be_same_origin(headers: &HeaderMap, extensions: &Extensions) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let asked = extensions
        .get::<http::Via>()
        .and_then(|via| via.host.as_deref());
    let is_same = match text("sec-fetch-site") {
        Some(site) => site == "same-origin",
        None => match (text("origin"), asked.or(text("host"))) {
            (Some(origin), Some(host)) => is_origin_of(origin, host),
            _ => false,
        },
    };
    if is_same {
        return Ok(());
    }
    Err(csrf_refused(
        "this request was not sent by a page of this server: open the page again and repeat it \
         there, or use a bearer token",
    ))
}

/// Whether a page of somebody else sends the browser here; what a person typed or pasted, or a
/// terminal opened, is nobody's page.
pub fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers
        .get("sec-fetch-site")
        .and_then(|site| site.to_str().ok());
    matches!(site, Some("cross-site" | "same-site"))
}

fn is_origin_of(origin: &str, host: &str) -> bool {
    let authority = origin.parse::<Uri>().ok();
    let authority = authority.as_ref().and_then(Uri::authority);
    authority.is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(host))
}

fn must_carry_csrf(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers
        .get(CSRF_HEADER)
        .and_then(|value| value.to_str().ok());
    let id = cookie(headers).unwrap_or("");
    must_be_csrf_token(id, given.unwrap_or(""))
}

/// Refuses what is not the CSRF token of this session.
pub fn must_be_csrf_token(session_id: &str, given: &str) -> Result<(), Refusal> {
    // Digests of both: the time of comparing them tells nothing.
    if secret::digest(&csrf_token(session_id)) == secret::digest(given) {
        return Ok(());
    }
    Err(csrf_refused(
        "the header x-fota-csrf (in a form: the field csrf) is not this session's: reload the \
         page, or use a bearer token",
    ))
}

/// The CSRF token of a session. It follows from the session's id, so nothing has to be stored, and
/// says nothing about it.
pub fn csrf_token(session_id: &str) -> String {
    secret::digest(&format!("fota csrf 1\n{session_id}")).to_string()
}

fn csrf_refused(detail: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "csrf", detail)
}

/// For a caller of whom nothing is known.
pub fn token_needed() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        "token_needed",
        "this needs a login or a token: `fota login`, or send `Authorization: Bearer TOKEN`; \
         the server keeps its first token in the file operator-token of its data directory",
    )
}

/// For a caller who may less than it takes.
pub fn role_needed(principal: &Principal, need: Role) -> Refusal {
    let (actor, role) = (principal.actor(), principal.role);
    let detail = format!("this needs the role {need}; {actor} has the role {role}: ask an admin");
    Refusal::new(StatusCode::FORBIDDEN, "role_needed", detail)
}

/// Whether the browser spoke TLS, so that its cookie may be kept to it.
pub fn is_https(extensions: &Extensions) -> bool {
    let via = extensions.get::<http::Via>();
    via.is_some_and(|via| via.https)
}

/// The cookie that a browser keeps for a session; empty and expired to take it away.
pub fn session_cookie(id: &str, is_https: bool, max_age_s: i64) -> Option<HeaderValue> {
    let secure = if is_https { "; Secure" } else { "" };
    let name = super::COOKIE;
    let text =
        format!("{name}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age_s}{secure}");
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The headers that send a browser on with a cookie, or without one.
pub fn go_home(cookie: Option<HeaderValue>) -> Response {
    let headers = [
        (header::LOCATION, HeaderValue::from_static("/")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let mut response = (StatusCode::SEE_OTHER, headers).into_response();
    if let Some(cookie) = cookie {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_this_servers_pages_are_the_same_origin() {
        let host = ("host", "fota.lan:8080");
        let good = [
            vec![host, ("sec-fetch-site", "same-origin")],
            vec![host, ("origin", "http://fota.lan:8080")],
            vec![host, ("origin", "https://FOTA.lan:8080")],
        ];
        for pairs in good {
            let judged = must_be_same_origin(&headers(&pairs), &Extensions::new());
            assert!(judged.is_ok(), "{pairs:?}");
        }
        let bad = [
            vec![host],
            vec![host, ("origin", "null")],
            vec![host, ("origin", "http://evil.example")],
            vec![host, ("origin", "http://fota.lan:8081")],
            vec![host, ("origin", "http://fota.lan:8080.evil.example")],
            vec![host, ("sec-fetch-site", "cross-site")],
            vec![host, ("sec-fetch-site", "same-site")],
            vec![host, ("sec-fetch-site", "none")],
            vec![
                host,
                ("sec-fetch-site", "cross-site"),
                ("origin", "http://fota.lan:8080"),
            ],
            vec![("origin", "http://fota.lan:8080")],
        ];
        for pairs in bad {
            let judged = must_be_same_origin(&headers(&pairs), &Extensions::new());
            assert!(judged.is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn behind_a_proxy_the_host_is_the_one_that_the_browser_asked_for() {
        let pairs = [("host", "127.0.0.1:8080"), ("origin", "https://fota.lan")];
        let mut extensions = Extensions::new();
        assert!(must_be_same_origin(&headers(&pairs), &extensions).is_err());
        extensions.insert(http::Via {
            https: true,
            host: Some("fota.lan".to_owned()),
        });
        assert!(must_be_same_origin(&headers(&pairs), &extensions).is_ok());
        let cookie = session_cookie("x", is_https(&extensions), 1).expect("a cookie");
        assert!(cookie.to_str().expect("text").ends_with("; Secure"));
    }
}
