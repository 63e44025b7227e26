//! A sum of 128 bits over the content of a flash, cheap to bring up to date: two worlds with the same
//! sum are taken for the same world.

use std::sync::Arc;

use super::{PAGE_BYTES, SECTOR_BYTES, Sector, SimFlash};

/// The sum of pages is that of each page, XORed; a blank one counts nothing.
pub type Sum = u128;

/// Puts a word into a sum. For two sums or two words that differ, so do the results.
pub(crate) fn mix(sum: Sum, word: u128) -> Sum {
    // An odd factor and a shift can be undone, so nothing is lost.
    let product = (sum ^ word).wrapping_mul(0xDA94_2042_E4DD_58B5_9E37_79B9_7F4A_7C15);
    product ^ product >> 67
}

fn page_sum(at: usize, page: &[u8]) -> Sum {
    if page.iter().all(|byte| *byte == 0xFF) {
        return 0;
    }
    let words = page.chunks_exact(16).map(|word| {
        let word: [u8; 16] = word.try_into().expect("16 bytes");
        u128::from_le_bytes(word)
    });
    words.fold(mix(1, at as u128), mix)
}

fn sector_sum(number: usize, sector: &Sector) -> Sum {
    let pages = sector.chunks_exact(PAGE_BYTES).enumerate();
    pages.fold(0, |sum, (page, bytes)| {
        sum ^ page_sum(number * SECTOR_BYTES + page * PAGE_BYTES, bytes)
    })
}

impl SimFlash {
    /// The sum of whole sectors.
    pub fn sum(&self, sectors: std::ops::Range<usize>) -> Sum {
        let pairs = sectors.clone().zip(&self.sectors[sectors]);
        let there = pairs.filter_map(|(number, sector)| Some((number, sector.as_ref()?)));
        there.fold(0, |sum, (number, sector)| sum ^ sector_sum(number, sector))
    }

    /// The sum of all of it, from that of an `earlier` state of the same flash.
    pub fn sum_since(&self, earlier: &SimFlash, sum: Sum) -> Sum {
        let pairs = self.sectors.iter().zip(&earlier.sectors).enumerate();
        pairs.fold(sum, |sum, (number, pair)| match pair {
            (None, None) => sum,
            (Some(now), Some(then)) if Arc::ptr_eq(now, then) => sum,
            (now, then) => sum ^ changed_sum(number, now.as_deref(), then.as_deref()),
        })
    }

    /// The sum of what weak cells may read as; 0 where there are none.
    pub fn weak_sum(&self) -> Sum {
        self.weak.sum()
    }
}

fn changed_sum(number: usize, now: Option<&Sector>, then: Option<&Sector>) -> Sum {
    let blank = [0xFF; SECTOR_BYTES];
    let (now, then) = (now.unwrap_or(&blank), then.unwrap_or(&blank));
    let pages = now
        .chunks_exact(PAGE_BYTES)
        .zip(then.chunks_exact(PAGE_BYTES));
    pages.enumerate().fold(0, |sum, (page, (now, then))| {
        let at = number * SECTOR_BYTES + page * PAGE_BYTES;
        match now == then {
            true => sum,
            false => sum ^ page_sum(at, now) ^ page_sum(at, then),
        }
    })
}
