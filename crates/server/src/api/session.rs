use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use fota_proto::{
    manager::Problem,
    operators::{Login, LoginRequest, WhoAmI},
};

use super::{
    extract::{parse_json, require_type, whole_body},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::{
        By, Principal,
        guard::client_address,
        session::{self, Origin},
    },
};

/// Longest body of a login: names and passwords are short, and nobody is known yet.
const LOGIN_BYTES_MAX: u64 = 8 * 1024;

/// Begins a session of a user; its id is used as a bearer token.
#[utoipa::path(post, path = "/api/v1/session", tag = "session", security(()), request_body = LoginRequest,
    responses((status = 201, body = Login), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 429, body = Problem)))]
pub async fn login(
    State(state): State<AppState>,
    request: Request,
) -> Result<(StatusCode, Json<Login>), Refusal> {
    let (parts, body) = request.into_parts();
    require_type(&parts.headers, "application/json")?;
    let body = whole_body(body, LOGIN_BYTES_MAX).await?;
    let asked: LoginRequest = parse_json(&body)?;
    let origin = Origin {
        address: client_address(&parts.extensions),
        request: state.auth.request_id(),
    };
    let begun = session::login(&state, &asked, &origin, None).await?;
    let login = Login {
        token: begun.id,
        who: begun.principal.who(),
    };
    Ok((StatusCode::CREATED, Json(login)))
}

/// Ends the session that the request is made with; a token goes on.
#[utoipa::path(delete, path = "/api/v1/session", tag = "session",
    responses((status = 204), (status = 401, body = Problem)))]
pub async fn logout(
    State(state): State<AppState>,
    principal: Principal,
    by: By,
) -> Result<StatusCode, Refusal> {
    session::end(&state, &principal, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who the caller is, and what it may do.
#[utoipa::path(get, path = "/api/v1/whoami", tag = "session",
    responses((status = 200, body = WhoAmI), (status = 401, body = Problem)))]
pub async fn whoami(principal: Principal) -> Json<WhoAmI> {
    Json(principal.who())
}
