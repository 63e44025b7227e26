//! Counting a rollout, and what its counts mean.

use fota_proto::{
    AttemptState,
    manager::{Counts, RolloutState},
};

use super::model::{Rollout, Standing};

/// The devices that a rollout names, and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Devices it names, seen or not.
    pub named: u64,
    /// Of these, how many were ever seen.
    pub seen: u64,
    /// Current attempts by state.
    pub attempts: Vec<(AttemptState, u64)>,
}

impl Tally {
    fn attempted(&self) -> u64 {
        self.attempts.iter().map(|(_, devices)| devices).sum()
    }

    /// Whether an attempt has not ended.
    fn is_under_way(&self) -> bool {
        self.attempts
            .iter()
            .any(|(state, devices)| !state.is_end() && *devices > 0)
    }
}

/// Devices by state. Those without an attempt wait, unless the rollout will never offer again.
pub fn counts(standing: Standing, tally: &Tally) -> Counts {
    let mut counts = Counts::default();
    for (state, devices) in &tally.attempts {
        *place(&mut counts, *state) += devices;
    }
    let rest = tally.named.saturating_sub(tally.attempted());
    match standing {
        Standing::Active | Standing::Paused => counts.waiting += rest,
        Standing::Aborted | Standing::Superseded => counts.ended += rest,
    }
    counts
}

fn place(counts: &mut Counts, state: AttemptState) -> &mut u64 {
    match state {
        AttemptState::Waiting => &mut counts.waiting,
        AttemptState::Offered
        | AttemptState::Downloading
        | AttemptState::Downloaded
        | AttemptState::Installing => &mut counts.updating,
        AttemptState::Trial => &mut counts.trial,
        AttemptState::Succeeded => &mut counts.succeeded,
        AttemptState::Failed(_) => &mut counts.failed,
        AttemptState::RolledBack(_) => &mut counts.rolled_back,
        AttemptState::Skipped(_) => &mut counts.skipped,
        AttemptState::TimedOut | AttemptState::Aborted | AttemptState::Superseded => {
            &mut counts.ended
        }
    }
}

/// The state to show. `complete` is not stored: a rollout to `all` or to a group goes on covering
/// devices that are seen later.
pub fn state(rollout: &Rollout, tally: &Tally) -> RolloutState {
    let attempted = tally.attempted();
    let all_ended = !tally.is_under_way() && attempted > 0;
    match rollout.standing {
        Standing::Aborted => RolloutState::Aborted,
        Standing::Superseded if tally.is_under_way() => RolloutState::Active,
        Standing::Superseded => RolloutState::Complete,
        Standing::Active if all_ended && attempted >= tally.seen => RolloutState::Complete,
        Standing::Active => RolloutState::Active,
        Standing::Paused => RolloutState::Paused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{model::Target, sample};

    fn rollout(standing: Standing) -> Rollout {
        Rollout {
            target: Target::default(),
            standing,
            failures_max: Some(2),
            ..sample::rollout(1, 1)
        }
    }

    #[test]
    fn a_rollout_is_complete_when_every_device_that_was_seen_has_ended() {
        let mut tally = Tally {
            named: 3,
            seen: 2,
            attempts: vec![(AttemptState::Succeeded, 1)],
        };
        let active = rollout(Standing::Active);
        assert_eq!(state(&active, &tally), RolloutState::Active);
        tally.attempts.push((AttemptState::Trial, 1));
        assert_eq!(state(&active, &tally), RolloutState::Active);
        tally.attempts[1].0 = AttemptState::Succeeded;
        assert_eq!(state(&active, &tally), RolloutState::Complete);
        assert_eq!(counts(Standing::Active, &tally).waiting, 1);
        assert_eq!(counts(Standing::Aborted, &tally).waiting, 0);
    }
}
