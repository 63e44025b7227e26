//! Making signed objects; needs `std`.

use std::{io, vec, vec::Vec};

use minicbor::Encode;
use p256::ecdsa::{SigningKey, signature::Signer as _};

use super::{
    OBJECT_BYTES_MAX,
    envelope::{Envelope, Form, Signature, TO_SIGN_BYTES_MAX, to_sign},
    key::{Alg, P256_BYTES, PublicKey, SIGNATURE_BYTES},
};
use crate::list::List;

/// Something that holds a private key: a file, a token, a command.
pub trait Signer {
    /// The key that others verify with.
    fn public(&self) -> PublicKey<'_>;

    /// The signature over a message, in the raw form: r and s, or R and S, 32 bytes each.
    fn sign(&self, message: &[u8]) -> io::Result<[u8; SIGNATURE_BYTES]>;
}

/// A P-256 key in memory. Signatures are those of RFC 6979: no random number is needed.
pub struct P256Key {
    key: SigningKey,
    public: [u8; P256_BYTES],
}

impl P256Key {
    /// The key with this number; none where it is 0 or too large.
    pub fn new(secret: &[u8; 32]) -> Option<Self> {
        let key = SigningKey::from_slice(secret).ok()?;
        let point = key.verifying_key().to_sec1_point(false);
        let public = point.as_bytes().try_into().ok()?;
        Some(Self { key, public })
    }
}

impl Signer for P256Key {
    fn public(&self) -> PublicKey<'_> {
        PublicKey::new(Alg::Esp256, &self.public).expect("a P-256 key has 65 bytes")
    }

    fn sign(&self, message: &[u8]) -> io::Result<[u8; SIGNATURE_BYTES]> {
        let signature: p256::ecdsa::Signature = self.key.sign(message);
        Ok(signature.to_bytes().into())
    }
}

/// An Ed25519 key in memory.
#[cfg(feature = "ed25519")]
pub struct Ed25519Key {
    key: ed25519_dalek::SigningKey,
    public: [u8; 32],
}

#[cfg(feature = "ed25519")]
impl Ed25519Key {
    /// The key that this seed makes.
    pub fn new(seed: &[u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = key.verifying_key().to_bytes();
        Self { key, public }
    }
}

#[cfg(feature = "ed25519")]
impl Signer for Ed25519Key {
    fn public(&self) -> PublicKey<'_> {
        PublicKey::new(Alg::Ed25519, &self.public).expect("an Ed25519 key has 32 bytes")
    }

    fn sign(&self, message: &[u8]) -> io::Result<[u8; SIGNATURE_BYTES]> {
        use ed25519_dalek::Signer as _;
        Ok(self.key.sign(message).to_bytes())
    }
}

/// The deterministic encoding of a root or a release.
pub fn encode<T: Encode<()>>(object: &T) -> io::Result<Vec<u8>> {
    let mut out = vec![0; OBJECT_BYTES_MAX];
    let used = crate::checkin::encode(object, &mut out).ok_or_else(too_long)?;
    Ok(used.to_vec())
}

/// Signs a payload in this form; a COSE_Sign1 takes one signer.
pub fn sign(form: Form, payload: &[u8], signers: &[&dyn Signer]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for signer in signers {
        let mut buffer = [0; TO_SIGN_BYTES_MAX];
        let message = to_sign(form, signer.public().alg(), payload, &mut buffer);
        bytes.push(signer.sign(message.ok_or_else(too_long)?)?);
    }
    let mut signatures = List::new();
    for (signer, bytes) in signers.iter().zip(&bytes) {
        let public = signer.public();
        let signature = Signature {
            alg: public.alg(),
            kid: public.id(),
            bytes,
        };
        signatures.push(signature).map_err(|_| too_long())?;
    }
    let envelope = Envelope {
        form,
        payload,
        signatures,
    };
    encode(&envelope)
}

/// Adds a signature to an object that waits for more of them.
pub fn add_signature(object: &Envelope<'_>, signer: &dyn Signer) -> io::Result<Vec<u8>> {
    let public = signer.public();
    let mut buffer = [0; TO_SIGN_BYTES_MAX];
    let message = to_sign(object.form, public.alg(), object.payload, &mut buffer);
    let bytes = signer.sign(message.ok_or_else(too_long)?)?;
    let mut signatures = List::new();
    let others = object.signatures.iter().filter(|s| s.kid != public.id());
    let mine = Signature {
        alg: public.alg(),
        kid: public.id(),
        bytes: &bytes,
    };
    for signature in others.copied().chain([mine]) {
        signatures.push(signature).map_err(|_| too_long())?;
    }
    let envelope = Envelope {
        signatures,
        ..object.clone()
    };
    encode(&envelope)
}

fn too_long() -> io::Error {
    io::Error::other(std::format!(
        "the object would have more than {OBJECT_BYTES_MAX} bytes: use fewer keys or signatures"
    ))
}
