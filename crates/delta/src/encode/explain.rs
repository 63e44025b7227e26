//! What the bytes of a patch are spent on.

use std::{boxed::Box, vec::Vec};

use super::{FullMachine, images::Slices};
use crate::{
    CHUNK_BYTES, DecodeError, PatchHeader,
    coder::{Part, RangeDecoder, Side},
    header::HeaderError,
    machine::{Fault, Progress},
};

/// What a patch consists of.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What the patch says about itself.
    pub header: PatchHeader,
    /// Length of the header.
    pub header_bytes: usize,
    /// Runs of the old image that stayed together, as listed in front.
    pub blocks: usize,
    /// What the payload is spent on; parts that are not there are left out.
    pub parts: Vec<Spent>,
    /// The same by segment of the new image, and what lies between them.
    pub segments: Vec<SegmentSpent>,
    /// The new image.
    pub new: Vec<u8>,
}

/// A part of a patch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spent {
    /// What it is, for people.
    pub what: &'static str,
    /// Bytes of the new image that it made; 0 for what only steers.
    pub new_bytes: u64,
    /// Bytes of the patch.
    pub patch_bytes: f64,
}

/// A segment of the new image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SegmentSpent {
    /// Its address; none for what is in no segment.
    pub address: Option<u32>,
    /// Its length.
    pub bytes: u64,
    /// Bytes of the patch for what is in it.
    pub patch_bytes: f64,
}

const PARTS: usize = 13;
/// In the order of [`index`].
const NAMES: [&str; PARTS] = [
    "layout of the image",
    "what moved where",
    "copied bytes that changed",
    "pointers mispredicted",
    "calls mispredicted",
    "loads mispredicted (l32r, lui)",
    "jumps mispredicted",
    "branches that changed",
    "address pairs mispredicted (auipc)",
    "low halves mispredicted",
    "new bytes, one by one",
    "new bytes, as matches",
    "new calls and loads, by target",
];

fn index(part: Part) -> usize {
    match part {
        Part::Layout => 0,
        Part::Operations => 1,
        Part::Unit(kind) => 2 + usize::from(kind).min(7),
        Part::Literal => 10,
        Part::Match => 11,
        Part::Named => 12,
    }
}

struct Metered {
    range: RangeDecoder,
    part: usize,
    at: u32,
    bits: [f64; PARTS],
    /// For each chunk of 16 bytes of the new image, so that segments can be told apart.
    bits_at: Vec<f64>,
}

const GRAIN: usize = 16;

impl Side for Metered {
    const KNOWS: bool = false;

    fn bit(&mut self, p: u32, wanted: bool) -> bool {
        let bit = self.range.bit(p, wanted);
        let share = f64::from(if bit { p } else { 65_536 - p }) / 65_536.0;
        let cost = -share.log2();
        self.bits[self.part] += cost;
        if let Some(place) = self.bits_at.get_mut(self.at as usize / GRAIN) {
            *place += cost;
        }
        bit
    }

    fn part(&mut self, part: Part, new_offset: u32) {
        (self.part, self.at) = (index(part), new_offset);
    }
}

/// Decodes a patch and says what its bytes are spent on.
///
/// # Errors
/// What decoding says.
pub fn explain(old: &[u8], patch: &[u8]) -> Result<Explanation, DecodeError<&'static str>> {
    let (header, header_bytes) = PatchHeader::parse(patch).map_err(DecodeError::Header)?;
    let mut payload = &patch[header_bytes..];
    let grains = header.new_bytes as usize / GRAIN + 1;
    let mut side = Metered {
        range: RangeDecoder::new(header.payload_bytes),
        part: 0,
        at: 0,
        bits: [0.0; PARTS],
        bits_at: std::vec![0.0; grains],
    };
    let old_bytes = header.old.map_or(0, |old| old.bytes);
    if old_bytes as usize > old.len() {
        return Err(DecodeError::Digest);
    }
    let mut machine = Box::new(FullMachine::new());
    machine.reset(header.profile, old_bytes, header.new_bytes);
    let (mut new, mut made) = (Vec::new(), [0_u64; PARTS]);
    loop {
        side.range.take(&mut payload);
        if !side.range.is_ready() {
            return Err(DecodeError::Header(HeaderError::Short(patch.len())));
        }
        let before = machine.new_at();
        let mut images = Slices { old, new: &new };
        let progress = machine.step(&mut side, &mut images).map_err(fault)?;
        made[side.part] += u64::from(machine.new_at() - before);
        if progress != Progress::More {
            new.extend_from_slice(machine.chunk().1);
        }
        match progress {
            Progress::More => {}
            Progress::Chunk => machine.next_chunk(),
            Progress::Done => break,
        }
    }
    if machine.sha256() != header.new_sha256 {
        return Err(DecodeError::Digest);
    }
    debug_assert!(new.len() % CHUNK_BYTES == header.new_bytes as usize % CHUNK_BYTES);
    let segments = by_segment(&machine, &side);
    let parts = (0..PARTS).map(|part| Spent {
        what: NAMES[part],
        new_bytes: made[part],
        patch_bytes: side.bits[part] / 8.0,
    });
    Ok(Explanation {
        header,
        header_bytes,
        blocks: machine.block_count(),
        parts: parts.filter(|it| it.patch_bytes > 0.0).collect(),
        segments,
        new,
    })
}

fn fault(fault: Fault<super::images::OutOfImage>) -> DecodeError<&'static str> {
    match fault {
        Fault::Damaged(what) => DecodeError::Damaged(what),
        Fault::Read(_) => DecodeError::Read("beyond the end of an image"),
    }
}

fn by_segment(machine: &FullMachine, side: &Metered) -> Vec<SegmentSpent> {
    let segments = machine.new_segments();
    let mut spent: Vec<SegmentSpent> = segments
        .iter()
        .map(|it| SegmentSpent {
            address: Some(it.address),
            bytes: it.bytes.into(),
            patch_bytes: 0.0,
        })
        .collect();
    let mut rest = SegmentSpent::default();
    for (grain, bits) in side.bits_at.iter().enumerate() {
        let at = (grain * GRAIN + GRAIN / 2) as u32;
        let holder = segments
            .iter()
            .position(|it| at.wrapping_sub(it.offset) < it.bytes);
        let place = holder.map_or(&mut rest, |index| &mut spent[index]);
        place.patch_bytes += bits / 8.0;
    }
    let inside: u64 = segments.iter().map(|it| u64::from(it.bytes)).sum();
    rest.bytes = (side.bits_at.len() as u64 * GRAIN as u64).saturating_sub(inside);
    spent.push(rest);
    spent
}
