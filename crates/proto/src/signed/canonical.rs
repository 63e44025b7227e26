//! Deterministic encoding, checked by encoding again.

use minicbor::{Decode, Decoder, Encode, encode};

use super::SignedError;

/// Compares what is written with what is there; takes no memory.
struct Compare<'a> {
    rest: &'a [u8],
}

struct Differs;

impl encode::Write for Compare<'_> {
    type Error = Differs;

    fn write_all(&mut self, part: &[u8]) -> Result<(), Differs> {
        self.rest = self.rest.strip_prefix(part).ok_or(Differs)?;
        Ok(())
    }
}

/// Decodes all of `bytes`, and refuses any but the deterministic encoding of what they say.
pub(super) fn decode<'b, T>(what: &'static str, bytes: &'b [u8]) -> Result<T, SignedError>
where
    T: Decode<'b, ()> + Encode<()>,
{
    let mut decoder = Decoder::new(bytes);
    let value: T = decoder
        .decode()
        .map_err(|_| SignedError::Payload { what })?;
    match is_encoding_of(&value, bytes) {
        true => Ok(value),
        false => Err(SignedError::NotCanonical { what }),
    }
}

/// Whether `bytes` are exactly what `value` encodes to.
pub(super) fn is_encoding_of<T: Encode<()>>(value: &T, bytes: &[u8]) -> bool {
    let mut compare = Compare { rest: bytes };
    minicbor::encode(value, &mut compare).is_ok() && compare.rest.is_empty()
}
