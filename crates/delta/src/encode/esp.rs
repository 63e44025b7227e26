//! Patches as Espressif's `esp_delta_ota` reads them: a header of 64 bytes, then a sequential patch
//! of detools, compressed by heatshrink with a window of 2^8 and a lookahead of 2^7.
//!
//! After `esp_delta_ota_patch_gen.py` of the component esp_delta_ota, and detools 0.53, which a
//! step of CI applies the result with.

use std::vec::Vec;

use super::{EncodeError, images::has_digest, matcher};

const MAGIC: u32 = 0xFCCD_DE10;
const HEADER_BYTES: usize = 64;
const WINDOW_BITS: u32 = 8;
const LOOKAHEAD_BITS: u32 = 7;
/// Patch type 0 in bits 4 to 6, compression 4 below.
const SEQUENTIAL_HEATSHRINK: u8 = 4;

/// Makes a patch for devices with esp_delta_ota.
///
/// # Errors
/// [`EncodeError::NoDigest`] if the old image does not end with its SHA-256, by which the device
/// knows it, and [`EncodeError::TooLarge`].
pub fn encode_esp(old: &[u8], new: &[u8]) -> Result<Vec<u8>, EncodeError> {
    super::check_lengths(old, new)?;
    let digest = old.last_chunk::<32>().filter(|_| has_digest(old));
    let digest = digest.ok_or(EncodeError::NoDigest)?;
    let mut patch = Vec::from(MAGIC.to_le_bytes());
    patch.extend(digest);
    patch.resize(HEADER_BYTES, 0);
    patch.push(SEQUENTIAL_HEATSHRINK);
    put_size(&mut patch, new.len() as i64);
    if !new.is_empty() {
        patch.push((WINDOW_BITS as u8 - 4) << 4 | (LOOKAHEAD_BITS as u8 - 3));
        heatshrink(&sequential(old, new), &mut patch);
    }
    Ok(patch)
}

/// The patch before compression: for each op the differences of a copy, literals, and a move of the
/// place in the old image, each with its size in front.
fn sequential(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    put_size(&mut data, 0); // no transformed data sections
    let ops = matcher::find(old, new, matcher::GAIN_MIN[0]);
    let mut at = 0;
    for (index, op) in ops.iter().enumerate() {
        let copied = &new[at..at + op.copy_bytes];
        put_size(&mut data, op.copy_bytes as i64);
        let before = &old[op.old_at..];
        data.extend(
            copied
                .iter()
                .zip(before)
                .map(|(new, old)| new.wrapping_sub(*old)),
        );
        at += op.copy_bytes;
        put_size(&mut data, op.literal_bytes as i64);
        data.extend(&new[at..at + op.literal_bytes]);
        at += op.literal_bytes;
        let end = op.old_at + op.copy_bytes;
        let next = ops.get(index + 1).map_or(end, |next| next.old_at);
        put_size(&mut data, next as i64 - end as i64);
    }
    data
}

/// Six bits and a sign, then groups of seven bits; bit 7 says that more follow.
fn put_size(to: &mut Vec<u8>, size: i64) {
    let sign = if size < 0 { 0x40 } else { 0 };
    let mut left = size.unsigned_abs();
    let mut byte = sign | left as u8 & 0x3f;
    left >>= 6;
    while left > 0 {
        to.push(byte | 0x80);
        byte = left as u8 & 0x7f;
        left >>= 7;
    }
    to.push(byte);
}

/// Literals of 9 bits and matches of 16; the fewest bits that matches of the longest length give.
fn heatshrink(data: &[u8], to: &mut Vec<u8>) {
    const LITERAL_BITS: u32 = 9;
    const MATCH_BITS: u32 = 1 + WINDOW_BITS + LOOKAHEAD_BITS;
    let matches: Vec<(usize, usize)> = (0..data.len()).map(|at| longest(data, at)).collect();
    // A longer rest never costs less, so that of all lengths of a match the longest is best.
    let mut costs = std::vec![0_u32; data.len() + 1];
    for at in (0..data.len()).rev() {
        let literal = LITERAL_BITS + costs[at + 1];
        let matched = MATCH_BITS + costs[at + matches[at].0.max(1)];
        costs[at] = literal.min(matched);
    }
    let mut bits = Bits {
        to,
        byte: 0,
        count: 0,
    };
    let mut at = 0;
    while at < data.len() {
        let (length, distance) = matches[at];
        if length > 1 && costs[at] == MATCH_BITS + costs[at + length] {
            bits.put(0, 1);
            bits.put(distance as u32 - 1, WINDOW_BITS);
            bits.put(length as u32 - 1, LOOKAHEAD_BITS);
            at += length;
        } else {
            bits.put(1, 1);
            bits.put(data[at].into(), 8);
            at += 1;
        }
    }
    bits.finish();
}

/// The longest match within the window: length and distance.
fn longest(data: &[u8], at: usize) -> (usize, usize) {
    let wanted = &data[at..data.len().min(at + (1 << LOOKAHEAD_BITS))];
    let (mut best, mut distance) = (0, 0);
    for from in (at.saturating_sub(1 << WINDOW_BITS)..at).rev() {
        if best > 0 && data.get(from + best) != wanted.get(best) {
            continue;
        }
        let length = matcher::common(&data[from..], wanted);
        if length > best {
            (best, distance) = (length, at - from);
        }
        if best == wanted.len() {
            break;
        }
    }
    (best, distance)
}

struct Bits<'a> {
    to: &'a mut Vec<u8>,
    byte: u8,
    count: u32,
}

impl Bits<'_> {
    fn put(&mut self, value: u32, bits: u32) {
        for bit in (0..bits).rev() {
            self.byte = self.byte << 1 | (value >> bit & 1) as u8;
            self.count += 1;
            if self.count == 8 {
                self.to.push(self.byte);
                (self.byte, self.count) = (0, 0);
            }
        }
    }

    fn finish(self) {
        if self.count > 0 {
            self.to.push(self.byte << (8 - self.count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_detools_does() {
        let cases: [(i64, &[u8]); 5] = [
            (0, &[0]),
            (63, &[0x3f]),
            (64, &[0x80, 0x01]),
            (-64, &[0xc0, 0x01]),
            (1_000_000, &[0x80, 0x89, 0x7a]),
        ];
        for (size, wanted) in cases {
            let mut bytes = Vec::new();
            put_size(&mut bytes, size);
            assert_eq!(bytes, wanted, "{size}");
        }
    }

    #[test]
    fn an_old_image_without_its_digest_is_refused() {
        assert_eq!(encode_esp(&[1; 100], &[2]), Err(EncodeError::NoDigest));
    }
}
