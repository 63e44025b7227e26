//! Cells that a torn operation left between 0 and 1: each read may find another bit, until the cell
//! is erased, or programmed to 0.

use std::ops::Range;

use super::{
    Op, OpKind,
    fault::{Dice, WeakBits},
    sum::{Sum, mix},
};

/// The weak cells of a flash.
#[derive(Clone, Debug, Default)]
pub(super) struct Weak {
    /// Offset of a byte, and its weak bits.
    cells: Vec<(u32, u8)>,
    /// Reads of such cells so far: what the next one finds follows from it.
    reads: u64,
}

impl Weak {
    /// Some of the bits that were to change are weak now.
    pub(super) fn add(&mut self, seed: u64, at: u32, before: &[u8], whole: &[u8]) {
        let mut dice = Dice(seed ^ 0x5EED);
        let changes = (at..).zip(
            before
                .iter()
                .zip(whole)
                .map(|(before, whole)| before ^ whole),
        );
        let mut cells: Vec<(u32, u8)> = changes.filter(|(_, bits)| *bits != 0).collect();
        if WeakBits::of(seed) != WeakBits::Half && !cells.is_empty() {
            let (at, bits) = cells[dice.next() as usize % cells.len()];
            let lowest = bits & bits.wrapping_neg();
            let highest = 0x80 >> bits.leading_zeros();
            cells = vec![(
                at,
                if dice.next().is_multiple_of(2) {
                    lowest
                } else {
                    highest
                },
            )];
        }
        for (at, bits) in cells {
            let bits = match WeakBits::of(seed) {
                WeakBits::Half => bits & dice.next() as u8,
                _ => bits,
            };
            self.forget(at..at + 1);
            if bits != 0 {
                self.cells.push((at, bits));
            }
        }
        self.cells.sort_unstable();
    }

    /// A whole operation has the last word on every bit that it drives.
    pub(super) fn settle(&mut self, op: Op, target: &[u8]) {
        for (at, bits) in &mut self.cells {
            let Some(target) = at
                .checked_sub(op.offset)
                .map(|index| target.get(index as usize))
            else {
                continue;
            };
            match (op.kind, target) {
                (_, None) => {}
                (OpKind::Program, Some(target)) => *bits &= target,
                (_, Some(_)) => *bits = 0,
            }
        }
        self.cells.retain(|(_, bits)| *bits != 0);
    }

    pub(super) fn forget(&mut self, range: Range<u32>) {
        self.cells.retain(|(at, _)| !range.contains(at));
    }

    /// The weak bits of a byte.
    pub(super) fn mask(&self, offset: u32) -> u8 {
        let cell = self.cells.iter().find(|(at, _)| *at == offset);
        cell.map_or(0, |(_, bits)| *bits)
    }

    /// What a read finds in place of the bytes that are kept.
    pub(super) fn disturb(&mut self, offset: u32, bytes: &mut [u8]) {
        let mut dice = Dice(self.reads);
        let mut is_hit = false;
        for (at, bits) in &self.cells {
            let index = at.checked_sub(offset);
            if let Some(byte) = index.and_then(|index| bytes.get_mut(index as usize)) {
                *byte ^= bits & dice.next() as u8;
                is_hit = true;
            }
        }
        self.reads += u64::from(is_hit);
    }

    /// Tells apart what the next reads may find; 0 without weak cells.
    pub(super) fn sum(&self) -> Sum {
        let cells = self.cells.iter().fold(0, |sum, (at, bits)| {
            mix(sum, Sum::from(*at) << 8 | Sum::from(*bits))
        });
        match self.cells.is_empty() {
            true => 0,
            false => mix(cells, self.reads.into()),
        }
    }
}
