//! Signed objects: what makes a device obey, whoever carries the bytes.
//!
//! | object | says | signed by | form |
//! |---|---|---|---|
//! | [`Root`] | which keys count, and for what | a threshold of the root keys | COSE_Sign |
//! | [`Release`] | what an image is: product, chip, digest, index | a threshold of the release keys | COSE_Sign1, COSE_Sign |
//! | [`Answer`](crate::checkin::Answer) | what one device is to do now | the server's online key | COSE_Sign1 |
//! | [`CheckIn`](crate::checkin::CheckIn) | what one device is | the device's key or its secret | COSE_Sign1, COSE_Mac0 |
//!
//! All are CBOR in COSE (RFC 9052), at most [`OBJECT_BYTES_MAX`] bytes. A root and a release must
//! be *deterministic* (RFC 8949 section 4.2.1), so that one object has one digest: they are encoded
//! again while they are read, and any difference, an unknown key too, refuses them. The algorithm
//! is bound to the key: an object cannot choose one. Byte for byte in `docs/signed-objects.md`.
//!
//! Main path: [`Root::first`] from the firmware, [`Root::succeed`] for each rotation, then
//! [`Root::release`] and [`Root::answer`].

pub mod bundle;
mod canonical;
mod envelope;
pub mod index;
mod key;
mod release;
mod root;
mod seal;
#[cfg(feature = "sign")]
pub mod sign;

pub use envelope::{Envelope, Form, Signature, TO_SIGN_BYTES_MAX, to_sign};
pub use key::{Alg, KeyId, PublicKey};
pub use release::{Release, SignedDelta};
pub use root::{Role, RoleName, Root};
pub use seal::{Credential, Sealed, open_seal, seal_mac, seal_signed};

use crate::limits;

/// Largest root, release or signed answer with its envelope, bytes.
pub const OBJECT_BYTES_MAX: usize = limits::OBJECT_BYTES_MAX;

/// Why a signed object is not trusted. Nothing of it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Too long for any object.
    #[error("object has {bytes} bytes; at most {OBJECT_BYTES_MAX} are taken")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No COSE_Sign1 or COSE_Sign of the allowed shape.
    #[error("object is no COSE_Sign1 or COSE_Sign of this scheme")]
    Envelope,
    /// The payload does not decode as what it should be.
    #[error("payload is not a valid {what}")]
    Payload {
        /// What was wanted.
        what: &'static str,
    },
    /// The bytes differ from what the deterministic encoding of their content is.
    #[error("{what} is not in deterministic encoding, or has a key this version does not know")]
    NotCanonical {
        /// What was wanted.
        what: &'static str,
    },
    /// A value out of its range, or one that contradicts another.
    #[error("{what}: {field} is out of its range")]
    Field {
        /// Which object.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// Too few valid signatures of keys that have the role.
    #[error("{found} of {threshold} valid signatures of the {role} keys")]
    Threshold {
        /// Which keys count.
        role: RoleName,
        /// Distinct keys that signed.
        found: u8,
        /// How many are needed.
        threshold: u8,
    },
    /// A root that does not follow the trusted one directly.
    #[error("root {found} does not follow root {trusted}")]
    RootVersion {
        /// Version trusted now.
        trusted: u32,
        /// Version offered.
        found: u32,
    },
    /// A signature or a MAC of a device that does not match.
    #[error("the check-in is not signed by this device")]
    Seal,
}
