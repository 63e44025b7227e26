//! What the server does, whatever protocol asked for it. `api/` and `compat/` translate to and
//! from these.

pub mod advance;
pub mod checkin;
pub mod clusters;
pub mod credentials;
pub mod deltas;
pub mod download;
pub mod dry_run;
pub mod enrolment;
pub mod facts;
pub mod population;
pub mod preview;
pub mod releases;
pub mod rollbacks;
pub mod rollouts;
pub mod roots;
pub mod secure_boot;
pub mod signed;
pub mod trust;
pub mod view;
pub mod watch;
pub mod webhooks;
pub mod why;

use crate::{
    AppState,
    auth::{By, Record},
    domain::model::NewEvent,
    hub::News,
    store::{StoreError, Tx},
};

/// Ends a write: everybody who should know hears of it, but not before it is stored.
pub(crate) async fn commit(
    state: &AppState,
    mut tx: Tx,
    events: &[NewEvent],
    changes_plan: bool,
) -> Result<i64, StoreError> {
    let now = state.now_ms();
    for event in events {
        tx.append_event(event, now).await?;
    }
    if changes_plan {
        tx.bump_generation().await?;
    }
    let generation = tx.generation().await?;
    tx.commit().await?;
    state.fleet.learn_generation(generation);
    if !events.is_empty() {
        state.hub.tell(News::Stored);
    }
    Ok(generation)
}

/// Like [`commit`], for what an operator did: the audit log says so in the same transaction.
pub(crate) async fn commit_by(
    state: &AppState,
    mut tx: Tx,
    by: &By,
    record: Record,
    events: &[NewEvent],
    changes_plan: bool,
) -> Result<i64, StoreError> {
    tx.append_audit(by.did(record), state.now_ms()).await?;
    commit(state, tx, events, changes_plan).await
}
