//! Where the server gets the time from; nothing else may read a clock (see `clippy.toml`).

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

/// A source of milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that a test or a demo sets.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A manual clock that stands at `now_ms`.
    pub fn manual(now_ms: i64) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(now_ms)))
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        match self {
            Self::System => system_now_ms(),
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Moves a manual clock on; the system clock goes by itself.
    pub fn advance_ms(&self, by: i64) {
        if let Self::Manual(now) = self {
            now.fetch_add(by, Ordering::Relaxed);
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is the clock that everything else asks"
)]
fn system_now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // A clock before 1970 is a broken clock; 0 keeps the server running.
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
