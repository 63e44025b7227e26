//! What every request handler shares.

use std::{ops::Deref, path::PathBuf, sync::Arc};

use tokio::sync::{Mutex, Semaphore, watch};

use crate::{
    Clock, Config,
    auth::Auth,
    blobs::Blobs,
    domain::history::History,
    fleet::Fleet,
    hub::Hub,
    identities::Identities,
    online_key::OnlineKey,
    service::{deltas::Deltas, watch::Watches},
    store::Store,
};

/// Uploads read into memory at the same time; each may hold an image of 16 MiB.
const UPLOADS_MAX: usize = 4;

/// The shared state; cloning it is cheap.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

/// What [`AppState`] points to.
pub struct Shared {
    pub config: Config,
    pub clock: Clock,
    pub store: Store,
    pub blobs: Blobs,
    /// What is kept in memory about devices.
    pub fleet: Fleet,
    /// What is kept in memory about who is who.
    pub identities: Identities,
    /// What makes patches.
    pub deltas: Deltas,
    /// When to look at which rollout again.
    pub watches: Watches,
    /// Events on their way to listeners.
    pub hub: Hub,
    /// Who may do what, and who tried.
    pub auth: Auth,
    /// Signs answers to devices.
    pub online_key: OnlineKey,
    /// Which version ran where, for the chart; read from the events as they come.
    pub history: Mutex<History>,
    /// Turns for uploads.
    pub uploads: Semaphore,
    /// Becomes true when the server is to end.
    pub closing: watch::Receiver<bool>,
}

impl Deref for AppState {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl AppState {
    pub(crate) fn new(
        config: Config,
        clock: Clock,
        store: Store,
        blobs: Blobs,
        auth: Auth,
        online_key: OnlineKey,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self(Arc::new(Shared {
            config,
            clock,
            store,
            blobs,
            fleet: Fleet::default(),
            identities: Identities::default(),
            deltas: Deltas::default(),
            hub: Hub::default(),
            watches: Watches::default(),
            auth,
            online_key,
            history: Mutex::default(),
            uploads: Semaphore::new(UPLOADS_MAX),
            closing,
        }))
    }

    /// Milliseconds since the Unix epoch, by the server's clock.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Where the blobs of a data directory are.
    pub(crate) fn blobs_folder(data: &std::path::Path) -> PathBuf {
        data.join("blobs")
    }
}
