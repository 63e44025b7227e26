//! Events on their way to whoever listens.
//!
//! The hub only wakes listeners and carries progress, which is not stored. Stored events come from
//! the database, so a slow listener, a lost connection or an event written by another node loses
//! nothing; [`Recent`] reads the newest of them once for all listeners.

use std::{collections::VecDeque, sync::Arc};

use fota_proto::manager::Event;
use tokio::{
    sync::{Mutex, broadcast},
    time::Instant,
};

use crate::store::{EventFilter, Store, StoreError};

/// Progress events that a slow listener may be behind before it misses some.
const BACKLOG: usize = 1024;

/// What a listener is told.
#[derive(Clone, Debug)]
pub enum News {
    /// The history has grown.
    Stored,
    /// A device has come further; not in the history.
    Progress(Arc<Event>),
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

/// Newest events that are kept; a listener that is further behind reads for itself.
const RECENT_MAX: usize = 4096;
/// Events read at a time.
const BATCH: i64 = 500;

/// The newest stored events. A hundred open dashboards cost one read for each change, not a hundred.
#[derive(Default)]
pub struct Recent(Mutex<Tail>);

#[derive(Default)]
struct Tail {
    /// When the last read began.
    read_at: Option<Instant>,
    /// All events behind this one, as far as they were read, are here.
    first: i64,
    last: i64,
    events: VecDeque<Arc<Event>>,
}

impl Recent {
    /// The events behind `after`, as they are stored now; none where they reach further back than
    /// what is kept.
    pub async fn after(
        &self,
        store: &Store,
        after: i64,
    ) -> Result<Option<Vec<Arc<Event>>>, StoreError> {
        let asked_at = Instant::now();
        let mut tail = self.0.lock().await;
        // A read that began while this listener waited for its turn has seen what it wants to see.
        if tail.read_at.is_none_or(|read_at| read_at < asked_at) {
            tail.read(store, after).await?;
        }
        if after < tail.first {
            return Ok(None);
        }
        let from = tail.events.partition_point(|event| event.id <= after);
        Ok(Some(tail.events.range(from..).cloned().collect()))
    }
}

impl Tail {
    async fn read(&mut self, store: &Store, after: i64) -> Result<(), StoreError> {
        let began = Instant::now();
        if self.read_at.is_none() {
            (self.first, self.last) = (after, after);
        }
        let mut tx = store.read().await?;
        loop {
            let filter = EventFilter {
                device: None,
                rollout: None,
                after: self.last,
                limit: BATCH,
            };
            let events = tx.events(&filter).await?;
            let is_end = (events.len() as i64) < BATCH;
            for event in events {
                self.last = event.id;
                self.events.push_back(Arc::new(event));
            }
            while self.events.len() > RECENT_MAX {
                self.first = self.events.pop_front().map_or(self.first, |event| event.id);
            }
            if is_end {
                self.read_at = Some(began);
                return Ok(());
            }
        }
    }
}
