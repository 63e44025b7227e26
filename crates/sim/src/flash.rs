//! A NOR flash that keeps the rules, counts what is done to it, and loses power when told.
//!
//! Every call is split into the operations that the chip would do: erase of a 64 KiB block where
//! one lies aligned within the range, else of 4 KiB sectors; programming of at most one 256-byte
//! page. An operation is what a power cut can hit, before, after or in its middle.

mod fault;
mod shared;
mod sum;
mod weak;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use embedded_storage::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use fota_image::app::Source;

pub(crate) use fault::Dice;
pub use fault::{NoTear, Tear};
pub use shared::SharedFlash;
pub use sum::Sum;
pub(crate) use sum::mix;
use weak::Weak;

/// What one sector erase clears.
pub const SECTOR_BYTES: usize = 4096;
/// What one block erase clears.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// What one program operation can reach.
pub const PAGE_BYTES: usize = 256;
/// The commonest module has 4 MiB.
pub const DEFAULT_BYTES: usize = 4 * 1024 * 1024;

/// Typical time of a sector erase. This and the next two are from the Winbond W25Q32JV data sheet
/// (revision G, "AC electrical characteristics": tSE 45 ms, tBE2 150 ms, tPP 0.7 ms, as "typical").
pub const SECTOR_ERASE_US: u64 = 45_000;
/// Typical time of a 64 KiB block erase.
pub const BLOCK_ERASE_US: u64 = 150_000;
/// Typical time to program a page.
pub const PAGE_PROGRAM_US: u64 = 700;

type Sector = [u8; SECTOR_BYTES];

/// Why the flash did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlashError {
    /// The power is off, or went off during this operation.
    #[error("flash has no power")]
    PowerLost,
    /// Address or length is no multiple of what the operation needs.
    #[error("flash range {offset:#x} + {len:#x} is not aligned to {align}")]
    NotAligned {
        /// First byte.
        offset: u32,
        /// Length.
        len: usize,
        /// Needed multiple.
        align: usize,
    },
    /// Beyond the end.
    #[error("flash range {offset:#x} + {len:#x} ends behind {capacity:#x}")]
    OutOfBounds {
        /// First byte.
        offset: u32,
        /// Length.
        len: usize,
        /// Size of the flash.
        capacity: usize,
    },
    /// Programming cannot set a bit: the sector had to be erased first.
    #[error("write of {wanted:#04x} at {offset:#x} needs an erase: {found:#04x} is there")]
    NotErased {
        /// The byte.
        offset: u32,
        /// What it holds.
        found: u8,
        /// What was to be written.
        wanted: u8,
    },
    /// The range is protected by the test: see [`SimFlash::protect`].
    #[error("flash range {offset:#x} + {len:#x} touches the protected {start:#x}..{end:#x}")]
    Protected {
        /// First byte.
        offset: u32,
        /// Length.
        len: usize,
        /// First protected byte.
        start: u32,
        /// First byte behind it.
        end: u32,
    },
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            FlashError::NotAligned { .. } => NorFlashErrorKind::NotAligned,
            FlashError::OutOfBounds { .. } => NorFlashErrorKind::OutOfBounds,
            _ => NorFlashErrorKind::Other,
        }
    }
}

/// A kind of physical operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// 4 KiB to ones.
    EraseSector,
    /// 64 KiB to ones.
    EraseBlock,
    /// Up to 256 bytes within a page.
    Program,
}

impl OpKind {
    /// How long it keeps the chip busy.
    pub const fn busy_us(self) -> u64 {
        match self {
            OpKind::EraseSector => SECTOR_ERASE_US,
            OpKind::EraseBlock => BLOCK_ERASE_US,
            OpKind::Program => PAGE_PROGRAM_US,
        }
    }
}

/// One physical operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Op {
    /// What.
    pub kind: OpKind,
    /// First byte.
    pub offset: u32,
    /// Length.
    pub len: u32,
}

impl Op {
    /// Whether it erases.
    pub const fn is_erase(&self) -> bool {
        !matches!(self.kind, OpKind::Program)
    }
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    op: u64,
    tear: Tear,
}

/// What was done since it was started.
#[derive(Clone, Default)]
struct Log {
    ops: Vec<Op>,
    /// The bytes of all programs, one behind the other.
    programmed: Vec<u8>,
}

/// The flash chip. Cloning is cheap (sectors are shared until written), so a world can be forked
/// in front of every possible cut.
#[derive(Clone)]
pub struct SimFlash {
    /// `None` is an erased sector.
    sectors: Vec<Option<Arc<Sector>>>,
    erases: Vec<u32>,
    ops: u64,
    busy_us: u64,
    log: Option<Log>,
    weak: Weak,
    powered: bool,
    cut: Option<Cut>,
    protected: Vec<Range<u32>>,
    violations: u64,
}

impl Default for SimFlash {
    fn default() -> Self {
        SimFlash::new(DEFAULT_BYTES)
    }
}

impl fmt::Debug for SimFlash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFlash")
            .field("capacity", &self.capacity())
            .field("ops", &self.ops)
            .field("powered", &self.powered)
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}

impl SimFlash {
    /// An erased flash of `bytes`, rounded up to whole sectors.
    pub fn new(bytes: usize) -> Self {
        let sectors = bytes.div_ceil(SECTOR_BYTES);
        SimFlash {
            sectors: vec![None; sectors],
            erases: vec![0; sectors],
            ops: 0,
            busy_us: 0,
            log: None,
            weak: Weak::default(),
            powered: true,
            cut: None,
            protected: Vec::new(),
            violations: 0,
        }
    }

    /// Puts bytes there as a programming station would: no operation, no time, no rules except
    /// the bounds.
    pub fn load(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        self.check_bounds(offset, bytes.len())?;
        self.weak.forget(offset..offset + bytes.len() as u32);
        self.copy_in(offset, bytes);
        Ok(())
    }

    /// A copy of a range without the noise of weak cells, readable also without power; for assertions.
    pub fn bytes(&self, range: Range<u32>) -> Result<Vec<u8>, FlashError> {
        let len = range.end.saturating_sub(range.start) as usize;
        self.check_bounds(range.start, len)?;
        let mut bytes = vec![0; len];
        self.copy_out(range.start, &mut bytes);
        Ok(bytes)
    }

    /// How many physical operations were begun: the index of the next one.
    pub fn ops(&self) -> u64 {
        self.ops
    }

    /// Modelled time that the chip was busy erasing and programming.
    pub fn busy_us(&self) -> u64 {
        self.busy_us
    }

    /// How often a sector was erased.
    pub fn erases(&self, sector: usize) -> u32 {
        self.erases.get(sector).copied().unwrap_or(0)
    }

    /// How often the most worn sector was erased.
    pub fn erases_max(&self) -> u32 {
        self.erases.iter().copied().max().unwrap_or(0)
    }

    /// Starts, or restarts, the log of operations.
    pub fn start_log(&mut self) {
        self.log = Some(Log::default());
    }

    /// The operations since [`SimFlash::start_log`].
    pub fn log(&self) -> &[Op] {
        self.log.as_ref().map_or(&[], |log| &log.ops)
    }

    /// What the programs among them were to write, one behind the other.
    pub fn programmed(&self) -> &[u8] {
        self.log.as_ref().map_or(&[], |log| &log.programmed)
    }

    /// Cuts the power at operation number `op`, counted as [`SimFlash::ops`] counts.
    pub fn cut_at(&mut self, op: u64, tear: Tear) {
        self.cut = Some(Cut { op, tear });
    }

    /// Cuts the power now.
    pub fn power_off(&mut self) {
        self.powered = false;
    }

    /// Whether there is power.
    pub fn is_powered(&self) -> bool {
        self.powered
    }

    /// Brings the power back; a cut that has not happened yet is forgotten.
    pub fn power_on(&mut self) {
        self.powered = true;
        self.cut = None;
    }

    /// Goes on with power and without protection, as if `ops` operations had been done.
    pub fn restart_at(&mut self, ops: u64) {
        self.ops = ops;
        self.log = None;
        self.unprotect_all();
        self.power_on();
    }

    /// From now on a write or erase that touches `range` is refused and counted.
    pub fn protect(&mut self, range: Range<u32>) {
        self.protected.push(range);
    }

    /// Lifts every protection: the running slot has changed.
    pub fn unprotect_all(&mut self) {
        self.protected.clear();
    }

    /// How many calls touched a protected range.
    pub fn violations(&self) -> u64 {
        self.violations
    }

    fn check_bounds(&self, offset: u32, len: usize) -> Result<(), FlashError> {
        let capacity = self.capacity();
        let out_of_bounds = FlashError::OutOfBounds {
            offset,
            len,
            capacity,
        };
        match (offset as usize).checked_add(len) {
            Some(end) if end <= capacity => Ok(()),
            _ => Err(out_of_bounds),
        }
    }

    /// What every write and erase must satisfy before anything happens.
    fn check_change(&mut self, offset: u32, len: usize, align: usize) -> Result<(), FlashError> {
        if !self.powered {
            return Err(FlashError::PowerLost);
        }
        if !(offset as usize).is_multiple_of(align) || !len.is_multiple_of(align) {
            return Err(FlashError::NotAligned { offset, len, align });
        }
        self.check_bounds(offset, len)?;
        let end = offset + len as u32;
        let touched = |range: &&Range<u32>| range.start < end && offset < range.end;
        let Some(range) = self.protected.iter().find(touched).cloned() else {
            return Ok(());
        };
        self.violations += 1;
        Err(FlashError::Protected {
            offset,
            len,
            start: range.start,
            end: range.end,
        })
    }

    /// Programming clears bits; where one would have to be set the caller forgot to erase.
    fn check_erased(&self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        let mut current = vec![0; bytes.len()];
        self.copy_out(offset, &mut current);
        let pairs = (offset..).zip(current.into_iter().zip(bytes));
        for (offset, (found, wanted)) in pairs {
            // What a weak cell holds is nobody's to say.
            let found = found | self.weak.mask(offset);
            if found & wanted != *wanted {
                return Err(FlashError::NotErased {
                    offset,
                    found,
                    wanted: *wanted,
                });
            }
        }
        Ok(())
    }

    /// Does one operation, or the part of it that the power lasts for.
    fn operate(&mut self, op: Op, target: &[u8]) -> Result<(), FlashError> {
        let index = self.ops;
        self.ops += 1;
        self.busy_us += op.kind.busy_us();
        if let Some(log) = &mut self.log {
            log.ops.push(op);
            if op.kind == OpKind::Program {
                log.programmed.extend_from_slice(target);
            }
        }
        if op.kind != OpKind::Program {
            let first = op.offset as usize / SECTOR_BYTES;
            let count = op.len as usize / SECTOR_BYTES;
            self.erases[first..first + count]
                .iter_mut()
                .for_each(|n| *n += 1);
        }
        let Some(Cut { tear, .. }) = self.cut.filter(|cut| cut.op == index) else {
            self.tear(op, target, Tear::After);
            return Ok(());
        };
        self.tear(op, target, tear);
        self.powered = false;
        Err(FlashError::PowerLost)
    }

    /// Leaves what a cut of this operation leaves: the content only, nothing is counted. `target` is
    /// what it was to write, ones for an erase.
    pub fn tear(&mut self, op: Op, target: &[u8], tear: Tear) {
        let (start, end) = tear.reach(op);
        let mut before = vec![0; (end - start) as usize];
        self.copy_out(start, &mut before);
        let mut whole = before.clone();
        let changed = whole[(op.offset - start) as usize..].iter_mut();
        for (byte, target) in changed.zip(target) {
            // Programming only clears bits; where that is not enough the caller forgot to erase.
            *byte = match op.kind {
                OpKind::Program => *byte & target,
                _ => *target,
            };
        }
        let mut torn = before.clone();
        tear.apply(&mut torn, &whole);
        match tear {
            Tear::After => self.weak.settle(op, target),
            Tear::Weak(seed) => self.weak.add(seed, start, &before, &whole),
            _ => {}
        }
        self.copy_in(start, &torn);
    }

    fn copy_in(&mut self, offset: u32, mut bytes: &[u8]) {
        let mut position = offset as usize;
        while !bytes.is_empty() {
            let (sector, start) = (position / SECTOR_BYTES, position % SECTOR_BYTES);
            let (chunk, rest) = bytes.split_at(bytes.len().min(SECTOR_BYTES - start));
            if chunk.len() == SECTOR_BYTES && chunk.iter().all(|byte| *byte == 0xFF) {
                self.sectors[sector] = None;
            } else {
                let place = self.sectors[sector].get_or_insert_with(|| Arc::new([0xFF; _]));
                Arc::make_mut(place)[start..start + chunk.len()].copy_from_slice(chunk);
            }
            position += chunk.len();
            bytes = rest;
        }
    }

    fn copy_out(&self, offset: u32, mut bytes: &mut [u8]) {
        let mut position = offset as usize;
        while !bytes.is_empty() {
            let (sector, start) = (position / SECTOR_BYTES, position % SECTOR_BYTES);
            let (chunk, rest) = bytes.split_at_mut(bytes.len().min(SECTOR_BYTES - start));
            match &self.sectors[sector] {
                Some(content) => chunk.copy_from_slice(&content[start..start + chunk.len()]),
                None => chunk.fill(0xFF),
            }
            position += chunk.len();
            bytes = rest;
        }
    }
}

impl ErrorType for SimFlash {
    type Error = FlashError;
}

impl ReadNorFlash for SimFlash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        if !self.powered {
            return Err(FlashError::PowerLost);
        }
        self.check_bounds(offset, bytes.len())?;
        self.copy_out(offset, bytes);
        self.weak.disturb(offset, bytes);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.sectors.len() * SECTOR_BYTES
    }
}

impl NorFlash for SimFlash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = SECTOR_BYTES;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        let len = to.saturating_sub(from) as usize;
        self.check_change(from, len, SECTOR_BYTES)?;
        let mut offset = from;
        while offset < to {
            let block_fits = (offset as usize).is_multiple_of(BLOCK_BYTES)
                && (to - offset) as usize >= BLOCK_BYTES;
            let (kind, len) = match block_fits {
                true => (OpKind::EraseBlock, BLOCK_BYTES),
                false => (OpKind::EraseSector, SECTOR_BYTES),
            };
            let op = Op {
                kind,
                offset,
                len: len as u32,
            };
            self.operate(op, &[0xFF; BLOCK_BYTES][..len])?;
            offset += op.len;
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, mut bytes: &[u8]) -> Result<(), FlashError> {
        self.check_change(offset, bytes.len(), Self::WRITE_SIZE)?;
        self.check_erased(offset, bytes)?;
        let mut offset = offset;
        while !bytes.is_empty() {
            let room = PAGE_BYTES - offset as usize % PAGE_BYTES;
            let (page, rest) = bytes.split_at(bytes.len().min(room));
            let op = Op {
                kind: OpKind::Program,
                offset,
                len: page.len() as u32,
            };
            self.operate(op, page)?;
            offset += op.len;
            bytes = rest;
        }
        Ok(())
    }
}

/// Real chips allow a page to be programmed again as long as bits only fall.
impl MultiwriteNorFlash for SimFlash {}

impl Source for SimFlash {
    type Error = FlashError;

    fn read(&mut self, offset: u32, buf: &mut [u8]) -> Result<(), FlashError> {
        ReadNorFlash::read(self, offset, buf)
    }
}

#[cfg(test)]
mod tests;
