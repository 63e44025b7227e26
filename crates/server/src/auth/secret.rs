//! Tokens and session ids: 256 random bits, of which the server keeps only the SHA-256.
//!
//! A fast hash is right here, and a slow one would be wrong: nobody can try out 2^256 guesses, and
//! every request carries one.

use std::io;

use fota_proto::{Sha256, operators::Secret};
use sha2::Digest;

use crate::{domain::hex, random};

/// Begins every API token, so that scanners for leaked secrets can find it.
pub const TOKEN_PREFIX: &str = "fota_t_";
/// Begins every session id.
pub const SESSION_PREFIX: &str = "fota_s_";
/// Characters of a token that are listed: the prefix and 32 bits of 256.
const SHOWN_CHARS: usize = TOKEN_PREFIX.len() + 8;
/// Random bytes of a token.
const RANDOM_BYTES: usize = 32;

/// Random bytes as hex digits.
///
/// # Errors
/// Where the system has no randomness to give.
pub fn random_hex() -> io::Result<String> {
    Ok(hex::encode(&random::bytes::<RANDOM_BYTES>()?))
}

/// A new token or session id.
///
/// # Errors
/// Like [`random_hex`].
pub fn make(prefix: &str) -> io::Result<Secret> {
    Ok(Secret::new(format!("{prefix}{}", random_hex()?)))
}

/// What is stored of a token.
pub fn digest(token: &str) -> Sha256 {
    Sha256(sha2::Sha256::digest(token.as_bytes()).into())
}

/// What is listed of a token.
pub fn shown(token: &Secret) -> String {
    token.reveal().chars().take(SHOWN_CHARS).collect()
}
