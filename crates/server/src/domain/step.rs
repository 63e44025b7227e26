//! One check-in: a report is folded into what is stored, and the order that stands is chosen.

use std::collections::BTreeSet;

use fota_proto::{
    AttemptState, RollbackCause, SkipReason,
    checkin::{End, Phase},
};

use super::{
    attempt::{blocks, end_of, explain, fold},
    history,
    model::{
        Attempt, Device, NewEvent, OrderId, Plan, Protocol, Release, Report, RollbackOrder,
        RollbackState, Rollout, Trust,
    },
    trust::{fork_warning, takes},
};

/// While an order is under way the device comes back soon, so that a lost answer or a new order
/// costs seconds.
const BUSY_RETRY_S: u32 = 2;

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
    /// Id that a new attempt gets.
    pub next_attempt: i64,
    /// Seconds between check-ins.
    pub poll_s: u32,
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
}

/// The answer to a check-in, before it is put into a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub retry_after_s: u32,
    /// The order whose outcome is stored.
    pub acknowledged: Option<u64>,
    pub order: Option<Order>,
}

/// The order that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Install {
        id: u64,
        release: i64,
        trial_deadline_s: u32,
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
    let is_busy = order.is_some() || report.on_trial() || report.progress.is_some();
    let decision = Decision {
        retry_after_s: if is_busy {
            BUSY_RETRY_S.min(facts.poll_s)
        } else {
            facts.poll_s
        },
        acknowledged: report.outcome.as_ref().map(|outcome| outcome.order),
        order,
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
    };
    work.done(device, decision)
}

/// Whether, and if not why not, the release may be installed on the device.
pub fn fits(
    device: &Device,
    release: &Release,
    allow_product_change: bool,
) -> Result<(), (SkipReason, String)> {
    let skip = |reason, detail: String| Err((reason, detail));
    if release.lab && device.protocol == Protocol::Native {
        let detail = "the file is no image: it was taken in under --lab".to_owned();
        return skip(SkipReason::IncompatibleChip, detail);
    }
    if let (Some(of), Some(on)) = (release.chip, device.chip)
        && of != on
    {
        let (of, on) = (chip_name(of), chip_name(on));
        let detail = format!(
            "release {} is for {of}, the device is {on}",
            release.version
        );
        return skip(SkipReason::IncompatibleChip, detail);
    }
    if let Some(revision) = device.chip_revision
        && !allows_revision(release, revision)
    {
        let detail = format!(
            "release {} does not run on revision {revision}",
            release.version
        );
        return skip(SkipReason::IncompatibleChip, detail);
    }
    let project = device.project.as_deref().unwrap_or("");
    if !allow_product_change && !project.is_empty() && project != release.project {
        let detail = format!(
            "release is {:?}, the device runs {project:?}",
            release.project
        );
        return skip(SkipReason::IncompatibleProduct, detail);
    }
    match room(device) {
        Some(bytes) if release.bytes > u64::from(bytes) => skip(
            SkipReason::NoSpace,
            format!("image is {} bytes; the slot holds {bytes}", release.bytes),
        ),
        _ => Ok(()),
    }
}

/// A chip's name, or its number where it is new to us.
pub fn chip_name(id: u16) -> String {
    let known = fota_image::app::Chip::from_id(id);
    known.map_or_else(|| format!("chip {id}"), |chip| chip.name().to_owned())
}

fn allows_revision(release: &Release, revision: u16) -> bool {
    let max = release.chip_revision_max.unwrap_or(u16::MAX);
    (release.chip_revision_min..=max).contains(&revision)
}

/// Size of the largest slot that an update could use.
fn room(device: &Device) -> Option<u32> {
    /// Slot number of the factory partition, which updates never write.
    const FACTORY: u8 = 255;
    let usable =
        |slot: &&super::model::Slot| slot.slot != FACTORY && Some(slot.slot) != device.slot;
    device
        .slots
        .iter()
        .filter(usable)
        .map(|slot| slot.bytes)
        .max()
}

struct Work<'a> {
    plan: &'a Plan,
    report: &'a Report,
    now: i64,
    facts: Facts,
    changes: Vec<Change>,
    events: Vec<NewEvent>,
}

/// What one rollout means for the device.
enum Verdict {
    /// This is the order, or that there is none; older rollouts are not asked.
    Stop(Option<Order>),
    /// Nothing here: ask the next older one.
    Pass,
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
        };
        let device = work.see_device();
        work.fold_attempts();
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

    fn update(&mut self, index: usize, after: Attempt) {
        let is_news = self.facts.attempts[index].state != after.state;
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

    fn choose(&mut self) -> Option<Order> {
        if let Some(order) = self.facts.rollback.clone() {
            return Some(Order::Rollback {
                id: order.order(),
                order,
            });
        }
        if self.report.on_trial() {
            return None;
        }
        let order = match self.installing() {
            Some(order) => Some(order),
            None => self.offer(),
        };
        match order {
            Some(order) => Some(order),
            None => self.cancel(),
        }
    }

    /// The order of an attempt that is past the point where another could take over.
    fn installing(&self) -> Option<Order> {
        let mut attempts = self.facts.attempts.iter();
        let attempt = attempts.find(|attempt| {
            attempt.state == AttemptState::Installing
                && !self.facts.blocked.contains(&attempt.release)
        })?;
        Some(self.install(attempt))
    }

    fn install(&self, attempt: &Attempt) -> Order {
        let rollout = self.plan.rollout(attempt.rollout);
        Order::Install {
            id: attempt.order(),
            release: attempt.release,
            trial_deadline_s: rollout.map_or(TRIAL_DEADLINE_S, |rollout| rollout.trial_deadline_s),
        }
    }

    /// Asks the rollouts that include the device, newest first.
    fn offer(&mut self) -> Option<Order> {
        let plan = self.plan;
        let device = self.report.device.as_str();
        let protocol = self.report.protocol;
        let groups = self.facts.groups.clone();
        self.end_orphans();
        let includes = |rollout: &&Rollout| rollout.target.includes(device, protocol, &groups);
        let mut rollouts = plan.rollouts.iter().filter(includes);
        let order = rollouts
            .by_ref()
            .find_map(|rollout| match self.ask(rollout) {
                Verdict::Stop(order) => Some(order),
                Verdict::Pass => None,
            });
        if let Some(Some(_)) = order {
            let older: Vec<&Rollout> = rollouts.collect();
            older
                .into_iter()
                .for_each(|rollout| self.supersede(rollout));
        }
        order.flatten()
    }

    fn ask(&mut self, rollout: &Rollout) -> Verdict {
        let Some(release) = self.plan.releases.get(&rollout.release) else {
            return Verdict::Pass;
        };
        let mut attempts = self.facts.attempts.iter();
        match attempts.position(|attempt| attempt.rollout == rollout.id) {
            Some(index) => self.ask_again(rollout, release, index),
            None => self.ask_first(rollout, release),
        }
    }

    fn ask_again(&mut self, rollout: &Rollout, release: &Release, index: usize) -> Verdict {
        let taken = self.takes(release);
        let attempt = &self.facts.attempts[index];
        match attempt.state {
            AttemptState::Skipped(
                SkipReason::IncompatibleChip
                | SkipReason::IncompatibleProduct
                | SkipReason::UntrustedRelease
                | SkipReason::ExpiredRelease
                | SkipReason::NotNewer,
            ) => Verdict::Pass,
            state if state.is_end() => Verdict::Stop(None),
            _ if release.yanked => {
                self.end(index, AttemptState::Aborted, "the release was withdrawn");
                Verdict::Pass
            }
            _ if self.facts.blocked.contains(&release.id) => {
                self.end(
                    index,
                    AttemptState::Aborted,
                    "the release is blocked on this device",
                );
                Verdict::Stop(None)
            }
            _ if rollout.held => Verdict::Stop(None),
            _ => match taken {
                Ok(()) => Verdict::Stop(Some(self.install(attempt))),
                Err((reason, detail)) => {
                    self.end(index, AttemptState::Skipped(reason), &detail);
                    Verdict::Pass
                }
            },
        }
    }

    fn ask_first(&mut self, rollout: &Rollout, release: &Release) -> Verdict {
        if release.yanked {
            return Verdict::Pass;
        }
        if rollout.standing == super::model::Standing::Paused {
            return Verdict::Stop(None);
        }
        let device = self.facts.device.as_ref().expect("see_device came first");
        let skip = |reason| AttemptState::Skipped(reason);
        if let Err((reason, detail)) = fits(device, release, rollout.allow_product_change) {
            self.begin(rollout, release, skip(reason), Some(detail));
            return match reason {
                SkipReason::NoSpace => Verdict::Stop(None),
                _ => Verdict::Pass,
            };
        }
        if device.running().is(release) {
            self.begin(rollout, release, skip(SkipReason::AlreadyInstalled), None);
            return Verdict::Stop(None);
        }
        if self.facts.blocked.contains(&release.id) {
            self.begin(rollout, release, skip(SkipReason::BlockedRelease), None);
            return Verdict::Stop(None);
        }
        if let Err((reason, detail)) = self.takes(release) {
            self.begin(rollout, release, skip(reason), Some(detail));
            return Verdict::Pass;
        }
        let attempt = self.begin(rollout, release, AttemptState::Offered, None);
        Verdict::Stop(Some(self.install(&attempt)))
    }

    /// Whether the device, which may take signed releases only, would take this one.
    fn takes(&self, release: &Release) -> Result<(), (SkipReason, String)> {
        let device = self.facts.device.as_ref().expect("see_device came first");
        takes(device, self.plan, release, self.now)
    }

    fn begin(
        &mut self,
        rollout: &Rollout,
        release: &Release,
        state: AttemptState,
        detail: Option<String>,
    ) -> Attempt {
        let attempt = Attempt {
            id: self.facts.next_attempt,
            rollout: rollout.id,
            device: self.report.device.to_string(),
            release: release.id,
            current: true,
            from_version: self.report.version.clone(),
            from_elf: self.report.elf,
            state,
            detail,
            bytes_done: 0,
            bytes_total: release.bytes,
            bytes_sent: 0,
            requests: 0,
            installs: 0,
            back: false,
            created_at: self.now,
            updated_at: self.now,
        };
        self.facts.next_attempt += 1;
        self.tell_attempt(&attempt);
        self.changes.push(Change::Begin(attempt.clone()));
        self.facts.attempts.push(attempt.clone());
        attempt
    }

    /// A newer rollout has taken the device over.
    fn supersede(&mut self, rollout: &Rollout) {
        let mut attempts = self.facts.attempts.iter();
        let Some(index) = attempts.position(|attempt| attempt.rollout == rollout.id) else {
            if let Some(release) = self.plan.releases.get(&rollout.release) {
                self.begin(rollout, release, AttemptState::Superseded, None);
            }
            return;
        };
        self.end(index, AttemptState::Superseded, "");
    }

    /// Attempts whose rollout will never offer again, and that have not begun to install.
    fn end_orphans(&mut self) {
        for index in 0..self.facts.attempts.len() {
            let attempt = &self.facts.attempts[index];
            if self.plan.rollout(attempt.rollout).is_none() {
                self.end(index, AttemptState::Superseded, "");
            }
        }
    }

    fn end(&mut self, index: usize, state: AttemptState, detail: &str) {
        let mut after = self.facts.attempts[index].clone();
        if !after.state.may_become(state) {
            return;
        }
        after.state = state;
        after.detail = (!detail.is_empty()).then(|| detail.to_owned());
        after.updated_at = self.now;
        self.update(index, after);
    }

    /// Tells a device to drop an install that no longer stands.
    fn cancel(&self) -> Option<Order> {
        let progress = self.report.progress?;
        let is_install = matches!(OrderId::of(progress.order), OrderId::Install(_));
        let is_early = matches!(progress.phase, Phase::Downloading | Phase::Downloaded);
        (is_install && is_early).then_some(Order::Cancel { id: progress.order })
    }
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

#[cfg(test)]
mod tests;
