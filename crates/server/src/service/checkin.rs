//! The heart of the server: one check-in.

use fota_proto::{AttemptState, manager::Event};

use super::{advance, commit, facts::facts};
use crate::{
    AppState,
    domain::{
        attempt::is_failure,
        model::{Attempt, Plan, Report},
        step::{Change, Decision, Facts, Step, note, step},
    },
    hub::News,
    store::{StoreError, Tx},
};

/// Stores what the report says and decides what the device is to do.
pub async fn check_in(state: &AppState, report: &Report) -> Result<Decision, StoreError> {
    let now = state.now_ms();
    if let Some(decision) = state.fleet.remembered(report, now) {
        return Ok(decision);
    }
    let (decision, generation) = fold_with(step, state, report, now).await?;
    state.fleet.remember(report, &decision, generation, now);
    Ok(decision)
}

/// Stores what a message says that is not answered with an order.
pub async fn listen(state: &AppState, report: &Report) -> Result<(), StoreError> {
    let now = state.now_ms();
    fold_with(note, state, report, now).await?;
    // What it said may change the answer to a check-in that says no more than the last one did.
    state.fleet.forget(report.device.as_str());
    Ok(())
}

async fn fold_with(
    fold: fn(&Facts, &Plan, &Report, i64) -> Step,
    state: &AppState,
    report: &Report,
    now: i64,
) -> Result<(Decision, i64), StoreError> {
    let mut tx = state.store.write().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let outcome = report.outcome.as_ref().map(|outcome| outcome.order);
    let facts = facts(state, &mut tx, &plan, report.device.as_str(), outcome).await?;
    let step = fold(&facts, &plan, report, now);
    let generation = store(state, tx, &facts, &plan, &step).await?;
    tell_progress(state, report, &step, &facts, now);
    Ok((step.decision, generation))
}

/// Writes the step; gives the generation of the plan after it.
async fn store(
    state: &AppState,
    mut tx: Tx,
    facts: &Facts,
    plan: &Plan,
    step: &Step,
) -> Result<i64, StoreError> {
    let device = step.device.id.as_str();
    let mut seen_before = facts.device.clone();
    if let Some(before) = &mut seen_before {
        before.last_seen = step.device.last_seen;
    }
    let is_news = seen_before.as_ref() != Some(&step.device) || !step.changes.is_empty();
    if !is_news {
        // The transaction ends unwritten: nothing waits for the disk.
        state.fleet.saw(device, step.device.last_seen);
        return Ok(plan.generation);
    }
    tx.put_device(&step.device, &facts.groups, &facts.tags)
        .await?;
    // The half hour of it is noted with the next flush.
    state.fleet.saw(device, step.device.last_seen);
    for change in &step.changes {
        match change {
            Change::Begin(attempt) => tx.insert_attempt(attempt).await?,
            Change::Update(attempt) => tx.update_attempt(attempt).await?,
            Change::EndRollback(order) => tx.end_rollback(order).await?,
            Change::Block { release, reason } => {
                let now = step.device.last_seen;
                tx.block(device, *release, reason, now).await?;
            }
            Change::Queue(wanted) => tx.queue_delta(*wanted, step.device.last_seen).await?,
            Change::Leave(attempt) => tx.leave_attempt(*attempt).await?,
            Change::Charge { budget, free_at } => tx.move_moment(budget, *free_at).await?,
            Change::Waits { rollout, until } => tx.move_waits(*rollout, *until).await?,
        }
    }
    let mut events = step.events.clone();
    let breach = advance::react(&mut tx, plan, &ended(step, facts), step.device.last_seen).await?;
    let queues = |change: &Change| matches!(change, Change::Queue(_));
    let queues = step.changes.iter().any(queues);
    let changes_plan = breach.changes_plan || queues;
    events.extend(breach.events);
    let generation = commit(state, tx, &events, changes_plan).await?;
    if queues {
        state.deltas.wake();
    }
    Ok(generation)
}

/// Attempts that this step ended, as a failure or with the release running.
fn ended<'s>(step: &'s Step, facts: &Facts) -> Vec<&'s Attempt> {
    let was_live = |id: i64| {
        let before = facts.attempts.iter().find(|attempt| attempt.id == id);
        before.is_none_or(|before| !before.state.is_end())
    };
    let counts = |state| is_failure(state) || state == AttemptState::Succeeded;
    step.changes
        .iter()
        .filter_map(|change| match change {
            Change::Begin(attempt) | Change::Update(attempt) => Some(attempt),
            _ => None,
        })
        .filter(|attempt| counts(attempt.state) && was_live(attempt.id))
        .collect()
}

/// Lets listeners see how far a download is; this is not history.
fn tell_progress(state: &AppState, report: &Report, step: &Step, facts: &Facts, now: i64) {
    let Some(progress) = report.progress else {
        return;
    };
    let updated = step.changes.iter().find_map(|change| match change {
        Change::Update(attempt) if attempt.order() == progress.order => Some(attempt),
        _ => None,
    });
    let stored = facts.attempts.iter();
    let attempt = updated.or_else(|| stored.into_iter().find(|a| a.order() == progress.order));
    let Some(attempt) = attempt else {
        return;
    };
    state.hub.tell(News::Progress(Box::new(Event {
        id: 0,
        at: now,
        kind: "attempt.progress".to_owned(),
        device: Some(attempt.device.clone()),
        rollout: Some(attempt.rollout),
        release: Some(attempt.release),
        actor: "device".to_owned(),
        text: format!("{} of {} bytes", attempt.bytes_done, attempt.bytes_total),
        state: Some(attempt.state),
        bytes_done: Some(attempt.bytes_done),
        bytes_total: Some(attempt.bytes_total),
    })));
}
