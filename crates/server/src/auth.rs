//! Who may use the manager API: whoever has the operator's token.

use std::{fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::{AppState, api::problem::Refusal};

/// Name of the cookie that the dashboard uses.
pub const COOKIE: &str = "fota_token";
/// File in the data directory.
const FILE: &str = "operator-token";
const TOKEN_BYTES: usize = 32;

/// The operator's token, kept as its digest: comparing digests takes the same time whatever the
/// guess, and the token itself cannot be logged.
#[derive(Clone)]
pub struct Token {
    digest: [u8; 32],
}

impl Token {
    pub fn new(text: &str) -> Self {
        Self {
            digest: Sha256::digest(text.as_bytes()).into(),
        }
    }

    /// Whether `guess` is the token.
    pub fn is(&self, guess: &str) -> bool {
        self.digest == <[u8; 32]>::from(Sha256::digest(guess.as_bytes()))
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
    let token = random_token()?;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(token.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    Ok(token)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a token that could be guessed would be none; no decision depends on it"
)]
fn random_token() -> io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Lets only operators through.
pub async fn require_operator(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    if is_operator(&state, request.headers()) {
        next.run(request).await
    } else {
        refusal().into_response()
    }
}

/// Like [`require_operator`]; open to everybody where the server was started with `--legacy-open`.
/// For the seed's operator paths only.
pub async fn require_operator_or_legacy_open(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    if state.config.legacy_open || is_operator(&state, request.headers()) {
        next.run(request).await
    } else {
        refusal().into_response()
    }
}

/// Whether the request carries the operator's token, as `Authorization: Bearer` or as a cookie.
pub fn is_operator(state: &AppState, headers: &HeaderMap) -> bool {
    let given = bearer(headers).or_else(|| cookie(headers));
    given.is_some_and(|guess| state.token.is(guess))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(header::COOKIE).iter();
    let mut pairs = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn refusal() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        "token_needed",
        "this needs the operator's token: send `Authorization: Bearer TOKEN`; \
         the server keeps it in the file operator-token of its data directory",
    )
}
