//! What Arduino's `Update` does to the flash: an image in order into the slot that does not run,
//! its first 16 bytes last, then the boot choice.

use embedded_storage::nor_flash::NorFlash;
use fota_image::{
    app::{self, CheckError, ImageError, Source, Window},
    otadata::{self, ENTRY_BYTES, Entry, SECTOR_BYTES, State},
    partition::{Layout, LayoutError, Region, TABLE_OFFSET},
};
use sha2::{Digest, Sha256};

use crate::{
    board::Board,
    boot::Boot,
    flash::{BLOCK_BYTES, DEFAULT_BYTES, FlashError, SharedFlash},
};

/// `Update` keeps these back so that a partial image cannot boot.
const HEAD_BYTES: usize = 16;

/// Why the slot cannot be written or booted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The image is larger than the slot.
    #[error("image of {image} bytes; the slot holds {slot}")]
    NoSpace {
        /// Its length.
        image: u32,
        /// Size of the slot.
        slot: u32,
    },
    /// More or fewer bytes than the manifest says.
    #[error("{found} bytes arrived; the manifest says {said}")]
    Length {
        /// Arrived.
        found: u32,
        /// In the manifest.
        said: u32,
    },
    /// The bytes are not those of the manifest.
    #[error("Hash mismatch")]
    Hash,
    /// `esp_ota_set_boot_partition` refuses what is no image.
    #[error("the image would not boot: {0}")]
    Image(ImageError),
    /// The flash.
    #[error(transparent)]
    Flash(#[from] FlashError),
    /// The table.
    #[error("no partition table: {0}")]
    Layout(#[from] LayoutError<FlashError>),
}

/// The slots as the running app sees them.
#[derive(Clone, Debug)]
pub struct Slots {
    flash: SharedFlash,
    layout: Layout,
    running: u8,
    rollback: bool,
}

impl Slots {
    /// Reads the table of the board that has just started `boot`.
    pub fn read(board: &Board, boot: &Boot) -> Result<Self, SlotError> {
        let mut flash = board.flash().clone();
        let flash_bytes = DEFAULT_BYTES as u32;
        let layout = Layout::read(&mut flash, TABLE_OFFSET, flash_bytes)?;
        Ok(Self {
            flash,
            layout,
            running: boot.slot.ota_index().unwrap_or(0),
            rollback: board.has_rollback(),
        })
    }

    /// `esp_ota_get_next_update_partition`.
    fn next(&self) -> (u8, Region) {
        let number = (self.running + 1) % self.layout.count();
        let slot = self.layout.slot(number);
        (number, slot.map_or(Region::default(), |slot| slot.region()))
    }

    /// `Update.begin`.
    pub fn begin(&self, image_bytes: u32) -> Result<Writer, SlotError> {
        let (_, region) = self.next();
        if image_bytes > region.size {
            return Err(SlotError::NoSpace {
                image: image_bytes,
                slot: region.size,
            });
        }
        Ok(Writer {
            flash: self.flash.clone(),
            region,
            image_bytes,
            head: Vec::with_capacity(HEAD_BYTES),
            sector: Vec::with_capacity(SECTOR_BYTES as usize),
            written: 0,
            erased: 0,
            hasher: Sha256::new(),
        })
    }

    /// `esp_ota_set_boot_partition` of the other slot: the next start boots it.
    pub fn switch(&self) -> Result<(), SlotError> {
        let (number, region) = self.next();
        let mut flash = self.flash.clone();
        let mut window = Window {
            source: &mut flash,
            base: region.offset,
        };
        app::check(&mut window, region.size).map_err(|error| match error {
            CheckError::Image(error) => SlotError::Image(error),
            CheckError::Read { error, .. } => SlotError::Flash(error),
        })?;
        let entries = [self.entry(0)?, self.entry(1)?];
        let active = otadata::active(&entries);
        let current = active.map(|index| entries[index].seq);
        let state = if self.rollback {
            State::New
        } else {
            State::Undefined
        };
        let seq = otadata::next_seq(current, number, self.layout.count());
        let index = active.map_or(0, |index| 1 - index);
        self.write_entry(index, &Entry::new(seq, state))
    }

    /// `esp_ota_mark_app_valid_cancel_rollback`, which the Arduino core calls before `setup`.
    pub fn mark_valid(&self) -> Result<(), SlotError> {
        for index in 0..2 {
            let entry = self.entry(index)?;
            if entry.state == State::PendingVerify {
                self.write_entry(index, &Entry::new(entry.seq, State::Valid))?;
            }
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<Entry, SlotError> {
        let mut bytes = [0; ENTRY_BYTES];
        Source::read(
            &mut self.flash.clone(),
            self.entry_offset(index),
            &mut bytes,
        )?;
        Ok(Entry::parse(&bytes))
    }

    fn write_entry(&self, index: usize, entry: &Entry) -> Result<(), SlotError> {
        let (mut flash, offset) = (self.flash.clone(), self.entry_offset(index));
        flash.erase(offset, offset + SECTOR_BYTES)?;
        flash.write(offset, &entry.to_bytes())?;
        Ok(())
    }

    fn entry_offset(&self, index: usize) -> u32 {
        self.layout.otadata.offset + index as u32 * SECTOR_BYTES
    }
}

/// An update in progress.
pub struct Writer {
    flash: SharedFlash,
    region: Region,
    image_bytes: u32,
    head: Vec<u8>,
    sector: Vec<u8>,
    written: u32,
    erased: u32,
    hasher: Sha256,
}

impl Writer {
    /// `Update.write`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SlotError> {
        self.hasher.update(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = SECTOR_BYTES as usize - self.sector.len();
            let (now, later) = rest.split_at(rest.len().min(room));
            self.sector.extend_from_slice(now);
            rest = later;
            if self.sector.len() == SECTOR_BYTES as usize {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// `Update.end`, with the digest check that phase 5 of the original added. The slot can boot
    /// after it.
    pub fn end(mut self, sha256: &str) -> Result<(), SlotError> {
        self.flush()?;
        if self.written != self.image_bytes {
            let (found, said) = (self.written, self.image_bytes);
            return Err(SlotError::Length { found, said });
        }
        let digest: [u8; 32] = self.hasher.finalize().into();
        if !fota_proto::Sha256(digest)
            .to_string()
            .eq_ignore_ascii_case(sha256)
        {
            return Err(SlotError::Hash);
        }
        let head = padded(&self.head);
        self.flash.write(self.region.offset, &head)?;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SlotError> {
        let bytes = std::mem::take(&mut self.sector);
        if bytes.is_empty() {
            return Ok(());
        }
        let at = self.region.offset + self.written;
        self.erase_to(self.written + bytes.len() as u32)?;
        let skip = if self.written == 0 {
            HEAD_BYTES.min(bytes.len())
        } else {
            0
        };
        self.head.extend_from_slice(&bytes[..skip]);
        self.flash
            .write(at + skip as u32, &padded(&bytes[skip..]))?;
        self.written += bytes.len() as u32;
        Ok(())
    }

    /// Whole blocks where they fit, as the Arduino core does since 2.0.4.
    fn erase_to(&mut self, end: u32) -> Result<(), SlotError> {
        while self.erased < end {
            let at = self.region.offset + self.erased;
            let block = BLOCK_BYTES as u32;
            let is_block = at.is_multiple_of(block) && self.image_bytes - self.erased >= block;
            let unit = if is_block { block } else { SECTOR_BYTES };
            self.flash.erase(at, at + unit)?;
            self.erased += unit;
        }
        Ok(())
    }
}

/// Flash is written in words.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0xFF);
    bytes
}
