//! Ctrl-C, listened for from one moment on: whenever it is pressed, it is seen once.

#[cfg(unix)]
use tokio::signal::unix::Signal as Source;
#[cfg(windows)]
use tokio::signal::windows::CtrlC as Source;

use crate::failure::{Failure, Result};

/// The presses of Ctrl-C since this was made. While it lives, Ctrl-C does not end the program.
pub struct Interrupts(Source);

impl Interrupts {
    pub fn listen() -> Result<Self> {
        #[cfg(unix)]
        let source = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
        #[cfg(windows)]
        let source = tokio::signal::windows::ctrl_c();
        source
            .map(Self)
            .map_err(|error| Failure::error(format!("Ctrl-C: {error}")))
    }

    /// Returns when it is pressed, or at once where it was since the last time.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}
