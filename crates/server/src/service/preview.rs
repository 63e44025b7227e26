//! What starting a rollout would do.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use fota_proto::{
    SkipReason,
    manager::{Excluded, Presence, Preview, ReasonCount, RolloutRequest},
};

use super::{
    population::{Part, parts, unseen},
    rollouts::{Checked, check},
};
use crate::{
    AppState,
    api::problem::Refusal,
    domain::{
        fit::{chip_name, fits},
        kind::Selection,
        model::{Device, Pin, Plan},
        presence::seen_between,
        trust::takes,
    },
    store::{Cohort, StoreError, Tx},
};

/// Devices listed by name in a preview; the count is exact whatever their number.
const EXCLUDED_MAX: usize = 1000;

/// Whom the rollout would reach, and whom not and why.
pub async fn preview(state: &AppState, request: &RolloutRequest) -> Result<Preview, Refusal> {
    // So that what was last heard counts.
    state.fleet.flush(&state.store).await?;
    let mut tx = state.store.read().await?;
    let asked = Asked::read(state, &mut tx, request).await?;
    let now = state.now_ms();
    let (online_after, _) = seen_between(Presence::Online, now, state.config.poll_s);
    let release = asked.checked.release.id;
    let selection = asked.selection();
    let counted = match selection.only() {
        Some(_) => Counted::default(),
        None => Counted {
            cohorts: tx.cohorts(online_after, online_after).await?,
            blocked: tx.blocked_cohorts(release, online_after).await?,
            pinned: tx.pinned_cohorts(release, online_after).await?,
        },
    };
    let mut sheet = Sheet::new(&asked, &counted, now, online_after);
    parts(&mut tx, &selection, |part| sheet.add(&part)).await?;
    // Not seen yet: they will be offered the release when they come.
    sheet.matched += unseen(&mut tx, &selection).await?.len() as u64;
    let excluded = sheet.names(&mut tx).await?;
    Ok(Preview {
        matched: sheet.matched,
        online: sheet.online,
        excluded,
        reasons: sheet.counts(),
        sentence: asked.checked.sentence(request),
    })
}

/// A rollout that is asked about, with all that it depends on.
pub struct Asked<'r> {
    request: &'r RolloutRequest,
    pub plan: Arc<Plan>,
    pub checked: Checked,
    /// Devices that the release is blocked on.
    blocked: BTreeSet<String>,
    pins: BTreeMap<String, Pin>,
}

impl<'r> Asked<'r> {
    pub async fn read(
        state: &AppState,
        tx: &mut Tx,
        request: &'r RolloutRequest,
    ) -> Result<Self, Refusal> {
        let plan = state.fleet.plan(tx).await?;
        let checked = check(tx, request).await?;
        Ok(Self {
            request,
            blocked: tx.blocked_on(checked.release.id).await?,
            pins: tx.pins().await?,
            plan,
            checked,
        })
    }

    /// Whom it names.
    pub fn selection(&self) -> Selection<'_> {
        let filter = self.checked.plan.filter.as_ref();
        Selection::new(&self.plan, &self.checked.target, filter)
    }

    /// Why a device, or a kind with its id, would be left out.
    pub fn excludes(&self, device: &Device, now: i64) -> Option<SkipReason> {
        let blocked = || {
            let is_blocked = self.blocked.contains(&device.id);
            is_blocked.then_some(SkipReason::BlockedRelease)
        };
        let is_pinned = || {
            let pin = self.pins.get(&device.id)?;
            let is_against = !pin.lets(self.checked.release.id);
            is_against.then_some(SkipReason::OptedOut)
        };
        let unfit = self.unfit(device, now);
        unfit.or_else(blocked).or_else(is_pinned)
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

/// Devices by kind: all of them, those that the release is blocked on, and of the others those that
/// are pinned to something else. Where a few are named, nobody counts them.
#[derive(Default)]
struct Counted {
    cohorts: HashMap<i64, Cohort>,
    blocked: HashMap<i64, Cohort>,
    pinned: HashMap<i64, Cohort>,
}

/// The counts of a preview while they are made.
struct Sheet<'a> {
    asked: &'a Asked<'a>,
    counted: &'a Counted,
    now: i64,
    online_after: i64,
    matched: u64,
    online: u64,
    reasons: BTreeMap<(String, Option<String>), u64>,
    /// Kinds that are left out whole, and those of which only blocked or pinned devices are.
    kinds: Vec<(i64, SkipReason)>,
    names: Vec<Excluded>,
}

impl<'a> Sheet<'a> {
    fn new(asked: &'a Asked, counted: &'a Counted, now: i64, online_after: i64) -> Self {
        Self {
            asked,
            counted,
            now,
            online_after,
            matched: 0,
            online: 0,
            reasons: BTreeMap::new(),
            kinds: Vec::new(),
            names: Vec::new(),
        }
    }

    fn add(&mut self, part: &Part) {
        match part {
            Part::Whole { number, kind, .. } => self.add_kind(*number, &kind.device),
            Part::One { kind, last_seen } => self.add_one(&kind.device, *last_seen),
        }
    }

    fn add_kind(&mut self, number: i64, device: &Device) {
        let of = |cohorts: &HashMap<i64, Cohort>| cohorts.get(&number).copied().unwrap_or_default();
        let counted = self.counted;
        let (all, blocked) = (of(&counted.cohorts), of(&counted.blocked));
        let pinned = of(&counted.pinned);
        if let Some(reason) = self.asked.unfit(device, self.now) {
            self.leave_out(device, reason, all.devices);
            self.note(number, reason);
            return;
        }
        self.matched += all.devices - blocked.devices - pinned.devices;
        self.online += all.online - blocked.online - pinned.online;
        let held = [
            (SkipReason::BlockedRelease, blocked.devices),
            (SkipReason::OptedOut, pinned.devices),
        ];
        for (reason, devices) in held.into_iter().filter(|(_, devices)| *devices > 0) {
            self.leave_out(device, reason, devices);
            self.note(number, reason);
        }
    }

    /// Each kind has a device, so no more of them are needed than names are shown.
    fn note(&mut self, number: i64, reason: SkipReason) {
        if self.kinds.len() < EXCLUDED_MAX {
            self.kinds.push((number, reason));
        }
    }

    fn add_one(&mut self, device: &Device, last_seen: i64) {
        let Some(reason) = self.asked.excludes(device, self.now) else {
            self.matched += 1;
            self.online += u64::from(last_seen > self.online_after);
            return;
        };
        self.leave_out(device, reason, 1);
        if self.names.len() < EXCLUDED_MAX {
            self.names.push(excluded(device.id.clone(), reason));
        }
    }

    fn leave_out(&mut self, device: &Device, reason: SkipReason, devices: u64) {
        let of = of(device, reason);
        let counted = self.reasons.entry((reason.to_string(), of)).or_default();
        *counted += devices;
    }

    /// Names of devices that are left out, as far as there is room for them.
    async fn names(&mut self, tx: &mut Tx) -> Result<Vec<Excluded>, StoreError> {
        let release = self.asked.checked.release.id;
        let mut names = std::mem::take(&mut self.names);
        for (number, reason) in &self.kinds {
            let room = EXCLUDED_MAX.saturating_sub(names.len()) as i64;
            let ids = match reason {
                _ if room == 0 => break,
                SkipReason::BlockedRelease => tx.blocked_of_kind(*number, release, room).await?,
                SkipReason::OptedOut => tx.pinned_of_kind(*number, release, room).await?,
                _ => tx.ids_of_kind(*number, room).await?,
            };
            names.extend(ids.into_iter().map(|id| excluded(id, *reason)));
        }
        names.sort_by(|left, right| left.device.cmp(&right.device));
        Ok(names)
    }

    fn counts(self) -> Vec<ReasonCount> {
        let reasons = self.reasons.into_iter();
        let mut counts: Vec<_> = reasons
            .map(|((reason, of), devices)| ReasonCount {
                reason,
                of,
                devices,
            })
            .collect();
        counts.sort_by_key(|count| Reverse(count.devices));
        counts
    }
}

fn excluded(device: String, reason: SkipReason) -> Excluded {
    Excluded {
        device,
        reason: reason.to_string(),
    }
}
