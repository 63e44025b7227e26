//! What a rollout would do, played through on a copy of the fleet. Nothing is stored.

use fota_proto::manager::{DryRun, DryRunPhase, HeldCount, Presence, RolloutRequest};

use super::{population::Member, preview::Asked, rollouts::draft};
use crate::{
    AppState,
    api::problem::Refusal,
    domain::{
        forecast::{Forecast, Play, play, scaled},
        model::Device,
        plan::share,
        presence::presence,
        rules::Budget,
        step::Facts,
    },
};

/// Devices that are played through; of a larger fleet a sample, and its share of the limits.
const PLAYED_MAX: usize = 2000;

/// Plays the rollout through in virtual time.
pub async fn dry_run(state: &AppState, request: &RolloutRequest) -> Result<DryRun, Refusal> {
    let (asked, members) = Asked::read(state, request).await?;
    let now = state.now_ms();
    let matched: Vec<Member> = members
        .into_iter()
        .filter(|member| asked.excludes(member, now).is_none())
        .collect();
    let Asked { plan, checked, .. } = asked;
    let (sentence, release) = (checked.sentence(request), checked.release.clone());
    let number = matched.len() as u64;
    let mut rollout = draft(checked, request, "dry-run", now);
    // Nobody has to say yes to a play.
    rollout.approved_by = Some("dry-run".to_owned());
    let mut online: Vec<(Device, Facts)> = matched
        .into_iter()
        .filter_map(|member| taking_part(state, member, now))
        .collect();
    if online.len() > PLAYED_MAX {
        let all = online.len() as u64;
        online.sort_by_key(|(device, _)| share("sample", rollout.id, &device.id));
        online.truncate(PLAYED_MAX);
        scaled(&mut rollout, PLAYED_MAX as u64, all);
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
    Ok(told(forecast, sentence, (number, played), release.bytes))
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

/// A device that is online, and what is known of it.
fn taking_part(state: &AppState, member: Member, now: i64) -> Option<(Device, Facts)> {
    let device = member.device?;
    let last_seen = state.fleet.last_seen(&member.id, device.last_seen);
    if presence(last_seen, now, state.config.poll_s) != Presence::Online {
        return None;
    }
    let facts = Facts {
        groups: member.groups,
        tags: member.tags,
        poll_s: state.config.poll_s,
        ..Facts::default()
    };
    Some((device, facts))
}
