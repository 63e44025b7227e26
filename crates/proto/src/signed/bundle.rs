//! A bundle: an image with its signed release in one file, as it is carried from the machine that
//! signs to the server.
//!
//! ```text
//! 0   8  "FOTAPKG1"
//! 8   4  length of the signed release, big-endian
//! 12  …  the signed release, a COSE object
//!     …  the image, to the end of the file
//! ```

use crate::limits::OBJECT_BYTES_MAX;

/// What a bundle begins with.
pub const MAGIC: [u8; 8] = *b"FOTAPKG1";

/// A bundle taken apart; nothing of it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bundle<'a> {
    /// The signed release.
    pub release: &'a [u8],
    /// The image.
    pub image: &'a [u8],
}

impl<'a> Bundle<'a> {
    /// Whether these bytes begin as a bundle does.
    pub fn looks_like(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Takes a bundle apart; none where it is cut short or its release is too long.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.strip_prefix(&MAGIC)?.split_first_chunk()?;
        let length = u32::from_be_bytes(*length) as usize;
        let (release, image) = rest.split_at_checked(length)?;
        (release.len() <= OBJECT_BYTES_MAX).then_some(Self { release, image })
    }

    /// The first bytes of the file; the image follows them.
    #[cfg(feature = "sign")]
    pub fn head(&self) -> std::vec::Vec<u8> {
        let length = (self.release.len() as u32).to_be_bytes();
        [&MAGIC[..], &length, self.release].concat()
    }
}
