//! Cuts the power at every flash operation of a device's life, before it, after it and inside it.
//!
//! A life is a list of orders (see [`life`]) on a simulated flash, under a model of the bootloader,
//! with the device crate in the firmware. [`Explorer`] plays it once and forks it at each operation,
//! the bootloader's included, in every way of [`tears`]. After each cut the flash is judged as it lies
//! there; then the power comes back and the life must reach its end, with every promise of [`Broken`]
//! kept on the way. From the worlds after one cut it goes on to all pairs, and to triples.
//!
//! What it does not share with that is [`walk`]: a replay with any sequence of cuts, for random
//! stories and to repeat what was found.

mod explore;
pub mod life;
mod network;
mod plan;
mod walk;
mod watch;

use std::{fmt, str::FromStr, sync::OnceLock};

use embedded_storage::nor_flash::NorFlash;
use fota_image::otadata::{ENTRY_BYTES, SECTOR_BYTES};
use fota_proto::{limits::CHUNK_BYTES, signed::index};

use crate::{
    bench::{ARRIVING_BYTES, Bench, BenchError, NetCut},
    flash::{Dice, NoTear, Op, OpKind, SimFlash, Tear},
};
use explore::How;
pub use explore::{Cost, Explorer, Figures};
pub use network::{NetFigures, faults};
pub use plan::{Found, NoReplay, Phase, Plan, Replay, Row, Story};
pub use walk::{Walk, random, shrink, walk};
pub use watch::{Broken, Goal, Life, Seen, Step, Watch};

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

/// The kind of bootloader, and how a cut looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Espressif's stock bootloader, as most boards have it.
    RollbackOff,
    /// Built with `BOOTLOADER_APP_ROLLBACK_ENABLE`.
    RollbackOn,
    /// The latter, and a cut leaves whole 16-byte blocks of garbage, as through flash encryption.
    Blocks,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::RollbackOff, Self::RollbackOn, Self::Blocks];

    /// Whether the bootloader goes back by itself.
    pub const fn rollback(self) -> bool {
        !matches!(self, Self::RollbackOff)
    }

    /// Its name in commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RollbackOff => "rollback-off",
            Self::RollbackOn => "rollback-on",
            Self::Blocks => "blocks",
        }
    }
}

/// What a sequence of cuts may cost at most beyond the undisturbed life.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Starts.
    pub starts: u64,
    /// Downloaded bytes.
    pub bytes: u64,
    /// Erases of a sector or a block.
    pub erases: u64,
}

impl Limits {
    /// For each cut: an order is carried out in two starts, and a cut trial under a bootloader with
    /// rollback costs two more.
    pub const STARTS_PER_CUT: u64 = 6;
    /// For each cut: the chunk that was programmed last, the one that was on its way, and a page of the
    /// index. A patch that is not kept is fetched again on top of it.
    pub const BYTES_PER_CUT: u64 =
        2 * CHUNK_BYTES as u64 + index::PAGE_BYTES as u64 + ARRIVING_BYTES as u64;
    /// For each cut: the sectors that a download had ahead, otadata for another switch, and what a
    /// bootloader rewrites.
    pub const ERASES_PER_CUT: u64 = 8;

    /// What these many cuts may cost in this life.
    pub fn of(cuts: u64, life: &Life) -> Self {
        let again = life.steps.iter().map(|step| step.again_bytes()).max();
        let bytes = Self::BYTES_PER_CUT + u64::from(again.unwrap_or(0));
        Self {
            starts: cuts * Self::STARTS_PER_CUT,
            bytes: cuts * bytes,
            erases: cuts * Self::ERASES_PER_CUT,
        }
    }

    fn judge(&self, extra: Cost) -> Result<(), Broken> {
        let all = [
            ("starts", extra.starts, self.starts),
            ("bytes", extra.bytes, self.bytes),
            ("erases", extra.erases, self.erases),
        ];
        let over = all.into_iter().find(|(_, found, most)| found > most);
        over.map_or(Ok(()), |(what, found, most)| {
            Err(Broken::Cost { what, found, most })
        })
    }
}

/// A power cut: how many flash operations were whole since the power came, and how the next one is
/// torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whole operations before it.
    pub op: u64,
    /// What is left of the one that it hits.
    pub tear: Tear,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.op, self.tear)
    }
}

impl FromStr for Cut {
    type Err = NoTear;

    fn from_str(text: &str) -> Result<Self, NoTear> {
        let (op, tear) = text.split_once('/').ok_or(NoTear)?;
        let op = op.parse().map_err(|_| NoTear)?;
        let tear = tear.parse()?;
        Ok(Self { op, tear })
    }
}

/// Cuts after which a promise did not hold.
#[derive(Debug, thiserror::Error)]
#[error("{}, cuts {}: {broken}", .mode.name(), spec(.cuts))]
pub struct Violation {
    /// The bootloader.
    pub mode: Mode,
    /// The cuts.
    pub cuts: Vec<Cut>,
    /// What the network did.
    pub net: Option<NetCut>,
    /// What did not hold.
    pub broken: BenchError,
}

impl Violation {
    fn new(mode: Mode, cuts: Vec<Cut>, broken: BenchError) -> Box<Self> {
        let net = None;
        Box::new(Self {
            mode,
            cuts,
            net,
            broken,
        })
    }
}

/// Cuts as text, with commas.
pub fn spec(cuts: &[Cut]) -> String {
    let cuts: Vec<String> = cuts.iter().map(Cut::to_string).collect();
    cuts.join(",")
}

/// The ways in which an operation is cut.
pub fn tears(op: &Op, place: Place, mode: Mode) -> Vec<Tear> {
    let seeds = match place {
        Place::OtaData => OTADATA_SEEDS,
        Place::Trust => TRUST_SEEDS,
        Place::Slot => SLOT_SEEDS,
    };
    let seeds = (0..seeds).map(|seed| seed * 0x1_0001 + u64::from(op.offset));
    let mut all = vec![Tear::Before, Tear::After];
    if mode == Mode::Blocks {
        all.extend(seeds.map(Tear::Blocks));
        return all;
    }
    let len = op.len as usize;
    // A torn entry is most dangerous at the edges of its words.
    let prefixes = match op.len <= ENTRY_BYTES as u32 {
        true => (1..len).collect(),
        false => vec![1, 16, 32, len / 2, len - 1],
    };
    all.extend(prefixes.into_iter().map(Tear::Prefix));
    for seed in seeds {
        all.push(Tear::RandomBytes(seed));
        all.push(Tear::RandomWords(seed));
        all.push(Tear::Random(seed));
        all.push(Tear::Weak(seed));
    }
    if place == Place::OtaData && op.kind == OpKind::EraseSector {
        all.extend(every_torn_entry().iter().copied().map(Tear::RandomWords));
    }
    all
}

/// A few of them, where sequences of cuts are tried.
pub fn few_tears(op: &Op, _place: Place, mode: Mode) -> Vec<Tear> {
    let seed = u64::from(op.offset);
    let torn = match mode {
        Mode::Blocks => vec![Tear::Blocks(seed), Tear::Blocks(seed + 1)],
        _ => vec![
            Tear::Prefix(op.len as usize / 2),
            Tear::RandomWords(seed),
            Tear::Weak(seed),
        ],
    };
    [vec![Tear::Before, Tear::After], torn].concat()
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

/// Cuts each operation of a life in each way.
pub fn cut_everywhere(before: Bench, mode: Mode) -> Result<Figures, Box<Violation>> {
    let mut explorer = Explorer::new(before, mode, 1)?;
    let first = explorer.first_layer();
    let how = How { tears, only: None };
    explorer.cut_layer(&first, &how, &mut None)?;
    Ok(explorer.figures)
}
