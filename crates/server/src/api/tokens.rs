use axum::{Json, extract::State, http::StatusCode};
use fota_proto::{
    manager::{Page, Problem},
    operators::{NewToken, Role, Token, TokenRequest},
};

use super::{
    extract::{Json as JsonBody, Query, Segment},
    page::{PageQuery, after, limit, page},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::{By, Principal, Record, Subject, guard::role_needed, no_randomness, secret},
    service::{commit_by, rollouts::device_id},
    store::StoredToken,
};

/// Longest life of a token that ends: ten years.
const EXPIRES_S_MAX: u64 = 10 * 366 * 24 * 60 * 60;
/// Tokens of a server.
const TOKENS_MAX: i64 = 10_000;

/// Tokens by number: one's own, or for an admin those of everybody.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", params(PageQuery),
    responses((status = 200, body = Page<Token>)))]
pub async fn list(
    State(state): State<AppState>,
    principal: Principal,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Token>>, Refusal> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?.unwrap_or(0);
    let stored = state.store.read().await?.tokens(after, TOKENS_MAX).await?;
    let visible = stored
        .into_iter()
        .filter(|stored| is_own(&principal, stored) || principal.role >= Role::Admin);
    let items = visible.map(|stored| stored.token);
    let items = items.take(usize::try_from(limit).unwrap_or(0)).collect();
    Ok(Json(page(items, limit, |token: &Token| {
        token.id.to_string()
    })))
}

fn is_own(principal: &Principal, stored: &StoredToken) -> bool {
    let same_user = principal.account.is_some() && principal.account == stored.owner;
    same_user || principal.subject == Subject::Token(stored.token.id)
}

/// Makes a token, which is shown this once. It may at most what its maker may.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = TokenRequest,
    responses((status = 201, body = NewToken), (status = 403, body = Problem), (status = 409, body = Problem)))]
pub async fn create(
    State(state): State<AppState>,
    principal: Principal,
    by: By,
    JsonBody(body): JsonBody<TokenRequest>,
) -> Result<(StatusCode, Json<NewToken>), Refusal> {
    let name = device_id("name", &body.name)?.to_string();
    let now = state.now_ms();
    let expires_at = expiry(body.expires_in_s, now)?;
    let is_token = matches!(principal.subject, Subject::Token(_));
    // A leaked token must not be able to outlive its revocation.
    if body.role > principal.role || (is_token && principal.role < Role::Admin) {
        return Err(role_needed(&principal, body.role.max(Role::Operator)));
    }
    let made = secret::make(secret::TOKEN_PREFIX).map_err(|error| no_randomness(&error))?;
    let mut token = Token {
        id: 0,
        name,
        role: body.role,
        owner: None,
        prefix: secret::shown(&made),
        created_at: now,
        expires_at,
        used_at: None,
    };
    let hash = secret::digest(made.reveal());
    let mut tx = state.store.write().await?;
    if tx.count_tokens().await? >= TOKENS_MAX {
        let detail = format!("there are {TOKENS_MAX} tokens already: revoke those not in use");
        return Err(Refusal::conflict("too_many_tokens", detail));
    }
    let inserted = tx.insert_token(&token, principal.account, hash).await?;
    token.id = inserted.ok_or_else(|| {
        let detail = format!("token {} exists already: choose another name", token.name);
        Refusal::conflict("token_exists", detail).of("name")
    })?;
    let stored = tx.token(token.id).await?;
    token.owner = stored.and_then(|stored| stored.token.owner);
    let detail = format!("{} as {}", token.prefix, token.role);
    let record = Record::new("token.created", object(&token), detail);
    commit_by(&state, tx, &by, record, &[], false).await?;
    let made = NewToken {
        secret: made,
        token,
    };
    Ok((StatusCode::CREATED, Json(made)))
}

fn object(token: &Token) -> String {
    format!("token:{}", token.name)
}

fn expiry(expires_in_s: Option<u64>, now: i64) -> Result<Option<i64>, Refusal> {
    let Some(seconds) = expires_in_s else {
        return Ok(None);
    };
    if !(1..=EXPIRES_S_MAX).contains(&seconds) {
        let detail = format!(
            "expires_in_s is {seconds}: give 1 to {EXPIRES_S_MAX}, or leave it out for a token \
             that does not end"
        );
        return Err(Refusal::field("expires_in_s", detail));
    }
    let ms = i64::try_from(seconds * 1000).unwrap_or(i64::MAX);
    Ok(Some(now.saturating_add(ms)))
}

/// Revokes a token: it lets nobody in from the next request on.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens",
    params(("id" = i64, Path, description = "Token")),
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn revoke(
    State(state): State<AppState>,
    principal: Principal,
    by: By,
    Segment(id): Segment,
) -> Result<StatusCode, Refusal> {
    let shown: String = id.chars().take(40).collect();
    let number: Result<i64, _> = id.parse();
    let id = number
        .map_err(|_| Refusal::field("id", format!("id is {shown:?}: give a token's number")))?;
    let mut tx = state.store.write().await?;
    // Of what one may not see, one does not learn that it is there.
    let found = tx.token(id).await?;
    let found = found.filter(|stored| is_own(&principal, stored) || principal.role >= Role::Admin);
    let found = found.ok_or_else(|| Refusal::not_found(format!("token {id}")).of("id"))?;
    tx.delete_token(id).await?;
    let record = Record::new("token.revoked", object(&found.token), found.token.prefix);
    commit_by(&state, tx, &by, record, &[], false).await?;
    Ok(StatusCode::NO_CONTENT)
}
