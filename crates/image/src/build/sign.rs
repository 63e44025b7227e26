//! Secure boot signatures for tests: with a key that nobody keeps. Real images are signed by
//! `espsecure`.

extern crate std;
use std::vec::Vec;

use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};

use crate::secure_boot::{BLOCK_BYTES, SECTOR_BYTES, crc32};

/// An ECDSA P-256 key that lives as long as this value.
pub struct SigningKey(EcdsaKeyPair);

impl Default for SigningKey {
    fn default() -> Self {
        Self::generate()
    }
}

impl SigningKey {
    /// Makes a key.
    ///
    /// # Panics
    /// Where the system has no random numbers.
    pub fn generate() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random);
        let key = key.expect("the system has random numbers");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random);
        Self(pair.expect("a key that was just made"))
    }

    /// The image with padding and a signature sector of one block, as `espsecure sign-data`
    /// makes it.
    ///
    /// # Panics
    /// Where the system has no random numbers.
    pub fn sign(&self, image: &[u8]) -> Vec<u8> {
        let mut file = image.to_vec();
        file.resize(image.len().next_multiple_of(SECTOR_BYTES), 0xFF);
        let signature = self.0.sign(&SystemRandom::new(), &file);
        let signature = signature.expect("the system has random numbers");
        let mut block = [0; BLOCK_BYTES];
        block[..2].copy_from_slice(&[0xE7, 3]);
        block[4..36].copy_from_slice(digest(&SHA256, &file).as_ref());
        block[36] = 2;
        // Behind the byte that says "no compression".
        copy_reversed(&mut block[37..101], &self.0.public_key().as_ref()[1..]);
        copy_reversed(&mut block[101..165], signature.as_ref());
        let crc = crc32(&block[..1196]);
        block[1196..1200].copy_from_slice(&crc.to_le_bytes());
        let end = file.len() + SECTOR_BYTES;
        file.extend(block);
        file.resize(end, 0xFF);
        file
    }
}

/// Two numbers of 32 bytes, each the other way round.
fn copy_reversed(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.chunks_mut(32).zip(from.chunks(32)) {
        to.iter_mut()
            .zip(from.iter().rev())
            .for_each(|(to, from)| *to = *from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{app, build::ImageBuilder, secure_boot};

    #[test]
    fn what_is_signed_here_is_verified() {
        let image = ImageBuilder::new(app::Chip::Esp32C3)
            .build()
            .expect("builds");
        let file = SigningKey::generate().sign(&image);
        let checked = app::check_bytes(&file).expect("an image");
        assert_eq!(checked.signature, Some(app::Signature::SecureBootV2));
        let (signed, sector) = secure_boot::split(&file, checked.image_bytes).expect("both");
        let blocks = secure_boot::parse(sector).expect("a block");
        assert!(blocks.iter().all(|block| block.verify(signed).is_ok()));
    }
}
