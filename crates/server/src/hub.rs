//! Events on their way to whoever listens.
//!
//! The hub only wakes listeners and carries progress, which is not stored. A stored event is read
//! from the database by each listener, so a slow one, a lost connection or an event written by
//! another node loses nothing.

use fota_proto::manager::Event;
use tokio::sync::broadcast;

/// Progress events that a slow listener may be behind before it misses some.
const BACKLOG: usize = 1024;

/// What a listener is told.
#[derive(Clone, Debug)]
pub enum News {
    /// The history has grown.
    Stored,
    /// A device has come further; not in the history.
    Progress(Box<Event>),
}

/// The sender of news.
pub struct Hub {
    sender: broadcast::Sender<News>,
}

impl Default for Hub {
    fn default() -> Self {
        let (sender, _) = broadcast::channel(BACKLOG);
        Self { sender }
    }
}

impl Hub {
    pub fn listen(&self) -> broadcast::Receiver<News> {
        self.sender.subscribe()
    }

    /// Tells everybody; nobody listening is fine.
    pub fn tell(&self, news: News) {
        drop(self.sender.send(news));
    }
}
