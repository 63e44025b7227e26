//! A look at a part of the old image.

use crate::{Images, refs::VIEW_BYTES};

const WINDOW_BYTES: usize = 256;
const _: () = assert!(WINDOW_BYTES >= VIEW_BYTES);

/// Some bytes of the old image, so that it is not read unit by unit.
pub(crate) struct Window {
    bytes: [u8; WINDOW_BYTES],
    at: u32,
    count: usize,
}

impl Window {
    pub const fn new() -> Self {
        Self {
            bytes: [0; WINDOW_BYTES],
            at: 0,
            count: 0,
        }
    }

    /// What was read is of another image.
    pub fn forget(&mut self) {
        self.count = 0;
    }

    /// The bytes of the old image from `at` to `end`, at most [`VIEW_BYTES`].
    pub fn view<I: Images>(
        &mut self,
        images: &mut I,
        at: u32,
        end: u32,
    ) -> Result<&[u8], I::Error> {
        let wanted = (end.saturating_sub(at) as usize).min(VIEW_BYTES);
        let start = at.wrapping_sub(self.at) as usize;
        if start.saturating_add(wanted) > self.count {
            // To the end of the copy, and no further: it is known to be in the image.
            let count = (end.saturating_sub(at) as usize).min(WINDOW_BYTES);
            self.count = 0;
            images.read_old(at, &mut self.bytes[..count])?;
            (self.at, self.count) = (at, count);
            return Ok(&self.bytes[..wanted]);
        }
        Ok(&self.bytes[start..start + wanted])
    }
}
