//! The login, the logout, and links that carry a token.

use askama::Template;
use axum::{
    extract::{Request, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use fota_proto::operators::{LoginRequest, Secret};

use super::{assets, html_response};
use crate::{
    AppState,
    api::{
        extract::{require_type, whole_body},
        problem::Refusal,
    },
    auth::{
        self, By, Principal, SESSION_MS_MAX,
        failures::Failure,
        guard::{self, go_home, is_from_elsewhere, is_https, must_be_csrf_token, session_cookie},
        lock,
        session::{self, Begun, New, Origin},
    },
};

/// Longest form: names, passwords and tokens are short, and nobody is known yet.
const FORM_BYTES_MAX: u64 = 8 * 1024;

/// The login, shown to a browser that nobody is known to be behind.
#[derive(Template)]
#[template(path = "door.html")]
struct Door<'a> {
    style: &'static str,
    icon: &'static str,
    /// Why the last try did not work.
    refused: Option<&'a str>,
    /// Whether people may log in with a provider.
    has_provider: bool,
}

impl<'a> Door<'a> {
    fn new(refused: Option<&'a str>, has_provider: bool) -> Self {
        Self {
            style: assets::style().path(),
            icon: assets::icon().path(),
            refused,
            has_provider,
        }
    }
}

/// The login page, with the reason why the last try did not work.
pub fn shut(state: &AppState, refused: Option<&str>) -> Response {
    let html = Door::new(refused, state.auth.has_provider())
        .render()
        .unwrap_or_default();
    html_response(StatusCode::UNAUTHORIZED, html)
}

/// The login page with the server's own words and status.
pub fn refused(state: &AppState, refusal: &Refusal) -> Response {
    let mut response = shut(state, Some(refusal.detail()));
    *response.status_mut() = refusal.status();
    let asked = refusal.clone().into_response();
    if let Some(wait) = asked.headers().get(header::RETRY_AFTER) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, wait.clone());
    }
    response
}

/// The fields of a form.
struct Form(Vec<(String, String)>);

impl Form {
    async fn read(parts: &Parts, body: axum::body::Body) -> Result<Self, Refusal> {
        require_type(&parts.headers, "application/x-www-form-urlencoded")?;
        let bytes = whole_body(body, FORM_BYTES_MAX).await?;
        Ok(Self(form_urlencoded::parse(&bytes).into_owned().collect()))
    }

    fn field(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// `POST /login`: `user` and `password`, or `token`.
pub async fn login(State(state): State<AppState>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let form = Form::read(&parts, body).await?;
    let visit = Visit::of(&parts);
    if let Some(token) = form.field("token") {
        return visit.with_token(&state, token).await;
    }
    let field = |name| form.field(name).unwrap_or("");
    let asked = LoginRequest {
        user: field("user").trim().to_owned(),
        password: Secret::new(field("password")),
    };
    let begun = session::login(&state, &asked, &visit.origin, visit.earlier).await;
    Ok(begun.map_or_else(
        |refusal| refused(&state, &refusal),
        |begun| visit.let_in(&begun),
    ))
}

/// `GET /?token=T`: a session, and on to the page without it.
pub async fn exchange(state: &AppState, parts: &Parts, token: &str) -> Result<Response, Refusal> {
    if is_from_elsewhere(&parts.headers) {
        // Another site would log the browser in under a token of its own choice.
        let refused = "A page of another site led here with a token: open the link yourself.";
        return Ok(shut(state, Some(refused)));
    }
    Visit::of(parts).with_token(state, token).await
}

/// `POST /logout`: ends the browser's session.
pub async fn logout(State(state): State<AppState>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let form = Form::read(&parts, body).await?;
    let is_https = is_https(&parts.extensions);
    let gone = go_home(session_cookie("", is_https, 0));
    let known = parts.extensions.get::<Principal>();
    let by = parts.extensions.get::<By>();
    let (Some(principal), Some(by)) = (known, by) else {
        // It has ended already.
        return Ok(gone);
    };
    let id = auth::cookie(&parts.headers).unwrap_or("");
    must_be_csrf_token(id, form.field("csrf").unwrap_or(""))?;
    session::end(&state, principal, by).await?;
    Ok(gone)
}

/// A browser that wants in.
pub struct Visit {
    pub origin: Origin,
    pub is_https: bool,
    /// The session that it has until now.
    pub earlier: Option<fota_proto::Sha256>,
}

fn origin(extensions: &axum::http::Extensions) -> Origin {
    let found = extensions.get::<Origin>().cloned();
    found.unwrap_or_else(|| Origin {
        address: guard::client_address(extensions),
        request: String::new(),
    })
}

fn earlier(extensions: &axum::http::Extensions) -> Option<fota_proto::Sha256> {
    extensions.get::<Principal>()?.session
}

impl Visit {
    /// What a request says of it.
    pub fn of(parts: &Parts) -> Self {
        Self {
            origin: origin(&parts.extensions),
            is_https: is_https(&parts.extensions),
            earlier: earlier(&parts.extensions),
        }
    }

    async fn with_token(&self, state: &AppState, token: &str) -> Result<Response, Refusal> {
        let Some(principal) = auth::of_bearer(state, token.trim()).await? else {
            lock(&state.auth.failures).note(Failure::Unknown, self.origin.address);
            return Ok(shut(state, Some("This server does not know that token.")));
        };
        if principal.session.is_some() {
            // The id of a session is no token: two places would share one session.
            return Ok(shut(state, Some("This server does not know that token.")));
        }
        let new = New {
            principal,
            earlier: self.earlier,
            verified: None,
        };
        let begun = session::begin(state, new, &self.origin).await?;
        Ok(self.let_in(&begun))
    }

    /// Gives the browser the session, in a cookie that no script can read and no other site can
    /// make it send.
    fn let_in(&self, begun: &Begun) -> Response {
        let max_age_s = SESSION_MS_MAX / 1000;
        let cookie = session_cookie(begun.id.reveal(), self.is_https, max_age_s);
        go_home(cookie)
    }
}
