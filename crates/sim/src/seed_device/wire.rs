//! The seed's messages as its device reads them: bounded, and refused where they exceed what the
//! original's buffers hold.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;

/// ArduinoJson pool of the chunk reply: a longer body cannot be parsed.
pub const BODY_BYTES_MAX: usize = 32_768;
/// Longest base64 text the device takes.
pub const BASE64_BYTES_MAX: usize = 25_000;
/// Largest decoded chunk.
pub const CHUNK_BYTES_MAX: usize = 20_480;
/// ArduinoJson pool of the manifest reply.
pub const MANIFEST_BYTES_MAX: usize = 2_048;

/// The key of the chunk MACs: 32 bytes, one for the whole fleet, compiled into every image.
#[derive(Clone)]
pub struct Psk(pub [u8; 32]);

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Psk(***)")
    }
}

/// Why a chunk is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The reply does not fit the JSON pool.
    #[error("reply of {0} bytes; the device parses at most {BODY_BYTES_MAX}")]
    BodyTooLong(usize),
    /// No JSON object with the four fields.
    #[error("reply is no chunk object")]
    NotAChunk,
    /// The text is empty or too long.
    #[error("base64 of {0} characters; the device takes 1 to {BASE64_BYTES_MAX}")]
    Base64Length(usize),
    /// The text is no base64.
    #[error("data is no base64")]
    NotBase64,
    /// More than the decode buffer holds.
    #[error("chunk of {0} bytes; the device takes at most {CHUNK_BYTES_MAX}")]
    ChunkTooLong(usize),
    /// `size` is not the length of the data.
    #[error("size says {said} bytes, data has {found}")]
    Size {
        /// What the reply says.
        said: u64,
        /// What it holds.
        found: usize,
    },
    /// `mac` is not 64 lower-case hex digits.
    #[error("mac is not 64 lower-case hex digits")]
    MacForm,
    /// Another chunk than the one asked for.
    #[error("chunk {found} arrived, chunk {asked} was asked for")]
    Number {
        /// Asked for.
        asked: u64,
        /// In the reply.
        found: u64,
    },
    /// The MAC is not that of the data.
    #[error("the MAC of the chunk is wrong")]
    Mac,
}

/// A chunk reply that is well formed; nothing is known about its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    number: u64,
    data: Vec<u8>,
    mac: [u8; 32],
}

#[derive(Deserialize)]
struct ChunkReply {
    chunk_number: u64,
    data: String,
    mac: String,
    size: u64,
}

/// Reads the body of a chunk reply. Never panics and never takes more memory than the limits say,
/// whatever the body is.
pub fn parse_chunk(body: &[u8]) -> Result<Chunk, ChunkError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(ChunkError::BodyTooLong(body.len()));
    }
    let reply: ChunkReply = serde_json::from_slice(body).map_err(|_| ChunkError::NotAChunk)?;
    if !(1..=BASE64_BYTES_MAX).contains(&reply.data.len()) {
        return Err(ChunkError::Base64Length(reply.data.len()));
    }
    let data = STANDARD.decode(&reply.data);
    let data = data.map_err(|_| ChunkError::NotBase64)?;
    if data.len() > CHUNK_BYTES_MAX {
        return Err(ChunkError::ChunkTooLong(data.len()));
    }
    if reply.size != data.len() as u64 {
        let (said, found) = (reply.size, data.len());
        return Err(ChunkError::Size { said, found });
    }
    Ok(Chunk {
        number: reply.chunk_number,
        mac: lower_hex(&reply.mac).ok_or(ChunkError::MacForm)?,
        data,
    })
}

impl Chunk {
    /// The bytes, if this is the chunk that was asked for and its MAC is right.
    pub fn proven(self, asked: u64, psk: &Psk) -> Result<Vec<u8>, ChunkError> {
        if self.number != asked {
            let found = self.number;
            return Err(ChunkError::Number { asked, found });
        }
        let mut mac =
            Hmac::<sha2::Sha256>::new_from_slice(&psk.0).expect("HMAC takes a key of any length");
        mac.update(&self.data);
        mac.verify_slice(&self.mac).map_err(|_| ChunkError::Mac)?;
        Ok(self.data)
    }
}

/// The original compares digits case-sensitively, and its server sends lower case.
fn lower_hex(text: &str) -> Option<[u8; 32]> {
    if text.bytes().any(|digit| digit.is_ascii_uppercase()) {
        return None;
    }
    let digest: fota_proto::Sha256 = text.parse().ok()?;
    Some(digest.0)
}

/// What the server offers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// Version text.
    pub version: String,
    /// Length of the image.
    pub size: u32,
    /// SHA-256 of the image, hex.
    pub hash: String,
    /// Bytes per chunk.
    #[serde(default = "default_chunk_size")]
    pub chunk_size: u32,
}

fn default_chunk_size() -> u32 {
    1024
}

#[derive(Deserialize)]
struct ManifestReply {
    fota: Option<ManifestHolder>,
}

#[derive(Deserialize)]
struct ManifestHolder {
    manifest: Option<Manifest>,
}

/// Reads the manifest reply: `{}` is no offer. None also where it is unreadable or absurd.
pub fn parse_manifest(body: &[u8]) -> Option<Manifest> {
    if body.len() > MANIFEST_BYTES_MAX {
        return None;
    }
    let reply: ManifestReply = serde_json::from_slice(body).ok()?;
    let manifest = reply.fota?.manifest?;
    let usable = manifest.size > 0 && manifest.chunk_size > 0;
    usable.then_some(manifest)
}

impl Manifest {
    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        u64::from(self.size.div_ceil(self.chunk_size))
    }
}

#[derive(Deserialize)]
struct RollbackReply {
    rollback_required: bool,
    #[serde(default)]
    reason: String,
}

/// The reason of a rollback order; none where there is no order.
pub fn parse_rollback(body: &[u8]) -> Option<String> {
    let reply: RollbackReply = serde_json::from_slice(body).ok()?;
    reply.rollback_required.then_some(reply.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector_psk() -> Psk {
        Psk(std::array::from_fn(|index| index as u8))
    }

    fn vector_firmware() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..40_000_u32).map(|i| (7 * i) as u8).collect();
        bytes[0] = 0xE9;
        bytes
    }

    fn reply(number: u64, data: &[u8], mac: &str) -> Vec<u8> {
        let data_text = STANDARD.encode(data);
        let size = data.len();
        let text = format!(
            r#"{{"chunk_number":{number},"data":"{data_text}","mac":"{mac}","size":{size}}}"#
        );
        text.into_bytes()
    }

    const VECTOR_MACS: [&str; 3] = [
        "979c7742d8b1eabe7dc4d5190e2b98306c2a8bf9877d88c31c93802c44bb3392",
        "032fa5410fd9184a40dd36bb0a4f92c62fd2b7bcbbafa98bb8a03ca4c29002b2",
        "03552b82735352e7906b843ae2a682d365399228d0f52ca21b3b165030ce3c85",
    ];

    #[test]
    fn the_seeds_vectors_are_proven() {
        let firmware = vector_firmware();
        for (number, data) in firmware.chunks(16_384).enumerate() {
            let number = number as u64;
            let body = reply(number, data, VECTOR_MACS[number as usize]);
            let chunk = parse_chunk(&body).expect("well formed");
            assert_eq!(chunk.proven(number, &vector_psk()).as_deref(), Ok(data));
        }
    }

    #[test]
    fn a_chunk_out_of_order_or_with_another_key_is_refused() {
        let firmware = vector_firmware();
        let body = reply(0, &firmware[..16_384], VECTOR_MACS[0]);
        let chunk = parse_chunk(&body).expect("well formed");
        let swapped = chunk.clone().proven(1, &vector_psk());
        assert_eq!(swapped, Err(ChunkError::Number { asked: 1, found: 0 }));
        assert_eq!(chunk.proven(0, &Psk([0; 32])), Err(ChunkError::Mac));
    }

    #[test]
    fn what_exceeds_the_devices_buffers_is_refused() {
        let long = vec![b' '; BODY_BYTES_MAX + 1];
        assert_eq!(parse_chunk(&long), Err(ChunkError::BodyTooLong(32_769)));
        assert_eq!(
            parse_chunk(&reply(0, &[], VECTOR_MACS[0])),
            Err(ChunkError::Base64Length(0))
        );
        let largest = reply(0, &[7; 18_750], VECTOR_MACS[0]);
        assert!(parse_chunk(&largest).is_ok());
        let too_large = reply(0, &[7; 18_751], VECTOR_MACS[0]);
        assert_eq!(
            parse_chunk(&too_large),
            Err(ChunkError::Base64Length(25_004))
        );
    }

    #[test]
    fn a_reply_that_contradicts_itself_is_refused() {
        let body = reply(0, b"four", VECTOR_MACS[0]);
        let text = String::from_utf8(body).expect("text");
        let cases = [
            (
                text.replace(r#""size":4"#, r#""size":5"#),
                ChunkError::Size { said: 5, found: 4 },
            ),
            (text.replace("979c", "979C"), ChunkError::MacForm),
            (text.replace("979c", ""), ChunkError::MacForm),
            (
                text.replace(r#""size":4"#, r#""size":-1"#),
                ChunkError::NotAChunk,
            ),
            (text.replace("==", "=?"), ChunkError::NotBase64),
            ("{}".to_owned(), ChunkError::NotAChunk),
            ("[]".to_owned(), ChunkError::NotAChunk),
        ];
        for (body, error) in cases {
            assert_eq!(parse_chunk(body.as_bytes()), Err(error), "{body}");
        }
    }

    #[test]
    fn no_manifest_is_no_offer() {
        for body in [&b"{}"[..], b"", b"[]", br#"{"fota":{}}"#, &[b' '; 4096]] {
            assert_eq!(parse_manifest(body), None);
        }
        let body = br#"{"fota":{"manifest":{"version":"1.0.6","size":1065968,"hash":"00",
            "chunk_size":16384,"uploaded_at":"2026-11-23T12:33:26.908185"}}}"#;
        let manifest = parse_manifest(body).expect("an offer");
        assert_eq!(
            (manifest.chunks(), manifest.version.as_str()),
            (66, "1.0.6")
        );
        let small = Manifest {
            chunk_size: 1024,
            ..manifest
        };
        assert_eq!(small.chunks(), 1041);
    }

    #[test]
    fn a_rollback_order_has_a_reason() {
        let order = br#"{"rollback_required":true,"reason":"Update failed"}"#;
        assert_eq!(parse_rollback(order).as_deref(), Some("Update failed"));
        assert_eq!(parse_rollback(br#"{"rollback_required":false}"#), None);
        assert_eq!(parse_rollback(b"<html>"), None);
    }
}
