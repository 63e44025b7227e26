//! The index: a hash for every 4 KiB of an image, so that no byte is programmed unproven.
//!
//! ```text
//! release, signed:   page hash 0 | page hash 1 | …              16 bytes each
//! page 0:            chunk hash 0 | … | chunk hash 127          2,048 bytes, for 512 KiB of image
//! artifact:          page 0 | chunks 0 … 127 | page 1 | chunks 128 … 255 | …
//! ```
//!
//! A hash is the first 16 bytes of a SHA-256: to find other bytes with the same hash takes 2^128
//! tries, and the whole image is proven by a whole SHA-256 besides. The index adds 16 bytes to
//! 4,096, 0.4 %, and a device holds one page at a time.
//!
//! The *artifact* is the image with each page in front of what it proves: one file, read front to
//! back in one request. Where a device resumes it asks for a page and what is behind the cut.

use sha2::Digest;

use crate::limits::CHUNK_BYTES;

/// Length of the hash of a chunk or a page.
pub const HASH_BYTES: usize = 16;
/// Chunks that one page proves.
pub const PAGE_CHUNKS: u32 = 128;
/// Length of a full page.
pub const PAGE_BYTES: usize = PAGE_CHUNKS as usize * HASH_BYTES;
/// Bytes of the image that a page proves.
pub const SPAN_BYTES: u32 = PAGE_CHUNKS * CHUNK_BYTES;

/// The hash of a chunk or of a page.
pub fn hash(bytes: &[u8]) -> [u8; HASH_BYTES] {
    let digest: [u8; 32] = sha2::Sha256::digest(bytes).into();
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(&digest[..HASH_BYTES]);
    hash
}

/// Pages of an image of this length.
pub const fn pages(image_bytes: u32) -> u32 {
    image_bytes.div_ceil(SPAN_BYTES)
}

/// Length of page `page` of an image of this length; the last one is shorter.
pub const fn page_bytes(image_bytes: u32, page: u32) -> usize {
    let start = page.saturating_mul(SPAN_BYTES);
    let rest = image_bytes.saturating_sub(start).div_ceil(CHUNK_BYTES);
    let chunks = if rest < PAGE_CHUNKS {
        rest
    } else {
        PAGE_CHUNKS
    };
    chunks as usize * HASH_BYTES
}

/// Length of the artifact of an image of this length.
pub const fn artifact_bytes(image_bytes: u32) -> u32 {
    image_bytes + image_bytes.div_ceil(CHUNK_BYTES) * HASH_BYTES as u32
}

/// Where page `page` begins in the artifact.
pub const fn page_offset(page: u32) -> u32 {
    page * (SPAN_BYTES + PAGE_BYTES as u32)
}

/// Where byte `position` of the image lies in the artifact of an image of this length.
pub const fn artifact_offset(image_bytes: u32, position: u32) -> u32 {
    let page = position / SPAN_BYTES;
    page_offset(page) + page_bytes(image_bytes, page) as u32 + position % SPAN_BYTES
}

/// Makes the index of an image: the hashes of its pages, and its artifact.
#[cfg(feature = "sign")]
pub fn build(image: &[u8]) -> (std::vec::Vec<u8>, std::vec::Vec<u8>) {
    let (mut hashes, mut artifact) = (std::vec::Vec::new(), std::vec::Vec::new());
    for span in image.chunks(SPAN_BYTES as usize) {
        let chunks = span.chunks(CHUNK_BYTES as usize);
        let page: std::vec::Vec<u8> = chunks.flat_map(hash).collect();
        hashes.extend(hash(&page));
        artifact.extend(page);
        artifact.extend(span);
    }
    (hashes, artifact)
}
