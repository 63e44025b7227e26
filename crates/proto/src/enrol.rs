//! How a device that has made its own key tells the server of it (`POST /d/v1/enrol`).
//!
//! An [`Enrol`] stands in a COSE_Sign1 of the device's new key, so whoever sends it has the private
//! half; its `proof` shows that the device was built for this server, since only such firmware holds
//! the enrolment key. The first one carries no challenge and is answered with one; the second one
//! repeats it, so that an enrolment of last year cannot be sent again. Byte for byte in
//! `docs/device-identity.md`.

use hmac::{Hmac, KeyInit, Mac};
use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use crate::{
    limits::{CHALLENGE_BYTES, DEVICE_SECRET_BYTES, ENROLMENT_KEY_ID_BYTES},
    signed::PublicKey,
};

/// The protocol version in key 0 of both messages.
pub const VERSION: u8 = 1;
/// Length of a proof, bytes.
pub const PROOF_BYTES: usize = 32;

/// A device offers its public key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Enrol<'a> {
    /// Protocol version, [`VERSION`].
    #[n(0)]
    pub protocol: u8,
    /// Device id; see [`crate::DeviceId`] for what is allowed.
    #[b(1)]
    pub device: &'a str,
    /// A number the answer repeats.
    #[n(2)]
    pub nonce: u64,
    /// Which enrolment key the proof is made with; see [`enrolment_key_id`].
    #[cbor(n(3), with = "minicbor::bytes")]
    pub enrolment_key: [u8; ENROLMENT_KEY_ID_BYTES],
    /// The device's public key.
    #[b(4)]
    pub key: PublicKey<'a>,
    /// The challenge of the last answer; none in the first message.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub challenge: Option<[u8; CHALLENGE_BYTES]>,
    /// See [`enrol_proof`].
    #[cbor(n(6), with = "minicbor::bytes")]
    pub proof: [u8; PROOF_BYTES],
}

/// The server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Enrolled {
    /// Protocol version, [`VERSION`].
    #[n(0)]
    pub protocol: u8,
    /// The nonce of the message.
    #[n(1)]
    pub nonce: u64,
    /// What to repeat in the next message; none once the key is enrolled.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub challenge: Option<[u8; CHALLENGE_BYTES]>,
}

/// The short name of an enrolment key: it finds the key and gives nothing of it away.
pub fn enrolment_key_id(key: &[u8; DEVICE_SECRET_BYTES]) -> [u8; ENROLMENT_KEY_ID_BYTES] {
    let digest = Sha256::new()
        .chain_update(b"fota enrolment key 1")
        .chain_update(key)
        .finalize();
    let mut id = [0; ENROLMENT_KEY_ID_BYTES];
    id.copy_from_slice(&digest[..ENROLMENT_KEY_ID_BYTES]);
    id
}

/// The proof that belongs into a message: HMAC-SHA256 under the enrolment key over the text
/// `fota enrol 1`, the challenge (8 bytes, 0 where there is none), the length of the device id in
/// one byte, the id, and the public key.
pub fn enrol_proof(enrolment_key: &[u8; DEVICE_SECRET_BYTES], enrol: &Enrol<'_>) -> [u8; 32] {
    hmac(enrolment_key, enrol).finalize().into_bytes().into()
}

/// Whether the proof in a message is made with this enrolment key; takes the same time either way.
pub fn proves(enrolment_key: &[u8; DEVICE_SECRET_BYTES], enrol: &Enrol<'_>) -> bool {
    hmac(enrolment_key, enrol)
        .verify_slice(&enrol.proof)
        .is_ok()
}

fn hmac(enrolment_key: &[u8; DEVICE_SECRET_BYTES], enrol: &Enrol<'_>) -> Hmac<Sha256> {
    let hmac = Hmac::<Sha256>::new_from_slice(enrolment_key);
    // A longer id is no device id, and is refused before this matters.
    let id_bytes = enrol.device.len() as u8;
    hmac.expect("HMAC takes any length")
        .chain_update(b"fota enrol 1")
        .chain_update(enrol.challenge.unwrap_or_default())
        .chain_update([id_bytes])
        .chain_update(enrol.device)
        .chain_update(enrol.key.bytes())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::signed::Alg;

    fn enrol(key: &[u8; 65]) -> Enrol<'_> {
        Enrol {
            protocol: VERSION,
            device: "ESP32-001",
            nonce: 7,
            enrolment_key: enrolment_key_id(&[1; 32]),
            key: PublicKey::new(Alg::Esp256, key).expect("65 bytes"),
            challenge: Some([2; 8]),
            proof: [0; PROOF_BYTES],
        }
    }

    #[test]
    fn a_proof_is_for_one_key_one_device_and_one_challenge() {
        let (key, other_key) = ([4; 65], [5; 65]);
        let mut enrol = enrol(&key);
        enrol.proof = enrol_proof(&[1; 32], &enrol);
        assert!(proves(&[1; 32], &enrol));
        assert!(!proves(&[9; 32], &enrol), "another enrolment key");
        let other_key = PublicKey::new(Alg::Esp256, &other_key).expect("65 bytes");
        let changed = [
            Enrol {
                key: other_key,
                ..enrol.clone()
            },
            Enrol {
                device: "ESP32-002",
                ..enrol.clone()
            },
            Enrol {
                challenge: None,
                ..enrol.clone()
            },
        ];
        for enrol in changed {
            assert!(!proves(&[1; 32], &enrol), "{enrol:?}");
        }
    }

    /// The vector in the document was made with Python's `hmac` and `hashlib`.
    #[test]
    fn the_document_has_the_right_proofs() {
        let document = include_str!("../../../docs/device-identity.md");
        let secret: [u8; 32] = core::array::from_fn(|i| i as u8);
        let digits = document
            .split_once("public key     ")
            .and_then(|(_, rest)| rest.split_once("its key id"))
            .map(|(digits, _)| digits.split_whitespace());
        let mut point = [0; 65];
        let digits = digits.expect("a vector").flat_map(str::bytes);
        for (at, digit) in digits.enumerate() {
            let value = char::from(digit).to_digit(16).expect("a hex digit") as u8;
            point[at / 2] = point[at / 2] << 4 | value;
        }
        let key = PublicKey::new(Alg::Esp256, &point).expect("65 bytes");
        assert!(key.is_usable());
        let shows = |bytes: &[u8]| {
            let hex = KeyHex(bytes);
            let text = std::format!("{hex}");
            assert!(document.contains(&text), "{text}");
        };
        let mut enrol = Enrol {
            key,
            ..enrol(&point)
        };
        shows(&key.id().0);
        shows(&enrolment_key_id(&secret));
        for challenge in [None, Some(core::array::from_fn(|i| 0xd0 + i as u8))] {
            enrol.challenge = challenge;
            shows(&enrol_proof(&secret, &enrol));
        }
    }

    struct KeyHex<'a>(&'a [u8]);

    impl core::fmt::Display for KeyHex<'_> {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        }
    }

    #[test]
    fn the_longest_message_fits_and_round_trips() {
        let id = [b'i'; crate::limits::DEVICE_ID_BYTES_MAX];
        let key = [4; 65];
        let longest = Enrol {
            device: core::str::from_utf8(&id).expect("ascii"),
            nonce: u64::MAX,
            ..enrol(&key)
        };
        let mut buffer = [0; crate::limits::CHECK_IN_BYTES_MAX];
        let bytes = crate::checkin::encode(&longest, &mut buffer).expect("fits");
        assert_eq!(minicbor::decode::<Enrol>(bytes).expect("decodes"), longest);
    }
}
