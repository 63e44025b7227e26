//! An image in the seed's chunks: how many, where each begins, and the code that authenticates
//! one.
//!
//! Limits come from the seed's device: it takes at most 25,000 base64 characters per chunk, keeps
//! the decoded chunk in RAM, and compares the lower-case hex of the MAC byte by byte.

use std::{fmt, ops::Range, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use fota_proto::limits::{SEED_CHUNK_BYTES_DEFAULT, SEED_CHUNK_BYTES_MAX};
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;

/// Chunk size of an upload that names none, bytes: what the seed's server does.
pub const UNNAMED_CHUNK_BYTES: u32 = 1024;

/// Bytes of a chunk, 1 to [`SEED_CHUNK_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkBytes(u32);

impl ChunkBytes {
    /// For a release that did not come through the seed's upload.
    pub const DEFAULT: Self = Self(SEED_CHUNK_BYTES_DEFAULT);

    /// The nearest size that the seed's device can take.
    pub fn nearest(wanted: i64) -> Self {
        let clamped = wanted.clamp(1, i64::from(SEED_CHUNK_BYTES_MAX));
        Self(u32::try_from(clamped).expect("clamped into u32"))
    }

    /// As a number.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// An image of some length cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    pub image_bytes: u64,
    pub chunk_bytes: ChunkBytes,
}

impl Chunks {
    /// Number of chunks.
    pub fn count(self) -> u64 {
        self.image_bytes.div_ceil(u64::from(self.chunk_bytes.get()))
    }

    /// Where chunk `number` lies in the image; none behind the end.
    pub fn range(self, number: u64) -> Option<Range<u64>> {
        if number >= self.count() {
            return None;
        }
        let start = number * u64::from(self.chunk_bytes.get());
        let end = start + u64::from(self.chunk_bytes.get());
        Some(start..end.min(self.image_bytes))
    }

    /// Bytes in the first `count` chunks, never more than the image.
    pub fn bytes_of(self, count: u64) -> u64 {
        count
            .saturating_mul(u64::from(self.chunk_bytes.get()))
            .min(self.image_bytes)
    }
}

/// The number a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Chunk of this number.
    Chunk(u64),
    /// A whole number that no image has: negative or beyond 64 bits.
    Nowhere,
    /// Not a whole number.
    Malformed,
}

/// Reads `chunk_number`; absent is chunk 0, as the seed has it.
pub fn asked(text: Option<&str>) -> Asked {
    let Some(text) = text.map(str::trim) else {
        return Asked::Chunk(0);
    };
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Asked::Malformed;
    }
    match digits.parse() {
        Ok(0) => Asked::Chunk(0),
        Ok(number) if !text.starts_with('-') => Asked::Chunk(number),
        _ => Asked::Nowhere,
    }
}

/// The key of a seed fleet: 32 bytes, compiled into every image of it. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk([u8; 32]);

impl Psk {
    /// HMAC-SHA256 over the raw chunk, 64 lower-case hex digits.
    pub fn mac(&self, chunk: &[u8]) -> String {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.0).expect("any length is a key");
        mac.update(chunk);
        fota_proto::Sha256(mac.finalize().into_bytes().into()).to_string()
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(…)")
    }
}

impl From<[u8; 32]> for Psk {
    fn from(key: [u8; 32]) -> Self {
        Self(key)
    }
}

impl FromStr for Psk {
    type Err = fota_proto::digest::DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim()
            .parse::<fota_proto::Sha256>()
            .map(|key| Self(key.0))
    }
}

/// The reply to a chunk request.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ChunkReply {
    chunk_number: u64,
    data: String,
    mac: String,
    size: usize,
}

impl ChunkReply {
    /// Chunk `number` with its bytes.
    pub fn new(number: u64, chunk: &[u8], psk: &Psk) -> Self {
        Self {
            chunk_number: number,
            data: STANDARD.encode(chunk),
            mac: psk.mac(chunk),
            size: chunk.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn psk() -> Psk {
        Psk(std::array::from_fn(|i| i as u8))
    }

    fn vector_image() -> Vec<u8> {
        let mut image: Vec<u8> = (0..40_000usize).map(|i| (7 * i) as u8).collect();
        image[0] = 0xe9;
        image
    }

    fn chunks(image_bytes: u64, wanted: i64) -> Chunks {
        Chunks {
            image_bytes,
            chunk_bytes: ChunkBytes::nearest(wanted),
        }
    }

    #[test]
    fn the_vectors_of_the_seed_hold() {
        let image = vector_image();
        let expected = [
            (
                16_384,
                21_848,
                "979c7742d8b1eabe7dc4d5190e2b98306c2a8bf9877d88c31c93802c44bb3392",
            ),
            (
                16_384,
                21_848,
                "032fa5410fd9184a40dd36bb0a4f92c62fd2b7bcbbafa98bb8a03ca4c29002b2",
            ),
            (
                7_232,
                9_644,
                "03552b82735352e7906b843ae2a682d365399228d0f52ca21b3b165030ce3c85",
            ),
        ];
        let chunks = chunks(40_000, 16_384);
        assert_eq!(chunks.count(), 3);
        for (number, (raw, characters, mac)) in (0..).zip(expected) {
            let range = chunks.range(number).expect("in the image");
            let bytes = &image[range.start as usize..range.end as usize];
            let reply = ChunkReply::new(number, bytes, &psk());
            assert_eq!((reply.size, reply.data.len()), (raw, characters));
            assert_eq!(reply.mac, mac);
        }
        assert_eq!(chunks.range(3), None);
    }

    #[test]
    fn the_figures_of_the_seed_hold() {
        for (image, chunk, count) in [
            (1_065_968, 16_384, 66),
            (1_065_968, 8_192, 131),
            (1_065_968, 1_024, 1_041),
            (299 * 1024, 16_384, 19),
            (10_240, 1_024, 10),
        ] {
            assert_eq!(chunks(image, chunk).count(), count, "{image} / {chunk}");
        }
    }

    #[test]
    fn every_byte_is_in_exactly_one_chunk() {
        for image_bytes in [1, 2, 18_749, 18_750, 18_751, 40_000] {
            for wanted in [-5, 0, 1, 1_023, 16_384, 18_750, i64::MAX] {
                let chunks = chunks(image_bytes, wanted);
                let mut next = 0;
                for number in 0..chunks.count() {
                    let range = chunks.range(number).expect("counted");
                    assert_eq!(range.start, next);
                    assert!(!range.is_empty() && range.end - range.start <= 18_750);
                    next = range.end;
                    assert_eq!(chunks.bytes_of(number + 1), next);
                }
                assert_eq!(next, image_bytes);
                assert_eq!(chunks.range(chunks.count()), None);
                assert_eq!(chunks.bytes_of(u64::MAX), image_bytes);
            }
        }
    }

    #[test]
    fn chunk_numbers_are_read_as_the_seed_reads_them() {
        assert_eq!(asked(None), Asked::Chunk(0));
        assert_eq!(asked(Some("65")), Asked::Chunk(65));
        assert_eq!(asked(Some(" +7 ")), Asked::Chunk(7));
        assert_eq!(asked(Some("-0")), Asked::Chunk(0));
        for nowhere in ["-1", "99999999999999999999", "-99999999999999999999"] {
            assert_eq!(asked(Some(nowhere)), Asked::Nowhere, "{nowhere}");
        }
        for bad in ["", "abc", "1.5", "--1", "0x10", "1 2", "١"] {
            assert_eq!(asked(Some(bad)), Asked::Malformed, "{bad}");
        }
    }

    #[test]
    fn a_key_is_64_hex_digits_and_is_never_shown() {
        let text = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        assert_eq!(text.parse(), Ok(psk()));
        assert!("00".parse::<Psk>().is_err());
        assert_eq!(format!("{:?}", psk()), "Psk(…)");
    }
}
