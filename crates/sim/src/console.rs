//! What simulated devices say on their serial lines.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

type Listener = dyn Fn(&str, &str) + Send + Sync;

/// Where the lines of one or many devices go; cloning is cheap.
#[derive(Clone)]
pub struct Console(Arc<Listener>);

impl Console {
    /// Calls `listener` with device id and line.
    pub fn new(listener: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Nobody listens.
    pub fn silent() -> Self {
        Self::new(|_, _| {})
    }

    /// Keeps every line, as `ID: LINE`, for a test to look at.
    pub fn kept() -> (Self, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&lines);
        let console = Self::new(move |device, line| {
            let mut lines = keep.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push(format!("{device}: {line}"));
        });
        (console, lines)
    }

    /// A device says a line.
    pub fn say(&self, device: &str, line: impl fmt::Display) {
        (self.0)(device, &line.to_string());
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Console")
    }
}
