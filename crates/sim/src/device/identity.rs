//! What a simulated device proves itself with.

use std::{fmt, str::FromStr, sync::Arc};

use fota_proto::{
    DeviceId,
    enrol::{self, Enrol},
    limits::{CHALLENGE_BYTES, CHECK_IN_BYTES_MAX, DEVICE_SECRET_BYTES, SEALED_BYTES_MAX},
    signed::{
        seal_mac, seal_signed,
        sign::{P256Key, Signer as _},
    },
};
use sha2::{Digest, Sha256};

/// What a device seals its check-ins with.
#[derive(Clone, Default)]
pub enum Identity {
    /// Nothing: it sends them plain.
    #[default]
    None,
    /// A secret that it shares with the server.
    Secret([u8; DEVICE_SECRET_BYTES]),
    /// A key of its own.
    Key(Arc<P256Key>),
}

/// Which kind of identity the devices of a fleet have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityKind {
    /// None.
    #[default]
    None,
    /// A secret each.
    Secret,
    /// A key each.
    Key,
}

/// The secret of an enrolment key; never shown.
#[derive(Clone)]
pub struct EnrolmentKey(pub [u8; DEVICE_SECRET_BYTES]);

impl fmt::Debug for EnrolmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrolmentKey(…)")
    }
}

impl FromStr for EnrolmentKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The same 64 digits as a digest, so the same parser; its value is a key here.
        let key: Result<fota_proto::Sha256, _> = text.trim().parse();
        key.map(|key| Self(key.0))
            .map_err(|_| "no enrolment key: 64 hex digits are needed")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Secret(_) => "Secret(…)",
            Self::Key(_) => "Key(…)",
        })
    }
}

impl Identity {
    /// The identity that this device has in every run with this seed. Whoever knows the seed can be
    /// any of its devices, which is what a test wants and a product does not.
    pub fn derive(kind: IdentityKind, seed: &str, device: &DeviceId) -> Self {
        let secret = |round: u8| -> [u8; 32] {
            let hasher = Sha256::new().chain_update(b"fota sim identity");
            let hasher = hasher.chain_update([round]).chain_update(seed);
            let hasher = hasher.chain_update([0]).chain_update(device.as_str());
            hasher.finalize().into()
        };
        match kind {
            IdentityKind::None => Self::None,
            IdentityKind::Secret => Self::Secret(secret(0)),
            IdentityKind::Key => {
                // One number in 2^32 is no key of P-256.
                let key = (1..=u8::MAX).find_map(|round| P256Key::new(&secret(round)));
                Self::Key(Arc::new(key.expect("one of 255 is a key")))
            }
        }
    }

    /// The check-in as it is sent.
    pub fn seal(&self, message: &[u8]) -> Vec<u8> {
        let mut buffer = [0; SEALED_BYTES_MAX];
        let sealed = match self {
            Self::None => return message.to_vec(),
            Self::Secret(secret) => seal_mac(message, secret, &mut buffer),
            Self::Key(key) => seal_signed(
                message,
                key.public(),
                |bytes| key.sign(bytes).ok(),
                &mut buffer,
            ),
        };
        sealed
            .expect("the longest check-in fits with its seal")
            .to_vec()
    }

    /// The line of a factory's list that makes a server know this device; none without identity.
    pub fn claim(&self, device: &DeviceId) -> Option<String> {
        let hex =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        match self {
            Self::None => None,
            Self::Secret(secret) => Some(format!("{device},secret,{}", hex(secret))),
            Self::Key(key) => Some(format!("{device},key,{}", hex(key.public().bytes()))),
        }
    }

    /// What tells a server of the device's key; none where it has none.
    pub fn enrol(
        &self,
        device: &DeviceId,
        enrolment_key: &EnrolmentKey,
        nonce: u64,
        challenge: Option<[u8; CHALLENGE_BYTES]>,
    ) -> Option<Vec<u8>> {
        let Self::Key(key) = self else {
            return None;
        };
        let mut message = Enrol {
            protocol: enrol::VERSION,
            device: device.as_str(),
            nonce,
            enrolment_key: enrol::enrolment_key_id(&enrolment_key.0),
            key: key.public(),
            challenge,
            proof: [0; enrol::PROOF_BYTES],
        };
        message.proof = enrol::enrol_proof(&enrolment_key.0, &message);
        let mut buffer = [0; CHECK_IN_BYTES_MAX];
        let payload = fota_proto::checkin::encode(&message, &mut buffer)?;
        Some(self.seal(payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_the_same_identity_in_every_run_and_no_other_has_it() {
        let claim = |kind, seed, id: &str| {
            let device = id.parse().expect("an id");
            Identity::derive(kind, seed, &device).claim(&device)
        };
        for kind in [IdentityKind::Secret, IdentityKind::Key] {
            let mine = claim(kind, "a", "ESP32-001");
            assert!(mine.is_some());
            assert_eq!(claim(kind, "a", "ESP32-001"), mine);
            assert_ne!(claim(kind, "b", "ESP32-001"), mine);
        }
        assert_eq!(claim(IdentityKind::None, "a", "ESP32-001"), None);
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let shown = format!(
            "{:?} {:?}",
            Identity::Secret([7; 32]),
            EnrolmentKey([7; 32])
        );
        assert!(!shown.contains('7'), "{shown}");
    }
}
