//! Every limit that both sides of a connection must agree on, with its reason.

/// Largest check-in request or answer, bytes: fits one TCP segment and a device's stack.
pub const CHECK_IN_BYTES_MAX: usize = 1024;
/// Longest device id, bytes: a MAC, a UUID or a hostname fits.
pub const DEVICE_ID_BYTES_MAX: usize = 64;
/// Longest version string, bytes: the field of `esp_app_desc_t`.
pub const VERSION_BYTES_MAX: usize = 32;
/// Longest project name, bytes: the field of `esp_app_desc_t`.
pub const PROJECT_BYTES_MAX: usize = 32;
/// Longest reason or detail text on the device wire, bytes.
pub const REASON_BYTES_MAX: usize = 96;
/// Application slots a device may report; ESP-IDF allows 16, real tables have two or three.
pub const SLOTS_MAX: usize = 4;
/// Prefix proofs in one check-in (see [`crate::checkin::Held`]).
pub const HELD_MAX: usize = 8;
/// Bytes of the truncated SHA-256 in a prefix proof. It only finds a place to resume from; what
/// is installed is proven by the whole SHA-256.
pub const HELD_DIGEST_BYTES: usize = 8;
/// First bytes of an image that a device leaves erased until the whole image is proven, so that
/// no bootloader can take the slot for an image before that. One flash-encryption block.
pub const HEAD_BYTES: usize = 16;
/// Bytes hashed together, erased together and re-downloaded at most after a cut: one flash sector.
pub const CHUNK_BYTES: u32 = 4096;
/// Largest image, bytes: what the ESP32 bootloader can map (`ESP_IMAGE_MAX_FLASH_ADDR_SIZE`).
pub const IMAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Largest chunk of the seed's API, bytes: its device decodes at most 25,000 base64 characters.
pub const SEED_CHUNK_BYTES_MAX: u32 = 18_750;
/// Chunk size of the seed's API where the uploader names none, bytes.
pub const SEED_CHUNK_BYTES_DEFAULT: u32 = 16_384;
/// Longest free text an operator may attach (notes, reason), bytes.
pub const NOTES_BYTES_MAX: usize = 4096;
/// Longest group name, bytes.
pub const GROUP_NAME_BYTES_MAX: usize = 64;
/// Targets that may be named in one request; larger sets are groups.
pub const TARGETS_MAX: usize = 10_000;
/// Largest root, release or signed answer with its envelope, bytes.
pub const OBJECT_BYTES_MAX: usize = 1024;
/// Largest check-in with the device's seal around it, bytes.
pub const SEALED_BYTES_MAX: usize = CHECK_IN_BYTES_MAX + 112;
/// Signatures of one object: those of two thresholds at a change of root, and a spare. Each costs
/// a device some 60 ms.
pub const SIGNATURES_MAX: usize = 6;
/// Keys that one root can name; eight and six signatures fit an object.
pub const KEYS_MAX: usize = 8;
/// Patches that a release key can vouch for; others are proven by the index alone.
pub const SIGNED_DELTAS_MAX: usize = 2;
/// Largest patch, bytes, that a device fetches again after a power cut; it keeps a larger one
/// behind the image, and is offered none where the slot has no room for both.
pub const PATCH_REFETCHED_BYTES_MAX: u32 = 32 * 1024;
/// Longest address of an advisory in a release, bytes.
pub const ADVISORY_BYTES_MAX: usize = 96;
/// Length of the secret that a device may share with its server, bytes.
pub const DEVICE_SECRET_BYTES: usize = 32;
/// Length of a challenge, bytes.
pub const CHALLENGE_BYTES: usize = 8;
/// Length of the short name of an enrolment key, bytes.
pub const ENROLMENT_KEY_ID_BYTES: usize = 8;
/// Hashes in a proof of the release log: enough for 2^26 releases, and the proof fits an object.
pub const LOG_PROOF_HASHES_MAX: usize = 28;
/// Attributes in one check-in: a time zone, and three of the application.
pub const ATTRIBUTES_MAX: usize = 4;
/// Names and values of all attributes of a check-in together, bytes: the longest IANA time zone in
/// common use, `America/Argentina/Buenos_Aires`, with room for three short ones.
pub const ATTRIBUTES_TEXT_BYTES_MAX: usize = 64;
/// Metrics in one check-in.
pub const METRICS_MAX: usize = 6;
/// Names of all metrics of a check-in together, bytes: six of four letters.
pub const METRICS_NAME_BYTES_MAX: usize = 24;
