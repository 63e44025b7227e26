//! Everything that a server is made of, as one file: its rows, its artifacts and its keys.
//!
//! The file is a tar. First `fota-backup.json`, which says what wrote it; then `keys/…`, the files
//! with secrets of the data directory; `rows/TABLE/N.jsonl`, the rows of each table, tables behind
//! those that they refer to; `blobs/SHA256`; and last `end.json`, with the SHA-256 over all bytes
//! before it. Rows are of no engine, so what SQLite held may go to PostgreSQL and back.
//!
//! The rows are those of one moment: one read transaction sees them all. Artifacts are immutable
//! and stored before a row names them, so those that are there afterwards are enough.
//!
//! `make` streams it and never holds more than one artifact. `check` reads a file as a whole
//! before anything is believed; `restore` then fills an empty server.

mod make;
mod read;
mod restore;

use std::{io, path::PathBuf};

use fota_proto::limits::IMAGE_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::{blobs::BlobError, store::StoreError};

pub(crate) use make::make;
pub use read::check;
pub use restore::{UNFINISHED_FILE, restore};

/// The layout described above.
const FORMAT: u32 = 1;
const ABOUT: &str = "fota-backup.json";
const END: &str = "end.json";
/// The tar's unit: a header is one, and what an entry holds is filled up to whole ones.
const BLOCK: usize = 512;
/// `end.json` with its header, and the two empty blocks that end a tar.
const TAIL_BYTES: u64 = 4 * BLOCK as u64;
/// A part with rows is cut when it is longer than this.
const PART_BYTES: usize = 1024 * 1024;
/// Longest entry: an image, or a part that was cut behind a long row.
const ENTRY_BYTES_MAX: u64 = IMAGE_BYTES_MAX + 1024 * 1024;
/// Files of the data directory that hold secrets, or what others know the server by. The operator
/// token and the online key are among them: without that key, devices would not believe the
/// restored server.
const KEY_FILES: [&str; 7] = [
    "operator-token",
    "online-key.pem",
    "tls-cert.pem",
    "tls-key.pem",
    "acme-account.json",
    "acme-cert.pem",
    "acme-key.pem",
];

/// What wrote a backup, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub format: u32,
    /// Version of the program.
    pub server: String,
    /// The schema that the rows are of.
    pub schema: i64,
    /// Milliseconds since the Unix epoch.
    pub made_at: i64,
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    #[serde(flatten)]
    pub about: About,
    pub rows: u64,
    pub blobs: u64,
    pub keys: u64,
    pub bytes: u64,
}

/// The last entry.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct End {
    sha256: String,
}

/// Why there is no backup, or no server out of one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It is something else, or of a later program.
    #[error("{path} is no backup that this program knows: {reason}")]
    Unknown { path: PathBuf, reason: String },
    /// It was cut off or changed.
    #[error("{path} is damaged: {reason}: nothing was changed; take another backup")]
    Damaged { path: PathBuf, reason: String },
    /// There is a server already.
    #[error("{place} is not empty ({found}): restore into an empty one")]
    NotEmpty { place: String, found: String },
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Whoever asked for it is gone.
    #[error("nobody reads the backup any more")]
    Left,
}

/// The header of an entry. Its time and owner are always the same, so that the tail of a file can
/// be told from any other.
fn header(name: &str, bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    // Our names are shorter than the 100 bytes that fit.
    let set = header.set_path(name);
    debug_assert!(set.is_ok(), "{name} fits");
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    header
}

/// `end.json` as it ends a file: with its header, filled up to a block, and the end of the tar.
fn tail(sha256: String) -> Vec<u8> {
    let mut bytes = header(END, BLOCK as u64).as_bytes().to_vec();
    let end = serde_json::to_string(&End { sha256 }).unwrap_or_default();
    bytes.extend(end.bytes());
    bytes.resize(2 * BLOCK, b' ');
    bytes.resize(4 * BLOCK, 0);
    bytes
}
