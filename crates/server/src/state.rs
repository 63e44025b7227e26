//! What every request handler shares.

use std::{ops::Deref, path::PathBuf, sync::Arc};

use tokio::sync::{Mutex, Semaphore, watch};

use crate::{
    Clock, Config,
    auth::Auth,
    blobs::Blobs,
    domain::history::History,
    fleet::Fleet,
    health::Health,
    hub::{Hub, Recent},
    identities::Identities,
    online_key::OnlineKey,
    service::{deltas::Deltas, watch::Watches},
    store::Store,
    web::SharedScreens,
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
    /// The newest events, read once for all who listen.
    pub recent: Recent,
    /// What is rendered once for all who look.
    pub shared: SharedScreens,
    /// Who may do what, and who tried.
    pub auth: Auth,
    /// Signs answers to devices.
    pub online_key: OnlineKey,
    /// How parts of the server are.
    pub health: Health,
    /// Which version ran where, for the chart; read from the events as they come.
    pub history: Mutex<History>,
    /// Turns for uploads.
    pub uploads: Arc<Semaphore>,
    /// The turn for a backup: two at once would only be slower.
    pub backups: Arc<Semaphore>,
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
            recent: Recent::default(),
            shared: SharedScreens::default(),
            watches: Watches::default(),
            auth,
            online_key,
            health: Health::default(),
            history: Mutex::default(),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            backups: Arc::new(Semaphore::new(1)),
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
