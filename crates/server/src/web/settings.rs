//! Settings: who may do what, groups, who is told of events, keys, and how the server is.

pub mod groups;
mod health;
pub mod others;
pub mod people;

use askama::Template;
use axum::{Json, extract::State, response::Response};
use fota_proto::{
    manager::{EnrolmentKey, EnrolmentKeyState, Group, Root, ServerInfo},
    notify::{Webhook, WebhookDelivery},
    operators::{Role, Token, User},
};

use super::{
    chrome::{Ask, Chrome, screen},
    fault::Fault,
    pieces::{Badge, Cli, When},
    time::iso,
};
use crate::{
    AppState,
    api::{
        extract::Query, fleet, page::PageQuery, problem::Refusal, roots, tokens, users, webhooks,
    },
    auth::Subject,
    service::{enrolment, view as facts},
};

/// Rows of each list.
const ROWS: u32 = 200;

#[derive(Template)]
#[template(path = "settings.html")]
struct Settings {
    chrome: Chrome,
    /// A secret that was just made: shown this once.
    made: Option<Made>,
    tested: Option<Tested>,
    /// Whether who asks has a password here.
    is_user: bool,
    tokens: Vec<TokenRow>,
    roles: Vec<Role>,
    users: Option<Vec<(User, When)>>,
    groups: Vec<Group>,
    enrolment_keys: Option<Vec<(EnrolmentKey, String)>>,
    roots: Vec<RootRow>,
    server: ServerInfo,
    webhooks: Option<Vec<WebhookRow>>,
    health: Vec<health::Fact>,
    clock: String,
    doctor: Cli,
    backup: Cli,
}

/// A secret that is shown once.
struct Made {
    what: &'static str,
    name: String,
    secret: String,
}

/// What came of the test of a webhook.
struct Tested {
    name: String,
    delivery: WebhookDelivery,
}

struct WebhookRow {
    webhook: Webhook,
    kinds: String,
    state: Badge,
    detail: String,
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
    page(&state, &ask, None, None).await
}

fn all() -> Query<PageQuery> {
    Query(PageQuery {
        after: None,
        limit: Some(ROWS),
    })
}

async fn page(
    state: &AppState,
    ask: &Ask,
    made: Option<Made>,
    tested: Option<Tested>,
) -> Result<Response, Fault> {
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
    let webhooks = match ask.may(Role::Operator) {
        true => Some(webhooks::list(to(), all()).await?.0.items),
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
        tested,
        is_user: matches!(ask.principal.subject, Subject::User(_)),
        webhooks: webhooks.map(|all| all.into_iter().map(|one| webhook_row(one, now)).collect()),
        health: health::facts(state).await?,
        clock: iso(now),
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
        backup: Cli::new("fota backup fota.tar"),
    })
}

fn webhook_row(webhook: Webhook, now: i64) -> WebhookRow {
    let (state, detail) = match (webhook.enabled, webhook.failing_since) {
        (false, _) => {
            let reason = webhook.reason.clone().unwrap_or_default();
            (Badge::new("pause", "disabled", "idle"), reason)
        }
        (true, Some(since)) => {
            let since = When::new(since, now).ago;
            let detail = format!("since {since}, {} tries", webhook.attempts);
            (Badge::new("cross", "failing", "bad"), detail)
        }
        (true, None) => {
            let detail = format!("up to event {}", webhook.done_event);
            (Badge::new("tick", "delivers", "ok"), detail)
        }
    };
    WebhookRow {
        kinds: webhook.events.join(", "),
        state,
        detail,
        webhook,
    }
}

fn unknown(what: &str, action: &str) -> Fault {
    let shown: String = action.chars().take(40).collect();
    Refusal::not_found(format!("action {shown:?} of a {what}")).into()
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
