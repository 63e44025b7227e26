//! A replay with any sequence of cuts: random ones, ones that were found, and smaller ones.

use fota_proto::checkin::ResetReason;

use super::{Cost, Cut, Dice, Explorer, Mode, Tear, Violation, explore::STARTS_MAX};
use crate::bench::{Bench, BenchError, Ended};

/// Tries at making a failing sequence smaller.
const SHRINKS_MAX: u32 = 2_000;

/// What a replay came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Cuts that happened; the rest came too late.
    pub executed: u64,
    /// What it cost beyond the undisturbed life.
    pub extra: Cost,
    /// Updates that were given up after too many power losses in their trial.
    pub given_up: u32,
}

/// Plays a life with these cuts and judges it after each.
pub fn walk(before: &Bench, mode: Mode, cuts: &[Cut]) -> Result<Walk, Box<Violation>> {
    let mut judge = Explorer::new(before.clone(), mode, cuts.len() as u64)?;
    replay(before, cuts, &mut judge).map_err(|broken| Violation::new(mode, cuts.to_vec(), broken))
}

fn replay(before: &Bench, cuts: &[Cut], judge: &mut Explorer) -> Result<Walk, BenchError> {
    let mut world = before.clone();
    let mut walk = Walk::default();
    let mut starts = 0;
    world.flash.start_log();
    if let Some(watch) = &mut world.watch {
        watch.may_give_up = cuts.len() > usize::from(fota_device::TRIAL_POWER_LOSS_MAX);
    }
    let mut cuts = cuts.iter();
    let mut ended = Ended::Reset;
    let mut cut = |world: &mut Bench| {
        let first_op = world.flash.ops();
        if let Some(cut) = cuts.next() {
            world.flash.cut_at(first_op + cut.op, cut.tear);
        }
    };
    cut(&mut world);
    while ended != Ended::Settled {
        if starts == u64::from(STARTS_MAX) {
            return Err(BenchError::Starts(STARTS_MAX));
        }
        ended = world.start()?;
        starts += 1;
        if ended == Ended::PowerLost {
            walk.executed += 1;
            world.flash.power_on();
            world.reset = ResetReason::PowerOn;
            judge.judge_flash(&world.flash)?;
            cut(&mut world);
        }
    }
    world.flash.power_on();
    judge.judge_flash(&world.flash)?;
    if world.flash.violations() > 0 {
        return Err(super::Broken::Protected.into());
    }
    let watch = world.watch.as_ref();
    walk.given_up = watch.map_or(0, |watch| watch.seen.given_up.count_ones());
    walk.extra = judge.judge_walk(Cost {
        starts,
        bytes: world.downloaded_bytes,
        erases: world.flash.log().iter().filter(|op| op.is_erase()).count() as u64,
        activations: u64::from(world.activations),
    })?;
    Ok(walk)
}

/// Cuts at places and in ways that follow from `seed`, in a life of `ops` operations.
pub fn random(seed: u64, cuts: usize, ops: u64, mode: Mode) -> Vec<Cut> {
    let mut dice = Dice(seed);
    let each = ops * 2 / cuts.max(1) as u64;
    let cut = |_| Cut {
        op: dice.next() % each.max(1),
        tear: tear(&mut dice, mode),
    };
    (0..cuts).map(cut).collect()
}

fn tear(dice: &mut Dice, mode: Mode) -> Tear {
    let seed = dice.next() % 1_000_000;
    match (dice.next() % 7, mode) {
        (0, _) => Tear::Before,
        (1, _) => Tear::After,
        (_, Mode::Blocks) => Tear::Blocks(seed),
        (2, _) => Tear::Prefix(seed as usize % 64),
        (3, _) => Tear::Random(seed),
        (4, _) => Tear::RandomBytes(seed),
        (5, _) => Tear::Weak(seed),
        _ => Tear::RandomWords(seed),
    }
}

/// A smaller sequence that fails too: fewer cuts, then plainer tears, then earlier operations.
pub fn shrink(cuts: &[Cut], fails: impl Fn(&[Cut]) -> bool) -> Vec<Cut> {
    let mut smallest = cuts.to_vec();
    let mut tries = 0;
    'again: loop {
        for smaller in candidates(&smallest) {
            tries += 1;
            if tries > SHRINKS_MAX {
                return smallest;
            }
            if fails(&smaller) {
                smallest = smaller;
                continue 'again;
            }
        }
        return smallest;
    }
}

fn candidates(cuts: &[Cut]) -> Vec<Vec<Cut>> {
    let without = (0..cuts.len()).map(|index| {
        let mut fewer = cuts.to_vec();
        let removed = fewer.remove(index);
        // The cut behind it comes as late as before.
        if let Some(next) = fewer.get_mut(index) {
            next.op += removed.op;
        }
        fewer
    });
    let with = |index: usize, cut: Cut| {
        let mut other = cuts.to_vec();
        other[index] = cut;
        other
    };
    let plainer = (0..cuts.len()).flat_map(|index| {
        let tears = [Tear::Before, Tear::After, Tear::Prefix(4)];
        let plainer = tears
            .into_iter()
            .take_while(move |tear| *tear != cuts[index].tear);
        plainer.map(move |tear| {
            with(
                index,
                Cut {
                    tear,
                    ..cuts[index]
                },
            )
        })
    });
    let earlier = (0..cuts.len()).flat_map(|index| {
        let op = cuts[index].op;
        let ops = [0, op / 2, op.saturating_sub(1)];
        let earlier = ops.into_iter().filter(move |earlier| *earlier < op);
        earlier.map(move |op| with(index, Cut { op, ..cuts[index] }))
    });
    without.chain(plainer).chain(earlier).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_sequence_shrinks_to_what_makes_it_fail() {
        let cuts = random(7, 10, 1_000, Mode::RollbackOn);
        // Fails where a cut tears an operation behind the fortieth since the power came.
        let fails = |cuts: &[Cut]| {
            cuts.iter()
                .any(|cut| cut.op >= 40 && cut.tear != Tear::Before)
        };
        assert!(fails(&cuts));
        let smallest = shrink(&cuts, fails);
        assert_eq!(super::super::spec(&smallest), "40/after");
    }
}
