//! Where a reference leads to in the new image.
//!
//! In this order: what this very target became last time; where the blocks say that it has moved;
//! how far targets on its page, then in its region, moved last. It is never guessed from the
//! nearest block: that was right in one case of fifty.

use crate::{blocks::Blocks, layout::Layout, model::Source};

/// Targets that are remembered one by one.
const LEARNED: usize = 64;
const PAGE_BITS: u32 = 8;
const REGIONS: usize = 64;
const REGION_BITS: u32 = 14;

/// What was learned about targets. `PAGES` is a power of two.
pub(crate) struct Predictor<const PAGES: usize> {
    targets: [u32; LEARNED],
    target_shifts: [u32; LEARNED],
    /// How many pages are in use, less one: a small patch has fewer, in a large decoder as well.
    pages_mask: usize,
    pages: [u16; PAGES],
    page_shifts: [u32; PAGES],
    regions: [u16; REGIONS],
    region_shifts: [u32; REGIONS],
}

/// No target is here: no segment is so low.
const NOBODY: u16 = 0;

impl<const PAGES: usize> Predictor<PAGES> {
    pub const fn new() -> Self {
        const { assert!(PAGES.is_power_of_two()) };
        Self {
            targets: [0; LEARNED],
            target_shifts: [0; LEARNED],
            pages_mask: PAGES - 1,
            pages: [NOBODY; PAGES],
            page_shifts: [0; PAGES],
            regions: [NOBODY; REGIONS],
            region_shifts: [0; REGIONS],
        }
    }

    /// Starts anew with `pages`, a power of two, of which the decoder may have more.
    pub fn reset(&mut self, pages: usize) {
        self.pages_mask = pages.min(PAGES) - 1;
        self.targets.fill(0);
        self.pages.fill(NOBODY);
        self.regions.fill(NOBODY);
    }

    /// The new address of what was at `target`; `mapped` is what the blocks say.
    pub fn target(&self, target: u32, mapped: Option<(u32, bool)>) -> (u32, Source) {
        let place = learned_place(target);
        if target != 0 && self.targets[place] == target {
            return (
                target.wrapping_add(self.target_shifts[place]),
                Source::Learned,
            );
        }
        if let Some((address, is_in_block)) = mapped {
            let source = if is_in_block {
                Source::Block
            } else {
                Source::Between
            };
            return (address, source);
        }
        let (page, region) = (self.page_place(target), region_place(target));
        if self.pages[page] != NOBODY && self.pages[page] == page_tag(target) {
            return (target.wrapping_add(self.page_shifts[page]), Source::Page);
        }
        if self.regions[region] != NOBODY && self.regions[region] == region_tag(target) {
            return (
                target.wrapping_add(self.region_shifts[region]),
                Source::Region,
            );
        }
        (target, Source::Unchanged)
    }

    /// A reference to `target` turned out to lead to `found`.
    pub fn learn(&mut self, target: u32, found: u32, mapped: Option<(u32, bool)>) {
        let shift = found.wrapping_sub(target);
        let place = learned_place(target);
        // What the blocks say already needs no memory.
        if mapped.is_none_or(|(address, _)| address != found) || self.targets[place] == target {
            self.targets[place] = target;
            self.target_shifts[place] = shift;
        }
        let (page, region) = (self.page_place(target), region_place(target));
        self.pages[page] = page_tag(target);
        self.page_shifts[page] = shift;
        self.regions[region] = region_tag(target);
        self.region_shifts[region] = shift;
    }

    fn page_place(&self, target: u32) -> usize {
        ((target >> PAGE_BITS).wrapping_mul(0x9E37_79B1) >> 8) as usize & self.pages_mask
    }
}

/// What the blocks say about an address of the old image, as an address of the new one.
pub(crate) fn mapped<const N: usize>(
    blocks: &Blocks<N>,
    old: &Layout,
    new: &Layout,
    address: u32,
) -> Option<(u32, bool)> {
    let (offset, is_in_block) = blocks.moved(old.offset(address)?)?;
    Some((new.address_near(offset)?, is_in_block))
}

fn learned_place(target: u32) -> usize {
    (target.wrapping_mul(0x9E37_79B1) >> 16) as usize % LEARNED
}

fn page_tag(target: u32) -> u16 {
    (target >> PAGE_BITS) as u16
}

fn region_place(target: u32) -> usize {
    (target >> REGION_BITS) as usize % REGIONS
}

fn region_tag(target: u32) -> u16 {
    (target >> REGION_BITS) as u16
}
