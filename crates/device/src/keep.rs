//! A patch that is kept behind the image it makes, so that a power cut costs no second download of
//! it. Only patches that are too large to be fetched again are.
//!
//! ```text
//!  slot  | image …            | blank | SHA-256 of the patch | the patch … | blank sector | …
//!        0                    bytes   ^ at: the next sector                ^ stored
//! ```
//!
//! It is written page by page, and as with the image the sector behind the one being written is
//! blank: the first blank sector is where it may have stopped, and the last page before it that is
//! not blank may be torn. Nothing here is trusted: whatever comes of it is proven chunk by chunk.

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_proto::checkin::Patch;

use crate::{
    flash::{Fault, Guarded, PAGE_BYTES, SECTOR_BYTES},
    slot::Slot,
};

/// A patch is recognised by its name in front of it.
pub(crate) const NAME_BYTES: u32 = 32;

/// What is kept of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Where in flash it begins.
    at: u32,
    /// Length of its place.
    size: u32,
    /// Bytes of name and patch that are programmed, whole pages.
    stored: u32,
    erased_to: u32,
    /// Bytes of the page behind `stored` that are in RAM.
    filled: usize,
}

impl Keep {
    /// The place behind an image of `image_bytes`, with what it holds of this patch; none where the
    /// slot has no room for both.
    pub(crate) fn find<F: MultiwriteNorFlash>(
        flash: &mut Guarded<F>,
        slot: Slot,
        image_bytes: u32,
        patch: Patch,
    ) -> Result<Option<Self>, Fault> {
        let Some((start, size)) = place(slot.region.size, image_bytes, patch.bytes) else {
            return Ok(None);
        };
        let mut keep = Self {
            at: slot.region.offset + start,
            size,
            stored: 0,
            erased_to: 0,
            filled: 0,
        };
        if flash.holds(keep.at, &patch.sha256.0)? {
            keep.stored = keep.find_end(flash)?;
            // The rest of the last page's sector is blank, or that page torn: programming the same
            // bytes again completes it.
            keep.erased_to = keep.stored.next_multiple_of(SECTOR_BYTES);
        }
        Ok(Some(keep))
    }

    fn find_end<F: MultiwriteNorFlash>(&self, flash: &mut Guarded<F>) -> Result<u32, Fault> {
        let mut sector = 0;
        while sector < self.size && !flash.is_blank(self.at + sector, SECTOR_BYTES)? {
            sector += SECTOR_BYTES;
        }
        let page_bytes = PAGE_BYTES as u32;
        let mut page = sector.saturating_sub(page_bytes);
        while page > 0 && flash.is_blank(self.at + page, page_bytes)? {
            page -= page_bytes;
        }
        Ok(page)
    }

    /// Bytes of the patch that are in flash.
    pub(crate) fn bytes(&self) -> u32 {
        self.stored.saturating_sub(NAME_BYTES)
    }

    /// Reads them.
    pub(crate) fn read<F: MultiwriteNorFlash>(
        &self,
        flash: &mut Guarded<F>,
        offset: u32,
        to: &mut [u8],
    ) -> Result<(), Fault> {
        flash.read(self.at + NAME_BYTES + offset, to)
    }

    /// Bytes of the patch that are in flash or in the page.
    pub(crate) fn end(&self) -> u32 {
        (self.stored + self.filled as u32).saturating_sub(NAME_BYTES)
    }

    /// Begins a patch of which nothing is in flash: its first `bytes` bytes are in the page, behind
    /// the place of its name.
    pub(crate) fn begin(&mut self, patch: Patch, page: &mut [u8; PAGE_BYTES], bytes: usize) {
        if self.stored == 0 {
            page[..NAME_BYTES as usize].copy_from_slice(&patch.sha256.0);
            self.filled = NAME_BYTES as usize + bytes;
        }
    }

    /// Takes the bytes of the patch that come next; `page` holds those that fill none yet.
    pub(crate) fn append<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        page: &mut [u8; PAGE_BYTES],
        bytes: &[u8],
    ) -> Result<(), Fault> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PAGE_BYTES - self.filled));
            page[self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            rest = later;
            if self.filled == PAGE_BYTES {
                self.erase_ahead(flash)?;
                flash.program(self.at + self.stored, page)?;
                self.stored += PAGE_BYTES as u32;
                self.filled = 0;
            }
        }
        Ok(())
    }

    fn erase_ahead<F: MultiwriteNorFlash>(&mut self, flash: &mut Guarded<F>) -> Result<(), Fault> {
        let ahead = (self.stored / SECTOR_BYTES + 2) * SECTOR_BYTES;
        while self.erased_to < ahead.min(self.size) {
            let at = self.at + self.erased_to;
            if !flash.is_blank(at, SECTOR_BYTES)? {
                flash.erase(at, SECTOR_BYTES)?;
            }
            self.erased_to += SECTOR_BYTES;
        }
        Ok(())
    }
}

/// Where in a slot a patch is kept, and the length of that place; none where it does not fit.
fn place(slot_bytes: u32, image_bytes: u32, patch_bytes: u32) -> Option<(u32, u32)> {
    let start = image_bytes.checked_next_multiple_of(SECTOR_BYTES)?;
    let size = patch_bytes
        .checked_add(NAME_BYTES)?
        .checked_next_multiple_of(SECTOR_BYTES)?;
    (start.checked_add(size)? <= slot_bytes).then_some((start, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_kept_where_image_and_patch_fit_in_whole_sectors() {
        assert_eq!(place(0x10_000, 0x8000, 0x8000 - 32), Some((0x8000, 0x8000)));
        assert_eq!(place(0x10_000, 0x8000, 0x8000 - 31), None);
        assert_eq!(place(0x10_000, 0x7001, 0x8000 - 32), Some((0x8000, 0x8000)));
        assert_eq!(place(0x10_000, 0x8001, 0x8000 - 32), None);
        assert_eq!(place(u32::MAX, u32::MAX, 1), None);
        assert_eq!(place(u32::MAX, 1, u32::MAX), None);
    }
}
