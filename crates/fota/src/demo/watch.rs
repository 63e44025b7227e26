//! The event stream of the server, kept while the story goes on.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fota_client::{Client, Incoming};
use fota_proto::{AttemptState, manager::Event};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

/// How long to wait for an event before looking again: a stream may lose its connection.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Events come in bunches; one look serves them all.
const BUNCH: Duration = Duration::from_millis(20);

/// What has happened so far.
pub struct Watch {
    events: Arc<Mutex<Vec<Event>>>,
    news: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Listens from now on.
    pub fn start(client: &Client) -> Self {
        let (events, news) = (
            Arc::<Mutex<Vec<Event>>>::default(),
            Arc::<Notify>::default(),
        );
        let (keep, tell) = (Arc::clone(&events), Arc::clone(&news));
        let mut stream = client.event_stream(None, None);
        let task = tokio::spawn(async move {
            while let Ok(incoming) = stream.next().await {
                if let Incoming::Event(event) = incoming {
                    keep.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(*event);
                }
                tell.notify_one();
            }
        });
        Self { events, news, task }
    }

    /// Waits for something to happen, or a moment.
    pub async fn next_event(&self) {
        // Either is a reason to look again.
        let _ = timeout(LOOK_AGAIN, self.news.notified()).await;
        tokio::time::sleep(BUNCH).await;
    }

    /// Bytes in the flash of a device while it downloads, in the order of its reports.
    pub fn progress_of(&self, device: &str) -> Vec<u64> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let downloading = events.iter().filter(|event| {
            event.device.as_deref() == Some(device)
                && event.state == Some(AttemptState::Downloading)
        });
        downloading.filter_map(|event| event.bytes_done).collect()
    }

    /// When the newest event happened, by the server's clock.
    pub fn last_at(&self) -> i64 {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().map(|event| event.at).max().unwrap_or(0)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
