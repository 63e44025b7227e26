//! Sessions: begun with a password or a token, ended by time, by their owner, or by an admin.

use std::net::IpAddr;

use axum::http::StatusCode;
use fota_proto::{
    Sha256,
    operators::{LoginRequest, Secret},
};

use super::{
    By, Principal, Record, Subject, Via, failures::Failure, lock, no_randomness,
    password::PasswordError, secret,
};
use crate::{
    AppState,
    api::problem::Refusal,
    store::{Account, Session, SessionOf},
};

/// Name of the cookie that holds the id of a browser's session.
pub const COOKIE: &str = "fota_session";
/// A session ends after so long without a request: a working day.
pub const SESSION_IDLE_MS_MAX: i64 = 12 * 60 * 60 * 1000;
/// A session ends after so long in any case.
pub const SESSION_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1000;
/// Sessions of one owner; the oldest ends where another begins.
const SESSIONS_MAX: i64 = 32;
/// Longest name that is looked up.
const NAME_BYTES_MAX: usize = 64;

/// Where a request came from.
#[derive(Clone, Debug)]
pub struct Origin {
    pub address: IpAddr,
    pub request: String,
}

/// A session that has begun.
pub struct Begun {
    /// Its id; the server keeps only its hash.
    pub id: Secret,
    pub principal: Principal,
}

/// Begins a session for a name and a password.
pub async fn login(
    state: &AppState,
    request: &LoginRequest,
    origin: &Origin,
    earlier: Option<Sha256>,
) -> Result<Begun, Refusal> {
    let account = check(state, request, origin.address).await?;
    let verified = account.password.clone();
    let principal = Principal {
        subject: Subject::User(account.id),
        name: account.name,
        role: account.role,
        account: Some(account.id),
        via: Via::Cookie,
        session: None,
        expires_at: None,
    };
    let new = New {
        principal,
        earlier,
        verified,
    };
    begin(state, new, origin).await
}

/// Whose name and password these are; as slow, and with the same answer, where nobody has the name.
pub async fn check(
    state: &AppState,
    request: &LoginRequest,
    address: IpAddr,
) -> Result<Account, Refusal> {
    let name: String = request.user.chars().take(NAME_BYTES_MAX).collect();
    let fail = |failure: Failure<'_>| lock(&state.auth.failures).note(failure, address);
    let begun = lock(&state.auth.throttle).begin(&name, address, state.now_ms());
    if let Err(wait_ms) = begun {
        fail(Failure::Early);
        return Err(too_early(wait_ms));
    }
    let found = state.store.read().await?.account_named(&name).await?;
    let stored = found.as_ref().and_then(|found| found.password.as_deref());
    let is_right = match state.auth.hasher.is(&request.password, stored).await {
        Ok(is_right) => is_right,
        Err(error) => {
            lock(&state.auth.throttle).withdrawn(&name, address);
            return Err(unhashed(error));
        }
    };
    match found {
        Some(account) if is_right => {
            lock(&state.auth.throttle).succeeded(&name, address, state.now_ms());
            Ok(account)
        }
        found => {
            let known = found.as_ref();
            fail(known.map_or(Failure::Unknown, |known| Failure::Wrong(&known.name)));
            Err(wrong())
        }
    }
}

/// A session that is to begin.
pub struct New {
    pub principal: Principal,
    /// The session that the browser had until now.
    pub earlier: Option<Sha256>,
    /// The password hash that was looked at, for a user.
    pub verified: Option<String>,
}

/// Begins a session with a new id. The session that the browser had until now ends, so an id that
/// somebody planted in it is worth nothing afterwards.
pub async fn begin(state: &AppState, new: New, origin: &Origin) -> Result<Begun, Refusal> {
    let New {
        principal,
        earlier,
        verified,
    } = new;
    let id = secret::make(secret::SESSION_PREFIX).map_err(|error| no_randomness(&error))?;
    let now = state.now_ms();
    let ends = principal.expires_at.unwrap_or(i64::MAX);
    let session = Session {
        hash: secret::digest(id.reveal()),
        of: match principal.subject {
            Subject::Bootstrap => SessionOf::Bootstrap(state.auth.bootstrap.mark()),
            Subject::User(id) => SessionOf::Account(id),
            Subject::Token(id) => SessionOf::Token(id),
        },
        created_at: now,
        seen_at: now,
        expires_at: ends.min(now + SESSION_MS_MAX),
    };
    let by = By::principal(&principal, &origin.request, origin.address);
    let record = Record::new("session.started", principal.actor(), "");
    let mut tx = state.store.write().await?;
    // Hashing takes its time: a password that was set meanwhile, or a user or token that has gone,
    // must not leave a session behind.
    let still_is = match session.of {
        SessionOf::Account(id) => {
            let account = tx.account(id).await?;
            account.is_some_and(|account| account.password == verified)
        }
        SessionOf::Token(id) => tx.token(id).await?.is_some(),
        SessionOf::Bootstrap(_) => true,
    };
    if !still_is {
        return Err(wrong());
    }
    if let Some(earlier) = earlier {
        tx.delete_session(earlier).await?;
    }
    tx.delete_old_sessions(now, now - SESSION_IDLE_MS_MAX)
        .await?;
    // Only the newest stay, and this is one of them.
    tx.keep_newest_sessions(&session.of, SESSIONS_MAX - 1)
        .await?;
    tx.insert_session(&session).await?;
    tx.append_audit(by.did(record), now).await?;
    tx.commit().await?;
    Ok(Begun {
        id,
        principal: Principal {
            session: Some(session.hash),
            expires_at: Some(session.expires_at),
            ..principal
        },
    })
}

/// Ends the caller's session; false where it has none.
pub async fn end(state: &AppState, principal: &Principal, by: &By) -> Result<bool, Refusal> {
    let Some(hash) = principal.session else {
        return Ok(false);
    };
    let mut tx = state.store.write().await?;
    let was_there = tx.delete_session(hash).await?;
    let record = Record::new("session.ended", principal.actor(), "");
    tx.append_audit(by.did(record), state.now_ms()).await?;
    tx.commit().await?;
    Ok(was_there)
}

fn wrong() -> Refusal {
    let detail = "no user has this name with this password: check both";
    Refusal::new(StatusCode::UNAUTHORIZED, "login_wrong", detail)
}

fn too_early(wait_ms: i64) -> Refusal {
    let wait_s = u32::try_from((wait_ms + 999) / 1000).unwrap_or(u32::MAX);
    let detail = format!(
        "too many logins have failed: wait {wait_s} s, or use a token; tokens are not held up"
    );
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "login_too_early", detail).retry_after_s(wait_s)
}

/// What a password hash that could not be made means for the caller.
pub fn unhashed(error: PasswordError) -> Refusal {
    match error {
        PasswordError::Busy => {
            let detail = format!("{error}: wait a second and try again");
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "login_busy", detail).retry_after_s(1)
        }
        PasswordError::System => {
            tracing::error!(%error, "a password could not be hashed");
            let detail = format!("{error}: see the server's log");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "password_hash", detail)
        }
    }
}
