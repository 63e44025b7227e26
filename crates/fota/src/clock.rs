//! The one place of the binary that reads the time.

use tokio::time::Instant;

/// Now, for deadlines and pauses.
#[allow(clippy::disallowed_methods)] // the binary's clock
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    #[allow(clippy::disallowed_methods)] // the binary's clock
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
