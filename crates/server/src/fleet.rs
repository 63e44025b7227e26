//! What is kept in memory about devices, so that "nothing new for you" costs no database.
//!
//! A device that says the same as last time, when nothing was ordered and no plan has changed
//! since, gets the same answer: the decision is a pure function, so its result may be remembered.
//! All of this can be lost at any moment; what it holds back from the database for at most a
//! second is only when devices were seen and how many bytes went out.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use fota_proto::Sha256;

use crate::{
    AppState,
    domain::{
        model::{Plan, Report},
        step::Decision,
    },
    service::advance,
    store::{Store, StoreError, Tx},
};

/// How long sightings and byte counts wait before they are written together.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// For how long a rollout that was found full is taken to be: a place stays free so long at most.
const FULL_MS: i64 = 1000;

/// See the module.
#[derive(Default)]
pub struct Fleet {
    /// The newest generation of the plan that this node knows of.
    generation: AtomicI64,
    plan: Mutex<Arc<Plan>>,
    quiet: Mutex<HashMap<String, Quiet>>,
    /// Rollouts that were found full, and until when they are taken to be: of the devices that
    /// wait for a place one a moment asks the database, not all of them.
    full: Mutex<HashMap<i64, i64>>,
    pending: Mutex<Pending>,
    seeds: RandomState,
}

/// The last answer to a device that had nothing to do.
struct Quiet {
    fingerprint: u64,
    generation: i64,
    heard_at: i64,
    retry_after_s: u32,
    /// When a rule may say something else by itself.
    valid_until: Option<i64>,
    /// The rollout whose limits hold the device.
    limited: Option<i64>,
}

impl Quiet {
    /// The device comes no later than the rule that holds it changes.
    fn retry_after_s(&self, now: i64) -> u32 {
        let left_ms = self.valid_until.map(|until| (until - now).max(0));
        let left_s = left_ms.map(|ms| u32::try_from(ms / 1000 + 1).unwrap_or(u32::MAX));
        match (self.limited, left_s) {
            (None, Some(left_s)) => self.retry_after_s.min(left_s),
            _ => self.retry_after_s,
        }
    }
}

/// What is to be written with the next flush.
#[derive(Default)]
struct Pending {
    seen: HashMap<String, i64>,
    sent: HashMap<(String, Sha256), Sent>,
}

/// Bytes and requests of downloads.
#[derive(Clone, Copy, Default)]
struct Sent {
    bytes: u64,
    requests: u64,
}

impl Fleet {
    /// The answer to a report that says nothing new.
    pub fn remembered(&self, report: &Report, now: i64) -> Option<Decision> {
        let fingerprint = self.fingerprint(report);
        let mut quiet = lock(&self.quiet);
        let last = quiet.get_mut(report.device.as_str())?;
        let holds = last.fingerprint == fingerprint
            && last.generation == self.generation.load(Ordering::Acquire)
            && !report.has_crashed_since(last.heard_at, now)
            && self.still_holds(last, now);
        last.heard_at = now;
        let retry_after_s = last.retry_after_s(now);
        let (valid_until, limited) = (last.valid_until, last.limited);
        drop(quiet);
        if !holds {
            return None;
        }
        self.saw(report.device.as_str(), now);
        Some(Decision {
            retry_after_s,
            acknowledged: None,
            order: None,
            valid_until,
            limited,
        })
    }

    /// Whether nothing that time or others change can have changed the answer.
    fn still_holds(&self, last: &Quiet, now: i64) -> bool {
        match last.limited {
            Some(rollout) => lock(&self.full)
                .get(&rollout)
                .is_some_and(|until| now < *until),
            None => last.valid_until.is_none_or(|until| now < until),
        }
    }

    /// Keeps the answer where it was "nothing for you"; forgets an earlier one otherwise.
    pub fn remember(&self, report: &Report, decision: &Decision, generation: i64, now: i64) {
        if let Some(rollout) = decision.limited {
            lock(&self.full).insert(rollout, now + FULL_MS);
        }
        let is_quiet = decision.order.is_none()
            && report.outcome.is_none()
            && report.progress.is_none()
            && !report.on_trial();
        let mut quiet = lock(&self.quiet);
        if !is_quiet {
            quiet.remove(report.device.as_str());
            return;
        }
        let last = Quiet {
            fingerprint: self.fingerprint(report),
            generation,
            heard_at: now,
            retry_after_s: decision.retry_after_s,
            valid_until: decision.valid_until,
            limited: decision.limited,
        };
        quiet.insert(report.device.to_string(), last);
    }

    /// Forgets what is remembered of a device.
    pub fn forget(&self, device: &str) {
        lock(&self.quiet).remove(device);
    }

    /// 64 bits under a key of this process: a device can only ever be taken for itself.
    fn fingerprint(&self, report: &Report) -> u64 {
        let mut hasher = self.seeds.build_hasher();
        let Report {
            protocol,
            chip,
            chip_revision,
            elf,
            version,
            project,
            confirmed,
            slot,
            slots,
            rollback_slot,
            reset,
            trust,
            patches,
            attributes,
            metrics,
            waits,
            ..
        } = report;
        (attributes, metrics, waits).hash(&mut hasher);
        (protocol, chip, chip_revision, elf, version, project).hash(&mut hasher);
        (confirmed, slot, rollback_slot, reset, trust, patches).hash(&mut hasher);
        for held in slots {
            (
                held.slot,
                held.bytes,
                held.state as u8,
                held.elf,
                &held.version,
            )
                .hash(&mut hasher);
        }
        let is_busy = report.outcome.is_some() || report.progress.is_some();
        is_busy.hash(&mut hasher);
        hasher.finish()
    }

    /// The plan as the transaction sees it; read from the database only where it has changed.
    pub async fn plan(&self, tx: &mut Tx) -> Result<Arc<Plan>, StoreError> {
        let generation = tx.generation().await?;
        let known = lock(&self.plan).clone();
        if known.generation == generation {
            return Ok(known);
        }
        let fresh = Arc::new(tx.plan(&known.log).await?);
        let mut plan = lock(&self.plan);
        // Another request may have read a newer plan meanwhile.
        if plan.generation < fresh.generation {
            *plan = Arc::clone(&fresh);
        }
        Ok(fresh)
    }

    /// The newest plan that this node knows of, without the database unless it has changed.
    pub async fn newest_plan(&self, store: &Store) -> Result<Arc<Plan>, StoreError> {
        let known = lock(&self.plan).clone();
        if known.generation >= self.generation.load(Ordering::Acquire) {
            return Ok(known);
        }
        self.plan(&mut store.read().await?).await
    }

    /// Takes note that the plan has changed.
    pub fn learn_generation(&self, generation: i64) {
        self.generation.fetch_max(generation, Ordering::AcqRel);
    }

    /// Notes that a device was seen.
    pub fn saw(&self, device: &str, now: i64) {
        lock(&self.pending).seen.insert(device.to_owned(), now);
    }

    /// When a device was last seen: since the last flush, or else when the database says.
    pub fn last_seen(&self, device: &str, stored: i64) -> i64 {
        let pending = lock(&self.pending);
        pending.seen.get(device).copied().unwrap_or(stored)
    }

    /// Counts bytes that went out to a device.
    pub fn sent(&self, device: &str, image: Sha256, bytes: u64, requests: u64) {
        let mut pending = lock(&self.pending);
        let sent = pending.sent.entry((device.to_owned(), image)).or_default();
        sent.bytes += bytes;
        sent.requests += requests;
    }

    /// Writes what waits.
    pub async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let Pending { seen, sent } = std::mem::take(&mut *lock(&self.pending));
        if seen.is_empty() && sent.is_empty() {
            return Ok(());
        }
        let written = write(store, &seen, &sent).await;
        if written.is_err() {
            self.put_back(seen, sent);
        }
        written
    }

    fn put_back(&self, seen: HashMap<String, i64>, sent: HashMap<(String, Sha256), Sent>) {
        let mut pending = lock(&self.pending);
        for (device, at) in seen {
            pending.seen.entry(device).or_insert(at);
        }
        for (key, earlier) in sent {
            let now = pending.sent.entry(key).or_default();
            now.bytes += earlier.bytes;
            now.requests += earlier.requests;
        }
    }
}

async fn write(
    store: &Store,
    seen: &HashMap<String, i64>,
    sent: &HashMap<(String, Sha256), Sent>,
) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    for (device, at) in seen {
        tx.touch_device(device, *at).await?;
    }
    for ((device, image), sent) in sent {
        tx.add_sent(device, *image, sent.bytes, sent.requests)
            .await?;
    }
    tx.commit().await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks, and a map is whole between two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Flushes each second until the server ends, and hears of changes that other nodes made.
pub async fn run(state: AppState) {
    let mut closing = state.closing.clone();
    loop {
        let waiting = tokio::time::timeout(FLUSH_INTERVAL, closing.wait_for(|end| *end));
        let ended = waiting.await.is_ok();
        if let Err(error) = tick(&state).await {
            tracing::error!(%error, "sightings and byte counts wait for the database");
        }
        if ended {
            return;
        }
        if let Err(error) = advance::tick(&state).await {
            tracing::error!(%error, "waves and timeouts wait for the database");
        }
    }
}

async fn tick(state: &AppState) -> Result<(), StoreError> {
    flush(state).await?;
    let (auth, now) = (&state.auth, state.now_ms());
    auth.flush(&state.store, now, false).await?;
    let mut tx = state.store.read().await?;
    state.fleet.learn_generation(tx.generation().await?);
    let credentials = tx.credential_generation().await?;
    state.identities.learn_generation(credentials);
    Ok(())
}

/// Writes all that waits in memory.
pub async fn flush(state: &AppState) -> Result<(), StoreError> {
    state.fleet.flush(&state.store).await?;
    state.identities.flush(&state.store).await
}
