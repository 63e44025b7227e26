//! The flash as the updater may use it: every write passes one gate.

use embedded_storage::nor_flash::{MultiwriteNorFlash, NorFlashError, NorFlashErrorKind};
use fota_image::{app::Source, partition::Region};

/// Smallest erasable piece of every flash an ESP32 uses.
pub(crate) const SECTOR_BYTES: u32 = 4096;
/// One erase command for 16 sectors; takes about a third of their time (150 against 720 ms).
pub(crate) const BLOCK_BYTES: u32 = 64 * 1024;
/// What one program command of the flash chip takes.
pub(crate) const PAGE_BYTES: usize = 256;

/// What an erased byte reads as.
pub(crate) const BLANK: u8 = 0xFF;

/// The updater's reads and writes are on multiples of this.
pub(crate) const WORD_BYTES: usize = 4;

/// A flash operation that did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A read.
    #[error("flash read at {at:#x}: {kind}")]
    Read {
        /// Where in flash.
        at: u32,
        /// What the driver says.
        kind: NorFlashErrorKind,
    },
    /// A program operation.
    #[error("flash write at {at:#x}: {kind}")]
    Program {
        /// Where in flash.
        at: u32,
        /// What the driver says.
        kind: NorFlashErrorKind,
    },
    /// An erase.
    #[error("flash erase at {at:#x}: {kind}")]
    Erase {
        /// Where in flash.
        at: u32,
        /// What the driver says.
        kind: NorFlashErrorKind,
    },
    /// Flash does not hold what was just written.
    #[error("flash at {at:#x} does not keep what is written: it is worn out, or write-protected")]
    ReadBack {
        /// Where in flash.
        at: u32,
    },
    /// The gate: neither the target slot nor otadata nor the trust partition. Nothing was written.
    #[error("write at {at:#x} refused: it is outside the target slot, otadata and trust partition")]
    Forbidden {
        /// Where in flash.
        at: u32,
    },
}

/// A flash of which only the target slot, the two otadata sectors and the trust partition can be
/// changed.
///
/// This is the one place that decides what may be written. The running partition is kept out by
/// name too, so that a wrong target could not open it.
pub(crate) struct Guarded<F> {
    flash: F,
    running: Region,
    writable: [Region; 3],
}

impl<F: MultiwriteNorFlash> Guarded<F> {
    /// Nothing may be written until [`Guarded::open`].
    pub(crate) fn new(flash: F) -> Self {
        const {
            assert!(F::READ_SIZE <= WORD_BYTES && WORD_BYTES.is_multiple_of(F::READ_SIZE));
            assert!(F::WRITE_SIZE <= WORD_BYTES && WORD_BYTES.is_multiple_of(F::WRITE_SIZE));
            assert!((SECTOR_BYTES as usize).is_multiple_of(F::ERASE_SIZE));
        }
        Self {
            flash,
            running: Region::default(),
            writable: [Region::default(); 3],
        }
    }

    /// Opens otadata and the other regions given: the target slot, the trust partition. Never
    /// what overlaps the running partition.
    pub(crate) fn open(&mut self, running: Region, otadata: Region, others: [Option<Region>; 2]) {
        self.running = running;
        let [target, trust] = others.map(Option::unwrap_or_default);
        self.writable = [otadata, target, trust];
    }

    fn pass(&self, at: u32, bytes: u32) -> Result<(), Fault> {
        let wanted = Region {
            offset: at,
            size: bytes,
        };
        let inside = |region: &Region| at >= region.offset && wanted.end() <= region.end();
        match self.writable.iter().any(inside) && !wanted.overlaps(self.running) {
            true => Ok(()),
            false => Err(Fault::Forbidden { at }),
        }
    }

    /// Reads any bytes at any place; the driver only sees whole words.
    pub(crate) fn read(&mut self, at: u32, buffer: &mut [u8]) -> Result<(), Fault> {
        let fault = |error: F::Error| Fault::Read {
            at,
            kind: error.kind(),
        };
        let lead = at as usize % WORD_BYTES;
        if lead == 0 && buffer.len().is_multiple_of(WORD_BYTES) {
            return self.flash.read(at, buffer).map_err(fault);
        }
        let (mut done, mut skip, mut from) = (0, lead, at - lead as u32);
        while done < buffer.len() {
            let mut words = [0; 64];
            let take = (buffer.len() - done).min(words.len() - skip);
            let span = (skip + take).next_multiple_of(WORD_BYTES);
            self.flash.read(from, &mut words[..span]).map_err(fault)?;
            buffer[done..done + take].copy_from_slice(&words[skip..skip + take]);
            (done, skip, from) = (done + take, 0, from + span as u32);
        }
        Ok(())
    }

    /// Clears bits. `at` and the length are multiples of a word, within one page.
    pub(crate) fn program(&mut self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        self.pass(at, bytes.len() as u32)?;
        self.flash.write(at, bytes).map_err(|error| Fault::Program {
            at,
            kind: error.kind(),
        })
    }

    /// Clears bits and reads them back.
    pub(crate) fn program_checked(&mut self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        self.program(at, bytes)?;
        match self.holds(at, bytes)? {
            true => Ok(()),
            false => Err(Fault::ReadBack { at }),
        }
    }

    /// Sets all bits of whole sectors.
    pub(crate) fn erase(&mut self, at: u32, bytes: u32) -> Result<(), Fault> {
        self.pass(at, bytes)?;
        self.flash
            .erase(at, at + bytes)
            .map_err(|error| Fault::Erase {
                at,
                kind: error.kind(),
            })
    }

    /// Whether flash holds exactly these bytes.
    pub(crate) fn holds(&mut self, at: u32, bytes: &[u8]) -> Result<bool, Fault> {
        let mut buffer = [0; 32];
        let mut at = at;
        for part in bytes.chunks(buffer.len()) {
            let found = &mut buffer[..part.len()];
            self.read(at, found)?;
            if found != part {
                return Ok(false);
            }
            at += part.len() as u32;
        }
        Ok(true)
    }

    /// Whether a piece reads as erased; stops at the first byte that does not.
    pub(crate) fn is_blank(&mut self, at: u32, bytes: u32) -> Result<bool, Fault> {
        let mut buffer = [0; PAGE_BYTES];
        let mut done = 0;
        while done < bytes {
            let part = &mut buffer[..(bytes - done).min(PAGE_BYTES as u32) as usize];
            self.read(at + done, part)?;
            if !is_blank(part) {
                return Ok(false);
            }
            done += part.len() as u32;
        }
        Ok(true)
    }

    /// Gives the flash back.
    pub(crate) fn into_inner(self) -> F {
        self.flash
    }

    /// The flash itself, for reading by tests and by the caller.
    pub(crate) fn inner(&self) -> &F {
        &self.flash
    }
}

impl<F: MultiwriteNorFlash> Source for Guarded<F> {
    type Error = Fault;

    fn read(&mut self, offset: u32, buf: &mut [u8]) -> Result<(), Fault> {
        Guarded::read(self, offset, buf)
    }
}

/// Whether all bytes read as erased.
pub(crate) fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == BLANK)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use fota_sim::flash::SimFlash;
    use std::vec;

    const fn region(offset: u32, size: u32) -> Region {
        Region { offset, size }
    }

    #[test]
    fn only_the_target_slot_and_otadata_can_be_changed() {
        let mut flash = Guarded::new(SimFlash::new(1 << 20));
        let (running, otadata, target) = (
            region(0x1_0000, 0x1_0000),
            region(0xd000, 0x2000),
            region(0x2_0000, 0x1_0000),
        );
        let refused = |at| Err(Fault::Forbidden { at });
        assert_eq!(flash.erase(0x2_0000, 4096), refused(0x2_0000), "not open");
        flash.open(running, otadata, [Some(target), None]);
        for at in [0, 0x8000, 0xc000, 0xf000, 0x1_0000, 0x1_f000, 0x3_0000] {
            assert_eq!(flash.erase(at, 4096), refused(at));
            assert_eq!(flash.program(at, &[0; 4]), refused(at));
        }
        assert_eq!(
            flash.erase(0xe000, 2 * 4096),
            refused(0xe000),
            "over the edge"
        );
        for at in [0xd000, 0xe000, 0x2_0000, 0x2_f000] {
            assert_eq!(flash.erase(at, 4096), Ok(()));
            assert_eq!(flash.program_checked(at, &[0; 4]), Ok(()));
        }
        // A target that overlaps what runs opens nothing of it.
        flash.open(running, otadata, [Some(region(0x1_0000, 0x2_0000)), None]);
        assert_eq!(flash.erase(0x1_f000, 2 * 4096), refused(0x1_f000));
        assert_eq!(flash.erase(0x2_0000, 4096), Ok(()));
    }

    #[test]
    fn any_bytes_can_be_read_by_words() {
        let content: vec::Vec<u8> = (0..1024_u32).map(|byte| (byte * 7) as u8).collect();
        let mut flash = SimFlash::new(4096);
        flash.load(0, &content).expect("fits");
        let mut flash = Guarded::new(flash);
        for from in 0..9 {
            for len in [0, 1, 3, 4, 5, 63, 64, 65, 255, 256, 300] {
                let mut found = vec![0; len];
                assert_eq!(flash.read(from as u32, &mut found), Ok(()));
                assert_eq!(found, content[from..from + len], "{from} + {len}");
            }
        }
    }
}
