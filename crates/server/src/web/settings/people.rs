//! Tokens, users and their passwords.

use axum::{
    Extension, Json,
    extract::{Path, State},
    response::Response,
};
use fota_proto::operators::{
    PasswordRequest, Role, RoleRequest, Secret, TokenRequest, UserRequest,
};

use super::{Made, page, unknown};
use crate::{
    AppState,
    api::{
        extract::{Json as JsonBody, Segment},
        problem::Refusal,
        tokens, users,
    },
    auth::{By, Principal, session::Origin},
    web::{chrome::Ask, confirm::go, fault::Fault, form::Form},
};

const DAY_S: u64 = 24 * 60 * 60;

/// `POST /settings/tokens`: the page again, with the token on it this once.
pub async fn create_token(
    State(state): State<AppState>,
    principal: Principal,
    by: By,
    ask: Ask,
    form: Form,
) -> Result<Response, Fault> {
    let days: Option<u64> = form.number("days")?;
    let request = TokenRequest {
        name: form.text("name").to_owned(),
        role: role(form.text("role"))?,
        expires_in_s: days.map(|days| days.saturating_mul(DAY_S)),
    };
    let to = State(state.clone());
    let (_, Json(made)) = tokens::create(to, principal, by, JsonBody(request)).await?;
    let made = Made {
        what: "token",
        name: made.token.name,
        secret: made.secret.reveal().to_owned(),
    };
    page(&state, &ask, Some(made), None).await
}

fn role(text: &str) -> Result<Role, Refusal> {
    text.parse()
        .map_err(|error: fota_proto::operators::NoRole| Refusal::field("role", error.to_string()))
}

/// `POST /settings/tokens/{id}/revoke`.
pub async fn revoke_token(
    State(state): State<AppState>,
    principal: Principal,
    by: By,
    Path(id): Path<String>,
    _form: Form,
) -> Result<Response, Fault> {
    tokens::revoke(State(state), principal, by, Segment(id)).await?;
    Ok(go("/settings#tokens"))
}

/// `POST /settings/users`: makes one.
pub async fn create_user(
    State(state): State<AppState>,
    by: By,
    form: Form,
) -> Result<Response, Fault> {
    let request = UserRequest {
        name: form.text("name").to_owned(),
        role: role(form.text("role"))?,
        password: Secret::new(form.whole("password")),
    };
    let (_, Json(_)) = users::create(State(state), by, JsonBody(request)).await?;
    Ok(go("/settings#users"))
}

/// `POST /settings/users/{name}/{action}`: `role`, `password` or `remove`.
pub async fn change_user(
    State(state): State<AppState>,
    principal: Principal,
    by: By,
    origin: Extension<Origin>,
    Path((name, action)): Path<(String, String)>,
    form: Form,
) -> Result<Response, Fault> {
    let (to, name) = (State(state), Segment(name));
    match action.as_str() {
        "role" => {
            let role = role(form.text("role"))?;
            let Json(_) = users::set_role(to, by, name, JsonBody(RoleRequest { role })).await?;
        }
        "password" => {
            let body = password(&form);
            users::set_password(to, principal, by, origin, name, JsonBody(body)).await?;
        }
        "remove" => {
            users::remove(to, by, name).await?;
        }
        action => return Err(unknown("user", action)),
    }
    Ok(go("/settings#users"))
}

/// `POST /settings/password`: one's own. The session ends with it, so the login comes next.
pub async fn own_password(
    State(state): State<AppState>,
    principal: Principal,
    by: By,
    origin: Extension<Origin>,
    form: Form,
) -> Result<Response, Fault> {
    let name = Segment(principal.name.clone());
    let body = JsonBody(password(&form));
    users::set_password(State(state), principal, by, origin, name, body).await?;
    Ok(go("/"))
}

/// A password may begin or end with a blank.
fn password(form: &Form) -> PasswordRequest {
    let current = Some(form.whole("current")).filter(|text| !text.is_empty());
    PasswordRequest {
        password: Secret::new(form.whole("password")),
        current: current.map(Secret::new),
    }
}
