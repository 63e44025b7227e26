//! Patches within the decision about one device; what is chosen is in [`crate::domain::delta`].

use fota_proto::checkin::Patch;

use super::{Change, Work};
use crate::domain::{
    delta::{Choice, Delta, Offered, State, Taker, choose, missing, taker},
    model::{Attempt, Release},
};

impl Work<'_> {
    /// Notes where a patch did not work: the device says so by taking none any more.
    pub(super) fn fold_patches(&mut self) {
        for index in 0..self.facts.attempts.len() {
            let attempt = &self.facts.attempts[index];
            let Some(offered) = attempt.patch else {
                continue;
            };
            let is_over = attempt.state.is_end() || self.report.running().elf != attempt.from_elf;
            if is_over || offered.given_up || self.report.patches.is_some() {
                continue;
            }
            let mut after = attempt.clone();
            after.patch = Some(Offered {
                given_up: true,
                ..offered
            });
            after.updated_at = self.now;
            self.update(index, after);
        }
    }

    /// The patch that goes with the order of an attempt: the one that it began with, so that an
    /// answer that was lost is repeated and nothing of it is fetched for nothing.
    pub(super) fn patch_of(&self, attempt: &Attempt) -> Option<Patch> {
        let offered = attempt.patch.filter(|offered| !offered.given_up)?;
        // It was made for the image that ran when the attempt began.
        let is_same = self.report.elf == attempt.from_elf && self.report.patches.is_some();
        is_same.then_some(offered.patch)
    }

    /// Chooses the patch that an attempt at the release begins with; whether it is worth to wait
    /// for one instead.
    pub(super) fn waits_for_patch(&mut self, release: &Release) -> bool {
        let device = self.facts.device.as_ref().expect("see_device came first");
        let Some(taker) = taker(device, self.plan, release) else {
            return false;
        };
        let mut deltas = self.plan.deltas(release.id).to_vec();
        self.queue_missing(taker, release, &mut deltas);
        // Where nobody makes any, all waiting is over.
        let now = match self.facts.makes_deltas {
            true => self.now,
            false => i64::MAX,
        };
        match choose(taker, release, &deltas, now) {
            Choice::Wait { until } => {
                self.learn_until(Some(until));
                self.waits_for_patch = true;
                true
            }
            Choice::Artifact => false,
            Choice::Patch(patch) => {
                self.offers = Some(Offered {
                    patch,
                    given_up: false,
                });
                false
            }
        }
    }

    /// Asks for what nobody has asked for; `deltas` are as they will be then.
    fn queue_missing(&mut self, taker: Taker, release: &Release, deltas: &mut Vec<Delta>) {
        if !self.facts.makes_deltas {
            return;
        }
        let Some(wanted) = missing(taker, release, deltas) else {
            return;
        };
        self.changes.push(Change::Queue(wanted));
        deltas.push(Delta {
            id: 0,
            release: wanted.release,
            from: wanted.from,
            profile: wanted.profile,
            state: State::Queued,
            queued_at: self.now,
        });
    }
}
