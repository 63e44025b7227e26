//! COSE_Sign1 and COSE_Sign (RFC 9052 section 4) in the one shape this scheme allows: tagged,
//! definite, the algorithm alone in the protected header, the key id alone in the unprotected one.

use minicbor::{
    Decode, Decoder, Encode, Encoder,
    data::{Tag, Type},
    decode, encode,
};

use super::{
    OBJECT_BYTES_MAX, SignedError, canonical,
    key::{Alg, KeyId, PublicKey, SIGNATURE_BYTES},
};
use crate::{limits::SIGNATURES_MAX, list::List};

const TAG_SIGN1: u64 = 18;
const TAG_SIGN: u64 = 98;
/// Label of the key id in a header map.
const LABEL_KID: u8 = 4;
/// Longest message that is signed: an object and the frame around it.
pub const TO_SIGN_BYTES_MAX: usize = OBJECT_BYTES_MAX + 32;

/// Which of the two structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One signature, tag 18.
    Sign1,
    /// One or more signatures, tag 98.
    Sign,
}

/// A payload with its signatures, none of which is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Which structure it came in; it is part of what is signed.
    pub form: Form,
    /// What is signed.
    pub payload: &'a [u8],
    /// Who says so.
    pub signatures: List<Signature<'a>, SIGNATURES_MAX>,
}

/// A signature as it is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature<'a> {
    /// What its protected header names.
    pub alg: Alg,
    /// Which key it claims to be of.
    pub kid: KeyId,
    /// Its bytes.
    pub bytes: &'a [u8; SIGNATURE_BYTES],
}

impl<'a> Envelope<'a> {
    /// Reads a whole object.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SignedError> {
        if bytes.len() > OBJECT_BYTES_MAX {
            let bytes = bytes.len();
            return Err(SignedError::TooLong { bytes });
        }
        match canonical::decode("envelope", bytes) {
            Err(SignedError::Payload { .. }) => Err(SignedError::Envelope),
            other => other,
        }
    }

    /// Whether `key` has signed this. The first signature with its id counts, and costs one
    /// verification at most: a second one of the same key adds nothing.
    pub fn is_signed_by(&self, key: &PublicKey<'_>) -> bool {
        let id = key.id();
        let signature = self.signatures.iter().find(|it| it.kid == id);
        signature.is_some_and(|signature| {
            signature.alg == key.alg()
                && key.verifies(|take| self.message(key.alg(), take), signature.bytes)
        })
    }

    /// Calls `take` with the parts of the message that a key of this algorithm signs: the
    /// Sig_structure of RFC 9052 section 4.4, with no external data.
    pub(super) fn message(&self, alg: Alg, take: &mut dyn FnMut(&[u8])) {
        message(self.form, alg, self.payload, take);
    }
}

/// Writes the message that a key of this algorithm signs; none where the payload is too long.
pub fn to_sign<'b>(
    form: Form,
    alg: Alg,
    payload: &[u8],
    buffer: &'b mut [u8; TO_SIGN_BYTES_MAX],
) -> Option<&'b [u8]> {
    let mut used = Some(0);
    message(form, alg, payload, &mut |part| {
        let Some(at) = used else { return };
        used = buffer.get_mut(at..at + part.len()).map(|room| {
            room.copy_from_slice(part);
            at + part.len()
        });
    });
    Some(&buffer[..used?])
}

fn message(form: Form, alg: Alg, payload: &[u8], take: &mut dyn FnMut(&[u8])) {
    match form {
        Form::Sign1 => take(b"\x84\x6aSignature1"),
        // An empty protected header of the body comes before that of the signature.
        Form::Sign => take(b"\x85\x69Signature\x40"),
    }
    take(&[0x43]);
    take(alg.header());
    take(&[0x40]);
    byte_string_head(payload.len(), take);
    take(payload);
}

/// The head of a definite byte string in its shortest form, for lengths below 2^16.
pub(super) fn byte_string_head(bytes: usize, take: &mut dyn FnMut(&[u8])) {
    let [high, low] = (bytes as u16).to_be_bytes();
    match bytes {
        0..=23 => take(&[0x40 | low]),
        24..=255 => take(&[0x58, low]),
        _ => take(&[0x59, high, low]),
    }
}

impl<C> Encode<C> for Envelope<'_> {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        match (self.form, &self.signatures[..]) {
            (Form::Sign1, [signature]) => {
                e.tag(Tag::new(TAG_SIGN1))?.array(4)?;
                encode_headers(e, signature)?;
                e.bytes(self.payload)?.bytes(signature.bytes)?.ok()
            }
            (Form::Sign1, _) => Err(encode::Error::message("a COSE_Sign1 has one signature")),
            (Form::Sign, _) => {
                e.tag(Tag::new(TAG_SIGN))?.array(4)?.bytes(&[])?.map(0)?;
                e.bytes(self.payload)?;
                self.signatures.encode(e, ctx)
            }
        }
    }
}

impl<'b, C> Decode<'b, C> for Envelope<'b> {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let tag = d.tag()?.as_u64();
        if d.array()? != Some(4) {
            return Err(decode::Error::message("an envelope is an array of four"));
        }
        match tag {
            TAG_SIGN1 => {
                let (alg, kid) = decode_headers(d)?;
                let payload = d.bytes()?;
                let bytes = decode_signature(d)?;
                let mut signatures = List::new();
                let _ = signatures.push(Signature { alg, kid, bytes }); // the first of six
                Ok(Self {
                    form: Form::Sign1,
                    payload,
                    signatures,
                })
            }
            TAG_SIGN => {
                if !d.bytes()?.is_empty() || d.map()? != Some(0) {
                    return Err(decode::Error::message("a body has no headers"));
                }
                Ok(Self {
                    form: Form::Sign,
                    payload: d.bytes()?,
                    signatures: List::decode(d, ctx)?,
                })
            }
            _ => Err(decode::Error::message("neither COSE_Sign1 nor COSE_Sign")),
        }
    }
}

impl<C> Encode<C> for Signature<'_> {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(3)?;
        encode_headers(e, self)?;
        e.bytes(self.bytes)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Signature<'b> {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        if d.array()? != Some(3) {
            return Err(decode::Error::message("a signature is an array of three"));
        }
        let (alg, kid) = decode_headers(d)?;
        let bytes = decode_signature(d)?;
        Ok(Self { alg, kid, bytes })
    }
}

fn encode_headers<W: encode::Write>(
    e: &mut Encoder<W>,
    signature: &Signature<'_>,
) -> Result<(), encode::Error<W::Error>> {
    e.bytes(signature.alg.header())?;
    e.map(1)?.u8(LABEL_KID)?.bytes(&signature.kid.0)?.ok()
}

fn decode_headers(d: &mut Decoder<'_>) -> Result<(Alg, KeyId), decode::Error> {
    let alg = Alg::from_header(d.bytes()?);
    let alg = alg.ok_or(decode::Error::message("a protected header of its own"))?;
    if d.map()? != Some(1) || d.datatype()? != Type::U8 || d.u8()? != LABEL_KID {
        return Err(decode::Error::message("a header names the key and no more"));
    }
    let kid = d.bytes()?.try_into().map(KeyId);
    let kid = kid.map_err(|_| decode::Error::message("a key id has 8 bytes"))?;
    Ok((alg, kid))
}

fn decode_signature<'b>(d: &mut Decoder<'b>) -> Result<&'b [u8; SIGNATURE_BYTES], decode::Error> {
    let bytes = d.bytes()?.try_into();
    bytes.map_err(|_| decode::Error::message("a signature has 64 bytes"))
}
