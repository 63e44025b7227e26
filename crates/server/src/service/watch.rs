//! When a rollout is looked at again, and how its devices are.
//!
//! A rollout is looked at when it has changed, when an event tells of it, and when the next moment
//! that its plan names has come; one of which nothing happens costs nothing. All of this is memory
//! of one node and may be lost: the next look finds the same.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use fota_proto::manager::{self, HealthVerdict, Percent};

use super::{advance, population};
use crate::{
    AppState,
    domain::{
        health::{self, Health, STANDS_POLLS, Scale, Signs, Tally, sources},
        kind::Selection,
        model::{Device, Plan, Release, Rollout},
        sequential::Verdict,
        wave::Counted,
    },
    store::{Store, StoreError, Tx},
};

/// Others that are asked what is normal: so many tell 1 % from 2.2 % beyond doubt, and more would
/// cost more than they tell.
const OTHERS_MAX: usize = 2_000;
/// Devices that are looked at to find them: twice as many, as some are of another product; more where
/// a filter leaves devices out.
const LOOKED_AT_MAX: i64 = 2 * OTHERS_MAX as i64;
const FILTERED_MAX: i64 = 10_000;
/// The others are counted anew at most so often: they change slowly. Never more often than devices
/// come, either.
const OTHERS_MS: i64 = 30_000;
/// While devices soak, or attempts are under way without a word, it is looked at so often.
const SOAK_MS: i64 = 5_000;
const LATE_MS: i64 = 60_000;
/// Once the last wave has begun, devices are watched for so long after the last was updated: a day.
const WATCHED_MS: i64 = 24 * 60 * 60 * 1000;

/// See the module.
#[derive(Default)]
pub struct Watches(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    /// The last event that was looked at; none before the first look.
    event: Option<i64>,
    looks: BTreeMap<i64, Look>,
    health: BTreeMap<i64, Health>,
    others: BTreeMap<i64, (i64, Tally)>,
}

/// How a rollout stood when it was looked at, and when that is to be done again.
struct Look {
    rollout: Rollout,
    next: Option<i64>,
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        // No code panics while it holds the lock, and the maps are whole between two calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rollouts that are to be looked at now.
    pub async fn due<'p>(
        &self,
        store: &Store,
        plan: &'p Plan,
        now: i64,
    ) -> Result<Vec<&'p Rollout>, StoreError> {
        if plan.rollouts.is_empty() {
            return Ok(Vec::new());
        }
        // At the first look all are due, whatever has happened before.
        let seen = self.lock().event.unwrap_or(i64::MAX);
        let (news, last) = store.read().await?.rollouts_with_news(seen).await?;
        let mut memory = self.lock();
        memory.event = Some(last);
        let stands = |id: i64| plan.rollout(id).is_some();
        memory.looks.retain(|id, _| stands(*id));
        memory.health.retain(|id, _| stands(*id));
        memory.others.retain(|id, _| stands(*id));
        // Until it was looked at: that may go wrong.
        memory.looks.retain(|id, _| !news.contains(id));
        let is_due = |rollout: &&Rollout| {
            memory.looks.get(&rollout.id).is_none_or(|look| {
                look.rollout != **rollout || look.next.is_some_and(|next| now >= next)
            })
        };
        Ok(plan.rollouts.iter().filter(is_due).collect())
    }

    /// Notes that it was looked at.
    pub fn looked(&self, rollout: &Rollout, next: Option<i64>) {
        let look = Look {
            rollout: rollout.clone(),
            next,
        };
        self.lock().looks.insert(rollout.id, look);
    }

    /// What the sequential test found last, on this node.
    pub fn health(&self, rollout: i64) -> Option<Health> {
        self.lock().health.get(&rollout).cloned()
    }
}

/// Looks at how the devices of a rollout are, where its plan asks for the sequential test; gives
/// when to look again.
pub async fn see(
    state: &AppState,
    tx: &mut Tx,
    plan: &Plan,
    rollout: &Rollout,
) -> Result<Option<i64>, StoreError> {
    let Some(rates) = &rollout.plan.gates.sequential else {
        return Ok(None);
    };
    let (poll_ms, now) = (i64::from(state.config.poll_s) * 1000, state.now_ms());
    let ended = tx.ended_attempts(rollout.id).await?;
    let Some(last) = ended.iter().map(|ended| ended.ended_at).max() else {
        // Before anything has ended there is nothing to judge.
        state.watches.lock().health.remove(&rollout.id);
        return Ok(None);
    };
    let scale = Scale {
        bounds: &rollout.plan.gates.unwell,
        poll_ms,
        now,
    };
    let mut updated = Tally::default();
    for ended in &ended {
        let signs = Signs {
            failed: ended.failed,
            since: ended.ended_at,
            last_seen: ended.last_seen,
            crashed_at: ended.crashed_at,
            metrics: &ended.metrics,
        };
        updated.count(&signs, &scale);
    }
    let others = others(state, tx, plan, rollout, &scale).await?;
    let earlier = state.watches.health(rollout.id);
    let earlier = earlier.and_then(|health| health.against_since);
    let found = health::judge(updated, others, rates, earlier, (poll_ms, now));
    let decides = found
        .against_since
        .map(|since| since + STANDS_POLLS * poll_ms);
    state.watches.lock().health.insert(rollout.id, found);
    let is_watched = rollout.wave < rollout.plan.last_wave() || now < last + WATCHED_MS;
    let again = is_watched.then_some(now + OTHERS_MS.max(poll_ms));
    Ok(again
        .into_iter()
        .chain(decides.filter(|at| *at > now))
        .min())
}

/// How the devices are that the rollout means and has brought nothing.
async fn others(
    state: &AppState,
    tx: &mut Tx,
    plan: &Plan,
    rollout: &Rollout,
    scale: &Scale<'_>,
) -> Result<Tally, StoreError> {
    let known = state.watches.lock().others.get(&rollout.id).cloned();
    let fresh_for = OTHERS_MS.max(scale.poll_ms);
    if let Some((_, tally)) = known.filter(|(at, _)| scale.now - at < fresh_for) {
        return Ok(tally);
    }
    let mut tally = Tally::default();
    for device in other_devices(tx, plan, rollout).await? {
        let signs = Signs {
            failed: false,
            since: rollout.created_at,
            last_seen: state.fleet.last_seen(&device.id, device.last_seen),
            crashed_at: device.crashed_at,
            metrics: &device.metrics,
        };
        tally.count_other(&signs, scale);
    }
    let counted = (scale.now, tally.clone());
    state.watches.lock().others.insert(rollout.id, counted);
    Ok(tally)
}

/// Devices that the rollout means, that have come since it began, and that run something else of
/// the same product: at most [`OTHERS_MAX`], and of a whole fleet a fair sample.
async fn other_devices(
    tx: &mut Tx,
    plan: &Plan,
    rollout: &Rollout,
) -> Result<Vec<Device>, StoreError> {
    let Some(release) = plan.releases.get(&rollout.release) else {
        return Ok(Vec::new());
    };
    let since = rollout.created_at;
    let is_like = |device: &Device| device.last_seen >= since && runs_another(device, release);
    let selection = Selection::of(plan, rollout);
    let (target, is_filtered) = (&rollout.target, rollout.plan.filter.is_some());
    let mut found = Vec::new();
    if !target.all && !target.seed {
        for id in population::some_ids(tx, &selection, FILTERED_MAX as usize).await? {
            if found.len() >= OTHERS_MAX {
                break;
            }
            let device = tx.device(&id).await?.filter(&is_like);
            if let Some(device) = device
                && tx.is_other(rollout.id, &id).await?
            {
                found.push(device);
            }
        }
        return Ok(found);
    }
    let asks_more = is_filtered || !target.all;
    let limit = if asks_more {
        FILTERED_MAX
    } else {
        LOOKED_AT_MAX
    };
    for device in tx.others(rollout.id, since, limit).await? {
        if is_like(&device) && (!asks_more || is_meant(tx, &selection, &device).await?) {
            found.push(device);
        }
        if found.len() >= OTHERS_MAX {
            break;
        }
    }
    Ok(found)
}

fn runs_another(device: &Device, release: &Release) -> bool {
    let is_same_product = device
        .project
        .as_deref()
        .is_none_or(|it| it == release.project);
    is_same_product && !device.running().is(release)
}

async fn is_meant(
    tx: &mut Tx,
    selection: &Selection<'_>,
    device: &Device,
) -> Result<bool, StoreError> {
    let sighted = tx.sighted(&device.id).await?;
    Ok(sighted.is_some_and(|(kind, _)| selection.holds(&kind)))
}

/// The next moment at which the waves of a rollout may say something else by themselves.
pub fn next_moment(rollout: &Rollout, counted: &Counted, now: i64) -> Option<i64> {
    let plan = &rollout.plan;
    let wave = plan.wave(rollout.wave);
    let is_last = rollout.wave >= plan.last_wave();
    let max = wave.max_ms.filter(|_| !is_last);
    let too_long = max.map(|max| rollout.wave_since.saturating_add(max));
    let soaks = (counted.wave.soaking > 0 && !is_last).then_some(now + SOAK_MS);
    let moments = [too_long, soaks, plan.download.ends_at];
    moments.into_iter().flatten().filter(|at| *at > now).min()
}

/// When an attempt may have stalled or had its time, of which the oldest moved then.
pub fn next_late(rollout: &Rollout, oldest: i64, now: i64) -> i64 {
    let timeouts = advance::timeouts(rollout).map(|(_, after)| after.ms());
    let soonest = timeouts.fold(rollout.plan.stalled_ms(), i64::min);
    // An attempt that moves again may stall again, and no event tells of either.
    match oldest.saturating_add(soonest) {
        at if at > now => at.min(now + LATE_MS),
        _ => now + LATE_MS,
    }
}

/// In the words of the manager API.
pub fn view(health: &Health, rollout: &Rollout) -> manager::Health {
    let bounds = &rollout.plan.gates.unwell;
    let (updated, others) = (&health.updated, &health.others);
    let both = sources(updated, bounds)
        .into_iter()
        .zip(sources(others, bounds));
    manager::Health {
        updated: updated.devices,
        updated_unwell: updated.unwell,
        others: others.devices,
        others_unwell: others.unwell,
        sources: both
            .map(|((name, updated), (_, others))| manager::HealthSource {
                name,
                updated,
                others,
            })
            .collect(),
        normal: Percent::of_ratio(health.finding.normal),
        verdict: match health.finding.verdict {
            Verdict::Go => HealthVerdict::Go,
            Verdict::Stop => HealthVerdict::Stop,
            Verdict::More => HealthVerdict::More,
        },
    }
}
