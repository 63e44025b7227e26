//! Delivers stored events to webhooks: each at least once, in the order of the history.
//!
//! A webhook's place in the history is stored, and moves only past what a receiver has answered with
//! a 2xx, or what its filter leaves out. So a process that ends, however it ends, leaves out nothing;
//! what was delivered since the place was last stored is sent again, under the same id. A lease
//! keeps two nodes from delivering for one webhook at a time.
//!
//! An event that a receiver refuses is tried again until the webhook is disabled: going on with the
//! next would break the order, and leave a hole that nobody sees.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fota_proto::{manager::Event, notify::WebhookDelivery, operators::Secret};
use tokio::{sync::broadcast, task::JoinSet, time::Instant};

use super::{
    message,
    post::{ANSWER_MAX, Sender, Tried},
};
use crate::{
    AppState,
    auth::secret::random_hex,
    domain::{
        model::NewEvent,
        notify::{AfterFailure, Failure, after_failure},
    },
    hub::News,
    random,
    service::commit,
    store::{EventFilter, Place, StoreError, StoredWebhook, Tx},
};

/// Webhooks of a server.
pub const WEBHOOKS_MAX: i64 = 100;
/// Tries of a webhook that are kept for people.
pub const DELIVERIES_KEPT: i64 = 200;
/// Webhooks that are delivered to at the same time.
const CONCURRENT_MAX: usize = 16;
/// How often the history is looked at for what other nodes wrote, and for tries that are due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long news are gathered before the history is looked at.
const GATHER: Duration = Duration::from_millis(50);
/// Events read at once.
const BATCH: i64 = 200;
/// Batches that are read at one look: a webhook that seldom matches must not hold up the others.
const SCAN_BATCHES_MAX: usize = 20;
/// Events that a webhook may be moved past without storing it: what is read again after a start.
const PASSED_MAX: i64 = 10_000;
/// How often a place is stored while deliveries succeed: what may be sent twice after a crash.
const STORE_INTERVAL: Duration = Duration::from_secs(1);
/// Tries that wait to be stored with it.
const UNSTORED_MAX: usize = 50;
/// How long a node that ended keeps a webhook from the others. A place is stored at least every
/// [`STORE_INTERVAL`] and one answer, which renews it.
const LEASE_MS: i64 = 60_000;
const _: () = assert!(
    LEASE_MS as u128 > 2 * (STORE_INTERVAL.as_millis() + ANSWER_MAX.as_millis()),
    "a lease must outlive what one delivery takes"
);

/// What all deliveries share.
struct Courier {
    state: AppState,
    sender: Sender,
    /// Who holds a lease.
    node: String,
    /// Up to where the history holds nothing for a webhook, beyond its stored place: not worth a
    /// write each time.
    passed: Mutex<HashMap<i64, i64>>,
}

/// Delivers until the server ends.
pub async fn run(state: AppState) {
    let courier = match courier(&state) {
        Ok(courier) => Arc::new(courier),
        Err(error) => {
            tracing::error!(%error, "webhooks are not delivered");
            return;
        }
    };
    if let Err(error) = take_over(&state).await {
        tracing::error!(%error, "webhooks wait for the leases of the server before this one");
    }
    let mut news = state.hub.listen();
    let mut work = JoinSet::new();
    let mut busy = HashMap::new();
    loop {
        let taken: BTreeSet<i64> = busy.values().copied().collect();
        match courier.due(&taken).await {
            Ok(turns) => turns.into_iter().for_each(|turn| {
                let id = turn.webhook.id;
                busy.insert(work.spawn(deliver(Arc::clone(&courier), turn)).id(), id);
            }),
            Err(error) => tracing::error!(%error, "webhooks wait for the database"),
        }
        let mut closing = state.closing.clone();
        tokio::select! {
            _ = closing.wait_for(|end| *end) => break,
            Some(ended) = work.join_next_with_id() => {
                let task = ended.map_or_else(|error| error.id(), |(task, ())| task);
                busy.remove(&task);
            }
            () = wait(&mut news) => {}
        }
    }
    // Each stores how far it is and ends.
    while work.join_next().await.is_some() {}
}

/// A data folder with SQLite has one server, so whoever held a lease is gone: nobody waits for it.
async fn take_over(state: &AppState) -> Result<(), StoreError> {
    if state.store.engine() != "sqlite" {
        return Ok(());
    }
    let mut tx = state.store.write().await?;
    tx.end_leases().await?;
    tx.commit().await
}

fn courier(state: &AppState) -> Result<Courier, String> {
    Ok(Courier {
        state: state.clone(),
        sender: Sender::new()?,
        node: random_hex().map_err(|error| error.to_string())?,
        passed: Mutex::default(),
    })
}

/// Waits until there may be something to do.
async fn wait(news: &mut broadcast::Receiver<News>) {
    let stored = async {
        while let Ok(News::Progress(_)) = news.recv().await {}
        tokio::time::sleep(GATHER).await;
    };
    let _ = tokio::time::timeout(LOOK_INTERVAL, stored).await;
}

/// A webhook that is delivered to, and how far it has come.
struct Turn {
    webhook: StoredWebhook,
    place: Place,
    ready: VecDeque<Event>,
    /// Tries that are not stored yet.
    tries: Vec<WebhookDelivery>,
    stored_at: Instant,
}

impl Turn {
    fn new(webhook: StoredWebhook, passed: i64) -> Self {
        let place = Place {
            done_event: webhook.webhook.done_event.max(passed),
            attempts: webhook.webhook.attempts,
            failing_since: webhook.webhook.failing_since,
            retry_at: webhook.webhook.retry_at.unwrap_or(0),
        };
        Self {
            webhook,
            place,
            ready: VecDeque::new(),
            tries: Vec::new(),
            stored_at: Instant::now(),
        }
    }

    /// Whether there is an event to deliver within the next batches; moves past those that the
    /// filter leaves out.
    async fn has_next(&mut self, tx: &mut Tx) -> Result<bool, StoreError> {
        for _ in 0..SCAN_BATCHES_MAX {
            while let Some(event) = self.ready.front() {
                if self.webhook.filter.takes(&event.kind) {
                    return Ok(true);
                }
                self.place.done_event = event.id;
                self.ready.pop_front();
            }
            let filter = EventFilter {
                after: self.place.done_event,
                limit: BATCH,
                ..EventFilter::default()
            };
            self.ready.extend(tx.events(&filter).await?);
            if self.ready.is_empty() {
                return Ok(false);
            }
        }
        // The last batch has not been looked at; the next look reads it again.
        self.ready.clear();
        Ok(false)
    }

    fn needs_storing(&self) -> bool {
        self.stored_at.elapsed() >= STORE_INTERVAL || self.tries.len() >= UNSTORED_MAX
    }
}

impl Courier {
    /// The webhooks for which there is something to deliver now.
    async fn due(&self, busy: &BTreeSet<i64>) -> Result<Vec<Turn>, StoreError> {
        let now = self.state.now_ms();
        let mut tx = self.state.store.read().await?;
        let mut turns = Vec::new();
        for webhook in tx.due_webhooks(&self.node, now).await? {
            if busy.contains(&webhook.id) || busy.len() + turns.len() >= CONCURRENT_MAX {
                continue;
            }
            let id = webhook.id;
            let passed = self.passed().get(&id).copied().unwrap_or(0);
            let mut turn = Turn::new(webhook, passed);
            let passed = |turn: &Turn| turn.place.done_event - turn.webhook.webhook.done_event;
            if turn.has_next(&mut tx).await? || passed(&turn) >= PASSED_MAX {
                turns.push(turn);
            } else {
                self.passed().insert(id, turn.place.done_event);
            }
        }
        Ok(turns)
    }

    fn passed(&self) -> std::sync::MutexGuard<'_, HashMap<i64, i64>> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lease; none where another node was first.
    async fn lease(&self, turn: &Turn) -> Result<Option<Secret>, StoreError> {
        let now = self.state.now_ms();
        let at = (turn.webhook.id, turn.webhook.webhook.done_event);
        let mut tx = self.state.store.write().await?;
        let leased = tx
            .lease_webhook(at, &self.node, now, now + LEASE_MS)
            .await?;
        let secret = match leased {
            true => tx.webhook_secret(turn.webhook.id).await?,
            false => None,
        };
        tx.commit().await?;
        Ok(secret)
    }

    async fn turn(&self, turn: &mut Turn) -> Result<(), StoreError> {
        let Some(secret) = self.lease(turn).await? else {
            return Ok(());
        };
        loop {
            // Once around the store's reader for each batch, not for each event.
            let has_next = match turn.ready.is_empty() {
                false => true,
                true => turn.has_next(&mut self.state.store.read().await?).await?,
            };
            let Some(event) = turn.ready.pop_front().filter(|_| has_next) else {
                break;
            };
            if !turn.webhook.filter.takes(&event.kind) {
                turn.place.done_event = event.id;
                continue;
            }
            let Some(tried) = self.post(turn, &secret, &event).await else {
                break;
            };
            turn.place.attempts += 1;
            turn.tries.push(as_delivery(
                &event,
                turn.place.attempts,
                self.state.now_ms(),
                &tried,
            ));
            if tried.error.is_some() {
                return self.failed(turn, &tried).await;
            }
            turn.place = Place {
                done_event: event.id,
                ..Place::default()
            };
            if turn.needs_storing() && !self.store(turn, LEASE_MS).await? {
                return Ok(());
            }
        }
        self.store(turn, 0).await.map(drop)
    }

    /// One try; none where the server ends in the middle of it: then it counts for nothing.
    async fn post(&self, turn: &Turn, secret: &Secret, event: &Event) -> Option<Tried> {
        let webhook = &turn.webhook.webhook;
        let message = message::of_event(webhook.created_at, event);
        let now = self.state.now_ms();
        let mut closing = self.state.closing.clone();
        tokio::select! {
            _ = closing.wait_for(|end| *end) => None,
            tried = self.sender.post(&webhook.url, secret, &message, now) => Some(tried),
        }
    }

    /// Stores how far the webhook is; false where this node has lost it.
    async fn store(&self, turn: &mut Turn, lease_ms: i64) -> Result<bool, StoreError> {
        let mut tx = self.state.store.write().await?;
        let kept = self.store_in(&mut tx, turn, lease_ms).await?;
        tx.commit().await?;
        Ok(kept)
    }

    async fn store_in(
        &self,
        tx: &mut Tx,
        turn: &mut Turn,
        lease_ms: i64,
    ) -> Result<bool, StoreError> {
        let id = turn.webhook.id;
        let until = if lease_ms == 0 {
            0
        } else {
            self.state.now_ms() + lease_ms
        };
        if !tx.move_webhook(id, &self.node, &turn.place, until).await? {
            return Ok(false);
        }
        for tried in turn.tries.drain(..) {
            tx.append_delivery(id, &tried, DELIVERIES_KEPT).await?;
        }
        turn.stored_at = Instant::now();
        Ok(true)
    }

    /// Stores when the event is tried again, or disables the webhook and says so in the history.
    async fn failed(&self, turn: &mut Turn, tried: &Tried) -> Result<(), StoreError> {
        let now = self.state.now_ms();
        let failure = Failure {
            failing_since: turn.place.failing_since.unwrap_or(now),
            attempts: turn.place.attempts,
            is_gone: tried.is_gone(),
            retry_after_ms: tried.retry_after_ms,
        };
        turn.place.failing_since = Some(failure.failing_since);
        // Without randomness all wait equally long, which does no harm.
        let random = random::bytes().map_or(0, u32::from_le_bytes);
        let reason = match after_failure(&failure, now, random) {
            AfterFailure::Retry { at } => {
                turn.place.retry_at = at;
                return self.store(turn, 0).await.map(drop);
            }
            AfterFailure::Disable { reason } => reason,
        };
        let name = &turn.webhook.webhook.name.clone();
        let (id, done_event) = (turn.webhook.id, turn.place.done_event);
        let mut tx = self.state.store.write().await?;
        if !self.store_in(&mut tx, turn, 0).await? {
            return Ok(());
        }
        tx.set_webhook_enabled(id, false, Some(&reason), done_event)
            .await?;
        tracing::warn!(webhook = %name, %reason, "webhook {name} is disabled");
        let event = NewEvent {
            kind: "webhook.disabled".to_owned(),
            actor: "server",
            text: format!("webhook {name}: {reason}"),
            ..NewEvent::default()
        };
        commit(&self.state, tx, &[event], false).await.map(drop)
    }
}

async fn deliver(courier: Arc<Courier>, mut turn: Turn) {
    if let Err(error) = courier.turn(&mut turn).await {
        let name = &turn.webhook.webhook.name;
        tracing::error!(webhook = %name, %error, "webhook {name} waits for the database");
    }
}

/// A try, for people.
pub fn as_delivery(event: &Event, attempt: u32, at: i64, tried: &Tried) -> WebhookDelivery {
    WebhookDelivery {
        id: 0,
        event: event.id,
        kind: event.kind.clone(),
        attempt,
        at,
        took_ms: tried.took_ms,
        status: tried.status,
        error: tried.error.clone(),
    }
}
