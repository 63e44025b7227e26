//! Where randomness comes from; nothing else may ask for it (see `clippy.toml`).

use std::io;

/// Bytes that nobody can guess.
#[allow(
    clippy::disallowed_methods,
    reason = "a secret or a challenge that could be guessed would be none; no decision depends on it"
)]
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}
