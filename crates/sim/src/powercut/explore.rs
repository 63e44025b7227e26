//! Forks a world at each flash operation, instead of replaying it.
//!
//! A power cut takes all RAM. What follows it depends on the flash, on what the server remembers and
//! on the reason of the reset, and on nothing else; so a world that lies in flash as another one did
//! before ends as that one. An undisturbed start is therefore played once, with a log of its
//! operations. For each operation and each tear the flash is made as the cut leaves it; if it was
//! never seen before, it is judged and the life is played to its end from there.

use std::collections::HashMap;

use embedded_storage::nor_flash::ReadNorFlash;
use fota_image::{
    app::{self, CheckError, Window},
    otadata::{self, ENTRY_BYTES, Entry, SECTOR_BYTES as ENTRY_SECTOR_BYTES, State},
    partition::{Layout, Region, TABLE_OFFSET},
};
use fota_proto::checkin::ResetReason;

use super::{
    Cut, Limits, Mode, Place, Violation,
    watch::{Broken, Life, Mark, Seen, Watch},
};
use crate::{
    bench::{Bench, BenchError, Ended},
    flash::{BLOCK_BYTES, DEFAULT_BYTES, Op, OpKind, SECTOR_BYTES, SimFlash, Sum, Tear, mix},
};

/// Starts of a whole life with its cuts; beyond them it never ends.
pub(super) const STARTS_MAX: u32 = 80;
/// How often otadata with weak cells is read to be judged.
const NOISY_READS: usize = 4;

/// What it takes to the end of a life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Starts of the bootloader.
    pub starts: u64,
    /// Body bytes that arrive.
    pub bytes: u64,
    /// Erases of a sector or a block.
    pub erases: u64,
    /// Boot choices that are switched to a new image.
    pub activations: u64,
}

impl Cost {
    fn plus(self, other: Self) -> Self {
        Self {
            starts: self.starts + other.starts,
            bytes: self.bytes + other.bytes,
            erases: self.erases + other.erases,
            activations: self.activations + other.activations,
        }
    }

    fn beyond(self, other: Self) -> Self {
        Self {
            starts: self.starts.saturating_sub(other.starts),
            bytes: self.bytes.saturating_sub(other.bytes),
            erases: self.erases.saturating_sub(other.erases),
            activations: self.activations.saturating_sub(other.activations),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            starts: self.starts.max(other.starts),
            bytes: self.bytes.max(other.bytes),
            erases: self.erases.max(other.erases),
            activations: self.activations.max(other.activations),
        }
    }
}

/// What was tried and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Flash operations in which cuts were tried.
    pub ops: u64,
    /// Flash operations that there were.
    pub ops_total: u64,
    /// Cuts that were planned.
    pub planned: u64,
    /// Cuts that happened.
    pub executed: u64,
    /// Sequences of cuts that these stand for, each counted.
    pub sequences: u64,
    /// Worlds after a cut that no other cut had left.
    pub distinct: u64,
    /// What all of it took without a cut.
    pub undisturbed: Cost,
    /// Most that a sequence of cuts cost beyond that.
    pub extra: Cost,
}

/// A world at a reset.
#[derive(Clone)]
pub(super) struct Node {
    world: Bench,
    sum: Sum,
    so_far: Cost,
    path: Vec<Cut>,
    /// The first flash operation since the power came back.
    first_op: u64,
    /// How many sequences of cuts lead here.
    ways: u64,
}

/// Worlds after the same number of cuts, each once.
#[derive(Default)]
pub(super) struct Layer {
    nodes: Vec<Node>,
    index: HashMap<Sum, usize>,
}

/// In which operations is cut, and how.
pub(super) struct How {
    pub(super) tears: fn(&Op, Place, Mode) -> Vec<Tear>,
    pub(super) only: Option<Place>,
}

/// An undisturbed start.
struct Trace {
    ops: Vec<Op>,
    programmed: Vec<u8>,
    marks: Vec<Mark>,
    after: Bench,
    is_over: bool,
}

/// All that is known of a life.
pub struct Explorer {
    before: Bench,
    life: std::sync::Arc<Life>,
    mode: Mode,
    limits: Limits,
    layout: Layout,
    /// What it takes to the end, by world.
    known: HashMap<Sum, Cost>,
    /// Whether an image in a slot is authentic, by what lies there; none where there is no image.
    slots: HashMap<Sum, Option<bool>>,
    /// Figures since the phase began.
    pub figures: Figures,
}

type Tried<T> = Result<T, BenchError>;

impl Explorer {
    /// Plays a life to its end once; later it is cut `cuts` times.
    pub fn new(before: Bench, mode: Mode, cuts: u64) -> Result<Self, Box<Violation>> {
        let life = before.watch.as_ref().expect("a life is watched").life();
        let mut flash = before.flash.clone();
        let layout = Layout::read(&mut flash, TABLE_OFFSET, DEFAULT_BYTES as u32);
        let mut explorer = Self {
            limits: Limits::of(cuts, &life),
            before,
            life,
            mode,
            layout: layout.expect("the table of a bench"),
            known: HashMap::new(),
            slots: HashMap::new(),
            figures: Figures::default(),
        };
        let root = explorer.root();
        let key = key(&root.world, root.sum);
        let undisturbed = explorer.fate(root.world, root.sum, key);
        let undisturbed = undisturbed.map_err(|broken| Violation::new(mode, Vec::new(), broken))?;
        explorer.figures.undisturbed = undisturbed;
        Ok(explorer)
    }

    fn root(&self) -> Node {
        let world = self.before.clone();
        let sectors = DEFAULT_BYTES / SECTOR_BYTES;
        Node {
            sum: world.flash.sum(0..sectors),
            so_far: Cost::default(),
            path: Vec::new(),
            first_op: world.flash.ops(),
            ways: 1,
            world,
        }
    }

    /// Starts new figures; what is known stays.
    fn begin(&mut self) {
        self.figures = Figures {
            undisturbed: self.figures.undisturbed,
            ..Figures::default()
        };
    }

    /// The beginning, before any cut.
    pub(super) fn first_layer(&self) -> Layer {
        let mut first = Layer::default();
        first.nodes.push(self.root());
        first
    }

    /// Cuts each operation of what follows each world of a layer, for which the figures begin anew.
    /// Puts the worlds after it into `next`, where that is there.
    pub(super) fn cut_layer(
        &mut self,
        from: &Layer,
        how: &How,
        next: &mut Option<Layer>,
    ) -> Result<(), Box<Violation>> {
        self.begin();
        let mut below = HashMap::new();
        let mut sequences = 0;
        for node in &from.nodes {
            sequences += node.ways * self.fork_everywhere(node, how, &mut below, next)?;
        }
        self.figures.sequences = sequences;
        Ok(())
    }

    /// Plays a world to its end and forks it at each operation, up to a start at which that was done
    /// before. Gives how many cuts lie before it.
    fn fork_everywhere(
        &mut self,
        from: &Node,
        how: &How,
        below: &mut HashMap<Sum, u64>,
        next: &mut Option<Layer>,
    ) -> Result<u64, Box<Violation>> {
        let mut chain = Vec::new();
        let mut node = from.clone();
        let mut cuts = loop {
            let key = key(&node.world, node.sum);
            if let Some(cuts) = below.get(&key) {
                break *cuts;
            }
            let trace = self
                .trace(&node)
                .map_err(|broken| self.violation(&node.path, broken))?;
            let before = self.figures.planned;
            let end = self.fork(&node, &trace, how, next)?;
            chain.push((key, self.figures.planned - before));
            if trace.is_over {
                break 0;
            }
            node = Node {
                so_far: end,
                sum: trace.after.flash.sum_since(&node.world.flash, node.sum),
                world: trace.after,
                ..node
            };
        };
        for (key, here) in chain.into_iter().rev() {
            cuts += here;
            below.insert(key, cuts);
        }
        Ok(cuts)
    }

    fn trace(&self, node: &Node) -> Tried<Trace> {
        let mut after = node.world.clone();
        after.flash.start_log();
        watch(&mut after).start_marks();
        let ended = after.start()?;
        let marks = watch(&mut after).take_marks();
        Ok(Trace {
            ops: after.flash.log().to_vec(),
            programmed: after.flash.programmed().to_vec(),
            marks,
            is_over: ended == Ended::Settled,
            after,
        })
    }

    /// Cuts each operation of a start; gives what the life has cost behind it.
    fn fork(
        &mut self,
        node: &Node,
        trace: &Trace,
        how: &How,
        next: &mut Option<Layer>,
    ) -> Result<Cost, Box<Violation>> {
        let mut cursor = Cursor::new(node);
        let mut programmed = &trace.programmed[..];
        for op in &trace.ops {
            let target = match op.kind {
                OpKind::Program => programmed.split_off(..op.len as usize).unwrap_or_default(),
                _ => &ONES[..op.len as usize],
            };
            cursor.meet(node, trace, op);
            self.figures.ops_total += 1;
            let place = self.place(op);
            if how.only.is_none_or(|only| only == place) {
                self.figures.ops += 1;
                let tears = (how.tears)(op, place, self.mode);
                self.cut(node, &cursor, (op, target, place), &tears, next)?;
            }
            cursor.pass(op, target);
        }
        cursor.finish(node, trace);
        let same = trace.after.flash.sum_since(&node.world.flash, node.sum) == cursor.sum;
        match same {
            true => Ok(cursor.so_far),
            false => Err(self.violation(&node.path, Broken::NotExecuted.into())),
        }
    }

    fn cut(
        &mut self,
        node: &Node,
        cursor: &Cursor,
        (op, target, place): (&Op, &[u8], Place),
        tears: &[Tear],
        next: &mut Option<Layer>,
    ) -> Result<(), Box<Violation>> {
        let mut meant = Vec::new();
        self.figures.planned += tears.len() as u64;
        for tear in tears {
            let path = || {
                let op = cursor.number - node.first_op;
                let mut path = node.path.clone();
                path.push(Cut { op, tear: *tear });
                path
            };
            let mut flash = cursor.flash.clone();
            flash.tear(*op, target, *tear);
            let sum = flash.sum_since(&cursor.flash, cursor.sum);
            let fork = node.fork(flash, cursor, &self.life);
            let entries = match place == Place::OtaData && !cursor.is_bootloader {
                true => self.judge_entries(&fork.flash, *tear, &mut meant),
                false => Ok(()),
            };
            let key = key(&fork, sum);
            let fate = entries.and_then(|()| match self.known.get(&key) {
                Some(fate) => Ok(*fate),
                None => {
                    self.figures.distinct += 1;
                    self.judge_flash(&fork.flash)?;
                    self.fate(fork.clone(), sum, key)
                }
            });
            let fate = fate.and_then(|fate| self.charge(cursor.so_far.plus(fate)));
            fate.map_err(|broken| self.violation(&path(), broken))?;
            self.figures.executed += 1;
            if let Some(next) = next {
                next.add(key, || Node {
                    world: fork,
                    sum,
                    so_far: cursor.so_far,
                    path: path(),
                    first_op: cursor.number + 1,
                    ways: 0,
                });
                next.merge(key, node.ways, cursor.so_far);
            }
        }
        Ok(())
    }

    /// Counts what a cut has cost in all.
    fn charge(&mut self, whole: Cost) -> Tried<()> {
        let extra = whole.beyond(self.figures.undisturbed);
        self.figures.extra = self.figures.extra.max(extra);
        self.limits.judge(extra).map_err(BenchError::from)
    }

    /// What a replay has cost is within the limits too.
    pub(super) fn judge_walk(&self, whole: Cost) -> Tried<Cost> {
        let extra = whole.beyond(self.figures.undisturbed);
        self.limits.judge(extra)?;
        Ok(extra)
    }

    /// How many flash operations the undisturbed life has.
    pub(super) fn ops(&self) -> Result<u64, Box<Violation>> {
        let mut world = self.before.clone();
        let first = world.flash.ops();
        let played = world.run(STARTS_MAX);
        played.map_err(|broken| self.violation(&[], broken))?;
        Ok(world.flash.ops() - first)
    }

    /// What it takes to the end from a world at a reset that was not forked here.
    pub(super) fn finish(&mut self, world: Bench) -> Tried<Cost> {
        let root = self.root();
        let sum = world.flash.sum_since(&root.world.flash, root.sum);
        let key = key(&world, sum);
        self.fate(world, sum, key)
    }

    /// What it takes from a world at a reset to the end of its life, without another cut.
    fn fate(&mut self, world: Bench, sum: Sum, at: Sum) -> Tried<Cost> {
        let mut chain = Vec::new();
        let (mut world, mut sum, mut at) = (world, sum, at);
        let mut fate = loop {
            if let Some(fate) = self.known.get(&at) {
                break *fate;
            }
            if chain.len() as u32 == STARTS_MAX {
                return Err(BenchError::Starts(STARTS_MAX));
            }
            let before = (
                world.flash.clone(),
                world.downloaded_bytes,
                world.activations,
            );
            world.flash.start_log();
            let ended = world.start()?;
            if world.flash.violations() > 0 {
                return Err(Broken::Protected.into());
            }
            let cost = Cost {
                starts: 1,
                bytes: world.downloaded_bytes - before.1,
                erases: world.flash.log().iter().filter(|op| op.is_erase()).count() as u64,
                activations: u64::from(world.activations - before.2),
            };
            chain.push((at, cost));
            sum = world.flash.sum_since(&before.0, sum);
            if ended == Ended::Settled {
                self.judge_flash(&world.flash)?;
                break Cost::default();
            }
            at = key(&world, sum);
        };
        for (key, cost) in chain.into_iter().rev() {
            fate = fate.plus(cost);
            self.known.insert(key, fate);
        }
        Ok(fate)
    }

    /// The flash as the cut left it: whatever could be booted is authentic, and otadata names
    /// nothing else.
    pub(super) fn judge_flash(&mut self, flash: &SimFlash) -> Tried<()> {
        let mut is_authentic = [false; 2];
        let regions: Vec<Region> = self
            .layout
            .slots()
            .iter()
            .map(|slot| slot.region())
            .collect();
        for (region, is_authentic) in regions.iter().zip(&mut is_authentic) {
            match self.content(flash, *region)? {
                Some(true) => *is_authentic = true,
                Some(false) => return Err(Broken::NotAuthentic { place: "a slot" }.into()),
                None => {}
            }
        }
        let reads = if flash.weak_sum() == 0 {
            1
        } else {
            NOISY_READS
        };
        let mut flash = flash.clone();
        for _ in 0..reads {
            for index in 0..2 {
                let entry = self.entry(&mut flash, index)?;
                let slot = otadata::slot_of(entry.seq, self.layout.count());
                if entry.usable() && !is_authentic[usize::from(slot)] {
                    return Err(Broken::Named { entry: index, slot }.into());
                }
            }
        }
        Ok(())
    }

    fn content(&mut self, flash: &SimFlash, region: Region) -> Tried<Option<bool>> {
        let sector = |at: u32| at as usize / SECTOR_BYTES;
        let sum = flash.sum(sector(region.offset)..sector(region.end()));
        if let Some(known) = self.slots.get(&sum) {
            return Ok(*known);
        }
        let mut flash = flash.clone();
        let mut window = Window {
            source: &mut flash,
            base: region.offset,
        };
        let found = match app::check(&mut window, region.size) {
            Ok(image) => Some(self.life.is_authentic(&image.sha256)),
            Err(CheckError::Image(_)) => None,
            Err(CheckError::Read { error, .. }) => return Err(error.into()),
        };
        self.slots.insert(sum, found);
        Ok(found)
    }

    /// What can be chosen after a torn operation of the device crate could be chosen before it, or
    /// after it. (The bootloader's own operations tear as they do.) `meant` collects both; they are
    /// the first two tears of an operation.
    fn judge_entries(
        &self,
        flash: &SimFlash,
        tear: Tear,
        meant: &mut Vec<(u32, State)>,
    ) -> Tried<()> {
        let mut flash = flash.clone();
        for index in 0..2 {
            let entry = self.entry(&mut flash, index)?;
            let choice = (entry.seq, entry.state);
            if matches!(tear, Tear::Before | Tear::After) {
                meant.push(choice);
            } else if entry.usable() && !meant.contains(&choice) {
                return Err(Broken::Torn { entry: index }.into());
            }
        }
        Ok(())
    }

    fn entry(&self, flash: &mut SimFlash, index: usize) -> Tried<Entry> {
        let at = self.layout.otadata.offset + index as u32 * ENTRY_SECTOR_BYTES;
        let mut bytes = [0; ENTRY_BYTES];
        ReadNorFlash::read(flash, at, &mut bytes)?;
        Ok(Entry::parse(&bytes))
    }

    fn place(&self, op: &Op) -> Place {
        let holds = |region: Region| (region.offset..region.end()).contains(&op.offset);
        match (
            holds(self.layout.otadata),
            self.layout.trust.is_some_and(holds),
        ) {
            (true, _) => Place::OtaData,
            (_, true) => Place::Trust,
            _ => Place::Slot,
        }
    }

    fn violation(&self, path: &[Cut], broken: BenchError) -> Box<Violation> {
        Violation::new(self.mode, path.to_vec(), broken)
    }
}

static ONES: [u8; BLOCK_BYTES] = [0xFF; BLOCK_BYTES];

/// The flash in front of an operation of a start, and what the world is then.
struct Cursor {
    flash: SimFlash,
    sum: Sum,
    number: u64,
    is_bootloader: bool,
    mark: usize,
    seen: Option<Mark>,
    erases: u64,
    so_far: Cost,
}

impl Cursor {
    fn new(node: &Node) -> Self {
        Self {
            flash: node.world.flash.clone(),
            sum: node.sum,
            number: node.world.flash.ops(),
            is_bootloader: true,
            mark: 0,
            seen: None,
            erases: 0,
            so_far: node.so_far,
        }
    }

    /// Catches up with what the world remembers at this operation.
    fn meet(&mut self, node: &Node, trace: &Trace, op: &Op) {
        let from = trace.after.app_from_op;
        self.is_bootloader = from.is_none_or(|from| self.number < from);
        while let Some(mark) = trace
            .marks
            .get(self.mark)
            .filter(|mark| mark.op <= self.number)
        {
            self.seen = Some(*mark);
            self.mark += 1;
        }
        self.erases += u64::from(op.is_erase());
        let (bytes, activations) = match self.seen {
            Some(mark) => (mark.downloaded_bytes, mark.activations),
            None => (node.world.downloaded_bytes, node.world.activations),
        };
        self.charge(node, bytes, activations);
    }

    fn charge(&mut self, node: &Node, bytes: u64, activations: u32) {
        let here = Cost {
            starts: 1,
            bytes: bytes - node.world.downloaded_bytes,
            erases: self.erases,
            activations: u64::from(activations - node.world.activations),
        };
        self.so_far = node.so_far.plus(here);
    }

    fn pass(&mut self, op: &Op, target: &[u8]) {
        let before = self.flash.clone();
        self.flash.tear(*op, target, Tear::After);
        self.sum = self.flash.sum_since(&before, self.sum);
        self.number += 1;
    }

    fn finish(&mut self, node: &Node, trace: &Trace) {
        let after = &trace.after;
        self.charge(node, after.downloaded_bytes, after.activations);
    }
}

impl Node {
    /// The world after the power came back.
    fn fork(&self, flash: SimFlash, cursor: &Cursor, life: &Life) -> Bench {
        let mut world = self.world.clone();
        world.flash = flash;
        world.flash.restart_at(cursor.number + 1);
        world.reset = ResetReason::PowerOn;
        let seen = cursor
            .seen
            .map_or_else(|| watch(&mut world).seen, |mark| mark.seen);
        watch(&mut world).remember(seen);
        world.server = life.server(seen.step);
        if let Some(mark) = cursor.seen {
            (world.downloaded_bytes, world.activations) = (mark.downloaded_bytes, mark.activations);
        }
        world
    }
}

impl Layer {
    /// The worlds, each with the last cut before it.
    #[cfg(test)]
    pub(super) fn worlds(&self) -> impl Iterator<Item = (Cut, &Bench)> {
        self.nodes
            .iter()
            .filter_map(|node| Some((*node.path.last()?, &node.world)))
    }

    fn add(&mut self, key: Sum, node: impl FnOnce() -> Node) {
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.index.entry(key) {
            vacant.insert(self.nodes.len());
            self.nodes.push(node());
        }
    }

    /// One more way to a world, at this cost.
    fn merge(&mut self, key: Sum, ways: u64, so_far: Cost) {
        let node = &mut self.nodes[self.index[&key]];
        node.ways += ways;
        node.so_far = node.so_far.max(so_far);
    }
}

fn watch(world: &mut Bench) -> &mut Watch {
    world.watch.as_mut().expect("a life is watched")
}

/// Worlds with the same key are the same.
fn key(world: &Bench, sum: Sum) -> Sum {
    let seen = world.watch.as_ref().map(|watch| watch.seen);
    let Seen {
        step,
        confirmed,
        root,
        epoch,
        given_up,
    } = seen.expect("a life is watched");
    let bits = u128::from(step) | u128::from(confirmed) << 8 | u128::from(given_up) << 24;
    let trust = u128::from(root) << 40 | u128::from(epoch) << 72;
    let key = mix(mix(sum, world.flash.weak_sum()), bits | trust);
    mix(key, world.reset as u128)
}
