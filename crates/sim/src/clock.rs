//! Virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clock that moves only when told. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Arc<AtomicU64>);

impl SimClock {
    /// A clock at `now_ms`.
    pub fn at(now_ms: u64) -> Self {
        SimClock(Arc::new(AtomicU64::new(now_ms)))
    }

    /// Milliseconds since the beginning of the simulated world.
    pub fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Moves on and gives the new time.
    pub fn advance(&self, ms: u64) -> u64 {
        self.0.fetch_add(ms, Ordering::SeqCst) + ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_show_the_same_time() {
        let clock = SimClock::at(5);
        let other = clock.clone();
        assert_eq!(clock.advance(10), 15);
        assert_eq!(other.now_ms(), 15);
    }
}
