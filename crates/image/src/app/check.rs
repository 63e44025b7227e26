//! Verification of a whole image, as the second-stage bootloader does it at every boot.

use core::ops::Deref;

use sha2::{Digest, Sha256};

use super::{
    AppDesc, CHECKSUM_SEED, CheckError, DESC_BYTES, DESC_OFFSET, HASH_BYTES, HEAD_BYTES_MIN,
    HEADER_BYTES, Header, IMAGE_BYTES_MAX, ImageError, PastEnd, SEGMENT_BYTES_MAX,
    SEGMENT_HEADER_BYTES, SEGMENTS_MAX, Source,
};
use crate::bytes::{array, u32_at};

/// Read buffer on the stack. Two flash pages: larger ones gain nothing on SPI flash.
const BUFFER_BYTES: usize = 512;
const SECTOR_BYTES: u32 = 4096;
/// Version word and two 32-byte numbers, right behind the image.
const SIGNATURE_V1_BYTES: u32 = 68;
/// Where ESP-IDF puts the partition table unless told otherwise.
const TABLE_OFFSET: u32 = 0x8000;

/// A verified image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its header.
    pub header: Header,
    /// What the app says about itself; `None` in images of old ESP-IDF and in bootloaders.
    pub desc: Option<AppDesc>,
    /// Exact length: header, segments, checksum and appended hash.
    pub image_bytes: u32,
    /// Its segments, in file order.
    pub segments: Segments,
    /// Its checksum byte.
    pub checksum: u8,
    /// The SHA-256 at its end.
    pub sha256_appended: Option<[u8; 32]>,
    /// SHA-256 of all `image_bytes`, the appended hash included.
    pub sha256: [u8; 32],
    /// Bytes behind the image that [`check_file`] recognised: padding or a signature.
    pub trailing_bytes: u32,
    /// Secure boot signature that follows; its presence is told, its truth is not checked.
    pub signature: Option<Signature>,
}

/// A kind of secure boot signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// 68 bytes right behind the image (old ESP32).
    SecureBootV1,
    /// A 4 KiB sector at the next multiple of 4 KiB.
    SecureBootV2,
}

/// One segment of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Where it is loaded or mapped.
    pub load_addr: u32,
    /// Length of its data.
    pub len: u32,
    /// Where its data begin in the image, behind its 8-byte header.
    pub file_offset: u32,
}

/// The segments of an image; a slice of at most [`SEGMENTS_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    all: [Segment; SEGMENTS_MAX as usize],
    count: u8,
}

impl Segments {
    fn push(&mut self, segment: Segment) {
        if let Some(place) = self.all.get_mut(usize::from(self.count)) {
            *place = segment;
            self.count += 1;
        }
    }
}

impl Deref for Segments {
    type Target = [Segment];

    fn deref(&self) -> &[Segment] {
        &self.all[..usize::from(self.count)]
    }
}

/// Verifies the image that begins at offset 0 of `source`, as the bootloader would.
///
/// `available` is the length of the file or of the slot; what follows the image is not looked at,
/// because the chip does not either. Reads every byte once, the first 288 twice. Needs 2.4 KiB
/// of stack on RV32 (measured, opt-level s, SHA-256 included).
///
/// What the bootloader checks and this does not: that the chip is *this* chip and of an allowed
/// revision ([`Header::chip`], [`Header::allows_revision`]), that RAM segments do not overlap the
/// bootloader itself, and signatures.
pub fn check<S: Source>(source: &mut S, available: u32) -> Result<Image, CheckError<S::Error>> {
    let mut reader = Reader::new(source, available);
    let mut image = reader.begin()?;
    reader.segments(&mut image)?;
    reader.checksum(&mut image)?;
    reader.hash(&mut image)?;
    Ok(image)
}

/// As [`check`], for a file that somebody offers as an app: also refuses bootloaders, merged flash
/// images and unknown bytes behind the image.
///
/// esptool and the chip ignore whatever follows an image. A person who uploads a file in which
/// something follows has usually taken the wrong one, so only what the ESP-IDF tools append is
/// accepted: `0xFF` padding and secure boot signatures.
pub fn check_file<S: Source>(
    source: &mut S,
    file_bytes: u32,
) -> Result<Image, CheckError<S::Error>> {
    let mut image = check(source, file_bytes)?;
    let mut reader = Reader::new(source, file_bytes);
    reader.refuse_bootloader(&image)?;
    image.signature = reader.trailer(&image)?;
    image.trailing_bytes = file_bytes - image.image_bytes;
    Ok(image)
}

/// [`check_file`] of a file in memory.
pub fn check_bytes(bytes: &[u8]) -> Result<Image, ImageError> {
    let len = u32::try_from(bytes.len()).map_err(|_| ImageError::TooLong {
        need: bytes.len() as u64,
    })?;
    check_file(&mut &*bytes, len).map_err(|error| match error {
        CheckError::Image(error) => error,
        // Every read was below `len`; were it not, the image would be too short for its headers.
        CheckError::Read {
            offset,
            error: PastEnd,
        } => ImageError::Truncated {
            have: bytes.len() as u64,
            need: u64::from(offset),
            exact: false,
        },
    })
}

struct Reader<'a, S> {
    source: &'a mut S,
    available: u32,
    /// Next byte to read. Beyond `available` only in error paths, so 64 bits.
    position: u64,
    hasher: Sha256,
    checksum: u8,
}

impl<'a, S: Source> Reader<'a, S> {
    fn new(source: &'a mut S, available: u32) -> Self {
        Reader {
            source,
            available,
            position: 0,
            hasher: Sha256::new(),
            checksum: CHECKSUM_SEED,
        }
    }

    /// Reads the header and the description; the rest of the image is filled in later. Not inlined,
    /// so that its buffer and that of `data` are not on the stack at the same time.
    #[inline(never)]
    fn begin(&mut self) -> Result<Image, CheckError<S::Error>> {
        let mut bytes = [0; HEAD_BYTES_MIN];
        let len = HEAD_BYTES_MIN.min(self.available as usize);
        self.read_at(0, &mut bytes[..len])?;
        let header = Header::parse(&bytes[..len])?;
        if header.chip.is_none() {
            return Err(ImageError::UnknownChip(header.chip_id).into());
        }
        let first_segment_bytes = u32_at(&bytes, DESC_OFFSET - 4) as usize;
        let has_desc = len == HEAD_BYTES_MIN && first_segment_bytes >= DESC_BYTES;
        let desc = bytes[DESC_OFFSET..]
            .first_chunk()
            .filter(|_| has_desc)
            .and_then(AppDesc::parse);
        Ok(Image {
            header,
            desc,
            image_bytes: 0,
            segments: Segments::default(),
            checksum: 0,
            sha256_appended: None,
            sha256: [0; 32],
            trailing_bytes: 0,
            signature: None,
        })
    }

    /// Reads headers and data of all segments.
    fn segments(&mut self, image: &mut Image) -> Result<(), CheckError<S::Error>> {
        let Header {
            segment_count,
            hash_appended,
            ..
        } = image.header;
        self.pass::<HEADER_BYTES>()?;
        for index in 0..segment_count {
            let left = segment_count - index;
            self.need(self.position, left, hash_appended, SEGMENT_HEADER_BYTES)?;
            let bytes = self.pass::<SEGMENT_HEADER_BYTES>()?;
            let segment = Segment {
                load_addr: u32_at(&bytes, 0),
                len: u32_at(&bytes, 4),
                file_offset: self.position as u32,
            };
            refuse_segment(index, &segment, image)?;
            let end = self.position + u64::from(segment.len);
            self.need(end, left - 1, hash_appended, 0)?;
            self.data(segment.len)?;
            image.segments.push(segment);
        }
        Ok(())
    }

    /// Refuses a source that ends before `end + extra`. The message counts what must follow it:
    /// the headers of `segments_left`, checksum and hash.
    fn need(
        &self,
        end: u64,
        segments_left: u8,
        hash_appended: bool,
        extra: usize,
    ) -> Result<(), ImageError> {
        let headers = u64::from(segments_left) * SEGMENT_HEADER_BYTES as u64;
        let need = total_bytes(end + headers, hash_appended);
        if need > u64::from(IMAGE_BYTES_MAX) {
            return Err(ImageError::TooLong { need });
        }
        let available = u64::from(self.available);
        // With the last length known the whole is known, so a missing tail is told at once.
        let must_have = match segments_left {
            0 => need,
            _ => end + extra as u64,
        };
        if must_have <= available {
            return Ok(());
        }
        Err(ImageError::Truncated {
            have: available,
            need,
            exact: segments_left == 0,
        })
    }

    #[inline(never)]
    fn data(&mut self, len: u32) -> Result<(), CheckError<S::Error>> {
        let mut buffer = [0; BUFFER_BYTES];
        let mut left = len as usize;
        while left > 0 {
            let chunk = &mut buffer[..left.min(BUFFER_BYTES)];
            left -= chunk.len();
            self.read_at(self.position, chunk)?;
            self.position += chunk.len() as u64;
            self.hasher.update(&*chunk);
            self.checksum = xor(self.checksum, chunk);
        }
        Ok(())
    }

    fn checksum(&mut self, image: &mut Image) -> Result<(), CheckError<S::Error>> {
        // Up to 16 bytes: zeros and, last, the checksum.
        let pad = (16 - self.position % 16) as usize;
        let mut bytes = [0; 16];
        self.read_at(self.position, &mut bytes[..pad])?;
        self.position += pad as u64;
        self.hasher.update(&bytes[..pad]);
        image.checksum = bytes[pad - 1];
        if image.checksum == self.checksum {
            return Ok(());
        }
        Err(ImageError::Checksum {
            stored: image.checksum,
            computed: self.checksum,
        }
        .into())
    }

    fn hash(&mut self, image: &mut Image) -> Result<(), CheckError<S::Error>> {
        if image.header.hash_appended {
            let computed: [u8; HASH_BYTES] = self.hasher.clone().finalize().into();
            let stored = self.pass::<HASH_BYTES>()?;
            if stored != computed {
                let first = |hash: [u8; 32]| u32::from_be_bytes(array(&hash, 0));
                return Err(ImageError::Hash {
                    stored: first(stored),
                    computed: first(computed),
                }
                .into());
            }
            image.sha256_appended = Some(stored);
        }
        image.image_bytes = self.position as u32;
        image.sha256 = self.hasher.clone().finalize().into();
        Ok(())
    }

    /// A bootloader describes itself where an app does, with the magic byte 80, and is loaded to
    /// RAM as a whole.
    fn refuse_bootloader(&mut self, image: &Image) -> Result<(), CheckError<S::Error>> {
        let mut magic = [0; 1];
        self.read_at(DESC_OFFSET as u64, &mut magic)?;
        let is_mapped = |segment: &Segment| {
            let chip = image.header.chip;
            chip.is_some_and(|chip| chip.is_flash_mapped(segment.load_addr))
        };
        match image.desc.is_none() && magic == [80] && !image.segments.iter().any(is_mapped) {
            true => Err(ImageError::Bootloader.into()),
            false => Ok(()),
        }
    }

    fn trailer(&mut self, image: &Image) -> Result<Option<Signature>, CheckError<S::Error>> {
        let end = image.image_bytes;
        let sector = end.next_multiple_of(SECTOR_BYTES);
        let (padding_from, signature) = match self.signature_at(end, sector)? {
            Some(Signature::SecureBootV1) => {
                (end + SIGNATURE_V1_BYTES, Some(Signature::SecureBootV1))
            }
            Some(Signature::SecureBootV2) if self.is_erased(end, sector)? => {
                (sector + SECTOR_BYTES, Some(Signature::SecureBootV2))
            }
            _ => (end, None),
        };
        if self.is_erased(padding_from, self.available)? {
            return Ok(signature);
        }
        let mut table = [0; 2];
        if self.available >= TABLE_OFFSET + 2 {
            self.read_at(u64::from(TABLE_OFFSET), &mut table)?;
        }
        Err(match end <= TABLE_OFFSET && table == [0xAA, 0x50] {
            true => ImageError::MergedFlash,
            false => ImageError::TrailingBytes {
                end,
                extra: self.available - end,
            },
        }
        .into())
    }

    fn signature_at(
        &mut self,
        end: u32,
        sector: u32,
    ) -> Result<Option<Signature>, CheckError<S::Error>> {
        let follows = u64::from(self.available) - u64::from(end);
        if u64::from(self.available) >= u64::from(sector) + u64::from(SECTOR_BYTES) {
            let mut start = [0; 4];
            self.read_at(u64::from(sector), &mut start)?;
            if matches!(start, [0xE7, 2 | 3, _, _]) {
                return Ok(Some(Signature::SecureBootV2));
            }
        }
        if follows >= u64::from(SIGNATURE_V1_BYTES) {
            let mut version = [0; 4];
            self.read_at(u64::from(end), &mut version)?;
            if version == [0; 4] {
                return Ok(Some(Signature::SecureBootV1));
            }
        }
        Ok(None)
    }

    fn is_erased(&mut self, from: u32, to: u32) -> Result<bool, CheckError<S::Error>> {
        let mut buffer = [0; BUFFER_BYTES];
        let mut position = from;
        while position < to {
            let chunk = &mut buffer[..((to - position) as usize).min(BUFFER_BYTES)];
            self.read_at(u64::from(position), chunk)?;
            if chunk.iter().any(|byte| *byte != 0xFF) {
                return Ok(false);
            }
            position += chunk.len() as u32;
        }
        Ok(true)
    }

    /// Reads and hashes the next `N` bytes.
    fn pass<const N: usize>(&mut self) -> Result<[u8; N], CheckError<S::Error>> {
        let mut bytes = [0; N];
        self.read_at(self.position, &mut bytes)?;
        self.position += N as u64;
        self.hasher.update(bytes);
        Ok(bytes)
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), CheckError<S::Error>> {
        // `need` keeps every offset below `available`, which is 32 bits.
        let offset = offset as u32;
        self.source
            .read(offset, buf)
            .map_err(|error| CheckError::Read { offset, error })
    }
}

/// Not generic, so that it is optimised with this crate also in unoptimised test builds.
fn xor(seed: u8, bytes: &[u8]) -> u8 {
    bytes.iter().fold(seed, |sum, byte| sum ^ byte)
}

/// Length of an image whose segments end at `end`.
fn total_bytes(end: u64, hash_appended: bool) -> u64 {
    let with_checksum = (end + 1).next_multiple_of(16);
    match hash_appended {
        true => with_checksum + HASH_BYTES as u64,
        false => with_checksum,
    }
}

fn refuse_segment(index: u8, segment: &Segment, image: &Image) -> Result<(), ImageError> {
    if !segment.len.is_multiple_of(4) || segment.len >= SEGMENT_BYTES_MAX {
        return Err(ImageError::SegmentLength {
            segment: index,
            len: segment.len,
        });
    }
    let page = mmu_page_bytes(image.desc.as_ref());
    let mapped = image
        .header
        .chip
        .is_some_and(|chip| chip.is_flash_mapped(segment.load_addr));
    if mapped && segment.file_offset % page != segment.load_addr % page {
        return Err(ImageError::SegmentAlignment {
            segment: index,
            file_offset: segment.file_offset,
            load_addr: segment.load_addr,
            page,
        });
    }
    Ok(())
}

/// 8 to 64 KiB on chips where it can be set; 64 KiB where the description does not say.
fn mmu_page_bytes(desc: Option<&AppDesc>) -> u32 {
    match desc.map(|desc| desc.mmu_page_log2) {
        Some(log2 @ 13..=16) => 1 << log2,
        _ => 1 << 16,
    }
}
