//! Rollouts that drive themselves: waves that go on, gates that stop, attempts that take too long.
//!
//! Each node asks once a second of which rollouts something has happened ([`super::watch`]), and an
//! attempt that goes wrong is looked at at once. What is found follows from what is stored, and is
//! looked at again in the transaction that acts on it: looking twice, on two nodes, or after a
//! restart does what looking once does.

use std::collections::BTreeSet;

use fota_proto::{AttemptState, manager::Span};

use super::{commit, population, rollbacks, watch};
use crate::{
    AppState,
    domain::{
        attempt::{explain, is_failure},
        model::{Attempt, NewEvent, Plan, Rollout, Standing},
        wave::{Counted, Verdict, breach, judge},
    },
    store::{StoreError, Tx},
};

/// Looks at the rollouts of which something has happened, or whose time has come.
pub async fn tick(state: &AppState) -> Result<(), StoreError> {
    let plan = state.fleet.newest_plan(&state.store).await?;
    let now = state.now_ms();
    for rollout in state.watches.due(&state.store, &plan, now).await? {
        let mut next = None;
        if rollout.standing == Standing::Active && !rollout.plan.is_empty() {
            next = look(state, &plan, rollout).await?;
        }
        let late = end_late(state, rollout).await?;
        let next = next.into_iter().chain(late).min();
        state.watches.looked(rollout, next);
    }
    Ok(())
}

/// Moves one rollout on where it is time; gives when to look again if nothing happens.
async fn look(state: &AppState, plan: &Plan, rollout: &Rollout) -> Result<Option<i64>, StoreError> {
    let now = state.now_ms();
    let mut tx = state.store.read().await?;
    let mut seen = rollout.clone();
    let is_counted = rollout.wave_devices.is_some() || rollout.wave >= rollout.plan.last_wave();
    if !is_counted {
        let devices = population::wave_devices(&mut tx, plan, rollout).await?;
        seen.wave_devices = Some(devices);
    }
    let watched_until = watch::see(state, &mut tx, plan, &seen).await?;
    let counted = counted(state, &mut tx, &seen).await?;
    let verdict = judge(&seen, &counted, poll_ms(state), now);
    drop(tx);
    let Verdict::Stay { until, .. } = verdict else {
        act(state, &seen).await?;
        // What follows from it is looked at next time.
        return Ok(Some(now));
    };
    if !is_counted {
        act(state, &seen).await?;
    }
    let of_plan = watch::next_moment(rollout, &counted, now);
    let moments = [until, of_plan, watched_until];
    Ok(moments.into_iter().flatten().min())
}

fn poll_ms(state: &AppState) -> i64 {
    i64::from(state.config.poll_s) * 1000
}

/// The counts that the waves of a rollout go by, with what the sequential test said last.
pub async fn counted(
    state: &AppState,
    tx: &mut Tx,
    rollout: &Rollout,
) -> Result<Counted, StoreError> {
    let mut counted = tx.counted(rollout, state.now_ms()).await?;
    counted.health = state.watches.health(rollout.id);
    Ok(counted)
}

/// Does what the rollout is to do, where it still stands as it was seen.
async fn act(state: &AppState, seen: &Rollout) -> Result<(), StoreError> {
    let mut tx = state.store.write().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let Some(mut rollout) = tx.rollout(seen.id).await? else {
        return Ok(());
    };
    if rollout.standing != Standing::Active || rollout.wave != seen.wave {
        return Ok(());
    }
    rollout.wave_devices = rollout.wave_devices.or(seen.wave_devices);
    let counted = counted(state, &mut tx, &rollout).await?;
    let verdict = judge(&rollout, &counted, poll_ms(state), state.now_ms());
    let mut reaction = Reaction::default();
    apply(
        state,
        &mut tx,
        &plan,
        (&mut rollout, verdict),
        &mut reaction,
    )
    .await?;
    tx.set_rollout_standing(&rollout).await?;
    commit(state, tx, &reaction.events, true).await?;
    Ok(())
}

async fn apply(
    state: &AppState,
    tx: &mut Tx,
    plan: &Plan,
    (rollout, verdict): (&mut Rollout, Verdict),
    reaction: &mut Reaction,
) -> Result<(), StoreError> {
    let now = state.now_ms();
    match verdict {
        Verdict::Stay { .. } => {}
        Verdict::Advance { why } => {
            next_wave(rollout, now);
            let (number, of) = (rollout.wave + 1, rollout.plan.waves.len());
            let text = format!("wave {number} of {of} begins: {why}");
            reaction.tell(rollout, "rollout.advanced", text);
        }
        Verdict::Pause { why } => {
            rollout.standing = Standing::Paused;
            rollout.reason = Some(why.clone());
            reaction.tell(rollout, "rollout.paused", why);
        }
        Verdict::Breach { why } => {
            stop(rollout, why, reaction);
            if rollout.rollback_on_failure {
                order_back(tx, plan, rollout, now, reaction).await?;
            }
        }
        Verdict::End { why } => {
            rollout.standing = Standing::Aborted;
            rollout.reason = Some(why.clone());
            tx.abort_attempts(rollout.id, now).await?;
            reaction.tell(rollout, "rollout.ended", why);
        }
    }
    Ok(())
}

/// The next wave begins.
pub fn next_wave(rollout: &mut Rollout, now: i64) {
    rollout.wave += 1;
    rollout.wave_since = now;
    rollout.wave_devices = None;
}

fn stop(rollout: &mut Rollout, why: String, reaction: &mut Reaction) {
    rollout.standing = Standing::Paused;
    rollout.held = true;
    rollout.reason = Some(why.clone());
    reaction.tell(rollout, "rollout.paused", why);
}

/// What the ends of attempts mean for their rollouts.
#[derive(Default)]
pub struct Reaction {
    pub events: Vec<NewEvent>,
    pub changes_plan: bool,
}

impl Reaction {
    fn tell(&mut self, rollout: &Rollout, kind: &str, text: String) {
        self.changes_plan = true;
        self.events.push(NewEvent {
            kind: kind.to_owned(),
            rollout: Some(rollout.id),
            release: Some(rollout.release),
            actor: "server",
            text,
            ..NewEvent::default()
        });
    }
}

/// Pauses a rollout that breaches a gate, and orders devices back where it was asked to; in the
/// same transaction as the report that told of it.
pub async fn react(
    tx: &mut Tx,
    plan: &Plan,
    ended: &[&Attempt],
    now: i64,
) -> Result<Reaction, StoreError> {
    let mut reaction = Reaction::default();
    let rollouts: BTreeSet<i64> = ended.iter().map(|attempt| attempt.rollout).collect();
    for id in rollouts {
        let Some(mut rollout) = plan.rollout(id).cloned() else {
            continue;
        };
        let failed = ended
            .iter()
            .find(|attempt| attempt.rollout == id && is_failure(attempt.state));
        if let Some(last) = failed.filter(|last| last.retry_at.is_none() && !rollout.held) {
            let counted = tx.counted(&rollout, now).await?;
            if let Some(why) = breach(&rollout, &counted) {
                let (device, state) = (&last.device, last.state);
                let why = format!("{why}; the last was {device}: {state}");
                stop(&mut rollout, why, &mut reaction);
                tx.set_rollout_standing(&rollout).await?;
            }
        }
        if rollout.held && rollout.rollback_on_failure {
            order_back(tx, plan, &rollout, now, &mut reaction).await?;
        }
    }
    Ok(reaction)
}

/// Sends the devices that run the release, or have it on trial, back to their earlier image: that
/// needs no download. Each is proven back when it is seen there.
async fn order_back(
    tx: &mut Tx,
    plan: &Plan,
    rollout: &Rollout,
    now: i64,
    reaction: &mut Reaction,
) -> Result<(), StoreError> {
    let Some(release) = plan.releases.get(&rollout.release) else {
        return Ok(());
    };
    let by = rollbacks::Because {
        reason: format!("rollout r-{} breached a gate", rollout.id),
        actor: "server",
        rollout: Some(rollout.id),
    };
    for id in tx.devices_updated_by(rollout.id).await? {
        let Some(device) = tx.device(&id).await? else {
            continue;
        };
        if !device.running().is(release) {
            continue;
        }
        match rollbacks::order_one(tx, plan, &device, &by, now).await? {
            Ok(ordered) => reaction.events.extend(ordered.event),
            Err(why) => reaction.events.push(NewEvent {
                kind: "rollback.excluded".to_owned(),
                device: Some(id),
                rollout: Some(rollout.id),
                release: Some(release.id),
                actor: "server",
                text: format!("cannot go back: {why}"),
                ..NewEvent::default()
            }),
        }
        reaction.changes_plan = true;
    }
    Ok(())
}

/// Finds the attempts of a rollout that stalled, and ends those that had their time; gives when the
/// next one may.
async fn end_late(state: &AppState, rollout: &Rollout) -> Result<Option<i64>, StoreError> {
    let now = state.now_ms();
    let mut tx = state.store.read().await?;
    let Some(oldest) = tx.idle_since(rollout.id).await? else {
        return Ok(None);
    };
    let stalled = tx
        .idle_attempts(rollout.id, now - rollout.plan.stalled_ms())
        .await?;
    let mut late = Vec::new();
    for (in_state, after) in timeouts(rollout) {
        late.extend(
            tx.attempts_late(rollout.id, in_state, now - after.ms())
                .await?,
        );
    }
    drop(tx);
    if stalled.is_empty() && late.is_empty() {
        return Ok(Some(watch::next_late(rollout, oldest, now)));
    }
    let mut tx = state.store.write().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let (mut events, mut ended) = (Vec::new(), Vec::new());
    for seen in late.iter().chain(&stalled) {
        // It may have moved on since it was read.
        let Some(attempt) = tx.attempt(seen.id).await?.filter(|now| now == seen) else {
            continue;
        };
        let after = match late.contains(seen) {
            true => timed_out(rollout, &attempt, now),
            false => Attempt {
                stalled: true,
                ..attempt
            },
        };
        tx.update_attempt(&after).await?;
        events.push(late_event(&after));
        if after.state.is_end() {
            ended.push(after);
        }
    }
    let ended: Vec<&Attempt> = ended.iter().collect();
    let reaction = react(&mut tx, &plan, &ended, now).await?;
    events.extend(reaction.events);
    // A device that was told to go on must be told otherwise.
    let changes_plan = reaction.changes_plan || !ended.is_empty();
    commit(state, tx, &events, changes_plan).await?;
    Ok(Some(now))
}

/// The states that have a time, and which.
pub fn timeouts(rollout: &Rollout) -> impl Iterator<Item = (AttemptState, Span)> {
    let given = &rollout.plan.timeouts;
    let all = [
        (AttemptState::Offered, given.offered),
        (AttemptState::Downloading, given.downloading),
        (AttemptState::Downloaded, given.installing),
        (AttemptState::Installing, given.installing),
        (AttemptState::Trial, given.trial),
    ];
    all.into_iter()
        .filter_map(|(state, after)| after.map(|after| (state, after)))
}

fn timed_out(rollout: &Rollout, attempt: &Attempt, now: i64) -> Attempt {
    let mut after = attempt.clone();
    after.detail = Some(format!("it stayed {} for too long", attempt.state));
    after.state = AttemptState::TimedOut;
    after.updated_at = now;
    after.retry_at = rollout.plan.retry_at(&after, now);
    after
}

fn late_event(attempt: &Attempt) -> NewEvent {
    let (kind, text) = match attempt.state.is_end() {
        true => (
            "attempt.timed_out",
            explain(attempt.state, attempt.detail.as_deref()).unwrap_or_default(),
        ),
        false => (
            "attempt.stalled",
            format!("no progress for too long while {}", attempt.state),
        ),
    };
    NewEvent {
        kind: kind.to_owned(),
        device: Some(attempt.device.clone()),
        rollout: Some(attempt.rollout),
        release: Some(attempt.release),
        actor: "server",
        text,
        state: Some(attempt.state),
    }
}
