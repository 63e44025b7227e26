//! Cuts the power at every flash operation of an update, before it, after it and inside it.
//!
//! A story is played once undisturbed; each of its flash operations, the bootloader's included, is
//! then cut in every way of [`tears`], on a fork of the world just before the start it belongs to.
//! After each cut the flash is judged as it lies there, then the power comes back and the story
//! must reach its end.

use std::sync::OnceLock;

use embedded_storage::nor_flash::{MultiwriteNorFlash, NorFlash};
use fota_device::{Started, Updater, Workspace};
use fota_image::{
    app::{self, CheckError, Window},
    otadata::{self, ENTRY_BYTES, Entry, SECTOR_BYTES, State},
    partition::{Layout, Region, TABLE_OFFSET},
};
use fota_proto::{FailureCode, Sha256, checkin::ResetReason};

use crate::{
    bench::{Bench, BenchError, Ended, trust},
    flash::{DEFAULT_BYTES, Op, OpKind, SimFlash, Tear},
    scripted::Artifact,
};

/// Starts that a story may take after a cut: an order is carried out in two, a cut trial on a
/// bootloader with rollback costs two more.
const STARTS_MAX: u32 = 6;
/// Random tears of an operation on otadata, of each kind. Few operations, where all depends on
/// single words.
const OTADATA_SEEDS: u64 = 24;
/// Random tears of an operation on the trust partition, of each kind.
const TRUST_SEEDS: u64 = 4;
/// Random tears of an operation on a slot, of each kind.
const SLOT_SEEDS: u64 = 1;

/// What an operation changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The boot choice.
    OtaData,
    /// Whom the device trusts.
    Trust,
    /// An image.
    Slot,
}

/// What happens, and how it must end.
#[derive(Clone, Debug)]
pub struct Story {
    /// The world before: the device settled, the order stands.
    pub before: Bench,
    /// Every image that may ever run.
    pub authentic: Vec<Artifact>,
    /// The image that must be watched until it is confirmed, if the story has one.
    pub on_trial: Option<Sha256>,
    /// What runs in the end.
    pub ends_with: Sha256,
    /// The failure that the server has seen in the end; none if all went well.
    pub reported: Option<FailureCode>,
    /// Root version and security epoch before and in the end, where the device trusts a root.
    pub trusts: Option<[(u32, u32); 2]>,
}

/// What was tried and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Flash operations of the undisturbed story.
    pub ops: u64,
    /// Cuts that were planned.
    pub planned: u64,
    /// Cuts that happened.
    pub executed: u64,
    /// Most starts that a story needed after a cut.
    pub starts_max: u32,
    /// Most bytes that were downloaded beyond those of the undisturbed story.
    pub extra_bytes_max: u64,
    /// Stories in which the image had to be activated a second time: the cut hit the activation,
    /// or ended the trial.
    pub repeated: u64,
}

/// A cut after which a promise did not hold.
#[derive(Debug, thiserror::Error)]
#[error("cut at {op:?} (number {number}) with {tear:?}: {broken}")]
pub struct Violation {
    /// The operation.
    pub op: Op,
    /// Its number, as [`SimFlash::ops`] counts.
    pub number: u64,
    /// How it was cut.
    pub tear: Tear,
    /// What did not hold.
    pub broken: Broken,
}

/// A promise that did not hold.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Boot, app or device crate.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// An image that nobody made can boot.
    #[error("{place} is bootable and not authentic")]
    NotAuthentic {
        /// Where.
        place: &'static str,
    },
    /// otadata leads to a slot without an authentic image.
    #[error("otadata entry {entry} names slot {slot}, which holds no authentic image")]
    Named {
        /// Index of the entry.
        entry: usize,
        /// The slot.
        slot: u8,
    },
    /// A torn write or erase made an entry that boots and that nobody wrote.
    #[error("otadata entry {entry} is usable, and neither what it was nor what it was to become")]
    Torn {
        /// Index of the entry.
        entry: usize,
    },
    /// The new image runs and nobody would take it back.
    #[error("an image runs unconfirmed and is not on trial")]
    Unmonitored,
    /// What the device trusts was lost, or is from nowhere.
    #[error("the device follows root {root} at epoch {epoch}, which is neither before nor after")]
    Trust {
        /// Its root.
        root: u32,
        /// Its security epoch.
        epoch: u32,
    },
    /// The story did not come to its end.
    #[error("the story ends with another image, or the server saw {reported:?} as its outcome")]
    End {
        /// What the server saw last.
        reported: Option<FailureCode>,
    },
    /// The running slot, bootloader or table was touched.
    #[error("a write to the running slot, bootloader or table was attempted")]
    Protected,
    /// The cut did not happen: the story is not the same each time.
    #[error("the cut did not happen")]
    NotExecuted,
}

/// The ways in which an operation is cut.
pub fn tears(op: &Op, place: Place) -> Vec<Tear> {
    let len = op.len as usize;
    let mut all = vec![Tear::Before, Tear::After];
    // A torn entry is most dangerous at the edges of its words.
    let prefixes = match op.len <= ENTRY_BYTES as u32 {
        true => (1..len).collect(),
        false => vec![1, 16, 32, len / 2, len - 1],
    };
    all.extend(prefixes.into_iter().map(Tear::Prefix));
    let seeds = match place {
        Place::OtaData => OTADATA_SEEDS,
        Place::Trust => TRUST_SEEDS,
        Place::Slot => SLOT_SEEDS,
    };
    for seed in 0..seeds {
        let seed = seed * 0x1_0001 + u64::from(op.offset);
        all.push(Tear::RandomBytes(seed));
        all.push(Tear::RandomWords(seed));
        all.push(Tear::Random(seed));
    }
    if place == Place::OtaData && op.kind == OpKind::EraseSector {
        all.extend(every_torn_entry().iter().copied().map(Tear::RandomWords));
    }
    all
}

/// Seeds with which the erase of an entry is torn in every way in which each of its eight words is
/// erased or not: the state can be gone and the CRC still right.
fn every_torn_entry() -> &'static [u64] {
    static SEEDS: OnceLock<Vec<u64>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let mut seen = [false; 256];
        let is_new = |seed: &u64| !std::mem::replace(&mut seen[torn_words(*seed)], true);
        (0..100_000).filter(is_new).take(256).collect()
    })
}

/// Which of the first eight words of a sector are erased by a torn erase.
fn torn_words(seed: u64) -> usize {
    let mut flash = SimFlash::new(SECTOR_BYTES as usize);
    let fits = "within the one sector";
    flash.load(0, &[0; ENTRY_BYTES]).expect(fits);
    flash.cut_at(0, Tear::RandomWords(seed));
    let _ = flash.erase(0, SECTOR_BYTES);
    let bytes = flash.bytes(0..ENTRY_BYTES as u32).expect(fits);
    let words = bytes.chunks(4).enumerate();
    words.fold(0, |all, (index, word)| {
        all | usize::from(word[0] & 1) << index
    })
}

impl Story {
    /// Plays the story once, and once more for every cut.
    pub fn cut_everywhere(&self) -> Result<Figures, Box<Violation>> {
        let mut undisturbed = self.before.clone();
        let starts = self.play(&mut undisturbed).map_err(|broken| {
            Box::new(Violation {
                op: Op {
                    kind: OpKind::Program,
                    offset: 0,
                    len: 0,
                },
                number: 0,
                tear: Tear::Before,
                broken,
            })
        })?;
        let first = self.before.flash.ops();
        let mut figures = Figures {
            ops: undisturbed.flash.ops() - first,
            ..Figures::default()
        };
        let log = undisturbed.flash.log();
        for (number, op) in (first..).zip(log) {
            let mut meant = Vec::new();
            for tear in tears(op, self.place(op)) {
                figures.planned += 1;
                self.cut(
                    &starts,
                    &undisturbed,
                    number,
                    tear,
                    &mut meant,
                    &mut figures,
                )
                .map_err(|broken| {
                    Box::new(Violation {
                        op: *op,
                        number,
                        tear,
                        broken,
                    })
                })?;
            }
        }
        Ok(figures)
    }

    /// Plays the story with `cuts` cuts at places and in ways that follow from `seed`.
    pub fn walk(&self, seed: u64, cuts: u32) -> Result<Figures, Broken> {
        let mut undisturbed = self.before.clone();
        self.play(&mut undisturbed)?;
        let ops = undisturbed.flash.ops() - self.before.flash.ops();
        let mut dice = Dice(seed);
        let mut figures = Figures {
            ops,
            planned: cuts.into(),
            ..Figures::default()
        };
        let mut bench = self.before.clone();
        while figures.executed < figures.planned {
            let number = bench.flash.ops() + dice.below(ops);
            bench.flash.cut_at(number, dice.tear());
            match bench.start()? {
                Ended::Settled => break, // The rest of the cuts comes too late.
                Ended::Reset => continue,
                Ended::PowerLost => figures.executed += 1,
            }
            bench.flash.power_on();
            bench.reset = ResetReason::PowerOn;
            self.judge_flash(&bench)?;
            self.judge_boot(&bench, bench.confirm_op != self.before.confirm_op)?;
        }
        bench.flash.power_on();
        bench.run(STARTS_MAX)?;
        self.judge_end(&bench)?;
        figures.starts_max = bench.starts - self.before.starts;
        figures.extra_bytes_max = bench
            .downloaded_bytes
            .saturating_sub(undisturbed.downloaded_bytes);
        Ok(figures)
    }

    /// Plays to the end and gives the world before each start.
    fn play(&self, bench: &mut Bench) -> Result<Vec<Bench>, Broken> {
        let mut starts = Vec::new();
        bench.flash.start_log();
        for _ in 0..STARTS_MAX {
            starts.push(bench.clone());
            if bench.start()? == Ended::Settled {
                return self.judge_end(bench).map(|()| starts);
            }
        }
        Err(BenchError::Starts(STARTS_MAX).into())
    }

    fn cut(
        &self,
        starts: &[Bench],
        undisturbed: &Bench,
        number: u64,
        tear: Tear,
        meant: &mut Vec<(u32, State)>,
        figures: &mut Figures,
    ) -> Result<(), Broken> {
        let is_before = |bench: &&Bench| bench.flash.ops() <= number;
        let start = starts.iter().rev().find(is_before);
        let mut bench = start.ok_or(Broken::NotExecuted)?.clone();
        bench.flash.cut_at(number, tear);
        if bench.start()? != Ended::PowerLost || bench.flash.ops() != number + 1 {
            return Err(Broken::NotExecuted);
        }
        figures.executed += 1;
        bench.flash.power_on();
        bench.reset = ResetReason::PowerOn;
        let may_be_confirmed = undisturbed.confirm_op.is_some_and(|op| number >= op);
        self.judge_flash(&bench)?;
        self.judge_entries(&bench, tear, meant)?;
        self.judge_boot(&bench, may_be_confirmed)?;
        let starts_before = bench.starts;
        bench.run(STARTS_MAX)?;
        self.judge_end(&bench)?;
        figures.starts_max = figures.starts_max.max(bench.starts - starts_before);
        figures.repeated += u64::from(bench.activations > undisturbed.activations);
        let extra = bench
            .downloaded_bytes
            .saturating_sub(undisturbed.downloaded_bytes);
        figures.extra_bytes_max = figures.extra_bytes_max.max(extra);
        Ok(())
    }

    /// The flash as the cut left it: whatever could be booted is authentic, and otadata names
    /// nothing else.
    fn judge_flash(&self, bench: &Bench) -> Result<(), Broken> {
        let mut flash = bench.flash.clone();
        let layout = self.layout(bench)?;
        let mut is_authentic = [false; 2];
        for (slot, is_authentic) in layout.slots().iter().zip(&mut is_authentic) {
            let mut window = Window {
                source: &mut flash,
                base: slot.offset,
            };
            match app::check(&mut window, slot.size) {
                Ok(image) if self.is_authentic(&image.sha256) => *is_authentic = true,
                Ok(_) => return Err(Broken::NotAuthentic { place: "a slot" }),
                Err(CheckError::Image(_)) => {}
                Err(CheckError::Read { error, .. }) => return Err(BenchError::from(error).into()),
            }
        }
        for index in 0..2 {
            let entry = read_entry(&flash, layout.otadata.offset, index)?;
            let slot = otadata::slot_of(entry.seq, layout.count());
            if entry.usable() && !is_authentic[usize::from(slot)] {
                return Err(Broken::Named { entry: index, slot });
            }
        }
        Ok(())
    }

    /// What can be chosen after a torn operation of the device crate could be chosen before it, or
    /// after it. (The bootloader's own operations tear as they do.) `meant` collects both; they are
    /// the first two tears of an operation.
    fn judge_entries(
        &self,
        bench: &Bench,
        tear: Tear,
        meant: &mut Vec<(u32, State)>,
    ) -> Result<(), Broken> {
        if bench.app_from_op.is_none() {
            return Ok(());
        }
        let layout = self.layout(bench)?;
        for index in 0..2 {
            let entry = read_entry(&bench.flash, layout.otadata.offset, index)?;
            let choice = (entry.seq, entry.state);
            if matches!(tear, Tear::Before | Tear::After) {
                meant.push(choice);
            } else if entry.usable() && !meant.contains(&choice) {
                return Err(Broken::Torn { entry: index });
            }
        }
        Ok(())
    }

    fn layout(&self, bench: &Bench) -> Result<Layout, Broken> {
        let mut flash = bench.flash.clone();
        Layout::read(&mut flash, TABLE_OFFSET, DEFAULT_BYTES as u32)
            .map_err(|_| Broken::NotAuthentic { place: "the table" })
    }

    /// What would boot now, and whether it is watched.
    fn judge_boot(&self, bench: &Bench, may_be_confirmed: bool) -> Result<(), Broken> {
        let mut fork = bench.clone();
        fork.flash.unprotect_all();
        let boot = fork.bootloader.boot(&mut fork.flash);
        let boot = boot.map_err(BenchError::Boot)?;
        if !self.is_authentic(&boot.image.sha256) {
            return Err(Broken::NotAuthentic {
                place: "what boots",
            });
        }
        let elf = boot.image.desc.map(|desc| Sha256(desc.app_elf_sha256));
        let is_new = elf.is_some() && elf == self.on_trial;
        let info = fork.boot_info(&boot);
        let root = fork.root.clone();
        let mut workspace = Box::new(Workspace::new());
        let trust = trust(root.as_deref(), &mut workspace);
        let started = Updater::start(&mut fork.flash, info, trust);
        match started {
            Ok(Started::Run(updater)) => {
                self.judge_trust(&updater, false)?;
                let is_watched = updater.is_on_trial();
                match is_new && !is_watched && !may_be_confirmed {
                    true => Err(Broken::Unmonitored),
                    false => Ok(()),
                }
            }
            Ok(Started::Reset(_)) => Ok(()),
            Err(error) => Err(BenchError::Device {
                what: "start",
                error: error.to_string(),
            }
            .into()),
        }
    }

    /// No cut takes away a root or lowers an epoch, and in the end both are the new ones.
    fn judge_trust<F: MultiwriteNorFlash>(
        &self,
        updater: &Updater<'_, F>,
        is_end: bool,
    ) -> Result<(), Broken> {
        let Some([before, after]) = self.trusts else {
            return Ok(());
        };
        let root = updater.root_version().unwrap_or(0);
        let epoch = updater.security_epoch().unwrap_or(0);
        let within = |found, from, to| from <= found && found <= to;
        let is_right = match is_end {
            true => (root, epoch) == after,
            false => within(root, before.0, after.0) && within(epoch, before.1, after.1),
        };
        match is_right {
            true => Ok(()),
            false => Err(Broken::Trust { root, epoch }),
        }
    }

    fn judge_end(&self, bench: &Bench) -> Result<(), Broken> {
        if bench.flash.violations() > 0 {
            return Err(Broken::Protected);
        }
        self.judge_flash(bench)?;
        let mut flash = bench.flash.clone();
        let boot = bench
            .bootloader
            .boot(&mut flash)
            .map_err(BenchError::Boot)?;
        let root = bench.root.clone();
        let mut workspace = Box::new(Workspace::new());
        let trust = trust(root.as_deref(), &mut workspace);
        let info = bench.boot_info(&boot);
        if let Ok(Started::Run(updater)) = Updater::start(&mut flash, info, trust) {
            self.judge_trust(&updater, true)?;
        }
        let elf = boot.image.desc.map(|desc| Sha256(desc.app_elf_sha256));
        let reported = bench.outcomes.last().map(|outcome| outcome.code);
        match elf == Some(self.ends_with) && reported == self.reported {
            true => Ok(()),
            false => Err(Broken::End { reported }),
        }
    }

    fn is_authentic(&self, sha256: &[u8; 32]) -> bool {
        self.authentic.iter().any(|image| image.sha256.0 == *sha256)
    }

    fn place(&self, op: &Op) -> Place {
        let Ok(layout) = self.layout(&self.before) else {
            return Place::Slot;
        };
        let holds = |region: Region| (region.offset..region.end()).contains(&op.offset);
        match (holds(layout.otadata), layout.trust.is_some_and(holds)) {
            (true, _) => Place::OtaData,
            (_, true) => Place::Trust,
            _ => Place::Slot,
        }
    }
}

fn read_entry(flash: &SimFlash, otadata: u32, index: usize) -> Result<Entry, BenchError> {
    let at = otadata + index as u32 * SECTOR_BYTES;
    let bytes = flash.bytes(at..at + ENTRY_BYTES as u32)?;
    let mut entry = [0; ENTRY_BYTES];
    entry.copy_from_slice(&bytes);
    Ok(Entry::parse(&entry))
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn tear(&mut self) -> Tear {
        match self.below(6) {
            0 => Tear::Before,
            1 => Tear::After,
            2 => Tear::Prefix(self.below(64) as usize),
            3 => Tear::Random(self.next()),
            4 => Tear::RandomBytes(self.next()),
            _ => Tear::RandomWords(self.next()),
        }
    }
}
