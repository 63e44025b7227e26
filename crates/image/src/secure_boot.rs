//! Secure boot v2: the signature sector behind an app image, as `espsecure sign-data` writes it.
//!
//! The image is padded with `0xFF` to a multiple of 4,096 bytes, and the padding is signed with
//! it. Then comes one sector: up to three blocks of 1,216 bytes, `0xFF` behind them.
//!
//! | bytes of a block | RSA-3072 | ECDSA P-192, P-256 | ECDSA P-384 |
//! |---|---|---|---|
//! | 0 | `0xE7` | `0xE7` | `0xE7` |
//! | 1 | 2 | 3 | 3 |
//! | 2..4 | 0 | 0 | 1, 0: SHA-384 |
//! | digest of what is signed | 4..36 | 4..36 | 4..52 |
//! | curve: 1, 2, 3 | | 36 | 52 |
//! | key | 36..808: n, e, 2^6144 mod n; 808..812: −1/n mod 2^32 | 37..101: X, Y | 53..149 |
//! | signature | 812..1196: PSS, salt 32 | 101..165: r, s | 149..245 |
//! | 1196..1200 | CRC-32 of the bytes before | | |
//! | 1200..1216 | 0 | | |
//!
//! All numbers are little-endian, also those that the rest of the world writes the other way. For
//! P-192, X, Y, r and s have 24 bytes each, one behind the other, and zeros fill their fields.
//!
//! [`parse`] reads the sector anywhere; whether a signature is true takes [`Block::verify`]
//! (feature `secure-boot`), because only a server has the room for RSA. Only tests sign here (`build::SigningKey`).

#[cfg(feature = "secure-boot")]
mod verify;

use core::fmt;

use sha2::{Digest, Sha256};

use crate::bytes::{Grouped, array, u32_at};

#[cfg(feature = "secure-boot")]
pub use verify::VerifyError;

/// Length of the signature sector, and what images are padded to in front of it.
pub const SECTOR_BYTES: usize = 4096;
/// Length of a signature block.
pub const BLOCK_BYTES: usize = 1216;
/// The most blocks of a sector: one per key that a chip can trust.
pub const BLOCKS_MAX: usize = 3;

const MAGIC: u8 = 0xE7;
const VERSION_RSA: u8 = 2;
const VERSION_ECDSA: u8 = 3;
const CRC_OFFSET: usize = 1196;
const CRC_END: usize = 1200;

const _: () = assert!(BLOCKS_MAX * BLOCK_BYTES <= SECTOR_BYTES);

/// How a block is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RSA-3072 with PSS and SHA-256.
    Rsa3072,
    /// ECDSA on P-192 with SHA-256; recognised, not verified here.
    EcdsaP192,
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa3072 => "RSA-3072",
            Self::EcdsaP192 => "ECDSA P-192",
            Self::EcdsaP256 => "ECDSA P-256",
            Self::EcdsaP384 => "ECDSA P-384",
        })
    }
}

/// Why a sector holds no signatures that a chip would read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectorError {
    /// Not one sector.
    #[error("signature sector has {found} bytes, expected 4,096", found = Grouped(*.found as u64))]
    Length {
        /// Bytes given.
        found: usize,
    },
    /// Nothing that begins like a block.
    #[error("signature sector holds no block: sign the image with `espsecure sign-data`")]
    NoBlock,
    /// A kind of signature that we do not know.
    #[error("signature block {index} has version {version}; known are 2 (RSA) and 3 (ECDSA)")]
    Version {
        /// Which block, from 0.
        index: usize,
        /// Its version.
        version: u8,
    },
    /// A curve that we do not know, or one with the wrong hash.
    #[error("signature block {index} names curve {curve} with hash {hash}, which no chip knows")]
    Curve {
        /// Which block, from 0.
        index: usize,
        /// The curve's number.
        curve: u8,
        /// The hash's number: 0 SHA-256, 1 SHA-384.
        hash: u8,
    },
    /// A damaged block.
    #[error(
        "signature block {index} is damaged: its CRC is {stored:#010x}, computed {computed:#010x}"
    )]
    Crc {
        /// Which block, from 0.
        index: usize,
        /// What it says.
        stored: u32,
        /// What is true.
        computed: u32,
    },
    /// Something where nothing may be.
    #[error("signature sector has unknown bytes from {offset} on: sign the image again")]
    Unknown {
        /// Where they begin in the sector.
        offset: usize,
    },
}

/// The blocks of a sector, in its order.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    all: [Option<Block<'a>>; BLOCKS_MAX],
}

impl<'a> Blocks<'a> {
    /// Each block; there is at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Block<'a>> {
        self.all.iter().flatten()
    }
}

/// Reads a sector: blocks one behind the other, then nothing.
///
/// Stricter than the chips, which pass over what they do not know: a file that somebody offers for
/// installation has no reason to carry anything else.
///
/// # Errors
/// [`SectorError`] says which block, and what is wrong with it.
pub fn parse(sector: &[u8]) -> Result<Blocks<'_>, SectorError> {
    if sector.len() != SECTOR_BYTES {
        return Err(SectorError::Length {
            found: sector.len(),
        });
    }
    let mut all = [None; BLOCKS_MAX];
    let (blocks, _) = sector.as_chunks::<BLOCK_BYTES>();
    let mut end = 0;
    for (index, bytes) in blocks.iter().enumerate() {
        if bytes[0] != MAGIC {
            break;
        }
        all[index] = Some(Block::parse(index, bytes)?);
        end = (index + 1) * BLOCK_BYTES;
    }
    if end == 0 {
        return Err(SectorError::NoBlock);
    }
    match sector[end..].iter().position(|byte| *byte != 0xFF) {
        Some(place) => Err(SectorError::Unknown {
            offset: end + place,
        }),
        None => Ok(Blocks { all }),
    }
}

/// One signature with its key. Its form is right; whether it is true says [`Block::verify`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    bytes: &'a [u8; BLOCK_BYTES],
    scheme: Scheme,
}

impl fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({})", self.scheme)
    }
}

impl<'a> Block<'a> {
    fn parse(index: usize, bytes: &'a [u8; BLOCK_BYTES]) -> Result<Self, SectorError> {
        let (stored, computed) = (u32_at(bytes, CRC_OFFSET), crc32(&bytes[..CRC_OFFSET]));
        if stored != computed {
            return Err(SectorError::Crc {
                index,
                stored,
                computed,
            });
        }
        let scheme = scheme(index, bytes)?;
        if let Some(place) = bytes[CRC_END..].iter().position(|byte| *byte != 0) {
            let offset = index * BLOCK_BYTES + CRC_END + place;
            return Err(SectorError::Unknown { offset });
        }
        Ok(Self { bytes, scheme })
    }

    /// How it is signed.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// SHA-256 of the public key as the chip keeps it in eFuse and `espsecure
    /// digest-sbv2-public-key` tells it.
    pub fn key_digest(&self) -> [u8; 32] {
        let key = match self.scheme {
            Scheme::Rsa3072 => 36..812,
            // The field is as long as P-256 needs it; zeros fill it up for P-192.
            Scheme::EcdsaP192 | Scheme::EcdsaP256 => 36..101,
            Scheme::EcdsaP384 => 52..149,
        };
        Sha256::digest(&self.bytes[key]).into()
    }

    /// SHA-256 (of P-384: the first 32 bytes of the SHA-384) of what is signed, as the block says.
    pub fn image_digest(&self) -> [u8; 32] {
        array(self.bytes, 4)
    }
}

fn scheme(index: usize, bytes: &[u8; BLOCK_BYTES]) -> Result<Scheme, SectorError> {
    // P-384's longer digest moves the curve's number.
    let hash = bytes[2];
    let curve = if hash == 1 { bytes[52] } else { bytes[36] };
    match (bytes[1], hash, curve) {
        (VERSION_RSA, ..) => Ok(Scheme::Rsa3072),
        (VERSION_ECDSA, 0, 1) => Ok(Scheme::EcdsaP192),
        (VERSION_ECDSA, 0, 2) => Ok(Scheme::EcdsaP256),
        (VERSION_ECDSA, 1, 3) => Ok(Scheme::EcdsaP384),
        (VERSION_ECDSA, hash, curve) => Err(SectorError::Curve { index, curve, hash }),
        (version, ..) => Err(SectorError::Version { index, version }),
    }
}

/// The CRC-32 of zip.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let step = |register: u32, byte: &u8| {
        (0..8).fold(register ^ u32::from(*byte), |register, _| {
            let carry = register & 1;
            (register >> 1) ^ (carry * 0xEDB8_8320)
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// A file's signed part and its signature sector: the padded image of `image_bytes`, and the 4 KiB
/// behind it. None where the file ends earlier.
pub fn split(file: &[u8], image_bytes: u32) -> Option<(&[u8], &[u8])> {
    let sector = (image_bytes as usize).next_multiple_of(SECTOR_BYTES);
    let end = sector.checked_add(SECTOR_BYTES)?;
    Some((file.get(..sector)?, file.get(sector..end)?))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use super::*;

    /// A block of the right form; its signature is noise.
    fn block(scheme: Scheme) -> Vec<u8> {
        let mut bytes = vec![0u8; BLOCK_BYTES];
        for (index, byte) in bytes[..CRC_OFFSET].iter_mut().enumerate() {
            *byte = (index * 7) as u8;
        }
        bytes[..4].copy_from_slice(&[MAGIC, VERSION_ECDSA, 0, 0]);
        match scheme {
            Scheme::Rsa3072 => bytes[1] = VERSION_RSA,
            Scheme::EcdsaP192 => bytes[36] = 1,
            Scheme::EcdsaP256 => bytes[36] = 2,
            Scheme::EcdsaP384 => (bytes[2], bytes[52]) = (1, 3),
        }
        sealed(bytes)
    }

    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32(&bytes[..CRC_OFFSET]);
        bytes[CRC_OFFSET..CRC_END].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn sector(blocks: &[Vec<u8>]) -> Vec<u8> {
        let mut all = blocks.concat();
        all.resize(SECTOR_BYTES, 0xFF);
        all
    }

    const SCHEMES: [Scheme; 4] = [
        Scheme::Rsa3072,
        Scheme::EcdsaP192,
        Scheme::EcdsaP256,
        Scheme::EcdsaP384,
    ];

    #[test]
    fn crc_is_the_one_of_zip() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn one_to_three_blocks_of_every_scheme_are_read() {
        for scheme in SCHEMES {
            for count in 1..=BLOCKS_MAX {
                let all = sector(&vec![block(scheme); count]);
                let blocks = parse(&all).expect("of the right form");
                assert_eq!(blocks.iter().count(), count);
                assert!(blocks.iter().all(|block| block.scheme() == scheme));
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_block_is_noticed() {
        let good = sector(&[block(Scheme::EcdsaP256)]);
        for bit in 0..BLOCK_BYTES * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(
            parse(&[0; 100]).err(),
            Some(SectorError::Length { found: 100 })
        );
        assert_eq!(
            parse(&[0xFF; SECTOR_BYTES]).err(),
            Some(SectorError::NoBlock)
        );
        let changed = |at: usize, value| {
            let mut bytes = block(Scheme::EcdsaP256);
            bytes[at] = value;
            parse(&sector(&[block(Scheme::Rsa3072), sealed(bytes)])).err()
        };
        let (index, version) = (1, 4);
        assert_eq!(changed(1, 4), Some(SectorError::Version { index, version }));
        let (curve, hash) = (3, 0);
        let wrong_hash = SectorError::Curve { index, curve, hash };
        assert_eq!(changed(36, 3), Some(wrong_hash));
        let offset = BLOCK_BYTES + 1210;
        assert_eq!(changed(1210, 1), Some(SectorError::Unknown { offset }));
        let mut all = sector(&[block(Scheme::Rsa3072)]);
        all[4095] = 0;
        let offset = 4095;
        assert_eq!(parse(&all).err(), Some(SectorError::Unknown { offset }));
    }

    #[test]
    fn a_file_is_split_where_its_padding_ends() {
        let file = [0u8; 12_288];
        let (signed, sector) = split(&file, 8_100).expect("long enough");
        assert_eq!((signed.len(), sector.len()), (8_192, 4_096));
        assert!(split(&file, 8_193).is_none());
        assert!(split(&file, u32::MAX).is_none());
    }
}
