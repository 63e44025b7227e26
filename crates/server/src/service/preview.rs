//! What starting a rollout would do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
    let (asked, members) = Asked::read(state, request).await?;
    let now = state.now_ms();
    let mut preview = Preview {
        matched: 0,
        online: 0,
        excluded: Vec::new(),
        reasons: Vec::new(),
        sentence: asked.checked.sentence(request),
    };
    let mut reasons: BTreeMap<(String, Option<String>), u64> = BTreeMap::new();
    for member in members {
        if let Some(reason) = asked.excludes(&member, now) {
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
        let last_seen = state.fleet.last_seen(&member.id, device.last_seen);
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

/// A rollout that is asked about, with all that it depends on.
pub struct Asked<'r> {
    request: &'r RolloutRequest,
    pub plan: Arc<Plan>,
    pub checked: Checked,
    /// Devices that the release is blocked on.
    blocked: BTreeSet<String>,
}

impl<'r> Asked<'r> {
    /// Reads it, and the devices that it names.
    pub async fn read(
        state: &AppState,
        request: &'r RolloutRequest,
    ) -> Result<(Self, Vec<Member>), Refusal> {
        let mut tx = state.store.read().await?;
        let plan = state.fleet.plan(&mut tx).await?;
        let checked = check(state, &mut tx, request).await?;
        let filter = checked.plan.filter.as_ref();
        let members = members(&mut tx, &plan, &checked.target, filter).await?;
        let asked = Self {
            request,
            blocked: tx.blocked_on(checked.release.id).await?,
            plan,
            checked,
        };
        Ok((asked, members))
    }

    /// Why a device would be left out.
    pub fn excludes(&self, member: &Member, now: i64) -> Option<SkipReason> {
        let blocked = || {
            let is_blocked = self.blocked.contains(&member.id);
            is_blocked.then_some(SkipReason::BlockedRelease)
        };
        let device = member.device.as_ref();
        device
            .and_then(|device| self.unfit(device, now))
            .or_else(blocked)
    }

    fn unfit(&self, device: &Device, now: i64) -> Option<SkipReason> {
        let release = &self.checked.release;
        if let Err((reason, _)) = fits(device, release, self.request.allow_product_change) {
            return Some(reason);
        }
        if device.running().is(release) {
            return Some(SkipReason::AlreadyInstalled);
        }
        let taken = takes(device, &self.plan, release, now);
        taken.err().map(|(why, _)| why)
    }
}

/// What of the device is in the way, where it is one word.
fn of(device: &Device, reason: SkipReason) -> Option<String> {
    match reason {
        SkipReason::IncompatibleChip => device.chip.map(chip_name),
        SkipReason::IncompatibleProduct => device.project.clone(),
        _ => None,
    }
}
