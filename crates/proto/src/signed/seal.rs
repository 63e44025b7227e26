//! A check-in that only the device itself can have sent: COSE_Mac0 with a secret it shares with the
//! server, or COSE_Sign1 with a key of its own. An old one cannot be sent again, because it repeats
//! the challenge of the answer before (see `CheckIn::challenge`).

use hmac::{Hmac, KeyInit, Mac};
use minicbor::{
    Decode, Decoder, Encode, Encoder,
    data::{Tag, Type},
    decode, encode,
};

use super::{
    SignedError, canonical,
    envelope::{Envelope, Form, Signature, TO_SIGN_BYTES_MAX, byte_string_head, to_sign},
    key::PublicKey,
};
use crate::{
    limits::{DEVICE_SECRET_BYTES, SEALED_BYTES_MAX},
    list::List,
};

const TAG_MAC0: u64 = 17;
/// The protected header {1: 5}: HMAC with SHA-256, whole.
const HEADER: [u8; 3] = [0xA1, 0x01, 0x05];
const MAC_BYTES: usize = 32;

/// A check-in as it arrives, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sealed<'a> {
    /// With a shared secret.
    Mac {
        /// The check-in.
        payload: &'a [u8],
        /// Its MAC.
        mac: &'a [u8; MAC_BYTES],
    },
    /// With a key of the device.
    Signed(Envelope<'a>),
}

impl<'a> Sealed<'a> {
    /// Whether these bytes begin as a sealed check-in does; a plain one begins with a map.
    pub fn looks_like(bytes: &[u8]) -> bool {
        matches!(bytes.first(), Some(0xD1 | 0xD2))
    }

    /// Reads a sealed check-in.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SignedError> {
        if bytes.len() > SEALED_BYTES_MAX {
            return Err(SignedError::TooLong { bytes: bytes.len() });
        }
        let what = "sealed check-in";
        match bytes.first() {
            Some(0xD1) => canonical::decode::<Mac0>(what, bytes).map(|mac0| Self::Mac {
                payload: mac0.payload,
                mac: mac0.mac,
            }),
            _ => canonical::decode::<Envelope>(what, bytes).map(Self::Signed),
        }
    }

    /// The check-in inside, which names the device to [`open_seal`] with.
    pub fn payload(&self) -> &'a [u8] {
        match self {
            Self::Mac { payload, .. } => payload,
            Self::Signed(envelope) => envelope.payload,
        }
    }
}

/// What a server knows a device by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// A secret that both have.
    Secret(&'a [u8; DEVICE_SECRET_BYTES]),
    /// A public key of the device.
    Key(PublicKey<'a>),
}

/// Checks a seal. A secret opens only a MAC and a key only a signature.
pub fn open_seal(sealed: &Sealed<'_>, credential: Credential<'_>) -> Result<(), SignedError> {
    let is_right = match (sealed, credential) {
        (Sealed::Mac { payload, mac }, Credential::Secret(secret)) => {
            hmac(secret, payload).verify_slice(*mac).is_ok()
        }
        (Sealed::Signed(envelope), Credential::Key(key)) => {
            let id = key.id();
            envelope.form == Form::Sign1
                && envelope.signatures.first().is_some_and(|signature| {
                    (signature.kid, signature.alg) == (id, key.alg())
                        && key.verifies(|take| envelope.message(key.alg(), take), signature.bytes)
                })
        }
        _ => false,
    };
    match is_right {
        true => Ok(()),
        false => Err(SignedError::Seal),
    }
}

/// Seals a check-in with a secret; none where it does not fit.
pub fn seal_mac<'o>(
    payload: &[u8],
    secret: &[u8; DEVICE_SECRET_BYTES],
    out: &'o mut [u8],
) -> Option<&'o [u8]> {
    let mac: [u8; MAC_BYTES] = hmac(secret, payload).finalize().into_bytes().into();
    crate::checkin::encode(&Mac0 { payload, mac: &mac }, out)
}

/// Seals a check-in with a device's key: `sign` makes the signature over the message it is given.
/// None where it does not fit, or where it cannot be signed.
pub fn seal_signed<'o>(
    payload: &[u8],
    key: PublicKey<'_>,
    sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>,
    out: &'o mut [u8],
) -> Option<&'o [u8]> {
    let mut buffer = [0; TO_SIGN_BYTES_MAX];
    let bytes = sign(to_sign(Form::Sign1, key.alg(), payload, &mut buffer)?)?;
    let mut signatures = List::new();
    let signature = Signature {
        alg: key.alg(),
        kid: key.id(),
        bytes: &bytes,
    };
    signatures.push(signature).ok()?;
    let form = Form::Sign1;
    let envelope = Envelope {
        form,
        payload,
        signatures,
    };
    crate::checkin::encode(&envelope, out)
}

fn hmac(secret: &[u8; DEVICE_SECRET_BYTES], payload: &[u8]) -> Hmac<sha2::Sha256> {
    let mut hmac = Hmac::<sha2::Sha256>::new_from_slice(secret).expect("HMAC takes any length");
    // The MAC_structure of RFC 9052 section 6.3, with no external data.
    hmac.update(b"\x84\x64MAC0\x43");
    hmac.update(&HEADER);
    hmac.update(&[0x40]);
    byte_string_head(payload.len(), &mut |part| hmac.update(part));
    hmac.update(payload);
    hmac
}

struct Mac0<'a> {
    payload: &'a [u8],
    mac: &'a [u8; MAC_BYTES],
}

impl<C> Encode<C> for Mac0<'_> {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.tag(Tag::new(TAG_MAC0))?
            .array(4)?
            .bytes(&HEADER)?
            .map(0)?;
        e.bytes(self.payload)?.bytes(self.mac)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Mac0<'b> {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let wrong = || decode::Error::message("no COSE_Mac0 of this scheme");
        if d.tag()?.as_u64() != TAG_MAC0 || d.array()? != Some(4) {
            return Err(wrong());
        }
        if d.datatype()? != Type::Bytes || d.bytes()? != HEADER || d.map()? != Some(0) {
            return Err(wrong());
        }
        let payload = d.bytes()?;
        let mac = d.bytes()?.try_into().map_err(|_| wrong())?;
        Ok(Self { payload, mac })
    }
}
