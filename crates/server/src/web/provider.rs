//! Logging in with an OpenID Connect provider: there, and back again.

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};

use super::{
    door::{Visit, refused, shut},
    html_response, parameter,
};
use crate::{
    AppState,
    api::problem::Refusal,
    auth::{
        By, Principal, SESSION_MS_MAX, Subject, Via, cookie_named,
        guard::session_cookie,
        oidc::{Answer, Oidc},
        session::{self, New},
    },
    store::Account,
};

/// The cookie that ties a login under way to its browser. It is sent on the way back from the
/// provider, which is another site, so it is `Lax`; it lets nobody in by itself.
const COOKIE: &str = "fota_oidc";
const COOKIE_S_MAX: i64 = 600;
/// A browser that comes from another site would not send the session's `Strict` cookie with a
/// redirect: a page of our own sends it on.
const GO_ON: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
    <meta http-equiv=\"refresh\" content=\"0; url=/\"><title>fota</title>\
    <p><a href=\"/\">Go on</a></p></html>";

fn provider(state: &AppState) -> Result<&Oidc, Refusal> {
    let missing = || Refusal::not_found("login provider: the server was started without one");
    state.auth.oidc.as_ref().ok_or_else(missing)
}

/// `GET /login/oidc`: on to the provider.
pub async fn begin(State(state): State<AppState>, request: Request) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let begun = match provider(&state)?.begin(state.now_ms()).await {
        Ok(begun) => begun,
        Err(refusal) => return Ok(refused(&state, &refusal)),
    };
    let secure = if Visit::of(&parts).is_https {
        "; Secure"
    } else {
        ""
    };
    let id = begun.id.reveal();
    let cookie = format!(
        "{COOKIE}={id}; Path=/login/oidc; HttpOnly; SameSite=Lax; Max-Age={COOKIE_S_MAX}{secure}"
    );
    let headers = [
        (header::LOCATION, begun.url),
        (header::SET_COOKIE, cookie),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

/// `GET /login/oidc/callback`: back from the provider, with a code or a reason.
pub async fn end(State(state): State<AppState>, request: Request) -> Result<Response, Refusal> {
    let provider = provider(&state)?;
    let (parts, _) = request.into_parts();
    let query = |name| parameter(parts.uri.query(), name);
    let Some(code) = query("code") else {
        // What the provider says may be anything; it is not shown as ours.
        return Ok(shut(&state, Some("The login provider let nobody in.")));
    };
    let given = query("state").unwrap_or_default();
    let answer = Answer {
        id: cookie_named(&parts.headers, COOKIE)
            .unwrap_or("")
            .to_owned(),
        code,
        state: given,
    };
    let origin = Visit::of(&parts).origin;
    let by = By::nobody("", &origin.request, origin.address);
    match provider.end(&state, answer, by).await {
        Ok(account) => let_in(&state, &parts, account).await,
        Err(refusal) => Ok(refused(&state, &refusal)),
    }
}

async fn let_in(state: &AppState, parts: &Parts, account: Account) -> Result<Response, Refusal> {
    let visit = Visit::of(parts);
    let new = New {
        verified: account.password.clone(),
        earlier: visit.earlier,
        principal: Principal {
            subject: Subject::User(account.id),
            name: account.name,
            role: account.role,
            account: Some(account.id),
            via: Via::Cookie,
            session: None,
            expires_at: None,
        },
    };
    let begun = session::begin(state, new, &visit.origin).await?;
    let mut response = html_response(StatusCode::OK, GO_ON.to_owned());
    let session = session_cookie(begun.id.reveal(), visit.is_https, SESSION_MS_MAX / 1000);
    let done = format!("{COOKIE}=; Path=/login/oidc; Max-Age=0");
    let cookies = session.into_iter().chain(HeaderValue::from_str(&done));
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}
