//! Which copies become blocks, and which stay within the gaps between them.

use std::{cmp::Reverse, collections::BTreeMap, vec::Vec};

use super::{
    images::{Pair, walk},
    matcher::Op,
};
use crate::{Profile, blocks::Block, coder::GapOp, refs::Kind};

/// The copies of a patch, divided.
pub(super) struct Division {
    pub blocks: Vec<Block>,
    /// What is in the gaps, by the offset in the new image where it is asked for.
    pub gap_ops: Vec<(u32, GapOp)>,
}

impl Division {
    /// Makes blocks of the copies that most references lead to; all of them if there is room.
    pub fn of(pair: &Pair, ops: &[Op], profile: Profile) -> Self {
        let copies = copies(pair, ops);
        let is_block = chosen(pair, &copies, profile.blocks_max());
        let chosen = copies
            .iter()
            .zip(&is_block)
            .filter(|(_, is_block)| **is_block);
        let blocks: Vec<Block> = chosen.map(|(copy, _)| *copy).collect();
        let mut gap_ops = Vec::new();
        let (mut at, mut block_end) = (0, 0);
        let end = pair.coded_bytes() as u32;
        let mut copies = copies.iter().zip(is_block).peekable();
        while at < end {
            let next = copies.next_if(|(_, is_block)| !is_block);
            if let Some((copy, _)) = next {
                gap_ops.push((at, within_gap(at, copy)));
                at = copy.new_offset + copy.bytes;
                continue;
            }
            let block = copies.next().map(|(copy, _)| *copy);
            let due = block.map_or(end, |block| block.new_offset);
            if at < due {
                let rest = GapOp {
                    all_literal: true,
                    ..GapOp::default()
                };
                gap_ops.push((at, rest));
            }
            block_end = block.map_or(block_end, |block| block.new_offset + block.bytes);
            at = block.map_or(end, |_| block_end);
        }
        Self { blocks, gap_ops }
    }
}

fn within_gap(at: u32, copy: &Block) -> GapOp {
    GapOp {
        all_literal: false,
        literal_bytes: copy.new_offset - at,
        copy_bytes: copy.bytes,
        old_offset: copy.old_offset,
    }
}

/// The copies with their places, up to where the image is coded.
fn copies(pair: &Pair, ops: &[Op]) -> Vec<Block> {
    let end = pair.coded_bytes();
    let mut at = 0;
    let mut copies = Vec::new();
    for op in ops {
        let bytes = op.copy_bytes.min(end.saturating_sub(at));
        if bytes > 0 {
            copies.push(Block {
                new_offset: at as u32,
                old_offset: op.old_at as u32,
                bytes: bytes as u32,
            });
        }
        at += op.copy_bytes + op.literal_bytes;
    }
    copies
}

/// For each copy, whether it is a block.
fn chosen(pair: &Pair, copies: &[Block], blocks_max: usize) -> Vec<bool> {
    let mut is_block = not_nested(copies);
    if is_block.iter().filter(|it| **it).count() <= blocks_max {
        return is_block;
    }
    let moves = Moves::new(copies);
    let mut worth = BTreeMap::<usize, u32>::new();
    let mut seen = std::collections::BTreeSet::new();
    walk(pair.old, &pair.old_layout, |_, unit| {
        if matches!(unit.kind, Kind::None | Kind::Branch) || !seen.insert(unit.target) {
            return;
        }
        let offset = pair.old_layout.offset(unit.target);
        if let Some(copy) = offset.and_then(|at| moves.holder(at)) {
            *worth.entry(copy).or_default() += 1;
        }
    });
    let mut order: Vec<usize> = (0..copies.len()).filter(|index| is_block[*index]).collect();
    order.sort_by_key(|index| {
        let worth = worth.get(index).copied().unwrap_or(0);
        (Reverse(worth), Reverse(copies[*index].bytes), *index)
    });
    for index in order.into_iter().skip(blocks_max) {
        is_block[index] = false;
    }
    is_block
}

/// The copies whose source is not within that of another: the decoder looks for the block around
/// an address among those that start last before it, where small ones would hide a large one.
fn not_nested(copies: &[Block]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..copies.len()).collect();
    order.sort_by_key(|index| (copies[*index].old_offset, Reverse(copies[*index].bytes)));
    let mut is_block = Vec::from_iter(copies.iter().map(|_| false));
    let mut farthest = 0;
    for index in order {
        let end = copies[index].old_offset + copies[index].bytes;
        is_block[index] = end > farthest;
        farthest = farthest.max(end);
    }
    is_block
}

/// Where the bytes of the old image went, with overlaps given to the longest copy.
pub(super) struct Moves {
    /// Disjoint, by their start in the old image: length, new offset, index of the copy.
    parts: Vec<(u32, u32, u32, usize)>,
}

impl Moves {
    pub fn of(ops: &[Op]) -> Self {
        let mut at = 0;
        let mut copies = Vec::new();
        for op in ops {
            if op.copy_bytes > 0 {
                copies.push(Block {
                    new_offset: at as u32,
                    old_offset: op.old_at as u32,
                    bytes: op.copy_bytes as u32,
                });
            }
            at += op.copy_bytes + op.literal_bytes;
        }
        Self::new(&copies)
    }

    fn new(copies: &[Block]) -> Self {
        let mut order: Vec<usize> = (0..copies.len()).collect();
        order.sort_by_key(|index| (Reverse(copies[*index].bytes), copies[*index].old_offset));
        let mut parts = BTreeMap::<u32, (u32, u32, usize)>::new();
        for index in order {
            let copy = &copies[index];
            let (mut at, end) = (copy.old_offset, copy.old_offset + copy.bytes);
            while at < end {
                let before = parts.range(..=at).next_back();
                if let Some((start, (bytes, ..))) = before.filter(|it| it.0 + it.1.0 > at) {
                    at = start + bytes;
                    continue;
                }
                let next = parts.range(at..end).next().map_or(end, |(start, _)| *start);
                let new_offset = copy.new_offset + (at - copy.old_offset);
                parts.insert(at, (next - at, new_offset, index));
                at = next;
            }
        }
        let parts = parts.into_iter();
        let parts = parts.map(|(start, (bytes, new, index))| (start, bytes, new, index));
        Self {
            parts: parts.collect(),
        }
    }

    fn before(&self, old_offset: u32) -> usize {
        self.parts.partition_point(|part| part.0 <= old_offset)
    }

    /// The copy that holds an offset.
    fn holder(&self, old_offset: u32) -> Option<usize> {
        let part = self.parts.get(self.before(old_offset).checked_sub(1)?)?;
        (old_offset - part.0 < part.1).then_some(part.3)
    }

    /// The new place of an offset: by the copy that holds it, else by the nearest large one.
    pub fn moved(&self, old_offset: u32) -> Option<u32> {
        let after = self.before(old_offset);
        let near = after.saturating_sub(4)..(after + 3).min(self.parts.len());
        let weigh = |part: &&(u32, u32, u32, usize)| {
            let (start, bytes) = (part.0, part.1);
            let distance = match old_offset.checked_sub(start) {
                Some(ahead) => (ahead + 1).saturating_sub(bytes),
                None => start - old_offset,
            };
            if distance == 0 {
                return u64::MAX;
            }
            (u64::from(bytes) + 16) * 64 / (u64::from(distance) + 64)
        };
        let part = self.parts[near].iter().max_by_key(weigh)?;
        let moved = i64::from(old_offset) + i64::from(part.2) - i64::from(part.0);
        u32::try_from(moved).ok()
    }
}
