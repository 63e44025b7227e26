//! Public keys. The algorithm is a property of the key.

use core::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use sha2::Digest;

use super::envelope::TO_SIGN_BYTES_MAX;

/// Length of a P-256 public key: 0x04, then X and Y of 32 bytes each, big-endian.
pub(super) const P256_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;
/// Length of a signature of either algorithm: r and s, or R and S, 32 bytes each.
pub(super) const SIGNATURE_BYTES: usize = 64;

/// A signature algorithm, by its number in the COSE registry (RFC 9864).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alg {
    /// ECDSA on P-256 with SHA-256, `-9`. Every device can do this one.
    Esp256,
    /// Ed25519, `-19`; only where both sides are built with the feature `ed25519`.
    Ed25519,
}

impl Alg {
    /// Its number in the COSE registry.
    pub const fn number(self) -> i8 {
        match self {
            Self::Esp256 => -9,
            Self::Ed25519 => -19,
        }
    }

    /// The protected header that names it and nothing else: the map {1: number}.
    pub(super) const fn header(self) -> &'static [u8; 3] {
        match self {
            Self::Esp256 => &[0xA1, 0x01, 0x28],
            Self::Ed25519 => &[0xA1, 0x01, 0x32],
        }
    }

    pub(super) fn from_header(header: &[u8]) -> Option<Self> {
        let all = [Self::Esp256, Self::Ed25519];
        all.into_iter().find(|alg| alg.header() == header)
    }

    const fn key_bytes(self) -> usize {
        match self {
            Self::Esp256 => P256_BYTES,
            Self::Ed25519 => ED25519_BYTES,
        }
    }
}

/// First bytes of the SHA-256 of a public key: enough to find it among a few, never a proof.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; Self::BYTES]);

impl KeyId {
    /// Length in bytes.
    pub const BYTES: usize = 8;
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A public key of known length; whether it is a point on its curve is found when it verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey<'a> {
    alg: Alg,
    bytes: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// A key of this algorithm; none where the length is wrong.
    pub fn new(alg: Alg, bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() == alg.key_bytes()).then_some(Self { alg, bytes })
    }

    /// Its algorithm.
    pub fn alg(&self) -> Alg {
        self.alg
    }

    /// P-256: 0x04, X, Y. Ed25519: the 32 bytes of RFC 8032.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its short name.
    pub fn id(&self) -> KeyId {
        let digest: [u8; 32] = sha2::Sha256::digest(self.bytes).into();
        let mut id = [0; KeyId::BYTES];
        id.copy_from_slice(&digest[..KeyId::BYTES]);
        KeyId(id)
    }

    /// Whether it is a key of its algorithm that this build can verify with: for P-256, a point on
    /// the curve.
    pub fn is_usable(&self) -> bool {
        match self.alg {
            Alg::Esp256 => p256_key(self.bytes).is_some(),
            Alg::Ed25519 => cfg!(feature = "ed25519"),
        }
    }

    /// Whether `signature` over the message that `parts` make together is this key's. About 9
    /// million instructions and 7 KB of stack on an ESP32-C3 for P-256.
    pub(super) fn verifies(
        &self,
        message: impl Fn(&mut dyn FnMut(&[u8])),
        signature: &[u8; SIGNATURE_BYTES],
    ) -> bool {
        match self.alg {
            Alg::Esp256 => {
                let mut hasher = sha2::Sha256::new();
                message(&mut |part| hasher.update(part));
                verify_p256(self.bytes, &hasher.finalize().into(), signature)
            }
            Alg::Ed25519 => {
                let mut buffer = [0; TO_SIGN_BYTES_MAX];
                let mut used = 0;
                let mut fits = true;
                message(&mut |part| match buffer.get_mut(used..used + part.len()) {
                    Some(room) => {
                        room.copy_from_slice(part);
                        used += part.len();
                    }
                    None => fits = false,
                });
                fits && verify_ed25519(self.bytes, &buffer[..used], signature)
            }
        }
    }
}

#[inline(never)] // its 7 KB of stack must be gone before anything else runs
fn verify_p256(key: &[u8], digest: &[u8; 32], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    use p256::ecdsa::{Signature, signature::hazmat::PrehashVerifier};

    let Some(key) = p256_key(key) else {
        return false;
    };
    let Ok(signature) = Signature::from_slice(signature) else {
        return false;
    };
    key.verify_prehash(digest, &signature).is_ok()
}

fn p256_key(key: &[u8]) -> Option<p256::ecdsa::VerifyingKey> {
    // Only the uncompressed form: one key has one encoding, hence one id.
    let uncompressed = key.first() == Some(&0x04);
    let parse = || p256::ecdsa::VerifyingKey::from_sec1_bytes(key).ok();
    uncompressed.then(parse).flatten()
}

#[cfg(feature = "ed25519")]
#[inline(never)]
fn verify_ed25519(key: &[u8], message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    let Ok(bytes) = key.try_into() else {
        return false;
    };
    let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(bytes) else {
        return false;
    };
    key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature))
        .is_ok()
}

/// Without the feature, a key of that kind signs nothing.
#[cfg(not(feature = "ed25519"))]
fn verify_ed25519(_: &[u8], _: &[u8], _: &[u8; SIGNATURE_BYTES]) -> bool {
    false
}

/// On the wire an array: the algorithm's number, the key's bytes.
impl<C> Encode<C> for PublicKey<'_> {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?.i8(self.alg.number())?.bytes(self.bytes)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for PublicKey<'b> {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        if d.array()? != Some(2) {
            return Err(decode::Error::message("a key is an array of two"));
        }
        let number = d.i8()?;
        let alg = [Alg::Esp256, Alg::Ed25519]
            .into_iter()
            .find(|alg| alg.number() == number)
            .ok_or(decode::Error::message("a key's algorithm is -9 or -19"))?;
        let bytes = d.bytes()?;
        Self::new(alg, bytes).ok_or(decode::Error::message("a key of another length"))
    }
}
