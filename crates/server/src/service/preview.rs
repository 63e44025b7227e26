//! What starting a rollout would do.

use std::collections::BTreeMap;

use fota_proto::{
    SkipReason,
    manager::{Excluded, Presence, Preview, ReasonCount, RolloutRequest},
};

use super::{
    population::{Member, members},
    rollouts::{Checked, check},
};
use crate::{
    AppState,
    api::problem::Refusal,
    domain::{
        fit::{chip_name, fits},
        model::{Device, Plan},
        presence::presence,
        trust::takes,
    },
};

/// Devices listed by name in a preview; the count is exact whatever their number.
const EXCLUDED_MAX: usize = 1000;

/// Whom the rollout would reach, and whom not and why.
pub async fn preview(state: &AppState, request: &RolloutRequest) -> Result<Preview, Refusal> {
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let checked = check(&mut tx, request).await?;
    let filter = checked.plan.filter.as_ref();
    let named = members(&mut tx, &plan, &checked.target, filter).await?;
    let blocked = tx.blocked_on(checked.release.id).await?;
    let now = state.now_ms();
    let mut preview = Preview {
        matched: 0,
        online: 0,
        excluded: Vec::new(),
        reasons: Vec::new(),
        sentence: checked.sentence(request),
    };
    let mut reasons: BTreeMap<(String, Option<String>), u64> = BTreeMap::new();
    for member in named {
        let reason = excluded(&plan, &checked, request, &member, now).or_else(|| {
            blocked
                .contains(&member.id)
                .then_some(SkipReason::BlockedRelease)
        });
        if let Some(reason) = reason {
            let of = member.device.as_ref().and_then(|device| of(device, reason));
            *reasons.entry((reason.to_string(), of)).or_default() += 1;
            if preview.excluded.len() < EXCLUDED_MAX {
                preview.excluded.push(Excluded {
                    device: member.id,
                    reason: reason.to_string(),
                });
            }
            continue;
        }
        preview.matched += 1;
        // Not seen yet: it will be offered the release when it comes.
        let Some(device) = member.device else {
            continue;
        };
        let last_seen = state
            .fleet
            .last_seen(&member.id)
            .unwrap_or(device.last_seen);
        if presence(last_seen, now, state.config.poll_s) == Presence::Online {
            preview.online += 1;
        }
    }
    let counted = reasons
        .into_iter()
        .map(|((reason, of), devices)| ReasonCount {
            reason,
            of,
            devices,
        });
    preview.reasons = counted.collect();
    preview
        .reasons
        .sort_by_key(|count| std::cmp::Reverse(count.devices));
    Ok(preview)
}

/// Why a device would be left out, but for releases that are blocked on it.
pub fn excluded(
    plan: &Plan,
    checked: &Checked,
    request: &RolloutRequest,
    member: &Member,
    now: i64,
) -> Option<SkipReason> {
    let device = member.device.as_ref()?;
    let release = &checked.release;
    if let Err((reason, _)) = fits(device, release, request.allow_product_change) {
        return Some(reason);
    }
    if device.running().is(release) {
        return Some(SkipReason::AlreadyInstalled);
    }
    takes(device, plan, release, now).err().map(|(why, _)| why)
}

/// What of the device is in the way, where it is one word.
fn of(device: &Device, reason: SkipReason) -> Option<String> {
    match reason {
        SkipReason::IncompatibleChip => device.chip.map(chip_name),
        SkipReason::IncompatibleProduct => device.project.clone(),
        _ => None,
    }
}
