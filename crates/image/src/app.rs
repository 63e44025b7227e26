//! The app image: header, segments, checksum, appended hash, and the app description.
//!
//! Layout (all integers little-endian; `esptool` and the ESP-IDF bootloader read the same):
//!
//! | bytes | what |
//! |---|---|
//! | 0..24 | [`Header`] |
//! | 24.. | per segment: load address, length (both `u32`), data |
//! | .. | zeros, so that the checksum byte ends on a multiple of 16 |
//! | 1 | `0xEF` XOR every byte of segment data |
//! | 32 | SHA-256 of everything before it, if the header says so |
//!
//! The first segment of an app begins with the 256-byte [`AppDesc`], so the first
//! [`HEAD_BYTES_MIN`] bytes of a download are enough to refuse a wrong chip or version.

mod check;
mod chip;
mod error;

pub use check::{Image, Segment, Segments, Signature, check, check_bytes, check_file};
pub use chip::{Chip, UnknownChipName};
pub use error::{CheckError, ImageError, LooksLike};

use crate::bytes::{Text, array, u16_at, u32_at};

/// Length of the image header.
pub const HEADER_BYTES: usize = 24;
/// Length of the header in front of each segment's data.
pub const SEGMENT_HEADER_BYTES: usize = 8;
/// Where the app description begins in the image: behind the two headers.
pub const DESC_OFFSET: usize = HEADER_BYTES + SEGMENT_HEADER_BYTES;
/// Length of the app description.
pub const DESC_BYTES: usize = 256;
/// How much of an image must be there to know its chip, project, version and ELF hash.
pub const HEAD_BYTES_MIN: usize = DESC_OFFSET + DESC_BYTES;
/// The most segments that the bootloader loads.
pub const SEGMENTS_MAX: u8 = 16;
/// First byte of every image.
pub const MAGIC: u8 = 0xE9;
/// First word of the app description.
pub const DESC_MAGIC: u32 = 0xABCD_5432;
/// What the checksum starts from.
pub const CHECKSUM_SEED: u8 = 0xEF;
/// Length of the appended SHA-256.
pub const HASH_BYTES: usize = 32;
/// A segment must be shorter than this: the flash window of the first chips.
pub const SEGMENT_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// An image must not be longer: the bootloader refuses larger app partitions.
pub const IMAGE_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Random access to the bytes of an image: a file, a slot in flash, a buffer.
pub trait Source {
    /// What a failed read says.
    type Error;
    /// Fills `buf` with the bytes from `offset` on.
    fn read(&mut self, offset: u32, buf: &mut [u8]) -> Result<(), Self::Error>;
}

/// A read past the end of a buffer. [`check`] never causes it when told the true length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read past the end of the buffer")]
pub struct PastEnd;

impl Source for &[u8] {
    type Error = PastEnd;

    fn read(&mut self, offset: u32, buf: &mut [u8]) -> Result<(), PastEnd> {
        let start = offset as usize;
        let end = start.checked_add(buf.len()).ok_or(PastEnd)?;
        buf.copy_from_slice(self.get(start..end).ok_or(PastEnd)?);
        Ok(())
    }
}

impl<S: Source + ?Sized> Source for &mut S {
    type Error = S::Error;

    fn read(&mut self, offset: u32, buf: &mut [u8]) -> Result<(), S::Error> {
        (**self).read(offset, buf)
    }
}

/// Part of a source that begins at `base`: a slot inside a flash, an app inside a merged file.
pub struct Window<S> {
    /// The whole.
    pub source: S,
    /// Where offset 0 of the window lies in it.
    pub base: u32,
}

impl<S: Source> Source for Window<S> {
    type Error = S::Error;

    fn read(&mut self, offset: u32, buf: &mut [u8]) -> Result<(), S::Error> {
        // A sum beyond 4 GiB is no address of any flash: let the source refuse its last byte.
        self.source.read(self.base.saturating_add(offset), buf)
    }
}

/// The first 24 bytes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many segments follow.
    pub segment_count: u8,
    /// 0 QIO, 1 QOUT, 2 DIO, 3 DOUT, 4 fast, 5 slow.
    pub spi_mode: u8,
    /// Low nibble of byte 3; the meaning depends on the chip.
    pub spi_speed: u8,
    /// High nibble of byte 3: flash of `1 MiB << spi_size`.
    pub spi_size: u8,
    /// Address that the bootloader jumps to.
    pub entry: u32,
    /// Write-protect pin, `0xEE` when unused.
    pub wp_pin: u8,
    /// The chip as the image says it.
    pub chip_id: u16,
    /// The chip, if it is one we know.
    pub chip: Option<Chip>,
    /// Oldest chip revision it runs on, as `major * 100 + minor`.
    pub min_rev_full: u16,
    /// Newest chip revision it runs on; 0 and 65,535 mean no limit.
    pub max_rev_full: u16,
    /// Whether a SHA-256 follows the checksum.
    pub hash_appended: bool,
}

impl Header {
    /// Reads a header; `bytes` may go on behind it.
    ///
    /// Refuses what no ESP32 starts with, and says what it looks like instead. The chip may still
    /// be one that we do not know: see [`Header::chip`].
    pub fn parse(bytes: &[u8]) -> Result<Header, ImageError> {
        error::refuse_other_formats(bytes)?;
        if bytes.len() < HEADER_BYTES {
            return Err(ImageError::Truncated {
                have: bytes.len() as u64,
                need: HEADER_BYTES as u64,
                exact: false,
            });
        }
        let chip_id = u16_at(bytes, 12);
        let header = Header {
            segment_count: bytes[1],
            spi_mode: bytes[2],
            spi_speed: bytes[3] & 0x0F,
            spi_size: bytes[3] >> 4,
            entry: u32_at(bytes, 4),
            wp_pin: bytes[8],
            chip_id,
            chip: Chip::from_id(chip_id),
            min_rev_full: u16_at(bytes, 15),
            max_rev_full: u16_at(bytes, 17),
            hash_appended: bytes[23] != 0,
        };
        match (header.segment_count, bytes[23]) {
            (0, _) => Err(ImageError::NoSegments),
            (count, _) if count > SEGMENTS_MAX => Err(ImageError::TooManySegments { found: count }),
            (_, flag) if flag > 1 => Err(ImageError::HashFlag { found: flag }),
            _ => Ok(header),
        }
    }

    /// Whether a chip of this revision may run the image, by the bootloader's rule.
    pub fn allows_revision(&self, revision_full: u16) -> bool {
        let no_upper_limit = matches!(self.max_rev_full, 0 | u16::MAX);
        revision_full >= self.min_rev_full && (no_upper_limit || revision_full <= self.max_rev_full)
    }
}

/// What an app says about itself (`esp_app_desc_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppDesc {
    /// For the anti-rollback check against the eFuse.
    pub secure_version: u32,
    /// The firmware's version, as its maker wrote it.
    pub version: Text<32>,
    /// The project's name.
    pub project_name: Text<32>,
    /// Compile time of day.
    pub time: Text<16>,
    /// Compile date.
    pub date: Text<16>,
    /// The ESP-IDF it was built with.
    pub idf_ver: Text<32>,
    /// SHA-256 of the ELF file: the identity of what runs.
    pub app_elf_sha256: [u8; 32],
    /// Oldest eFuse block revision it runs on, as `major * 100 + minor`.
    pub min_efuse_blk_rev_full: u16,
    /// Newest eFuse block revision it runs on.
    pub max_efuse_blk_rev_full: u16,
    /// Size of a page of the flash cache as a power of two; 0 in older images means 64 KiB.
    pub mmu_page_log2: u8,
}

/// Project name of every image that the Arduino core's prebuilt libraries went into.
const ARDUINO_PROJECT: &str = "arduino-lib-builder";

impl AppDesc {
    /// The version that the firmware's own maker gave it, if it says one.
    ///
    /// None where the field is empty (MicroPython builds), and for Arduino builds, in which
    /// project and version are constants of the core's prebuilt libraries: there only
    /// [`AppDesc::app_elf_sha256`] tells builds apart, and a person must name the version.
    pub fn own_version(&self) -> Option<&str> {
        let version = self.version.as_str();
        let is_own = !version.is_empty() && self.project_name.as_str() != ARDUINO_PROJECT;
        is_own.then_some(version)
    }

    /// Reads a description; `None` if its magic is missing, as in images of old ESP-IDF.
    pub fn parse(bytes: &[u8; DESC_BYTES]) -> Option<AppDesc> {
        (u32_at(bytes, 0) == DESC_MAGIC).then(|| AppDesc {
            secure_version: u32_at(bytes, 4),
            version: Text::new(array(bytes, 16)),
            project_name: Text::new(array(bytes, 48)),
            time: Text::new(array(bytes, 80)),
            date: Text::new(array(bytes, 96)),
            idf_ver: Text::new(array(bytes, 112)),
            app_elf_sha256: array(bytes, 144),
            min_efuse_blk_rev_full: u16_at(bytes, 176),
            max_efuse_blk_rev_full: u16_at(bytes, 178),
            mmu_page_log2: bytes[180],
        })
    }
}
