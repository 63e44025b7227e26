//! Settings: tokens, users, groups, signing keys, and what the server is.

use askama::Template;
use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use fota_proto::{
    manager::{EnrolmentKey, Group, GroupDevices, GroupRequest, Root, ServerInfo},
    operators::{Role, Secret, Token, TokenRequest, User, UserRequest},
};

use super::{
    chrome::{Ask, Chrome, screen},
    confirm::go,
    fault::Fault,
    form::Form,
    pieces::{Cli, When},
    time::iso,
};
use crate::{
    AppState,
    api::{
        extract::{Json as JsonBody, Query, Segment},
        fleet, groups,
        page::PageQuery,
        problem::Refusal,
        roots, tokens, users,
    },
    auth::{By, Principal},
    service::{enrolment, view as facts},
};

/// Rows of each list.
const ROWS: u32 = 200;
const DAY_S: u64 = 24 * 60 * 60;

#[derive(Template)]
#[template(path = "settings.html")]
struct Settings {
    chrome: Chrome,
    /// A token that was just made: shown this once.
    made: Option<Made>,
    tokens: Vec<TokenRow>,
    roles: Vec<Role>,
    users: Option<Vec<(User, When)>>,
    groups: Vec<Group>,
    enrolment_keys: Option<Vec<(EnrolmentKey, String)>>,
    roots: Vec<RootRow>,
    server: ServerInfo,
    doctor: Cli,
}

struct Made {
    name: String,
    secret: String,
}

struct TokenRow {
    token: Token,
    made: When,
    used: Option<When>,
    ends: String,
}

struct RootRow {
    root: Root,
    expires: String,
    is_newest: bool,
}

/// `GET /settings`.
pub async fn show(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    page(&state, &ask, None).await
}

fn all() -> Query<PageQuery> {
    Query(PageQuery {
        after: None,
        limit: Some(ROWS),
    })
}

async fn page(state: &AppState, ask: &Ask, made: Option<Made>) -> Result<Response, Fault> {
    let now = state.now_ms();
    let to = || State(state.clone());
    let Json(tokens) = tokens::list(to(), ask.principal.clone(), all()).await?;
    let users = match ask.may(Role::Admin) {
        true => Some(users::list(to(), all()).await?.0.items),
        false => None,
    };
    let enrolment_keys = match ask.may(Role::Operator) {
        true => Some(enrolment::list(state).await?),
        false => None,
    };
    let Json(roots) = roots::list(to(), all()).await?;
    let Json(server) = fleet::server(to()).await?;
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let groups = facts::groups(&mut tx, &plan, None).await?;
    drop(tx);
    let newest = roots.items.first().map(|root| root.version);
    screen(&Settings {
        chrome: Chrome::new(state, ask, "/settings", "Settings"),
        made,
        tokens: tokens
            .items
            .into_iter()
            .map(|token| token_row(token, now))
            .collect(),
        roles: Role::ALL
            .into_iter()
            .filter(|role| ask.may(*role))
            .collect(),
        users: users.map(|users| {
            let users = users.into_iter();
            users
                .map(|user| (user.clone(), When::new(user.created_at, now)))
                .collect()
        }),
        enrolment_keys: enrolment_keys.map(|keys| {
            let keys = keys.into_iter();
            keys.map(|key| (key.clone(), iso(key.expires_at))).collect()
        }),
        groups,
        roots: roots
            .items
            .into_iter()
            .map(|root| RootRow {
                expires: root.expires.map_or_else(|| "never".into(), seconds),
                is_newest: Some(root.version) == newest,
                root,
            })
            .collect(),
        server,
        doctor: Cli::new("fota doctor"),
    })
}

fn seconds(at: u64) -> String {
    iso(i64::try_from(at.saturating_mul(1000)).unwrap_or(i64::MAX))
}

fn token_row(token: Token, now: i64) -> TokenRow {
    TokenRow {
        made: When::new(token.created_at, now),
        used: token.used_at.map(|at| When::new(at, now)),
        ends: token.expires_at.map_or_else(|| "never".into(), iso),
        token,
    }
}

/// `POST /settings/tokens`: the page again, with the token on it this once.
pub async fn create_token(
    State(state): State<AppState>,
    principal: Principal,
    by: By,
    ask: Ask,
    form: Form,
) -> Result<Response, Fault> {
    let days = form.text("days");
    let shown: String = days.chars().take(20).collect();
    let days: Option<u64> =
        match days {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                Refusal::field("days", format!("days is {shown:?}: give digits only"))
            })?),
        };
    let request = TokenRequest {
        name: form.text("name").to_owned(),
        role: role(form.text("role"))?,
        expires_in_s: days.map(|days| days.saturating_mul(DAY_S)),
    };
    let to = State(state.clone());
    let (_, Json(made)) = tokens::create(to, principal, by, JsonBody(request)).await?;
    let made = Made {
        name: made.token.name,
        secret: made.secret.reveal().to_owned(),
    };
    page(&state, &ask, Some(made)).await
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
        password: Secret::new(form.text("password")),
    };
    let (_, Json(_)) = users::create(State(state), by, JsonBody(request)).await?;
    Ok(go("/settings#users"))
}

/// `POST /settings/groups`: makes one, or adds devices to one.
pub async fn change_group(
    State(state): State<AppState>,
    by: By,
    form: Form,
) -> Result<Response, Fault> {
    let name = form.text("name").to_owned();
    let devices = form.text("devices").split([' ', ',', '\n', '\r', '\t']);
    let add: Vec<_> = devices
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
        .collect();
    let exists = state.store.read().await?.group_exists(&name).await?;
    if !exists || add.is_empty() {
        let request = GroupRequest { name: name.clone() };
        let to = State(state.clone());
        let (_, Json(_)) = groups::create(to, by.clone(), JsonBody(request)).await?;
    }
    if !add.is_empty() {
        let body = JsonBody(GroupDevices { add });
        let Json(_) = groups::add_devices(State(state), by, Segment(name), body).await?;
    }
    Ok(go("/settings#groups"))
}
