//! Makes app images of a wanted chip, version, size and content, for tests, the simulator and
//! demos. They are valid for `esptool image-info` and for the bootloader; their code is noise.

#[cfg(feature = "secure-boot")]
mod sign;

extern crate std;
use std::string::{String, ToString};
use std::vec::Vec;

use sha2::{Digest, Sha256};

use crate::app::{
    CHECKSUM_SEED, Chip, DESC_BYTES, DESC_MAGIC, DESC_OFFSET, HASH_BYTES, HEADER_BYTES,
    IMAGE_BYTES_MAX, MAGIC, SEGMENT_HEADER_BYTES,
};
use crate::bytes::{Grouped, Text};

#[cfg(feature = "secure-boot")]
pub use sign::SigningKey;

/// Where the bytes given to [`ImageBuilder::content`] begin in the image: behind the description.
pub const CONTENT_OFFSET: u32 = (DESC_OFFSET + DESC_BYTES) as u32;

const SEGMENTS: usize = 4;
/// The smallest segment besides the first; an empty one would be unusual.
const SEGMENT_BYTES_MIN: usize = 16;
/// Size of an image when nobody asks for one.
const DEFAULT_BYTES: usize = 64 * 1024;

/// Why an image cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The parts need more.
    #[error("an image with this content needs at least {need} bytes; {asked} were asked for", need = Grouped(*.need as u64), asked = Grouped(*.asked as u64))]
    TooSmall {
        /// Bytes that the parts need.
        need: usize,
        /// Bytes asked for.
        asked: usize,
    },
    /// More than an app partition holds.
    #[error("an image has at most 16,777,216 bytes; {asked} were asked for", asked = Grouped(*.asked as u64))]
    TooLarge {
        /// Bytes asked for.
        asked: usize,
    },
    /// Images end on a multiple of 16.
    #[error("the length of an image is a multiple of 16; {asked} is none", asked = Grouped(*.asked as u64))]
    NotMultipleOf16 {
        /// Bytes asked for.
        asked: usize,
    },
    /// A text of the description is too long.
    #[error("{field} is longer than its field of {max} bytes")]
    TextTooLong {
        /// Which.
        field: &'static str,
        /// How long it may be.
        max: usize,
    },
}

/// Describes an image; [`ImageBuilder::build`] makes it. The same description gives the same bytes.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    chip: Chip,
    version: String,
    project: String,
    idf: String,
    secure_version: u32,
    min_rev_full: u16,
    max_rev_full: u16,
    size: Option<usize>,
    seed: u64,
    content: Vec<u8>,
    elf_sha256: Option<[u8; 32]>,
    hash_appended: bool,
    with_desc: bool,
}

impl ImageBuilder {
    /// Version 0.0.0 of project "fota" in 64 KiB.
    pub fn new(chip: Chip) -> Self {
        ImageBuilder {
            chip,
            version: "0.0.0".to_string(),
            project: "fota".to_string(),
            idf: "v5.3".to_string(),
            secure_version: 0,
            min_rev_full: 0,
            max_rev_full: u16::MAX,
            size: None,
            seed: 0,
            content: Vec::new(),
            elf_sha256: None,
            hash_appended: true,
            with_desc: true,
        }
    }

    /// Version text, at most 32 bytes.
    pub fn version(mut self, version: &str) -> Self {
        self.version = version.to_string();
        self
    }

    /// Project name, at most 32 bytes.
    pub fn project(mut self, project: &str) -> Self {
        self.project = project.to_string();
        self
    }

    /// ESP-IDF version, at most 32 bytes.
    pub fn idf(mut self, idf: &str) -> Self {
        self.idf = idf.to_string();
        self
    }

    /// For anti-rollback.
    pub fn secure_version(mut self, secure_version: u32) -> Self {
        self.secure_version = secure_version;
        self
    }

    /// Oldest chip revision, as `major * 100 + minor`.
    pub fn min_rev(mut self, revision_full: u16) -> Self {
        self.min_rev_full = revision_full;
        self
    }

    /// Newest chip revision, as `major * 100 + minor`.
    pub fn max_rev(mut self, revision_full: u16) -> Self {
        self.max_rev_full = revision_full;
        self
    }

    /// Exact length of the whole image; a multiple of 16. Without it the image has 64 KiB, or
    /// more if the content needs it.
    pub fn size(mut self, image_bytes: usize) -> Self {
        self.size = Some(image_bytes);
        self
    }

    /// Seed of the noise that fills the segments.
    pub fn fill(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Bytes to carry at [`CONTENT_OFFSET`]; zeros follow up to a multiple of 4.
    pub fn content(mut self, content: &[u8]) -> Self {
        self.content = content.to_vec();
        self
    }

    /// The ELF hash; without it one is derived from everything else.
    pub fn elf_sha256(mut self, hash: [u8; 32]) -> Self {
        self.elf_sha256 = Some(hash);
        self
    }

    /// Leaves the SHA-256 off, as some old builds did.
    pub fn without_hash(mut self) -> Self {
        self.hash_appended = false;
        self
    }

    /// Leaves the description off, as ESP-IDF before 3.3 did; zeros stand in its place.
    pub fn without_desc(mut self) -> Self {
        self.with_desc = false;
        self
    }

    /// Makes the image.
    pub fn build(&self) -> Result<Vec<u8>, BuildError> {
        let lens = self.segment_lens()?;
        let mut noise = Noise(self.seed ^ 0x0F07_A000_0000_0001);
        let mut image = self.header().to_vec();
        let mut checksum = CHECKSUM_SEED;
        for (index, (len, base)) in lens.into_iter().zip(self.chip.bases()).enumerate() {
            let data_offset = image.len() + SEGMENT_HEADER_BYTES;
            // Flash-mapped segments must agree with their file offset modulo 64 KiB; addresses
            // in RAM are left as they are.
            let load_addr = match self.chip.is_flash_mapped(base) {
                true => base + data_offset as u32 % 0x1_0000,
                false => base,
            };
            image.extend(load_addr.to_le_bytes());
            image.extend((len as u32).to_le_bytes());
            if index == 0 {
                image.extend(self.desc()?);
                image.extend(&self.content);
                image.resize(image.len().next_multiple_of(4), 0);
            }
            noise.extend(&mut image, data_offset + len);
            let data = &image[data_offset..];
            checksum = data.iter().fold(checksum, |sum, byte| sum ^ byte);
        }
        image.resize((image.len() + 1).next_multiple_of(16) - 1, 0);
        image.push(checksum);
        if self.hash_appended {
            let hash = Sha256::digest(&image);
            image.extend(hash);
        }
        Ok(image)
    }

    /// Lengths of constants (with description and content), data, RAM code and flash code.
    fn segment_lens(&self) -> Result<[usize; SEGMENTS], BuildError> {
        let hash = if self.hash_appended { HASH_BYTES } else { 0 };
        let first = DESC_BYTES + self.content.len().next_multiple_of(4);
        let headers = HEADER_BYTES + SEGMENTS * SEGMENT_HEADER_BYTES;
        let minimum = headers + first + (SEGMENTS - 1) * SEGMENT_BYTES_MIN;
        let need = (minimum + 1).next_multiple_of(16) + hash;
        let asked = self.size.unwrap_or(need.max(DEFAULT_BYTES));
        if asked < need {
            return Err(BuildError::TooSmall { need, asked });
        }
        if asked > IMAGE_BYTES_MAX as usize {
            return Err(BuildError::TooLarge { asked });
        }
        if !asked.is_multiple_of(16) {
            return Err(BuildError::NotMultipleOf16 { asked });
        }
        // Everything is a multiple of 4, so three zeros and the checksum fill the last word.
        let spare = asked - hash - 4 - minimum;
        let share = |part: usize, max: usize| (spare / part).min(max) & !3;
        // Short, so that all four headers lie in the first 10 KiB and a check of a truncated
        // image can tell the whole length.
        let (data, ram_code) = (share(32, 2 * 1024), share(16, 4 * 1024));
        Ok([
            first,
            SEGMENT_BYTES_MIN + data,
            SEGMENT_BYTES_MIN + ram_code,
            SEGMENT_BYTES_MIN + spare - data - ram_code,
        ])
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let [_, _, entry, _] = self.chip.bases();
        header[0] = MAGIC;
        header[1] = SEGMENTS as u8;
        // DIO; 4 MiB, the speed that every chip has a name for.
        header[2] = 2;
        header[3] = 0x20;
        header[4..8].copy_from_slice(&entry.to_le_bytes());
        header[8] = 0xEE;
        header[12..14].copy_from_slice(&self.chip.id().to_le_bytes());
        // The legacy byte knows major revisions only.
        header[14] = (self.min_rev_full / 100).min(255) as u8;
        header[15..17].copy_from_slice(&self.min_rev_full.to_le_bytes());
        header[17..19].copy_from_slice(&self.max_rev_full.to_le_bytes());
        header[23] = u8::from(self.hash_appended);
        header
    }

    fn desc(&self) -> Result<[u8; DESC_BYTES], BuildError> {
        let mut desc = [0; DESC_BYTES];
        let version = text::<32>("version", &self.version)?;
        let project = text::<32>("project", &self.project)?;
        let idf = text::<32>("idf", &self.idf)?;
        if !self.with_desc {
            return Ok(desc);
        }
        desc[..4].copy_from_slice(&DESC_MAGIC.to_le_bytes());
        desc[4..8].copy_from_slice(&self.secure_version.to_le_bytes());
        desc[16..48].copy_from_slice(&version);
        desc[48..80].copy_from_slice(&project);
        // A fixed moment, so that the same description gives the same bytes.
        desc[80..96].copy_from_slice(&text::<16>("time", "12:00:00")?);
        desc[96..112].copy_from_slice(&text::<16>("date", "Jan  1 2026")?);
        desc[112..144].copy_from_slice(&idf);
        desc[144..176].copy_from_slice(&self.elf_sha256.unwrap_or_else(|| self.identity()));
        desc[178..180].copy_from_slice(&u16::MAX.to_le_bytes());
        // 64 KiB pages.
        desc[180] = 16;
        Ok(desc)
    }

    /// A hash that differs whenever anything differs, as the ELF's would.
    fn identity(&self) -> [u8; 32] {
        let texts = [&self.version, &self.project, &self.idf].map(String::as_bytes);
        let numbers = [
            u64::from(self.chip.id()),
            u64::from(self.secure_version),
            u64::from(self.min_rev_full),
            u64::from(self.max_rev_full),
            self.size.unwrap_or(0) as u64,
            self.seed,
        ];
        let mut hasher = Sha256::new_with_prefix(b"fota test image");
        for part in texts.into_iter().chain([&*self.content]) {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        for number in numbers {
            hasher.update(number.to_le_bytes());
        }
        hasher.finalize().into()
    }
}

fn text<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], BuildError> {
    Text::<N>::from_text(text)
        .map(|text| *text.as_bytes())
        .ok_or(BuildError::TextTooLong { field, max: N })
}

/// SplitMix64: noise that neither compresses nor resembles the noise of another seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// Appends noise until `image` has `len` bytes.
    fn extend(&mut self, image: &mut Vec<u8>, len: usize) {
        while image.len() < len {
            let word = self.next().to_le_bytes();
            let take = word.len().min(len - image.len());
            image.extend(&word[..take]);
        }
    }
}
