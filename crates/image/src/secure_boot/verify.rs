//! Whether a signature is true. ring does the arithmetic; only public keys come near it.

extern crate std;
use std::vec::Vec;

use ring::{
    digest::{Algorithm, SHA256, SHA384, digest},
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PSS_2048_8192_SHA256,
        RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
    },
};

use super::{Block, Scheme};
use crate::bytes::u32_at;

const RSA_BYTES: usize = 384;
/// Limbs of an RSA-3072 number.
const LIMBS: usize = RSA_BYTES / 8;
/// The key's helper number is 2 to this power, modulo n.
const HELPER_BITS: usize = 2 * 3072;

/// Why a signature is not that of its key over these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Other bytes were signed.
    #[error("the image was changed after it was signed: its digest is not the signed one")]
    Digest,
    /// The signature is not the key's.
    #[error("the signature is not that of the key in its block")]
    Signature,
    /// The numbers that spare the chip a division belong to another key, so a chip would refuse
    /// what is signed right.
    #[error("the key's helper numbers are wrong, so a chip would refuse it: sign the image again")]
    Helper,
    /// No verification of this scheme here.
    #[error("{0} signatures are not verified here: use RSA-3072 or ECDSA P-256")]
    Unsupported(Scheme),
}

impl Block<'_> {
    /// Verifies the signature over `signed`: the image and its padding, see
    /// [`split`](super::split).
    ///
    /// # Errors
    /// [`VerifyError`] says what does not fit.
    pub fn verify(&self, signed: &[u8]) -> Result<(), VerifyError> {
        match self.scheme {
            Scheme::Rsa3072 => {
                self.is_digest_of(signed, &SHA256)?;
                self.verify_rsa(signed)
            }
            Scheme::EcdsaP256 => {
                self.is_digest_of(signed, &SHA256)?;
                self.verify_ecdsa(signed, &ECDSA_P256_SHA256_FIXED, 37, 32)
            }
            Scheme::EcdsaP384 => {
                self.is_digest_of(signed, &SHA384)?;
                self.verify_ecdsa(signed, &ECDSA_P384_SHA384_FIXED, 53, 48)
            }
            Scheme::EcdsaP192 => Err(VerifyError::Unsupported(self.scheme)),
        }
    }

    fn is_digest_of(
        &self,
        signed: &[u8],
        algorithm: &'static Algorithm,
    ) -> Result<(), VerifyError> {
        let digest = digest(algorithm, signed);
        match self.bytes[4..].starts_with(digest.as_ref()) {
            true => Ok(()),
            false => Err(VerifyError::Digest),
        }
    }

    fn verify_rsa(&self, signed: &[u8]) -> Result<(), VerifyError> {
        let n = big_endian(&self.bytes[36..420]);
        let e = big_endian(&self.bytes[420..424]);
        // ring takes no leading zeros.
        let zeros = e.iter().take_while(|byte| **byte == 0).count();
        let (n, e) = (n.as_slice(), &e[zeros..]);
        let key = RsaPublicKeyComponents { n, e };
        let signature = big_endian(&self.bytes[812..1196]);
        key.verify(&RSA_PSS_2048_8192_SHA256, signed, &signature)
            .map_err(|_| VerifyError::Signature)?;
        match are_helpers_of(&self.bytes[36..812]) {
            true => Ok(()),
            false => Err(VerifyError::Helper),
        }
    }

    fn verify_ecdsa(
        &self,
        signed: &[u8],
        algorithm: &'static dyn VerificationAlgorithm,
        key_offset: usize,
        number_bytes: usize,
    ) -> Result<(), VerifyError> {
        let number = |index: usize| {
            let start = key_offset + index * number_bytes;
            big_endian(&self.bytes[start..start + number_bytes])
        };
        // The point without compression, as everybody but the chip writes it.
        let point = [&[4], number(0).as_slice(), &number(1)].concat();
        let signature = [number(2), number(3)].concat();
        UnparsedPublicKey::new(algorithm, point)
            .verify(signed, &signature)
            .map_err(|_| VerifyError::Signature)
    }
}

fn big_endian(little: &[u8]) -> Vec<u8> {
    little.iter().rev().copied().collect()
}

/// Whether 2^6144 mod n and −1/n mod 2^32 are those of n. `key` is n, e and the two.
fn are_helpers_of(key: &[u8]) -> bool {
    let limbs = |offset: usize| -> [u64; LIMBS] {
        core::array::from_fn(|limb| {
            let start = offset + limb * 8;
            u64::from_le_bytes(crate::bytes::array(key, start))
        })
    };
    let (n, helper) = (limbs(0), limbs(RSA_BYTES + 4));
    let inverse = u32_at(key, 2 * RSA_BYTES + 4);
    let product = (n[0] as u32).wrapping_mul(inverse);
    product == u32::MAX && power_of_two(HELPER_BITS, &n) == helper
}

/// 2^`bits` mod `n`, by doubling. `n` has its highest bit set, as RSA-3072 keys have; any other is
/// answered with a number that fits no key.
fn power_of_two(bits: usize, n: &[u64; LIMBS]) -> [u64; LIMBS] {
    let mut power = [0; LIMBS];
    power[0] = 1;
    for _ in 0..bits {
        let mut carry = 0;
        for limb in &mut power {
            let next = *limb >> 63;
            *limb = (*limb << 1) | carry;
            carry = next;
        }
        let (less, borrow) = difference(&power, n);
        if carry == 1 || !borrow {
            power = less;
        }
    }
    power
}

fn difference(a: &[u64; LIMBS], b: &[u64; LIMBS]) -> ([u64; LIMBS], bool) {
    let mut borrow = false;
    let difference = core::array::from_fn(|limb| {
        let (less, first) = a[limb].overflowing_sub(b[limb]);
        let (less, second) = less.overflowing_sub(u64::from(borrow));
        borrow = first || second;
        less
    });
    (difference, borrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_reduced() {
        let mut n = [0; LIMBS];
        n[0] = 13;
        n[LIMBS - 1] = 1 << 63;
        // 2^3071 is below n; 2^3072 mod n = 2 * 2^3071 - n = 2^3071 - 13.
        let below = power_of_two(3071, &n);
        assert_eq!((below[LIMBS - 1], below[0]), (1 << 63, 0));
        let wrapped = power_of_two(3072, &n);
        let mut expected = [u64::MAX; LIMBS];
        expected[0] = 0u64.wrapping_sub(13);
        expected[LIMBS - 1] = (1 << 63) - 1;
        assert_eq!(wrapped, expected);
    }
}
