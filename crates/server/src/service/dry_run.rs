//! What a rollout would do, played through on a copy of the fleet. Nothing is stored.

use std::collections::{BTreeSet, BinaryHeap};

use fota_proto::manager::{DryRun, DryRunPhase, HeldCount, Presence, RolloutRequest};

use super::{population, preview::Asked, rollouts::draft};
use crate::{
    AppState,
    api::problem::Refusal,
    domain::{
        forecast::{Forecast, Play, play, scaled},
        model::{Device, Plan},
        plan::share,
        presence::presence,
        rules::Budget,
        step::{Facts, join_groups},
    },
    store::{StoreError, Tx},
};

/// Devices that are played through; of a larger fleet a sample, and its share of the limits.
const PLAYED_MAX: usize = 2000;

/// Plays the rollout through in virtual time.
pub async fn dry_run(state: &AppState, request: &RolloutRequest) -> Result<DryRun, Refusal> {
    // So that what was last heard counts.
    state.fleet.flush(&state.store).await?;
    let mut tx = state.store.read().await?;
    let asked = Asked::read(state, &mut tx, request).await?;
    let now = state.now_ms();
    let sample = Sample::take(state, &mut tx, &asked, now).await?;
    let mut online = sample.devices(state, &mut tx, &asked.plan).await?;
    drop(tx);
    let Asked { plan, checked, .. } = asked;
    let (sentence, release) = (checked.sentence(request), checked.release.clone());
    let mut rollout = draft(checked, request, "dry-run", now);
    // Nobody has to say yes to a play.
    rollout.approved_by = Some("dry-run".to_owned());
    if sample.online > PLAYED_MAX as u64 {
        scaled(&mut rollout, PLAYED_MAX as u64, sample.online);
    }
    if let Some(bytes_per_s) = rollout.plan.limits.bytes_per_s {
        let budget = Budget {
            name: "the rollout".to_owned(),
            bytes_per_s,
            free_at: now,
            rollout: Some(rollout.id),
        };
        for (_, facts) in &mut online {
            facts.budgets.push(budget.clone());
        }
    }
    let played = online.len() as u64;
    let forecast = play(Play {
        plan: &plan,
        rollout,
        release: &release,
        devices: online,
        poll_s: state.config.poll_s,
        now,
    });
    let counts = (sample.matched, played);
    Ok(told(forecast, sentence, counts, release.bytes))
}

fn told(
    forecast: Forecast,
    sentence: String,
    (matched, played): (u64, u64),
    image_bytes: u64,
) -> DryRun {
    let phases = (1..)
        .zip(forecast.phases)
        .map(|(number, phase)| DryRunPhase {
            number,
            reaches: phase.reaches,
            begins_at: phase.begins_at,
            ends_at: phase.ends_at,
            devices: phase.devices,
        });
    let held = forecast.held.into_iter().map(|(rule, devices)| HeldCount {
        rule: rule.to_owned(),
        devices,
    });
    DryRun {
        sentence,
        matched,
        played,
        phases: phases.collect(),
        bytes: matched.saturating_mul(image_bytes),
        finished_at: forecast.finished_at,
        held: held.collect(),
    }
}

/// The devices that a rollout is played through with.
#[derive(Default)]
struct Sample {
    /// Devices that the rollout would reach.
    matched: u64,
    /// Those of them that are online.
    online: u64,
    /// Of these the ones with the smallest shares, and no more than are played.
    chosen: BinaryHeap<(u32, String)>,
}

impl Sample {
    async fn take(
        state: &AppState,
        tx: &mut Tx,
        asked: &Asked<'_>,
        now: i64,
    ) -> Result<Self, StoreError> {
        let selection = asked.selection();
        let mut sample = Self::default();
        population::each(tx, &selection, |kind, last_seen| {
            let device = &kind.device;
            if asked.excludes(device, now).is_some() {
                return;
            }
            sample.matched += 1;
            if presence(last_seen, now, state.config.poll_s) == Presence::Online {
                sample.add(&device.id);
            }
        })
        .await?;
        sample.matched += population::unseen(tx, &selection).await?.len() as u64;
        Ok(sample)
    }

    fn add(&mut self, id: &str) {
        self.online += 1;
        self.chosen.push((share("sample", 0, id), id.to_owned()));
        if self.chosen.len() > PLAYED_MAX {
            self.chosen.pop();
        }
    }

    /// The devices with what is known of them, by id.
    async fn devices(
        &self,
        state: &AppState,
        tx: &mut Tx,
        plan: &Plan,
    ) -> Result<Vec<(Device, Facts)>, StoreError> {
        let ids: BTreeSet<&String> = self.chosen.iter().map(|(_, id)| id).collect();
        let mut devices = Vec::new();
        for id in ids {
            let Some(device) = tx.device(id).await? else {
                continue;
            };
            let mut facts = Facts {
                groups: tx.groups_of(id).await?,
                tags: tx.tags(id).await?,
                poll_s: state.config.poll_s,
                ..Facts::default()
            };
            join_groups(&mut facts, plan, &device);
            devices.push((device, facts));
        }
        Ok(devices)
    }
}
