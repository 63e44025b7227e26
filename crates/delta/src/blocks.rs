//! The blocks of a patch: what stayed together when the image changed. They are copied, and they
//! say where addresses have moved to.

/// A run of bytes of the old image that is, with its references adjusted, in the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub new_offset: u32,
    pub old_offset: u32,
    pub bytes: u32,
}

impl Block {
    fn shift(&self) -> u32 {
        self.new_offset.wrapping_sub(self.old_offset)
    }
}

/// The bits of an offset.
const OFFSET: u32 = crate::IMAGE_BYTES_MAX - 1;

/// Up to `N` blocks, in the order of the new image.
pub(crate) struct Blocks<const N: usize> {
    /// Nine bytes a block: the old offset, which is searched for, with the high byte of the new
    /// one above it; the rest of the new one; the length less one.
    old_offsets: [u32; N],
    new_offsets: [u16; N],
    lengths: [u16; N],
    lengths_high: [u8; N],
    /// Indexes of `blocks` in the order of the old image.
    by_old: [u16; N],
    count: usize,
}

/// Blocks before an offset that are looked at. They may overlap in the old image, and only the
/// longest one around it is believed.
const LOOK_BACK: usize = 6;

impl<const N: usize> Blocks<N> {
    pub const fn new() -> Self {
        const { assert!(N < u16::MAX as usize) };
        Self {
            old_offsets: [0; N],
            new_offsets: [0; N],
            lengths: [0; N],
            lengths_high: [0; N],
            by_old: [0; N],
            count: 0,
        }
    }

    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds the next block of the new image; the caller has checked that there is room, and that it
    /// is not empty and within the images.
    pub fn push(&mut self, block: Block) {
        if self.count >= N {
            return;
        }
        let length = block.bytes - 1;
        self.old_offsets[self.count] = block.old_offset & OFFSET | block.new_offset >> 16 << 24;
        self.new_offsets[self.count] = block.new_offset as u16;
        self.lengths[self.count] = length as u16;
        self.lengths_high[self.count] = (length >> 16) as u8;
        let at = self.first_after(block.old_offset);
        self.by_old.copy_within(at..self.count, at + 1);
        self.by_old[at] = self.count as u16;
        self.count += 1;
    }

    pub fn get(&self, index: usize) -> Option<Block> {
        (index < self.count).then(|| self.block(index))
    }

    fn block(&self, index: usize) -> Block {
        let (old, new) = (self.old_offsets[index], self.new_offsets[index]);
        let (low, high) = (self.lengths[index], self.lengths_high[index]);
        Block {
            new_offset: old >> 24 << 16 | u32::from(new),
            old_offset: old & OFFSET,
            bytes: (u32::from(high) << 16 | u32::from(low)) + 1,
        }
    }

    /// Place in `by_old` of the first block that starts after `old_offset`.
    fn first_after(&self, old_offset: u32) -> usize {
        let order = &self.by_old[..self.count];
        order.partition_point(|index| self.old_offsets[usize::from(*index)] & OFFSET <= old_offset)
    }

    /// Where a byte of the old image is in the new one, as far as the blocks say it: the new
    /// offset, and whether a block holds it. What is between two blocks that moved alike has
    /// moved with them.
    pub fn moved(&self, old_offset: u32) -> Option<(u32, bool)> {
        let after = self.first_after(old_offset);
        let block_at = |place: usize| self.block(usize::from(self.by_old[place]));
        let mut best: Option<Block> = None;
        for place in after.saturating_sub(LOOK_BACK)..after {
            let block = block_at(place);
            let holds = old_offset - block.old_offset < block.bytes;
            if holds && best.is_none_or(|best| block.bytes > best.bytes) {
                best = Some(block);
            }
        }
        if let Some(block) = best {
            return Some((old_offset.wrapping_add(block.shift()), true));
        }
        if after == 0 || after == self.count {
            return None;
        }
        let shift = block_at(after - 1).shift();
        (shift == block_at(after).shift()).then(|| (old_offset.wrapping_add(shift), false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_block_around_an_offset_is_believed() {
        let mut blocks = Blocks::<4>::new();
        let block = |new_offset, old_offset, bytes| Block {
            new_offset,
            old_offset,
            bytes,
        };
        blocks.push(block(0, 100, 50));
        blocks.push(block(60, 10, 20));
        blocks.push(block(90, 40, 10));
        blocks.push(block(200, 110, 10));
        assert_eq!(blocks.moved(115), Some((15, true)));
        assert_eq!(blocks.moved(10), Some((60, true)));
        assert_eq!(blocks.moved(35), Some((85, false)));
        assert_eq!(blocks.moved(60), None);
        assert_eq!(blocks.moved(9), None);
        assert_eq!(blocks.moved(151), None);
    }
}
