//! What a power cut leaves behind.

use std::{fmt, str::FromStr};

use super::{Op, OpKind};

/// What flash encryption turns into garbage together.
const CIPHER_BLOCK_BYTES: u32 = 16;

/// How far the operation came that was running when the power failed.
///
/// No data sheet promises more than that other pages stay as they were, so every model is an
/// assumption; a test should try several. The random ones give the same result for the same seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tear {
    /// Nothing happened yet.
    Before,
    /// It was complete.
    After,
    /// The first bytes are done, the rest is as before.
    Prefix(usize),
    /// Each bit is done or not.
    Random(u64),
    /// Each byte is done or not.
    RandomBytes(u64),
    /// Each 32-bit word is done or not.
    RandomWords(u64),
    /// Some bits are weak: each read finds them as it likes, until they are written again. By the
    /// seed half of all bits, or a single one while the rest is done, or not done.
    Weak(u64),
    /// Each 16 bytes are done, or not, or garbage, also where only a part of them was to change: what
    /// a torn write looks like through flash encryption.
    Blocks(u64),
}

impl Tear {
    /// The range that it may change.
    pub(super) fn reach(self, op: Op) -> (u32, u32) {
        let (start, end) = (op.offset, op.offset + op.len);
        match (self, op.kind) {
            (Tear::Blocks(_), OpKind::Program) => (
                start / CIPHER_BLOCK_BYTES * CIPHER_BLOCK_BYTES,
                end.next_multiple_of(CIPHER_BLOCK_BYTES),
            ),
            _ => (start, end),
        }
    }

    /// Turns `bytes`, which hold what was there, into what is there after the cut of an operation
    /// that was to make them `target`.
    pub(super) fn apply(self, bytes: &mut [u8], target: &[u8]) {
        match self {
            Tear::Before => {}
            Tear::After => bytes.copy_from_slice(target),
            Tear::Prefix(len) => {
                let len = len.min(bytes.len());
                bytes[..len].copy_from_slice(&target[..len]);
            }
            Tear::Blocks(seed) => {
                let mut dice = Dice(seed);
                let block_bytes = CIPHER_BLOCK_BYTES as usize;
                for (bytes, target) in bytes
                    .chunks_mut(block_bytes)
                    .zip(target.chunks(block_bytes))
                {
                    match dice.next() % 3 {
                        _ if bytes == target => {}
                        0 => {}
                        1 => bytes.copy_from_slice(target),
                        _ => bytes.fill_with(|| dice.next() as u8),
                    }
                }
            }
            Tear::Weak(seed) if WeakBits::of(seed) == WeakBits::LastOne => {
                bytes.copy_from_slice(target);
            }
            Tear::Weak(seed) if WeakBits::of(seed) == WeakBits::FirstOne => {}
            Tear::Random(seed) | Tear::Weak(seed) => {
                let mut dice = Dice(seed);
                mix(bytes, target, || dice.next() as u8);
            }
            Tear::RandomBytes(seed) => {
                let mut dice = Dice(seed);
                mix(bytes, target, || dice.all_or_nothing());
            }
            Tear::RandomWords(seed) => {
                let mut dice = Dice(seed);
                for (bytes, target) in bytes.chunks_mut(4).zip(target.chunks(4)) {
                    let done = dice.all_or_nothing();
                    mix(bytes, target, || done);
                }
            }
        }
    }
}

/// Which bits a torn operation leaves weak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WeakBits {
    /// Half of those that were to change; the others are done or not.
    Half,
    /// The one that was missing at the end.
    LastOne,
    /// The one that was first.
    FirstOne,
}

impl WeakBits {
    pub(super) fn of(seed: u64) -> Self {
        [Self::Half, Self::LastOne, Self::FirstOne][seed as usize % 3]
    }
}

/// `before`, `prefix-12`, `words-7` … as [`Tear::from_str`] reads them.
impl fmt::Display for Tear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tear::Before => f.write_str("before"),
            Tear::After => f.write_str("after"),
            Tear::Prefix(bytes) => write!(f, "prefix-{bytes}"),
            Tear::Random(seed) => write!(f, "bits-{seed}"),
            Tear::RandomBytes(seed) => write!(f, "bytes-{seed}"),
            Tear::RandomWords(seed) => write!(f, "words-{seed}"),
            Tear::Weak(seed) => write!(f, "weak-{seed}"),
            Tear::Blocks(seed) => write!(f, "blocks-{seed}"),
        }
    }
}

/// Not the name of a tear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tear is before, after, or prefix-, bits-, bytes-, words-, weak- or blocks- and a number"
)]
pub struct NoTear;

impl FromStr for Tear {
    type Err = NoTear;

    fn from_str(text: &str) -> Result<Self, NoTear> {
        let (kind, number) = match text {
            "before" => return Ok(Tear::Before),
            "after" => return Ok(Tear::After),
            _ => text.split_once('-').ok_or(NoTear)?,
        };
        let number: u64 = number.parse().map_err(|_| NoTear)?;
        Ok(match kind {
            "prefix" => Tear::Prefix(number as usize),
            "bits" => Tear::Random(number),
            "bytes" => Tear::RandomBytes(number),
            "words" => Tear::RandomWords(number),
            "weak" => Tear::Weak(number),
            "blocks" => Tear::Blocks(number),
            _ => return Err(NoTear),
        })
    }
}

/// Takes from `target` the bits that `done` gives for each byte.
fn mix(bytes: &mut [u8], target: &[u8], mut done: impl FnMut() -> u8) {
    for (byte, target) in bytes.iter_mut().zip(target) {
        let done = done();
        *byte = (*byte & !done) | (target & done);
    }
}

/// SplitMix64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn all_or_nothing(&mut self) -> u8 {
        match self.next() % 2 {
            0 => 0,
            _ => 0xFF,
        }
    }
}
