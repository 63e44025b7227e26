//! The first bytes of a patch: what it needs, what it makes, how long it is.

use crate::{IMAGE_BYTES_MAX, Profile};

/// The two letters that a patch starts with.
pub const MAGIC: [u8; 2] = *b"fd";
/// The version of the format that this crate reads and writes.
pub const FORMAT_VERSION: u8 = 1;
/// The most bytes that a header has.
pub const HEADER_BYTES_MAX: usize = 4 + 3 * LENGTH_BYTES_MAX + 2 * DIGEST_BYTES;

const DIGEST_BYTES: usize = 32;
/// A length below 2^28 has at most four groups of seven bits.
const LENGTH_BYTES_MAX: usize = 4;

/// What a patch says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchHeader {
    /// How much memory the decoder needs.
    pub profile: Profile,
    /// Length of the image that the patch makes.
    pub new_bytes: u32,
    /// SHA-256 of the image that the patch makes.
    pub new_sha256: [u8; DIGEST_BYTES],
    /// The image that the patch starts from; none for a compressed full image.
    pub old: Option<OldImage>,
    /// Length of what follows the header.
    pub payload_bytes: u32,
}

/// The image that a patch starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldImage {
    /// Its length.
    pub bytes: u32,
    /// Its SHA-256. Nothing but this very image gives the right result.
    pub sha256: [u8; DIGEST_BYTES],
}

/// Why some bytes are no header of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The bytes end within the header; not an error while more are to come.
    #[error("the patch ends within its header, after {0} bytes: get it again")]
    Short(usize),
    /// It is no patch of this kind.
    #[error("not a fota patch: it starts with {:#04x} {:#04x}, not with `fd`", .0[0], .0[1])]
    Magic([u8; 2]),
    /// It is of a later format.
    #[error("patch format {0} is not known here, only {FORMAT_VERSION}: update fota")]
    Version(u8),
    /// The memory profile is unknown.
    #[error("memory profile {0} is not known here, only 0 and 1: update fota")]
    Profile(u8),
    /// A length is above [`IMAGE_BYTES_MAX`], or written with more bytes than it needs.
    #[error("the patch gives a length above {IMAGE_BYTES_MAX} bytes: it is damaged")]
    Length,
}

impl PatchHeader {
    /// Reads the header at the start of `bytes`, and gives its length with it.
    ///
    /// # Errors
    /// [`HeaderError::Short`] where the bytes end too early: ask again with more of them.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), HeaderError> {
        let mut reader = Reader { bytes, at: 0 };
        let magic = reader.array::<2>()?;
        if magic != MAGIC {
            return Err(HeaderError::Magic(magic));
        }
        let [version, profile] = reader.array::<2>()?;
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version(version));
        }
        let profile = Profile::from_number(profile).ok_or(HeaderError::Profile(profile))?;
        let new_bytes = reader.length()?;
        let old_bytes = reader.length()?;
        let payload_bytes = reader.length()?;
        let new_sha256 = reader.array()?;
        let old = match old_bytes {
            0 => None,
            bytes => Some(OldImage {
                bytes,
                sha256: reader.array()?,
            }),
        };
        let header = Self {
            profile,
            new_bytes,
            new_sha256,
            old,
            payload_bytes,
        };
        Ok((header, reader.at))
    }

    /// Appends the header to `patch`.
    #[cfg(feature = "encode")]
    pub(crate) fn write(&self, patch: &mut std::vec::Vec<u8>) {
        patch.extend(MAGIC);
        patch.extend([FORMAT_VERSION, self.profile.number()]);
        let old_bytes = self.old.map_or(0, |old| old.bytes);
        for mut length in [self.new_bytes, old_bytes, self.payload_bytes] {
            while length >= 0x80 {
                patch.push(length as u8 | 0x80);
                length >>= 7;
            }
            patch.push(length as u8);
        }
        patch.extend(self.new_sha256);
        if let Some(old) = &self.old {
            patch.extend(old.sha256);
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let found = rest.first_chunk::<N>();
        let found = *found.ok_or(HeaderError::Short(self.bytes.len()))?;
        self.at += N;
        Ok(found)
    }

    /// Groups of seven bits, the lowest first, with bit 7 on all but the last.
    fn length(&mut self) -> Result<u32, HeaderError> {
        let mut length = 0;
        for group in 0..LENGTH_BYTES_MAX {
            let [byte] = self.array::<1>()?;
            length |= u32::from(byte & 0x7f) << (7 * group);
            if byte < 0x80 {
                let padded = byte == 0 && group > 0;
                let is_good = length <= IMAGE_BYTES_MAX && !padded;
                return is_good.then_some(length).ok_or(HeaderError::Length);
            }
        }
        Err(HeaderError::Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(old: Option<OldImage>) -> PatchHeader {
        PatchHeader {
            profile: Profile::Small,
            new_bytes: 1_032_704,
            new_sha256: [7; 32],
            old,
            payload_bytes: 2_000,
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_and_needs_each_byte() {
        let old = OldImage {
            bytes: 127,
            sha256: [9; 32],
        };
        for old in [None, Some(old)] {
            let mut bytes = std::vec::Vec::new();
            header(old).write(&mut bytes);
            assert_eq!(PatchHeader::parse(&bytes), Ok((header(old), bytes.len())));
            for cut in 0..bytes.len() {
                let short = PatchHeader::parse(&bytes[..cut]);
                assert_eq!(short, Err(HeaderError::Short(cut)));
            }
        }
    }

    #[test]
    fn other_files_versions_and_lengths_are_refused() {
        let parse = |bytes: &[u8]| PatchHeader::parse(bytes).map(drop);
        assert_eq!(parse(&[0xe9, 3, 0]), Err(HeaderError::Magic([0xe9, 3])));
        assert_eq!(parse(b"fd\x02\0"), Err(HeaderError::Version(2)));
        assert_eq!(parse(b"fd\x01\x05"), Err(HeaderError::Profile(5)));
        for length in [&[0xff, 0xff, 0xff, 0xff, 1][..], &[0x80, 0], &[0xff; 4]] {
            let bytes = [b"fd\x01\0", length].concat();
            assert_eq!(parse(&bytes), Err(HeaderError::Length), "{length:02x?}");
        }
    }
}
