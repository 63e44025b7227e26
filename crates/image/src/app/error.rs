//! Why a file is not an image that a chip would boot.

use core::fmt;

use super::MAGIC;
use crate::bytes::{Grouped, u32_at};

/// Why an image is refused. The text says what, which, both numbers and the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// No bytes at all.
    #[error("empty file: an ESP32 app image begins with the byte 0xE9")]
    Empty,
    /// Flash that was erased and not written.
    #[error("erased flash (0xFF): no image was written here")]
    Erased,
    /// The linker's output instead of the image.
    #[error("ELF file, not an image: convert it with `esptool elf2image` or upload the .bin file")]
    Elf,
    /// An image for the older chip with the same first byte.
    #[error(
        "ESP8266 image (version {version}), not an ESP32 image: build it for the device's chip"
    )]
    Esp8266 {
        /// Version of the ESP8266 image format: 1 (0xE9) or 2 (0xEA).
        version: u8,
    },
    /// Another format that can be named.
    #[error("not an ESP32 image: {looks_like}; upload the app's .bin file")]
    NotAnEspImage {
        /// What it looks like.
        looks_like: LooksLike,
    },
    /// Something else.
    #[error("not an ESP32 image: first byte is {found:#04x}, expected 0xe9")]
    WrongMagic {
        /// The first byte.
        found: u8,
    },
    /// The bootloader instead of the app.
    #[error("bootloader image, not an app: upload the project's .bin file, not bootloader.bin")]
    Bootloader,
    /// A whole flash in one file.
    #[error(
        "merged flash image (partition table at 0x8000), not an app: upload the project's .bin file"
    )]
    MergedFlash,
    /// A header without segments.
    #[error("image has no segments: rebuild it")]
    NoSegments,
    /// More than the bootloader takes.
    #[error("image has {found} segments; the bootloader loads at most 16: check the linker script")]
    TooManySegments {
        /// The header's count.
        found: u8,
    },
    /// The flag is a boolean.
    #[error("image header is damaged: the hash flag is {found}, expected 0 or 1")]
    HashFlag {
        /// The byte.
        found: u8,
    },
    /// A chip that we do not know.
    #[error(
        "image is for an unknown chip (id {0:#06x}): rebuild it for the device's chip, or update fota"
    )]
    UnknownChip(u16),
    /// Not a multiple of four, or too long.
    #[error("segment {segment} has {len} bytes; the bootloader takes multiples of 4 below 16,777,216: the file is damaged, build it again", len = Grouped(*.len as u64))]
    SegmentLength {
        /// Number of the segment, from 0.
        segment: u8,
        /// Length that its header gives.
        len: u32,
    },
    /// A segment that the flash cache cannot map.
    #[error(
        "segment {segment} lies at file offset {file_offset:#x} and must be mapped at {load_addr:#x}; both must agree modulo {page:#x}: build it with esptool elf2image"
    )]
    SegmentAlignment {
        /// Number of the segment, from 0.
        segment: u8,
        /// Where its data begin in the image.
        file_offset: u32,
        /// Where it must appear.
        load_addr: u32,
        /// Page size of the flash cache.
        page: u32,
    },
    /// The file ends too soon.
    #[error("truncated ESP image: {have} of {at_least}{need} bytes; transfer it again", have = Grouped(*.have), need = Grouped(*.need), at_least = if *.exact { "" } else { "at least " })]
    Truncated {
        /// Bytes that are there.
        have: u64,
        /// Bytes that the headers ask for.
        need: u64,
        /// Whether `need` is the exact length; otherwise headers are missing and more may follow.
        exact: bool,
    },
    /// Longer than any app partition.
    #[error("image needs {need} bytes; an app partition holds at most 16,777,216: the file is damaged, build it again", need = Grouped(*.need))]
    TooLong {
        /// Bytes that the headers ask for.
        need: u64,
    },
    /// The XOR of all data differs.
    #[error(
        "damaged image: checksum is {stored:#04x}, the data give {computed:#04x}; transfer or build it again"
    )]
    Checksum {
        /// In the image.
        stored: u8,
        /// Of its data.
        computed: u8,
    },
    /// The appended SHA-256 differs.
    #[error(
        "damaged image: SHA-256 begins with {stored:08x}, the data give {computed:08x}; transfer or build it again"
    )]
    Hash {
        /// First four bytes in the image.
        stored: u32,
        /// First four bytes of the computed hash.
        computed: u32,
    },
    /// Something unknown behind the image.
    #[error("{extra} unknown bytes follow the image, which ends at {end}: upload the app's .bin file as the build made it", extra = Grouped(*.extra as u64), end = Grouped(*.end as u64))]
    TrailingBytes {
        /// Where the image ends.
        end: u32,
        /// How many bytes follow.
        extra: u32,
    },
}

/// A format that people upload by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LooksLike {
    /// Initial stack pointer and reset vector: STM32 and other ARM microcontrollers.
    CortexM,
    /// `:10000000…`
    IntelHex,
    /// `UF2\n`
    Uf2,
    /// A compressed archive.
    Archive,
    /// A page or a JSON error saved as a file.
    Text,
    /// An ESP32 partition table.
    PartitionTable,
}

impl fmt::Display for LooksLike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LooksLike::CortexM => "it begins with an ARM Cortex-M vector table (STM32 or similar)",
            LooksLike::IntelHex => "it is an Intel HEX file",
            LooksLike::Uf2 => "it is a UF2 file",
            LooksLike::Archive => "it is a compressed archive",
            LooksLike::Text => "it is a text, HTML or JSON file",
            LooksLike::PartitionTable => "it is a partition table",
        })
    }
}

/// An image that is refused, or a source that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError<E> {
    /// The bytes are not a bootable image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The bytes could not be read.
    #[error("read failed at offset {offset:#x}")]
    Read {
        /// Where.
        offset: u32,
        /// Why.
        error: E,
    },
}

/// Refuses by the first bytes whatever is no ESP32 image.
pub(super) fn refuse_other_formats(bytes: &[u8]) -> Result<(), ImageError> {
    let Some(first) = bytes.first().copied() else {
        return Err(ImageError::Empty);
    };
    match first {
        MAGIC if is_esp8266(bytes) => Err(ImageError::Esp8266 { version: 1 }),
        MAGIC => Ok(()),
        0xEA if bytes.get(1) == Some(&4) => Err(ImageError::Esp8266 { version: 2 }),
        0xFF if bytes.iter().take(16).all(|byte| *byte == 0xFF) => Err(ImageError::Erased),
        0x7F if bytes.starts_with(b"\x7fELF") => Err(ImageError::Elf),
        _ => Err(match looks_like(bytes) {
            Some(looks_like) => ImageError::NotAnEspImage { looks_like },
            None => ImageError::WrongMagic { found: first },
        }),
    }
}

/// An ESP8266 image has the same first byte but no extended header: its first segment begins at
/// byte 8, with an address in the RAM or the flash window of that chip. On an ESP32 these four
/// bytes are the write-protect pin and the drive strengths of the flash pins, which nobody sets to
/// such values, and the length behind them is the chip id.
fn is_esp8266(bytes: &[u8]) -> bool {
    const RANGES: [(u32, u32); 3] = [
        (0x3FFE_8000, 0x4000_0000),
        (0x4010_0000, 0x4011_0000),
        (0x4020_0000, 0x4030_0000),
    ];
    let (load_addr, len) = (u32_at(bytes, 8), u32_at(bytes, 12));
    RANGES
        .iter()
        .any(|(start, end)| (*start..*end).contains(&load_addr))
        && len > 0
        && len.is_multiple_of(4)
        && len < 0x10_0000
}

fn looks_like(bytes: &[u8]) -> Option<LooksLike> {
    let starts: [(&[u8], LooksLike); 8] = [
        (b"UF2\n", LooksLike::Uf2),
        (b":10", LooksLike::IntelHex),
        (b":02", LooksLike::IntelHex),
        (b"PK\x03\x04", LooksLike::Archive),
        (b"\x1f\x8b", LooksLike::Archive),
        (b"\xfd7zXZ", LooksLike::Archive),
        (b"\x28\xb5\x2f\xfd", LooksLike::Archive),
        (b"\xaa\x50", LooksLike::PartitionTable),
    ];
    if let Some((_, found)) = starts.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Some(*found);
    }
    if is_cortex_m(bytes) {
        return Some(LooksLike::CortexM);
    }
    let head = bytes.get(..16.min(bytes.len()))?;
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    head.iter().all(is_text).then_some(LooksLike::Text)
}

/// Stack pointer in RAM at 0x2…, reset vector a Thumb address in flash below 0x1000_0000.
fn is_cortex_m(bytes: &[u8]) -> bool {
    let (stack, reset) = (u32_at(bytes, 0), u32_at(bytes, 4));
    bytes.len() >= 8
        && (0x1000_0000..0x3000_0000).contains(&stack)
        && stack.is_multiple_of(4)
        && (0x100..0x1000_0000).contains(&reset)
        && reset % 2 == 1
}
