//! The network fails at every byte of every body of a life.

use super::{Broken, Cost, Explorer, Limits, Mode, Violation, explore::STARTS_MAX};
use crate::bench::{Bench, BenchError, Ended, NetCut, NetFault};

/// All of them, and their names in commands.
const FAULTS: [(NetFault, &str); 6] = [
    (NetFault::Drop, "drop"),
    (NetFault::Stall, "stall"),
    (NetFault::Flip, "flip"),
    (NetFault::Duplicate, "duplicate"),
    (NetFault::Whole, "whole"),
    (NetFault::Other, "other"),
];

/// What was tried and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetFigures {
    /// Body bytes of the undisturbed life.
    pub bytes: u64,
    /// Faults that were planned.
    pub planned: u64,
    /// Faults that happened.
    pub executed: u64,
    /// Most bytes that were downloaded beyond those of the undisturbed life.
    pub extra_bytes_max: u64,
}

/// Plays a life to its end for each fault at each `stride`th byte.
pub fn faults(before: &Bench, mode: Mode, stride: u64) -> Result<NetFigures, Box<Violation>> {
    let mut starts = Vec::new();
    let mut judge = Explorer::new(before.clone(), mode, 1)?;
    let undisturbed = play(before.clone(), &mut judge, Some(&mut starts));
    let undisturbed = undisturbed.map_err(|broken| Violation::new(mode, Vec::new(), broken))?;
    let mut figures = NetFigures {
        bytes: undisturbed.downloaded_bytes,
        ..NetFigures::default()
    };
    for downloaded_bytes in (0..figures.bytes).step_by(stride.max(1) as usize) {
        for (fault, _) in FAULTS {
            figures.planned += 1;
            // Only the start in which it happens is played again.
            let is_before = |it: &&Bench| it.downloaded_bytes <= downloaded_bytes;
            let before = starts.iter().rfind(is_before).unwrap_or(before);
            let net = NetCut {
                downloaded_bytes,
                fault,
            };
            let extra = play_with(before, net, figures.bytes, &mut judge);
            let extra = extra.map_err(|broken| in_network(mode, net, broken))?;
            figures.executed += 1;
            figures.extra_bytes_max = figures.extra_bytes_max.max(extra);
        }
    }
    Ok(figures)
}

/// Plays a life with one fault; gives how many bytes it cost.
pub(super) fn fault(before: &Bench, mode: Mode, net: NetCut) -> Result<u64, Box<Violation>> {
    let mut judge = Explorer::new(before.clone(), mode, 1)?;
    let bytes = judge.figures.undisturbed.bytes;
    let extra = play_with(before, net, bytes, &mut judge);
    extra.map_err(|broken| in_network(mode, net, broken))
}

fn in_network(mode: Mode, net: NetCut, broken: BenchError) -> Box<Violation> {
    let violation = Violation::new(mode, Vec::new(), broken);
    Box::new(Violation {
        net: Some(net),
        ..*violation
    })
}

fn play_with(
    before: &Bench,
    net: NetCut,
    undisturbed_bytes: u64,
    judge: &mut Explorer,
) -> Result<u64, BenchError> {
    let mut world = before.clone();
    world.net_cut = Some(net);
    let after = play(world, judge, None)?;
    if after.net_cut.is_some() {
        return Err(Broken::NotExecuted.into());
    }
    let bytes = after.downloaded_bytes.saturating_sub(undisturbed_bytes);
    let Some(watch) = &before.watch else {
        return Ok(bytes);
    };
    // An order that may fail is one that cannot tell wrong bytes from right ones until the end.
    if !watch.may_give_up {
        let life = watch.life();
        let limits = Limits::of(1, &life);
        // Wrong bytes end a patch, and the rest of the image comes whole.
        let image = life.steps.iter().map(|step| step.artifact_bytes()).max();
        let limits = Limits {
            bytes: limits.bytes + image.unwrap_or(0),
            ..limits
        };
        let cost = Cost {
            bytes,
            ..Cost::default()
        };
        limits.judge(cost)?;
    }
    Ok(bytes)
}

pub(super) fn name(fault: NetFault) -> &'static str {
    let found = FAULTS.iter().find(|(it, _)| *it == fault);
    found.map_or("", |(_, name)| name)
}

pub(super) fn parse(text: &str) -> Option<NetCut> {
    let (at, fault) = text.split_once('/')?;
    let (fault, _) = FAULTS.iter().find(|(_, name)| *name == fault)?;
    Some(NetCut {
        downloaded_bytes: at.parse().ok()?,
        fault: *fault,
    })
}

/// Plays a life to its end, and keeps the world before each start.
fn play(
    mut world: Bench,
    judge: &mut Explorer,
    mut starts: Option<&mut Vec<Bench>>,
) -> Result<Bench, BenchError> {
    for _ in 0..STARTS_MAX {
        if let Some(starts) = &mut starts {
            starts.push(world.clone());
        }
        let ended = world.start()?;
        judge.judge_flash(&world.flash)?;
        if ended == Ended::Settled {
            return Ok(world);
        }
    }
    Err(BenchError::Starts(STARTS_MAX))
}
