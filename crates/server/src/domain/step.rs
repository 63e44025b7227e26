//! One check-in: a report is folded into what is stored, and the order that stands is chosen.

mod patch;

use std::collections::{BTreeMap, BTreeSet};

use fota_proto::{
    AttemptState, RollbackCause,
    checkin::{Conditions, End, Patch, Waits},
};

use super::{
    attempt::{blocks, end_of, explain, fold},
    delta::{self, Offered, Wanted},
    history,
    model::{
        Attempt, Device, NewEvent, Pin, Plan, Release, Report, RollbackOrder, RollbackState,
        Traited, Trust,
    },
    rules::{Budget, Load},
    trust::fork_warning,
};

/// While an order is under way the device comes back soon, so that a lost answer or a new order
/// costs seconds.
const BUSY_RETRY_S: u32 = 2;
/// A device that waits for a free place comes at least so often, so that places do not stay free.
const PLACE_RETRY_S: u32 = 60;

/// All that a decision about one device depends on.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The device as stored; none at its first check-in.
    pub device: Option<Device>,
    /// Groups it is in.
    pub groups: Vec<String>,
    /// Its current attempts in rollouts that may offer, and those that have not ended.
    pub attempts: Vec<Attempt>,
    /// The attempt that the report names, current or not.
    pub named: Option<Attempt>,
    /// Its rollback order that stands.
    pub rollback: Option<RollbackOrder>,
    /// Releases blocked on it.
    pub blocked: BTreeSet<i64>,
    /// What an operator has pinned it to.
    pub pin: Option<Pin>,
    /// What operators said of it.
    pub tags: BTreeMap<String, String>,
    /// What others do in the rollouts that may start it.
    pub loads: BTreeMap<i64, Load>,
    /// Budgets that an offer to it is charged to.
    pub budgets: Vec<Budget>,
    /// Id that a new attempt gets.
    pub next_attempt: i64,
    /// Seconds between check-ins.
    pub poll_s: u32,
    /// Whether patches are made here, so that it is worth to wait for one.
    pub makes_deltas: bool,
}

impl Facts {
    /// What others do in a rollout.
    pub fn load(&self, rollout: i64) -> Load {
        self.loads.get(&rollout).copied().unwrap_or_default()
    }

    /// Budgets that an offer of this rollout is charged to.
    pub fn budgets_of(&self, rollout: i64) -> impl Iterator<Item = &Budget> {
        let counts = move |budget: &&Budget| budget.rollout.is_none_or(|of| of == rollout);
        self.budgets.iter().filter(counts)
    }
}

/// What a report changes and what it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The device as now seen.
    pub device: Device,
    /// What to store, in order.
    pub changes: Vec<Change>,
    /// History to write.
    pub events: Vec<NewEvent>,
    /// What to answer.
    pub decision: Decision,
}

/// A change of what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new attempt.
    Begin(Attempt),
    /// The attempt with this id is now so.
    Update(Attempt),
    /// The rollback order is now so.
    EndRollback(RollbackOrder),
    /// Never offer the release to this device again.
    Block { release: i64, reason: String },
    /// Somebody is to make this patch.
    Queue(Wanted),
    /// The attempt with this id is history: another follows it.
    Leave(i64),
    /// The budget of this name is free again then, not before.
    Charge { budget: String, free_at: i64 },
    /// A device that the rollout's wave has reached waits for its turn until then.
    Waits { rollout: i64, until: i64 },
}

/// The answer to a check-in, before it is put into a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub retry_after_s: u32,
    /// The order whose outcome is stored.
    pub acknowledged: Option<u64>,
    pub order: Option<Order>,
    /// Until when it stays the same if nothing else changes; none: for ever.
    pub valid_until: Option<i64>,
    /// The rollout whose limits hold the device: only as long as it is full.
    pub limited: Option<i64>,
}

/// The order that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Install {
        id: u64,
        release: i64,
        trial_deadline_s: u32,
        patch: Option<Patch>,
        /// Download and prove it, do not activate it yet.
        hold: bool,
        /// What the device asks itself before it activates.
        conditions: Option<Conditions>,
    },
    Rollback {
        id: u64,
        order: RollbackOrder,
    },
    Cancel {
        id: u64,
    },
}

/// Folds `report` into `facts` and decides.
///
/// Doing it twice with the same report changes nothing the second time and gives the same
/// decision, so a lost answer costs a poll and never a state.
pub fn step(facts: &Facts, plan: &Plan, report: &Report, now: i64) -> Step {
    let (mut work, device) = Work::folded(facts, plan, report, now);
    let order = work.choose();
    let decision = Decision {
        retry_after_s: work.retry_after_s(order.as_ref()),
        acknowledged: report.outcome.as_ref().map(|outcome| outcome.order),
        order,
        valid_until: work.until,
        limited: work.limited,
    };
    work.done(device, decision)
}

/// Folds `report` into `facts` without choosing an order: for a message whose answer cannot carry
/// one, such as a status post of the seed's API. Nothing counts as offered that was not told.
pub fn note(facts: &Facts, plan: &Plan, report: &Report, now: i64) -> Step {
    let (work, device) = Work::folded(facts, plan, report, now);
    let decision = Decision {
        retry_after_s: facts.poll_s,
        acknowledged: report.outcome.as_ref().map(|outcome| outcome.order),
        order: None,
        valid_until: None,
        limited: None,
    };
    work.done(device, decision)
}

struct Work<'a> {
    plan: &'a Plan,
    report: &'a Report,
    now: i64,
    facts: Facts,
    changes: Vec<Change>,
    events: Vec<NewEvent>,
    /// The patch that the next attempt begins with.
    offers: Option<Offered>,
    /// Whether the device waits for a patch.
    waits_for_patch: bool,
    /// When the first of the holds is over by itself.
    until: Option<i64>,
    /// The rollout whose limits hold the device.
    limited: Option<i64>,
}

impl<'a> Work<'a> {
    fn folded(facts: &Facts, plan: &'a Plan, report: &'a Report, now: i64) -> (Self, Device) {
        let mut work = Self {
            plan,
            report,
            now,
            facts: facts.clone(),
            changes: Vec::new(),
            events: Vec::new(),
            offers: None,
            waits_for_patch: false,
            until: None,
            limited: None,
        };
        let device = work.see_device();
        join_groups(&mut work.facts, plan, &device);
        work.fold_attempts();
        work.fold_patches();
        work.fold_named();
        work.fold_rollback();
        (work, device)
    }

    fn done(self, device: Device, decision: Decision) -> Step {
        Step {
            device,
            changes: self.changes,
            events: self.events,
            decision,
        }
    }
}

impl Work<'_> {
    /// When the device is to come back: soon while it is busy, and when a hold ends.
    fn retry_after_s(&self, order: Option<&Order>) -> u32 {
        let report = self.report;
        let poll_s = self.facts.poll_s;
        let is_held = matches!(order, Some(Order::Install { hold: true, .. }));
        let waits = report.waits.is_some_and(|waits| waits != Waits::Nothing);
        let is_busy = order.is_some() || report.on_trial() || report.progress.is_some();
        if is_busy && !is_held && !waits {
            return BUSY_RETRY_S.min(poll_s);
        }
        if self.waits_for_patch {
            return delta::WAIT_RETRY_S.min(poll_s);
        }
        if self.limited.is_some() {
            return PLACE_RETRY_S.min(poll_s);
        }
        let left_ms = self.until.map(|until| (until - self.now).max(0));
        let left_s = left_ms.map(|ms| u32::try_from(ms / 1000 + 1).unwrap_or(u32::MAX));
        left_s.map_or(poll_s, |left| left.min(poll_s))
    }

    fn see_device(&mut self) -> Device {
        let report = self.report;
        let before = self.facts.device.take();
        let trust = Trust {
            // What it saw once stays evidence until it says something else.
            log: report
                .trust
                .log
                .or(before.as_ref().and_then(|before| before.trust.log)),
            ..report.trust
        };
        let fork = fork_warning(&self.plan.log, trust.log);
        let is_forked = fork.is_some();
        let device = Device {
            id: report.device.to_string(),
            protocol: report.protocol,
            chip: report.chip,
            chip_revision: report.chip_revision,
            project: report.project.clone(),
            version: running_version(self.plan, report),
            elf: report.elf,
            confirmed: report.confirmed,
            slot: report.slot,
            slots: report.slots.clone(),
            rollback_slot: report.rollback_slot,
            reset: report.reset,
            warning: fork.or_else(|| warning(self.plan, report)),
            trust,
            patches: report.patches,
            attributes: report.attributes.clone(),
            metrics: report.metrics.clone(),
            waits: report.waits,
            crashed_at: self.crashed_at(before.as_ref()),
            first_seen: before.as_ref().map_or(self.now, |before| before.first_seen),
            last_seen: self.now,
        };
        self.tell_of_device(before.as_ref(), &device);
        let news = before.and_then(|before| before.warning) != device.warning;
        if let Some(warning) = device.warning.clone().filter(|_| news) {
            let kind = if is_forked {
                "log.forked"
            } else {
                "device.warning"
            };
            self.tell(kind, warning);
        }
        self.facts.device = Some(device.clone());
        device
    }

    /// When it last crashed. Uptime tells a second crash from the first, which had the same reason.
    fn crashed_at(&self, before: Option<&Device>) -> Option<i64> {
        let (report, now) = (self.report, self.now);
        let is_new = before.is_none_or(|before| {
            before.reset != report.reset || report.has_crashed_since(before.last_seen, now)
        });
        match report.is_after_crash() && is_new {
            true => Some(now),
            false => before.and_then(|before| before.crashed_at),
        }
    }

    fn tell_of_device(&mut self, before: Option<&Device>, device: &Device) {
        let version = device.version.as_deref().unwrap_or("an unknown version");
        let Some(before) = before else {
            self.tell("device.seen", history::first_text(version));
            return;
        };
        if before.running() != device.running() {
            self.tell("device.running", history::running_text(version));
        }
    }

    fn tell(&mut self, kind: &str, text: String) {
        self.events.push(NewEvent {
            kind: kind.to_owned(),
            device: Some(self.report.device.to_string()),
            actor: "device",
            text,
            ..NewEvent::default()
        });
    }

    fn tell_attempt(&mut self, attempt: &Attempt) {
        let state = attempt.state;
        let version = self.plan.releases.get(&attempt.release);
        let version = version.map_or("?", |release| release.version.as_str());
        let text = match explain(state, attempt.detail.as_deref()) {
            Some(why) => format!("{version}: {state}: {why}"),
            None => format!("{version}: {state}"),
        };
        let word = state.to_string();
        let word = word.split(':').next().unwrap_or_default();
        self.events.push(NewEvent {
            kind: format!("attempt.{word}"),
            device: Some(attempt.device.clone()),
            rollout: Some(attempt.rollout),
            release: Some(attempt.release),
            actor: "device",
            text,
            state: Some(state),
        });
    }

    fn fold_attempts(&mut self) {
        for index in 0..self.facts.attempts.len() {
            let before = &self.facts.attempts[index];
            let Some(release) = self.plan.releases.get(&before.release) else {
                continue;
            };
            let after = fold(
                before,
                release,
                self.report,
                self.is_ordered_back(release),
                self.now,
            );
            if after != *before {
                self.update(index, after);
            }
        }
    }

    /// Whether an operator's order to leave this release stands.
    fn is_ordered_back(&self, release: &Release) -> bool {
        let leaves = |order: &RollbackOrder| match order.leave_elf {
            Some(elf) => release.elf == Some(elf),
            None => order.leave_version.as_deref() == Some(&release.version),
        };
        self.facts.rollback.as_ref().is_some_and(leaves)
    }

    fn update(&mut self, index: usize, mut after: Attempt) {
        let is_news = self.facts.attempts[index].state != after.state;
        if is_news && after.state.is_end() && !self.facts.attempts[index].stalled {
            // What it ends gives its place up: the next step of a device needs no other.
            let load = self.facts.loads.get_mut(&after.rollout);
            load.into_iter()
                .for_each(|load| load.live = load.live.saturating_sub(1));
        }
        if is_news && after.state.is_end() {
            let rollout = self.plan.rollout(after.rollout);
            after.retry_at = rollout.and_then(|it| it.plan.retry_at(&after, self.now));
        }
        if is_news {
            self.tell_attempt(&after);
            if blocks(after.state) {
                self.block(after.release, after.state.to_string());
            }
        }
        self.changes.push(Change::Update(after.clone()));
        self.facts.attempts[index] = after;
    }

    fn block(&mut self, release: i64, reason: String) {
        if self.facts.blocked.insert(release) {
            self.changes.push(Change::Block { release, reason });
        }
    }

    /// An outcome of an attempt that has ended meanwhile: its history stays, but a release that
    /// went wrong on this device is not offered again.
    fn fold_named(&mut self) {
        let Some(outcome) = &self.report.outcome else {
            return;
        };
        let (state, _) = end_of(outcome);
        let named = self.facts.named.as_ref();
        if let Some(named) = named.filter(|named| named.order() == outcome.order)
            && matches!(state, AttemptState::RolledBack(_))
        {
            self.block(named.release, state.to_string());
        }
    }

    fn fold_rollback(&mut self) {
        let Some(mut order) = self.facts.rollback.take() else {
            return;
        };
        let refusal = self.report.outcome.as_ref().filter(|outcome| {
            outcome.order == order.order() && matches!(outcome.end, End::Refused | End::Failed)
        });
        if !self.report.running().is_left_by(&order) {
            self.end_rollback(&mut order);
        } else if let Some(refusal) = refusal {
            order.state = RollbackState::Refused;
            order.code = Some(refusal.code);
            order.ended_at = Some(self.now);
            let (code, reason) = (refusal.code, &order.reason);
            let text = format!("refused ({reason}): {}: {}", code.sentence(), code.remedy());
            self.tell_rollback("rollback.refused", &order, text);
            self.changes.push(Change::EndRollback(order));
        } else {
            self.facts.rollback = Some(order);
        }
    }

    fn end_rollback(&mut self, order: &mut RollbackOrder) {
        order.state = RollbackState::Done;
        order.ended_at = Some(self.now);
        let now_runs = self.report.version.as_deref().unwrap_or("another image");
        let left = order.leave_version.as_deref().unwrap_or("the image");
        let text = format!("left {left}, runs {now_runs} ({})", order.reason);
        self.tell_rollback("rollback.done", order, text);
        self.changes.push(Change::EndRollback(order.clone()));
        if let Some(release) = order.release {
            let state = AttemptState::RolledBack(RollbackCause::Operator);
            self.block(release, state.to_string());
        }
    }

    fn tell_rollback(&mut self, kind: &str, order: &RollbackOrder, text: String) {
        self.events.push(NewEvent {
            kind: kind.to_owned(),
            device: Some(order.device.clone()),
            release: order.release,
            actor: "device",
            text,
            ..NewEvent::default()
        });
    }
}

/// Groups that are a filter have the devices of which it holds. A filter may ask for groups that
/// are lists, not for others that are filters: there is no order in which they could be asked.
pub fn join_groups(facts: &mut Facts, plan: &Plan, device: &Device) {
    let traits = Traited {
        device,
        groups: &facts.groups,
        tags: &facts.tags,
    };
    let joined: Vec<String> = plan.joined(&traits).map(str::to_owned).collect();
    facts.groups.extend(joined);
}

/// Seconds that a new image has to confirm itself where the rollout says nothing.
pub const TRIAL_DEADLINE_S: u32 = 300;

/// The version of what runs: the release's where the digest is one's, else what the device says.
/// Arduino and MicroPython builds carry a constant or nothing; their releases are named by people.
fn running_version(plan: &Plan, report: &Report) -> Option<String> {
    let runs = report.elf.and_then(|elf| plan.by_elf(elf));
    runs.map(|release| release.version.clone())
        .or_else(|| report.version.clone())
}

/// What to show where the version text and the running image disagree.
fn warning(plan: &Plan, report: &Report) -> Option<String> {
    let (version, elf) = (report.version.as_deref()?, report.elf?);
    let runs = plan.by_elf(elf)?;
    if runs.version == version {
        return None;
    }
    let claimed =
        |release: &&Release| release.version == version && release.project == runs.project;
    plan.releases.values().find(claimed)?;
    let real = &runs.version;
    Some(format!("reports {version} but runs the {real} image"))
}

mod choose;
pub use choose::{is_followed, rollouts_for};
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod tests;
