//! The workers: each takes a job out of the database, makes the patch on a thread of its own, and
//! stores what became of it.
//!
//! | what happens | the job |
//! |---|---|
//! | a worker takes it | `making`, leased for [`LEASE_MS`] and renewed while it is made |
//! | it is made and decodes to the image | `ready`; its bytes are a blob before that is said |
//! | it does not, or cannot be made | `failed` |
//! | it is hardly shorter than the image | `useless` |
//! | the server ends in order | `queued` again |
//! | the server dies | taken again: at its start where it is alone, else when the lease is over |
//! | that happens [`TRIES_MAX`] times | `failed`: it may be what the server dies of |

use std::time::Duration;

use bytes::Bytes;
use fota_image::Grouped;
use fota_proto::{checkin::Patch, checkin::PatchProfile};
use tokio::{
    sync::{Notify, Semaphore, oneshot, watch},
    time::sleep,
};

use super::make::{Encode, NotMade, make};
use crate::{
    AppState,
    blobs::{self, BlobError},
    domain::{
        delta::{Delta, State, profile_name},
        model::{NewEvent, Release},
    },
    service::commit,
    store::{Made, StoreError, Tx},
};

/// How long a job is a worker's own unless it says that it is still at it.
const LEASE_MS: i64 = 15_000;
/// A third, so that one renewal that is late loses nothing.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often a worker that nobody wakes looks for jobs: those of other servers, and of dead ones.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a job is begun before it is given up.
const TRIES_MAX: u64 = 3;
/// Bytes of images that are worked on at the same time. The encoder takes some thirty times as
/// much: several pairs of a usual 1 MiB, or one of the largest.
const IMAGES_BYTES_MAX: u64 = 8 * 1024 * 1024;
const KIB: u64 = 1024;

/// What workers share.
pub struct Deltas {
    news: Notify,
    memory: Semaphore,
}

impl Default for Deltas {
    fn default() -> Self {
        Self {
            news: Notify::new(),
            memory: Semaphore::new((IMAGES_BYTES_MAX / KIB) as usize),
        }
    }
}

impl Deltas {
    /// Tells a worker that there may be a job.
    pub fn wake(&self) {
        self.news.notify_one();
    }
}

/// What must happen before the workers start: on SQLite a server is alone on its data, so whoever
/// was at a job is dead.
pub async fn take_up(state: &AppState) -> Result<(), StoreError> {
    if state.store.engine() != "sqlite" {
        return Ok(());
    }
    let mut tx = state.store.write().await?;
    let jobs = tx.end_delta_leases().await?;
    if jobs > 0 {
        tracing::info!(
            jobs,
            "patches that were being made when the server ended are made again"
        );
    }
    tx.commit().await
}

/// One worker, until the server ends.
pub async fn run(state: AppState) {
    let mut closing = state.closing.clone();
    while !*closing.borrow() {
        match work(&state).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "patches wait for the database"),
        }
        tokio::select! {
            () = ended(&mut closing) => return,
            () = state.deltas.news.notified() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

async fn ended(closing: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could end the server: it has ended.
    drop(closing.wait_for(|end| *end).await);
}

/// Does one job; false where there is none.
async fn work(state: &AppState) -> Result<bool, StoreError> {
    // Looking costs a reader only; the turn to write is taken where there is something.
    let mut tx = state.store.read().await?;
    if tx.next_delta(state.now_ms()).await?.is_none() {
        return Ok(false);
    }
    drop(tx);
    let mut tx = state.store.write().await?;
    let now = state.now_ms();
    let Some(delta) = tx.next_delta(now).await? else {
        return Ok(false);
    };
    let tries = tx.claim_delta(delta.id, now + LEASE_MS).await?;
    let Some(job) = Job::read(&mut tx, delta).await? else {
        return Ok(false);
    };
    if tries > TRIES_MAX {
        let why = format!(
            "it was begun {TRIES_MAX} times and never ended, so the server may die of it: give it \
             more memory, then `fota release delta build` again"
        );
        store(state, tx, &job, Err(NotMade::Failed(why)), now).await?;
        return Ok(true);
    }
    tx.commit().await?;
    // Another worker may take the next one.
    state.deltas.wake();
    let Some(made) = made(state, &job).await? else {
        return Ok(false);
    };
    let made = put(state, made).await;
    let tx = state.store.write().await?;
    store(state, tx, &job, made, now).await?;
    Ok(true)
}

/// A patch to make, with its images' names.
struct Job {
    delta: Delta,
    release: Release,
    from: Option<Release>,
}

impl Job {
    async fn read(tx: &mut Tx, delta: Delta) -> Result<Option<Self>, StoreError> {
        let from = match delta.from {
            Some(from) => tx.release(from).await?,
            None => None,
        };
        let release = tx.release(delta.release).await?;
        // The database itself sees to it that both are there.
        Ok(release.map(|release| Self {
            delta,
            release,
            from,
        }))
    }

    fn permits(&self) -> u32 {
        let from = self.from.as_ref().map_or(0, |from| from.bytes);
        let bytes = (self.release.bytes + from).min(IMAGES_BYTES_MAX);
        u32::try_from(bytes / KIB).unwrap_or(u32::MAX)
    }

    /// The patch for people.
    fn shown(&self) -> String {
        let profile = profile_name(self.delta.profile);
        let to = &self.release.version;
        match &self.from {
            Some(from) => format!("{} to {to} ({profile})", from.version),
            None => format!("{to} compressed ({profile})"),
        }
    }
}

/// Makes the patch and keeps the lease meanwhile; none where the server ends before that.
async fn made(state: &AppState, job: &Job) -> Result<Option<Result<Vec<u8>, NotMade>>, StoreError> {
    let mut closing = state.closing.clone();
    let making = make_of(state, job);
    tokio::pin!(making);
    loop {
        tokio::select! {
            made = &mut making => return Ok(Some(made)),
            () = ended(&mut closing) => {
                let mut tx = state.store.write().await?;
                tx.release_delta(job.delta.id).await?;
                tx.commit().await?;
                return Ok(None);
            }
            () = sleep(RENEW_EVERY) => {
                let mut tx = state.store.write().await?;
                tx.renew_delta(job.delta.id, state.now_ms() + LEASE_MS).await?;
                tx.commit().await?;
            }
        }
    }
}

async fn make_of(state: &AppState, job: &Job) -> Result<Vec<u8>, NotMade> {
    // It is never closed, and a job that got no turn would only be made at once.
    let turn = state.deltas.memory.acquire_many(job.permits()).await;
    let old = match &job.from {
        Some(from) => Some(image(state, from).await?),
        None => None,
    };
    let new = image(state, &job.release).await?;
    let made = on_a_thread(state.config.delta_encode, old, new, job.delta.profile).await;
    drop(turn);
    made
}

async fn image(state: &AppState, release: &Release) -> Result<Bytes, NotMade> {
    let version = &release.version;
    match state.blobs.find(release.sha256).await {
        Ok(Some(blob)) => Ok(blob.bytes),
        Ok(None) => Err(NotMade::Failed(format!(
            "the image of {version} is not in the store: restore it from a backup"
        ))),
        Err(error) => Err(NotMade::Failed(format!("the image of {version}: {error}"))),
    }
}

/// A thread of its own and not one of the runtime's: those are waited for when the program ends,
/// and a patch of two large images takes longer than a service manager waits.
async fn on_a_thread(
    encode: Encode,
    old: Option<Bytes>,
    new: Bytes,
    profile: PatchProfile,
) -> Result<Vec<u8>, NotMade> {
    let (send, receive) = oneshot::channel();
    let thread = std::thread::Builder::new().name("fota-delta".to_owned());
    let started = thread.spawn(move || {
        let made = make(encode, old.as_deref(), &new, profile);
        // Nobody waits where the server has ended.
        drop(send.send(made));
    });
    if let Err(error) = started {
        return Err(NotMade::Failed(format!(
            "no thread for the encoder: {error}"
        )));
    }
    let bug = "the encoder ended early: please report it with both images";
    receive
        .await
        .unwrap_or_else(|_| Err(NotMade::Failed(bug.to_owned())))
}

/// The bytes first: a row without its bytes could be offered.
async fn put(state: &AppState, made: Result<Vec<u8>, NotMade>) -> Result<Patch, NotMade> {
    let patch = made?;
    let (sha256, bytes) = (blobs::digest(&patch), patch.len() as u32);
    let stored = state.blobs.put(sha256, patch.into()).await;
    stored.map_err(|error: BlobError| {
        NotMade::Failed(format!("the patch was not stored: {error}"))
    })?;
    Ok(Patch { sha256, bytes })
}

/// Writes what became of the job, and tells.
async fn store(
    state: &AppState,
    mut tx: Tx,
    job: &Job,
    made: Result<Patch, NotMade>,
    began: i64,
) -> Result<(), StoreError> {
    let made_in_ms = u64::try_from(state.now_ms() - began).unwrap_or(0);
    let detail = made.as_ref().err().map(NotMade::to_string);
    let (id, shown) = (job.delta.id, job.shown());
    let (kind, end, text) = match made {
        Ok(patch) => {
            let (bytes, of) = (Grouped(patch.bytes.into()), Grouped(job.release.bytes));
            let text = format!("{shown}: {bytes} bytes instead of {of}");
            ("delta.ready", State::Ready(patch), text)
        }
        Err(NotMade::Useless { .. }) => ("delta.useless", State::Useless, shown),
        Err(NotMade::Failed(_)) => ("delta.failed", State::Failed, shown),
    };
    let text = match &detail {
        Some(why) => format!("{text}: {why}"),
        None => text,
    };
    let ended = Made {
        state: end,
        made_in_ms,
        detail,
    };
    if !tx.end_delta(id, &ended).await? {
        return Ok(());
    }
    match end {
        State::Failed => tracing::error!(delta = id, "patch {id} was not made: {text}"),
        _ => tracing::info!(delta = id, made_in_ms, "patch {id}: {text}"),
    }
    let event = NewEvent {
        kind: kind.to_owned(),
        release: Some(job.release.id),
        actor: "server",
        text,
        ..NewEvent::default()
    };
    commit(state, tx, &[event], true).await.map(drop)
}
