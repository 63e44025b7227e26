//! Which order stands, once the report is folded in.

use fota_proto::{AttemptState, SkipReason, checkin::Phase};

use super::{Change, Order, TRIAL_DEADLINE_S, Work};
use crate::domain::{
    fit::fits,
    model::{Attempt, OrderId, Release, Rollout, Standing},
    trust::takes,
};

/// What one rollout means for the device.
enum Verdict {
    /// This is the order, or that there is none; older rollouts are not asked.
    Stop(Option<Order>),
    /// Nothing here: ask the next older one.
    Pass,
}

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
        if rollout.standing == Standing::Paused {
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
