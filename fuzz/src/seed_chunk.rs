//! What a device of the seed's API reads: the chunk reply, the manifest, the rollback flag.

// The file itself and not the crate: the simulator would bring a server into every fuzz build.
#[path = "../../crates/sim/src/seed_device/wire.rs"]
#[allow(dead_code)]
mod wire;

use wire::{CHUNK_BYTES_MAX, Psk, parse_chunk, parse_manifest, parse_rollback};

/// The body of a reply. A chunk that is taken for proven is the one that was asked for, within
/// the device's buffers.
pub fn seed_chunk(data: &[u8]) {
    if let Some(manifest) = parse_manifest(data) {
        assert!(manifest.chunks() >= 1);
    }
    let _ = parse_rollback(data);
    let Ok(chunk) = parse_chunk(data) else {
        return;
    };
    let psk = Psk(std::array::from_fn(|index| index as u8));
    if let Ok(bytes) = chunk.proven(0, &psk) {
        assert!(!bytes.is_empty() && bytes.len() <= CHUNK_BYTES_MAX);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let chunk = r#"{"chunk_number":0,"data":"6Qc=","mac":"MAC","size":2}"#;
    let manifest = r#"{"fota":{"manifest":{"version":"1.0.6","size":40000,"hash":"00",
        "chunk_size":16384,"uploaded_at":"2026-11-23T12:33:26.908185"}}}"#;
    let rollback = r#"{"rollback_required":true,"reason":"Update failed"}"#;
    let texts = [
        chunk.replace("MAC", &"0".repeat(64)),
        manifest.into(),
        rollback.into(),
    ];
    texts.map(String::into_bytes).to_vec()
}
