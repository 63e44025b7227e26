//! Who is asking, and what they may do.
//!
//! Three things let somebody in, and each is looked up at every request, so that what was revoked
//! or changed counts from the next one on:
//!
//! * the **operator token** in the data directory: the first admin, so that a new server needs no
//!   account;
//! * an **API token** (`fota_t_…`), for programs;
//! * a **session** (`fota_s_…`), which a user gets for name and password; as a cookie in a browser,
//!   or as a bearer token in `fota`.
//!
//! Main path: [`guard::guard`] stands before every route, asks [`identify`], compares the role with
//! the one in [`crate::api::ROUTES`], and hands the handler a [`Principal`] and the [`By`] that the
//! audit log will name.

pub mod failures;
pub mod guard;
#[cfg(feature = "oidc")]
pub mod oidc;
pub mod password;
pub mod secret;
pub mod session;
pub mod throttle;

use std::{
    collections::HashMap,
    fs, io,
    net::IpAddr,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use fota_proto::{
    Sha256,
    operators::{Role, WhoAmI},
};

use crate::{
    AppState,
    api::problem::Refusal,
    domain::audit::NewEntry,
    private_file,
    store::{SessionOf, Store, StoreError, StoredToken, Tx},
};

pub use session::{COOKIE, SESSION_IDLE_MS_MAX, SESSION_MS_MAX};

/// File in the data directory.
const FILE: &str = "operator-token";
/// Name of the operator token in the audit log.
pub const BOOTSTRAP: &str = "operator-token";
/// When a token or session was last used is known to so much: a minute is enough to find one that
/// nobody uses, and makes one write of sixty requests.
const USED_MS_GRAIN: i64 = 60_000;

/// The operator's token, kept as its digest: comparing digests takes the same time whatever the
/// guess, and the token itself cannot be logged.
#[derive(Clone)]
pub struct Token {
    digest: Sha256,
}

impl Token {
    /// Keeps the digest of `text`.
    pub fn new(text: &str) -> Self {
        Self {
            digest: secret::digest(text),
        }
    }

    /// Whether `guess` is the token.
    pub fn is(&self, guess: &str) -> bool {
        self.digest == secret::digest(guess)
    }

    /// What a session for this token is marked with: not the digest that would be compared.
    fn mark(&self) -> String {
        secret::digest(&self.digest.to_string()).to_string()
    }
}

/// The token in the data directory; makes one at the first start.
pub fn load_or_make(data: &Path) -> io::Result<String> {
    let path = data.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let token = secret::random_hex()?;
    private_file::write(&path, format!("{token}\n").as_bytes())?;
    Ok(token)
}

/// Who somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The holder of the operator token.
    Bootstrap,
    /// A user.
    User(i64),
    /// An API token.
    Token(i64),
}

/// How the caller showed who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `Authorization: Bearer`: no browser sends it by itself.
    Bearer,
    /// A cookie: a browser sends it whoever made it ask.
    Cookie,
}

/// Somebody who was let in.
#[derive(Clone, Debug)]
pub struct Principal {
    pub subject: Subject,
    /// Name of the user or token.
    pub name: String,
    pub role: Role,
    /// The user that this is or acts for.
    pub account: Option<i64>,
    pub via: Via,
    /// The session, where there is one.
    pub session: Option<Sha256>,
    pub expires_at: Option<i64>,
}

impl Principal {
    /// As the audit log names it.
    pub fn actor(&self) -> String {
        match self.subject {
            Subject::Bootstrap => BOOTSTRAP.to_owned(),
            Subject::User(_) => format!("user:{}", self.name),
            Subject::Token(_) => format!("token:{}", self.name),
        }
    }

    /// What `GET /api/v1/whoami` says.
    pub fn who(&self) -> WhoAmI {
        WhoAmI {
            actor: self.actor(),
            role: self.role,
            expires_at: self.expires_at,
        }
    }

    fn bootstrap(via: Via) -> Self {
        Self {
            subject: Subject::Bootstrap,
            name: BOOTSTRAP.to_owned(),
            role: Role::Admin,
            account: None,
            via,
            session: None,
            expires_at: None,
        }
    }

    fn token(stored: &StoredToken, via: Via) -> Self {
        Self {
            subject: Subject::Token(stored.token.id),
            name: stored.token.name.clone(),
            role: stored.role(),
            account: stored.owner,
            via,
            session: None,
            expires_at: stored.token.expires_at,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let found = parts.extensions.get::<Self>().cloned();
        found.ok_or_else(guard::token_needed)
    }
}

/// On whose behalf something is changed; goes into the audit log.
#[derive(Clone, Debug)]
pub struct By {
    pub actor: String,
    pub role: String,
    pub request: String,
    pub address: String,
}

impl By {
    /// Somebody that was let in.
    pub fn principal(principal: &Principal, request: &str, address: IpAddr) -> Self {
        Self {
            actor: principal.actor(),
            role: principal.role.to_string(),
            request: request.to_owned(),
            address: address.to_canonical().to_string(),
        }
    }

    /// Somebody of whom nothing is known, on a server that asks for nothing.
    pub fn nobody(actor: &str, request: &str, address: IpAddr) -> Self {
        Self {
            actor: actor.to_owned(),
            role: "none".to_owned(),
            request: request.to_owned(),
            address: address.to_canonical().to_string(),
        }
    }

    /// The server by itself.
    pub fn server() -> Self {
        Self {
            actor: "server".to_owned(),
            role: "none".to_owned(),
            request: String::new(),
            address: String::new(),
        }
    }

    /// The audit entry that this one's deed makes.
    pub fn did(&self, record: Record) -> NewEntry {
        NewEntry {
            actor: self.actor.clone(),
            role: self.role.clone(),
            action: record.action.to_owned(),
            object: record.object,
            detail: record.detail,
            request: self.request.clone(),
            address: self.address.clone(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let found = parts.extensions.get::<Self>().cloned();
        found.ok_or_else(guard::token_needed)
    }
}

/// What was done to what.
#[derive(Clone, Debug)]
pub struct Record {
    pub action: &'static str,
    pub object: String,
    pub detail: String,
}

impl Record {
    /// An action such as `rollout.paused`, on an object such as `rollout:42`.
    pub fn new(action: &'static str, object: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            action,
            object: object.into(),
            detail: detail.into(),
        }
    }
}

/// What is kept in memory about operators.
pub struct Auth {
    pub bootstrap: Token,
    pub hasher: password::Hasher,
    pub throttle: Mutex<throttle::Throttle>,
    pub failures: Mutex<failures::Failures>,
    /// The login provider, where there is one.
    #[cfg(feature = "oidc")]
    pub oidc: Option<oidc::Oidc>,
    used: Mutex<HashMap<Used, i64>>,
    /// When this process began, so that request numbers of two are not the same.
    began_at: i64,
    requests: AtomicU64,
}

/// What was used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Used {
    Token(i64),
    Session(Sha256),
}

impl Auth {
    /// Nothing is remembered yet.
    pub fn new(bootstrap: Token, now: i64) -> Self {
        Self {
            bootstrap,
            hasher: password::Hasher::default(),
            throttle: Mutex::default(),
            failures: Mutex::default(),
            #[cfg(feature = "oidc")]
            oidc: None,
            used: Mutex::default(),
            began_at: now,
            requests: AtomicU64::new(0),
        }
    }

    /// Whether people may log in with a provider.
    pub fn has_provider(&self) -> bool {
        #[cfg(feature = "oidc")]
        return self.oidc.is_some();
        #[cfg(not(feature = "oidc"))]
        false
    }

    /// A number for a request, unlike that of any other.
    pub fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{:x}-{number}", self.began_at)
    }

    /// Notes a use, where the last that is known of is a grain ago.
    fn note(&self, used: Used, known_at: Option<i64>, now: i64) {
        if known_at.is_none_or(|at| now - at >= USED_MS_GRAIN) {
            lock(&self.used).insert(used, now);
        }
    }

    /// The newest use that is known of.
    fn last_use(&self, used: &Used, stored: i64) -> i64 {
        let noted = lock(&self.used).get(used).copied();
        noted.map_or(stored, |noted| noted.max(stored))
    }

    /// Writes what waits: uses, and failed logins.
    pub async fn flush(&self, store: &Store, now: i64, is_end: bool) -> Result<(), StoreError> {
        let used = std::mem::take(&mut *lock(&self.used));
        let failed = lock(&self.failures).take(now, is_end);
        if used.is_empty() && failed.is_none() {
            return Ok(());
        }
        let written = write(store, &used, failed.clone(), now).await;
        if written.is_err() {
            lock(&self.used).extend(used);
            if let Some(failed) = failed {
                lock(&self.failures).put_back(failed);
            }
        }
        written
    }
}

async fn write(
    store: &Store,
    used: &HashMap<Used, i64>,
    failed: Option<failures::Tally>,
    now: i64,
) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    for (used, at) in used {
        match used {
            Used::Token(id) => tx.touch_token(*id, *at).await?,
            Used::Session(hash) => tx.touch_session(*hash, *at).await?,
        }
    }
    if let Some(failed) = failed {
        let entry = By::server().did(failed.record());
        tx.append_audit(entry, now).await?;
    }
    tx.commit().await
}

/// Locks what no code panics with.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who sends these headers; none where nothing in them lets anybody in.
pub async fn identify(
    state: &AppState,
    headers: &HeaderMap,
) -> Result<Option<Principal>, StoreError> {
    if let Some(text) = bearer(headers) {
        return of_bearer(state, text).await;
    }
    match cookie(headers) {
        Some(id) => of_session(state, id, Via::Cookie).await,
        None => Ok(None),
    }
}

/// Whom a text lets in that was sent as a bearer token.
pub async fn of_bearer(state: &AppState, text: &str) -> Result<Option<Principal>, StoreError> {
    if state.auth.bootstrap.is(text) {
        return Ok(Some(Principal::bootstrap(Via::Bearer)));
    }
    if text.starts_with(secret::SESSION_PREFIX) {
        return of_session(state, text, Via::Bearer).await;
    }
    // Anything else is not worth a look into the database.
    if !text.starts_with(secret::TOKEN_PREFIX) {
        return Ok(None);
    }
    let now = state.now_ms();
    let mut tx = state.store.read().await?;
    let found = tx.token_by_hash(secret::digest(text)).await?;
    let Some(stored) = found.filter(|stored| !stored.is_over(now)) else {
        return Ok(None);
    };
    let id = stored.token.id;
    state.auth.note(Used::Token(id), stored.token.used_at, now);
    Ok(Some(Principal::token(&stored, Via::Bearer)))
}

async fn of_session(state: &AppState, id: &str, via: Via) -> Result<Option<Principal>, StoreError> {
    let (hash, now) = (secret::digest(id), state.now_ms());
    let mut tx = state.store.read().await?;
    let Some(session) = tx.session(hash).await? else {
        return Ok(None);
    };
    let used = Used::Session(hash);
    let seen_at = state.auth.last_use(&used, session.seen_at);
    if session.expires_at <= now || seen_at + SESSION_IDLE_MS_MAX <= now {
        return Ok(None);
    }
    let Some(principal) = owner(state, &mut tx, &session.of, via, now).await? else {
        return Ok(None);
    };
    state.auth.note(used, Some(seen_at), now);
    let ends = principal.expires_at.unwrap_or(i64::MAX);
    Ok(Some(Principal {
        session: Some(hash),
        expires_at: Some(session.expires_at.min(ends)),
        ..principal
    }))
}

async fn owner(
    state: &AppState,
    tx: &mut Tx,
    of: &SessionOf,
    via: Via,
    now: i64,
) -> Result<Option<Principal>, StoreError> {
    Ok(match of {
        SessionOf::Bootstrap(mark) => {
            (*mark == state.auth.bootstrap.mark()).then(|| Principal::bootstrap(via))
        }
        SessionOf::Token(id) => {
            let stored = tx.token(*id).await?.filter(|stored| !stored.is_over(now));
            stored.map(|stored| Principal::token(&stored, via))
        }
        SessionOf::Account(id) => tx.account(*id).await?.map(|account| Principal {
            subject: Subject::User(account.id),
            name: account.name,
            role: account.role,
            account: Some(account.id),
            via,
            session: None,
            expires_at: None,
        }),
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The session id in the cookie.
pub fn cookie(headers: &HeaderMap) -> Option<&str> {
    cookie_named(headers, COOKIE)
}

/// The value of a cookie.
pub fn cookie_named<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let values = headers.get_all(header::COOKIE).iter();
    let mut pairs = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// The server's own trouble with randomness: nothing the caller could do about.
pub fn no_randomness(error: &io::Error) -> Refusal {
    tracing::error!(%error, "the system gives no random numbers");
    let detail = "the server's system gave no random numbers: see the server's log";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no_randomness", detail)
}
