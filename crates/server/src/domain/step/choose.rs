//! Which order stands, once the report is folded in.

use fota_proto::{AttemptState, SkipReason, checkin::Phase};

use super::{Change, Facts, Order, TRIAL_DEADLINE_S, Work};
use crate::domain::{
    model::{Attempt, Device, OrderId, Plan, Release, Rollout, Traited},
    rules::{
        AGAIN, Asked, FIRST, Hold, Verdict, first_against, holds_install, next_release, wave_for,
    },
};

/// What one rollout means for the device.
enum Said {
    /// This is the order; older rollouts have nothing left to say.
    Order(Order),
    /// The device waits for it: no other is asked.
    Wait,
    /// It is done with the device: older rollouts are not asked, which would be a downgrade.
    Done,
    /// Nothing here.
    Nothing,
}

/// Rules behind which a device waits for its turn, not for its wave or for a person.
const TURNS: [&str; 6] = [
    "retry", "download", "install", "parallel", "starts", "bytes",
];

impl Work<'_> {
    pub(super) fn choose(&mut self) -> Option<Order> {
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
    fn installing(&mut self) -> Option<Order> {
        let mut attempts = self.facts.attempts.iter();
        let attempt = attempts.find(|attempt| {
            attempt.state == AttemptState::Installing
                && !self.facts.blocked.contains(&attempt.release)
        })?;
        let attempt = attempt.clone();
        Some(self.install(&attempt))
    }

    fn install(&mut self, attempt: &Attempt) -> Order {
        let rollout = self.plan.rollout(attempt.rollout);
        let held_until = rollout.and_then(|rollout| self.holds_install(rollout, attempt));
        if let Some(until) = held_until {
            self.learn_until(until);
        }
        Order::Install {
            id: attempt.order(),
            release: attempt.release,
            trial_deadline_s: rollout.map_or(TRIAL_DEADLINE_S, |rollout| rollout.trial_deadline_s),
            patch: self.patch_of(attempt),
            hold: held_until.is_some(),
            conditions: rollout.and_then(|rollout| rollout.plan.conditions),
        }
    }

    /// Until when a device that knows how to is to hold what it has.
    fn holds_install(&self, rollout: &Rollout, attempt: &Attempt) -> Option<Option<i64>> {
        self.report.waits?;
        let release = self.plan.releases.get(&attempt.release)?;
        holds_install(&self.asked(rollout, release, Some(attempt)))
    }

    fn asked<'s>(
        &'s self,
        rollout: &'s Rollout,
        release: &'s Release,
        attempt: Option<&'s Attempt>,
    ) -> Asked<'s> {
        Asked {
            plan: self.plan,
            facts: &self.facts,
            device: self.facts.device.as_ref().expect("see_device came first"),
            rollout,
            release,
            attempt,
            now: self.now,
        }
    }

    /// Asks the rollouts that include the device, until one of them has an order or a reason why
    /// there is none.
    fn offer(&mut self) -> Option<Order> {
        self.end_orphans();
        let device = self.facts.device.as_ref().expect("see_device came first");
        let rollouts = rollouts_for(self.plan, &self.facts, device);
        let mut done = 0;
        for rollout in &rollouts {
            if rollout.id <= done {
                continue;
            }
            match self.ask(rollout) {
                Said::Order(order) => {
                    let older = rollouts.iter().filter(|older| older.id < rollout.id);
                    older.for_each(|older| self.supersede(older));
                    return Some(order);
                }
                Said::Wait => return None,
                Said::Done => done = done.max(rollout.id),
                Said::Nothing => {}
            }
        }
        None
    }

    fn ask(&mut self, rollout: &Rollout) -> Said {
        let plan = self.plan;
        let Some(release) = plan.releases.get(&rollout.release) else {
            return Said::Nothing;
        };
        let mut attempts = self.facts.attempts.iter();
        let Some(index) = attempts.position(|attempt| attempt.rollout == rollout.id) else {
            return self.ask_first(rollout, release, None);
        };
        let attempt = &self.facts.attempts[index];
        match attempt.state {
            AttemptState::Skipped(
                SkipReason::IncompatibleChip
                | SkipReason::IncompatibleProduct
                | SkipReason::UntrustedRelease
                | SkipReason::ExpiredRelease
                | SkipReason::NotNewer,
            ) => Said::Nothing,
            state if !state.is_end() => self.ask_again(rollout, release, index),
            _ if is_followed(rollout, attempt) => self.ask_first(rollout, release, Some(index)),
            _ => Said::Done,
        }
    }

    fn ask_again(&mut self, rollout: &Rollout, release: &Release, index: usize) -> Said {
        let attempt = self.facts.attempts[index].clone();
        let asked = self.asked(rollout, release, Some(&attempt));
        match first_against(AGAIN, &asked) {
            None | Some((_, Verdict::Pass(_))) => {
                if attempt.stalled {
                    self.take_place(index, rollout);
                }
                Said::Order(self.install(&attempt))
            }
            Some((rule, Verdict::Hold(hold))) => self.wait(rollout, rule, &hold),
            Some((_, Verdict::Leave(_))) => Said::Nothing,
            Some((_, Verdict::End(end))) => {
                self.end(index, end.state, &end.detail);
                end.said()
            }
        }
    }

    /// A stalled attempt goes on: it counts again, and so do its bytes.
    fn take_place(&mut self, index: usize, rollout: &Rollout) {
        let mut after = self.facts.attempts[index].clone();
        after.stalled = false;
        after.updated_at = self.now;
        let left = after.bytes_total.saturating_sub(after.bytes_done);
        self.charge(rollout, left);
        self.update(index, after);
    }

    fn ask_first(&mut self, rollout: &Rollout, release: &Release, prior: Option<usize>) -> Said {
        let before = prior.map(|index| self.facts.attempts[index].clone());
        let asked = self.asked(rollout, release, before.as_ref());
        match first_against(FIRST, &asked) {
            None | Some((_, Verdict::Pass(_))) => {
                let wave = wave_for(&asked).unwrap_or(rollout.wave);
                let next = next_release(&asked).map_or(release.id, |next| next.id);
                let tries = before.as_ref().map_or(1, tries_after);
                self.start(rollout, next, (wave, tries), prior)
            }
            Some((rule, Verdict::Hold(hold))) => self.wait(rollout, rule, &hold),
            Some((_, Verdict::Leave(_))) => Said::Nothing,
            Some((_, Verdict::End(end))) => {
                self.leave(prior);
                let detail = Some(end.detail.clone()).filter(|detail| !detail.is_empty());
                let attempt = self.new_attempt(rollout, release, end.state, detail);
                self.store_new(attempt);
                end.said()
            }
        }
    }

    /// The first offer of an attempt.
    fn start(
        &mut self,
        rollout: &Rollout,
        release: i64,
        (wave, tries): (u32, u32),
        prior: Option<usize>,
    ) -> Said {
        let plan = self.plan;
        let Some(release) = plan.releases.get(&release) else {
            return Said::Nothing;
        };
        if self.waits_for_patch(release) {
            return Said::Wait;
        }
        self.leave(prior);
        let patch = self.offers.take();
        self.charge(
            rollout,
            patch.map_or(release.bytes, |offered| offered.patch.bytes.into()),
        );
        let attempt = Attempt {
            wave,
            tries,
            patch,
            ..self.new_attempt(rollout, release, AttemptState::Offered, None)
        };
        self.store_new(attempt.clone());
        Said::Order(self.install(&attempt))
    }

    /// An attempt that another follows is history.
    fn leave(&mut self, prior: Option<usize>) {
        if let Some(index) = prior {
            let left = self.facts.attempts.remove(index);
            self.changes.push(Change::Leave(left.id));
        }
    }

    fn charge(&mut self, rollout: &Rollout, bytes: u64) {
        let now = self.now;
        let charge = |budget: &crate::domain::rules::Budget| Change::Charge {
            budget: budget.name.clone(),
            free_at: budget.charged(bytes, now),
        };
        let charges: Vec<Change> = self.facts.budgets_of(rollout.id).map(charge).collect();
        self.changes.extend(charges);
    }

    /// The device waits; where it waits for its turn, its wave waits for it.
    fn wait(&mut self, rollout: &Rollout, rule: &str, hold: &Hold) -> Said {
        self.learn_until(hold.until);
        if hold.by_load {
            self.limited = Some(rollout.id);
        }
        let poll_ms = i64::from(self.facts.poll_s) * 1000;
        let is_turn = TURNS.contains(&rule) && rollout.plan.waves.len() > 1;
        let soon = self.now.saturating_add(2 * poll_ms);
        // It comes a poll after the moment at the latest.
        let until = hold
            .until
            .map_or(soon, |until| until.max(self.now).saturating_add(poll_ms));
        let known = self.facts.load(rollout.id).waits_until;
        // A moment that is hardly later is not worth a write.
        if is_turn && until > known + poll_ms / 2 {
            self.changes.push(Change::Waits {
                rollout: rollout.id,
                until,
            });
        }
        Said::Wait
    }

    pub(super) fn learn_until(&mut self, until: Option<i64>) {
        self.until = match (self.until, until) {
            (Some(known), Some(until)) => Some(known.min(until)),
            (known, until) => known.or(until),
        };
    }

    fn new_attempt(
        &self,
        rollout: &Rollout,
        release: &Release,
        state: AttemptState,
        detail: Option<String>,
    ) -> Attempt {
        Attempt {
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
            patch: None,
            wave: rollout.wave,
            tries: 1,
            retry_at: None,
            stalled: false,
            created_at: self.now,
            updated_at: self.now,
        }
    }

    fn store_new(&mut self, attempt: Attempt) {
        self.facts.next_attempt += 1;
        self.tell_attempt(&attempt);
        self.changes.push(Change::Begin(attempt.clone()));
        self.facts.attempts.push(attempt);
    }

    /// A newer rollout has taken the device over.
    fn supersede(&mut self, rollout: &Rollout) {
        let mut attempts = self.facts.attempts.iter();
        let Some(index) = attempts.position(|attempt| attempt.rollout == rollout.id) else {
            if let Some(release) = self.plan.releases.get(&rollout.release) {
                let state = AttemptState::Superseded;
                let attempt = self.new_attempt(rollout, release, state, None);
                self.store_new(attempt);
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

impl crate::domain::rules::End {
    fn said(&self) -> Said {
        match self.others {
            true => Said::Nothing,
            false => Said::Done,
        }
    }
}

/// The rollouts that name the device, in the order in which they are asked: by priority, of equal
/// ones the newest first.
pub fn rollouts_for<'p>(plan: &'p Plan, facts: &Facts, device: &Device) -> Vec<&'p Rollout> {
    let traits = Traited {
        device,
        groups: &facts.groups,
        tags: &facts.tags,
    };
    let names = |rollout: &&Rollout| {
        let target = &rollout.target;
        let filter = rollout.plan.filter.as_ref();
        target.includes(&device.id, device.protocol, &facts.groups)
            && filter.is_none_or(|filter| filter.matches(&traits))
    };
    let mut rollouts: Vec<&Rollout> = plan.rollouts.iter().filter(names).collect();
    // Stable: they are newest first already.
    rollouts.sort_by_key(|rollout| std::cmp::Reverse(rollout.plan.priority));
    rollouts
}

/// Whether another attempt follows one that has ended: it failed for a passing reason, or it was
/// a step on the way to the release.
pub fn is_followed(rollout: &Rollout, attempt: &Attempt) -> bool {
    let is_step = attempt.state == AttemptState::Succeeded && attempt.release != rollout.release;
    attempt.retry_at.is_some() || is_step
}

/// The number of the try that follows an attempt.
fn tries_after(attempt: &Attempt) -> u32 {
    match attempt.retry_at {
        Some(_) => attempt.tries.saturating_add(1),
        None => 1,
    }
}
