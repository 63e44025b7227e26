//! The network fails at every byte of every body of a life.

use super::{Broken, Explorer, Limits, Mode, Violation};
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
    let mut network = Network::new(before, mode)?;
    let bytes = network.judge.figures.undisturbed.bytes;
    let mut figures = NetFigures {
        bytes,
        ..NetFigures::default()
    };
    for downloaded_bytes in (0..bytes).step_by(stride.max(1) as usize) {
        for (fault, _) in FAULTS {
            figures.planned += 1;
            let net = NetCut {
                downloaded_bytes,
                fault,
            };
            let extra = network.disturb(net)?;
            figures.executed += 1;
            figures.extra_bytes_max = figures.extra_bytes_max.max(extra);
        }
    }
    Ok(figures)
}

/// Plays a life with one fault; gives how many bytes it cost.
pub(super) fn fault(before: &Bench, mode: Mode, net: NetCut) -> Result<u64, Box<Violation>> {
    Network::new(before, mode)?.disturb(net)
}

/// A life, start by start.
struct Network {
    mode: Mode,
    judge: Explorer,
    /// The world before each undisturbed start.
    starts: Vec<Bench>,
    extra_bytes_max: u64,
}

impl Network {
    fn new(before: &Bench, mode: Mode) -> Result<Self, Box<Violation>> {
        let judge = Explorer::new(before.clone(), mode, 1)?;
        let mut world = before.clone();
        let mut starts = Vec::new();
        loop {
            starts.push(world.clone());
            match world.start() {
                Ok(Ended::Settled) => break,
                Ok(_) => {}
                Err(broken) => return Err(Violation::new(mode, Vec::new(), broken)),
            }
        }
        Ok(Self {
            extra_bytes_max: extra_bytes_max(before),
            mode,
            judge,
            starts,
        })
    }

    fn disturb(&mut self, net: NetCut) -> Result<u64, Box<Violation>> {
        self.play(net).map_err(|broken| {
            let violation = Violation::new(self.mode, Vec::new(), broken);
            Box::new(Violation {
                net: Some(net),
                ..*violation
            })
        })
    }

    /// Plays the start in which it happens; what follows a reset follows from the flash.
    fn play(&mut self, net: NetCut) -> Result<u64, BenchError> {
        let is_before = |it: &&Bench| it.downloaded_bytes <= net.downloaded_bytes;
        let Some(before) = self.starts.iter().rfind(is_before) else {
            return Err(Broken::NotExecuted.into());
        };
        let mut world = before.clone();
        world.net_cut = Some(net);
        let ended = world.start()?;
        if world.net_cut.is_some() {
            return Err(Broken::NotExecuted.into());
        }
        self.judge.judge_flash(&world.flash)?;
        let mut bytes = world.downloaded_bytes;
        if ended != Ended::Settled {
            bytes += self.judge.finish(world)?.bytes;
        }
        let found = bytes.saturating_sub(self.judge.figures.undisturbed.bytes);
        let most = self.extra_bytes_max;
        match found <= most {
            true => Ok(found),
            false => Err(Broken::Cost {
                what: "bytes",
                found,
                most,
            }
            .into()),
        }
    }
}

/// What a fault may cost: as much as a power cut, and where wrong bytes end a patch, or an unsigned
/// image is found to be wrong when all of it is there, an image.
fn extra_bytes_max(before: &Bench) -> u64 {
    let life = before.watch.as_ref().map(|watch| watch.life());
    life.map_or(0, |life| {
        let image = life.steps.iter().map(|step| step.artifact_bytes()).max();
        Limits::of(1, &life).bytes + image.unwrap_or(0)
    })
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
