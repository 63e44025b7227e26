//! The phases of the proof, and the names under which what they find can be repeated.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::{
    Cut, Explorer, Figures, Mode, Place, Violation, explore::How, few_tears, life, network, random,
    shrink, spec, tears, walk,
};
use crate::bench::{Bench, BenchError, NetCut};

/// Image of a whole life: three sectors, and a fourth that is begun.
const LIFE_BYTES: usize = 12 * 1024 + 16;
/// Image whose erase takes a whole block, with sectors behind it.
const BLOCK_BYTES: usize = 72 * 1024 + 16;
/// Image of all pairs of cuts.
const PAIR_BYTES: usize = 64 * 1024;
/// Image where only operations on otadata are cut.
const TRIPLE_BYTES: usize = 12 * 1024 + 16;
/// Cuts of a random walk.
const WALK_CUTS: usize = 10;

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    /// [`life::whole`].
    Life,
    /// [`life::update`] of an image of so many bytes.
    Update(usize),
    /// The same with an image as in the life, by an order that may fail: nothing tells wrong bytes
    /// from right ones before all are there.
    Unsigned,
}

impl Story {
    /// The device before it.
    pub fn before(self, mode: Mode) -> Bench {
        match self {
            Self::Life => life::whole(LIFE_BYTES, mode.rollback()),
            Self::Update(image_bytes) => life::update(image_bytes, mode.rollback()),
            Self::Unsigned => {
                let mut before = life::update(LIFE_BYTES, mode.rollback());
                let watch = before.watch.as_mut();
                watch.expect("a life is watched").may_give_up = true;
                before
            }
        }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Life => f.write_str("life"),
            Self::Update(image_bytes) => write!(f, "update-{image_bytes}"),
            Self::Unsigned => f.write_str("unsigned"),
        }
    }
}

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Each operation of a whole life, in every way.
    Life,
    /// Each operation of an update with a block erase, in every way.
    BlockErase,
    /// All pairs of operations of an update of 64 KiB.
    Pairs,
    /// All triples of operations on otadata of an update.
    OtadataTriples,
    /// The network at every byte of a whole life.
    Network,
    /// Ten random cuts in a whole life.
    Walks,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [
        Self::Life,
        Self::BlockErase,
        Self::Pairs,
        Self::OtadataTriples,
        Self::Network,
        Self::Walks,
    ];

    /// The kinds of bootloader under which it is played. What the network does has nothing to do with
    /// them.
    pub const fn modes(self) -> &'static [Mode] {
        match self {
            Self::Network => &[Mode::RollbackOff],
            _ => &Mode::ALL,
        }
    }

    /// In a few words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Life => "every operation of a life",
            Self::BlockErase => "every operation, 72 KiB image",
            Self::Pairs => "all pairs, 64 KiB image",
            Self::OtadataTriples => "all triples on otadata",
            Self::Network => "network, bytes of a life",
            Self::Walks => "ten random cuts in a life",
        }
    }
}

/// How much of what cannot be tried whole.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What the random walks follow from.
    pub seed: u64,
    /// How many there are, for each kind of bootloader.
    pub walks: u64,
    /// Each so many bytes the network fails.
    pub network_stride: u64,
}

/// What a phase has found.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Row {
    /// Flash operations in which cuts were tried; body bytes of the network.
    pub places: u64,
    /// Those that there were.
    pub places_total: u64,
    /// Cuts or faults that were planned.
    pub planned: u64,
    /// Those that happened.
    pub executed: u64,
    /// Sequences of one, two or three cuts that these stand for.
    pub sequences: u64,
    /// Worlds that were judged and played to the end; the other cuts left one of these.
    pub distinct: u64,
    /// Most starts beyond those without a cut.
    pub extra_starts: u64,
    /// Most bytes that were downloaded beyond.
    pub extra_bytes: u64,
    /// Most sectors that were erased beyond.
    pub extra_erases: u64,
    /// Updates that were given up after more power losses in their trial than it may take.
    pub given_up: u64,
    /// Sectors that are erased without a cut.
    pub erases: u64,
    /// Starts without a cut.
    pub starts: u64,
}

/// What to repeat: a story, a kind of bootloader and what goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The story.
    pub story: Story,
    /// The bootloader.
    pub mode: Mode,
    /// The cuts.
    pub cuts: Vec<Cut>,
    /// What the network does.
    pub net: Option<NetCut>,
}

/// A promise that did not hold, and how to see it again.
#[derive(Debug, thiserror::Error)]
#[error("{broken}; repeat it with `fota sim powercut --replay {replay}`")]
pub struct Found {
    /// How.
    pub replay: Replay,
    /// Which.
    pub broken: BenchError,
}

impl Plan {
    /// A little of everything, in about a minute: what CI runs, and what each mutant has to fail.
    pub const SHORT: Self = Self {
        seed: 1,
        walks: 60,
        network_stride: 499,
    };

    /// Runs a phase under a kind of bootloader.
    pub fn run(&self, phase: Phase, mode: Mode) -> Result<Row, Box<Found>> {
        let every = How { tears, only: None };
        let few = How {
            tears: few_tears,
            ..every
        };
        let otadata = How {
            only: Some(Place::OtaData),
            ..few
        };
        match phase {
            Phase::Life => deep(Story::Life, mode, &every, 1),
            Phase::BlockErase => deep(Story::Update(BLOCK_BYTES), mode, &every, 1),
            Phase::Pairs => deep(Story::Update(PAIR_BYTES), mode, &few, 2),
            Phase::OtadataTriples => deep(Story::Update(TRIPLE_BYTES), mode, &otadata, 3),
            Phase::Network => self.network(mode),
            Phase::Walks => self.walks(mode),
        }
    }

    fn network(&self, mode: Mode) -> Result<Row, Box<Found>> {
        let mut row = Row::default();
        for story in [Story::Life, Story::Unsigned] {
            let found = network::faults(&story.before(mode), mode, self.network_stride);
            let figures = found.map_err(|violation: Box<Violation>| found_in(story, *violation))?;
            row.places += figures.bytes.div_ceil(self.network_stride);
            row.places_total += figures.bytes;
            row.planned += figures.planned;
            row.executed += figures.executed;
            row.sequences += figures.executed;
            row.distinct += figures.executed;
            row.extra_bytes = row.extra_bytes.max(figures.extra_bytes_max);
        }
        Ok(row)
    }

    fn walks(&self, mode: Mode) -> Result<Row, Box<Found>> {
        let story = Story::Life;
        let before = story.before(mode);
        let explorer = Explorer::new(before.clone(), mode, WALK_CUTS as u64);
        let explorer = explorer.map_err(|violation: Box<Violation>| found_in(story, *violation))?;
        let ops = explorer
            .ops()
            .map_err(|violation: Box<Violation>| found_in(story, *violation))?;
        let mut row = Row {
            places: ops,
            places_total: ops,
            ..Row::default()
        };
        for number in 0..self.walks {
            let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(number);
            let cuts = random(seed, WALK_CUTS, ops, mode);
            let walked = walk(&before, mode, &cuts).map_err(|_| smallest(story, mode, &cuts))?;
            row.planned += walked.executed;
            row.executed += walked.executed;
            row.sequences += 1;
            row.distinct += walked.executed;
            row.extra_starts = row.extra_starts.max(walked.extra.starts);
            row.extra_bytes = row.extra_bytes.max(walked.extra.bytes);
            row.extra_erases = row.extra_erases.max(walked.extra.erases);
            row.given_up += u64::from(walked.given_up);
        }
        Ok(row)
    }
}

/// Cuts sequences of `cuts` operations, and gives the figures of the last of them.
fn deep(story: Story, mode: Mode, how: &How, cuts: u64) -> Result<Row, Box<Found>> {
    let found = |violation: Box<Violation>| found_in(story, *violation);
    let mut explorer = Explorer::new(story.before(mode), mode, cuts).map_err(found)?;
    let mut layer = explorer.first_layer();
    let mut row = Row::default();
    for depth in 1..=cuts {
        let mut next = (depth < cuts).then(Default::default);
        explorer.cut_layer(&layer, how, &mut next).map_err(found)?;
        let figures = &explorer.figures;
        if depth == 1 {
            (row.places, row.places_total) = (figures.ops, figures.ops_total);
        }
        row.add(figures);
        layer = next.unwrap_or_default();
    }
    Ok(row)
}

impl Row {
    fn add(&mut self, figures: &Figures) {
        self.planned += figures.planned;
        self.executed += figures.executed;
        self.sequences = figures.sequences;
        self.distinct += figures.distinct;
        self.extra_starts = self.extra_starts.max(figures.extra.starts);
        self.extra_bytes = self.extra_bytes.max(figures.extra.bytes);
        self.extra_erases = self.extra_erases.max(figures.extra.erases);
        (self.starts, self.erases) = (figures.undisturbed.starts, figures.undisturbed.erases);
    }
}

fn found_in(story: Story, violation: Violation) -> Box<Found> {
    let Violation {
        mode,
        cuts,
        net,
        broken,
    } = violation;
    let replay = Replay {
        story,
        mode,
        cuts,
        net,
    };
    Box::new(Found { replay, broken })
}

/// The smallest sequence like this one that breaks a promise.
fn smallest(story: Story, mode: Mode, cuts: &[Cut]) -> Box<Found> {
    let before = story.before(mode);
    let smallest = shrink(cuts, |cuts| walk(&before, mode, cuts).is_err());
    match walk(&before, mode, &smallest) {
        Err(violation) => found_in(story, *violation),
        Ok(_) => unreachable!("only failing sequences are kept"),
    }
}

impl Replay {
    /// Plays it. `Ok` is what it came to, where every promise holds.
    pub fn play(&self) -> Result<String, Box<Found>> {
        let before = self.story.before(self.mode);
        let found = |violation: Box<Violation>| found_in(self.story, *violation);
        if let Some(net) = self.net {
            let extra = network::fault(&before, self.mode, net).map_err(found)?;
            return Ok(format!(
                "every promise holds; {extra} bytes more were downloaded"
            ));
        }
        let walked = walk(&before, self.mode, &self.cuts).map_err(found)?;
        Ok(format!(
            "every promise holds; {} cuts happened, with {} starts and {} bytes more",
            walked.executed, walked.extra.starts, walked.extra.bytes
        ))
    }
}

/// `life:rollback-on:12/before,3/words-7`, or `life:rollback-on:@4096/flip`.
impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.story, self.mode.name())?;
        match self.net {
            Some(net) => write!(f, "@{}/{}", net.downloaded_bytes, network::name(net.fault)),
            None => f.write_str(&spec(&self.cuts)),
        }
    }
}

/// Not what [`Replay`] prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("wanted STORY:MODE:CUTS, such as life:rollback-on:12/before,3/words-7")]
pub struct NoReplay;

impl FromStr for Replay {
    type Err = NoReplay;

    fn from_str(text: &str) -> Result<Self, NoReplay> {
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or(NoReplay);
        let (story, mode, rest) = (part()?, part()?, part()?);
        let story = match story.strip_prefix("update-") {
            None if story == "life" => Story::Life,
            None if story == "unsigned" => Story::Unsigned,
            None => return Err(NoReplay),
            Some(image_bytes) => Story::Update(image_bytes.parse().map_err(|_| NoReplay)?),
        };
        let mode = Mode::ALL.into_iter().find(|it| it.name() == mode);
        let mode = mode.ok_or(NoReplay)?;
        let (cuts, net) = match rest.strip_prefix('@') {
            Some(net) => (Vec::new(), Some(network::parse(net).ok_or(NoReplay)?)),
            None => {
                let cuts = rest.split(',').filter(|cut| !cut.is_empty());
                let cuts: Result<_, _> = cuts.map(Cut::from_str).collect();
                (cuts.map_err(|_| NoReplay)?, None)
            }
        };
        Ok(Self {
            story,
            mode,
            cuts,
            net,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Ended;

    /// The forks are no invention: a replay that is cut there leaves the same flash and the same
    /// memory of the server.
    #[test]
    fn a_fork_is_what_a_replay_gives() {
        for mode in Mode::ALL {
            let before = Story::Update(LIFE_BYTES).before(mode);
            let mut explorer = Explorer::new(before.clone(), mode, 1).unwrap();
            let how = How {
                tears: few_tears,
                only: None,
            };
            let mut next = Some(Default::default());
            let first = explorer.first_layer();
            explorer.cut_layer(&first, &how, &mut next).unwrap();
            let mut forks = 0;
            for (cut, fork) in next.unwrap().worlds() {
                let mut replay = before.clone();
                replay.flash.cut_at(replay.flash.ops() + cut.op, cut.tear);
                while replay.start().unwrap() != Ended::PowerLost {}
                let whole = 0..crate::flash::DEFAULT_BYTES as u32;
                let same = replay.flash.bytes(whole.clone()) == fork.flash.bytes(whole);
                assert!(same, "{} {cut}", mode.name());
                assert_eq!(
                    replay.flash.ops(),
                    fork.flash.ops(),
                    "{} {cut}",
                    mode.name()
                );
                let seen = |bench: &Bench| bench.watch.as_ref().unwrap().seen;
                assert_eq!(seen(&replay), seen(fork), "{} {cut}", mode.name());
                forks += 1;
            }
            println!("{}: {forks} forks are what replays give", mode.name());
            assert!(forks > 100);
        }
    }

    #[test]
    fn what_a_violation_prints_can_be_replayed() {
        for text in [
            "life:rollback-on:12/before,3/words-7",
            "update-65536:blocks:@4096/flip",
        ] {
            let replay: Replay = text.parse().unwrap();
            assert_eq!(replay.to_string(), text);
        }
        for wrong in [
            "",
            "life",
            "life:on:1/before",
            "life:blocks:1",
            "life:blocks:@1/lost",
        ] {
            assert_eq!(wrong.parse::<Replay>(), Err(NoReplay), "{wrong}");
        }
        let replay: Replay = "life:rollback-off:30/words-7,2/after".parse().unwrap();
        assert!(
            replay
                .play()
                .unwrap()
                .starts_with("every promise holds; 2 cuts")
        );
    }
}
