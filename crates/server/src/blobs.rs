//! Artifacts: immutable bytes under the name of their SHA-256.
//!
//! A blob is written to a temporary name, synced, renamed into place and its directory synced
//! before [`Blobs::put`] returns, so what was acknowledged survives a power cut and a half-written
//! one has no name that anybody asks for. Images are at most 16 MiB and a fleet asks for the same
//! few, so reading goes through a small cache of whole blobs, each checked against its name when
//! it is loaded: a damaged file is an error, never a download.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use fota_proto::Sha256;
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as Key};
use sha2::Digest;

use crate::domain::hex;

/// Bytes of blobs kept in memory: four images of the largest size.
const CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store below gave an error.
    #[error("{0}")]
    Store(#[from] object_store::Error),
    /// The stored bytes are not those that were put in.
    #[error("blob {0} is damaged: its bytes have another SHA-256; restore it from a backup")]
    Damaged(Sha256),
}

/// Bytes and their MD5 in hex, which Arduino's updater asks for. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Blob {
    pub bytes: Bytes,
    pub md5: Arc<str>,
}

/// The artifact store.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    cache: Arc<Mutex<Cache>>,
}

impl Blobs {
    /// Opens the folder, makes it where there is none, and removes what an interrupted write left.
    pub fn open_folder(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        remove_leftovers(folder)?;
        let store = LocalFileSystem::new_with_prefix(folder)
            .map_err(io::Error::other)?
            .with_fsync(true);
        Ok(Self {
            store: Arc::new(store),
            cache: Arc::default(),
        })
    }

    /// Stores bytes whose digest is `sha256`; storing them again changes nothing.
    pub async fn put(&self, sha256: Sha256, bytes: Bytes) -> Result<(), BlobError> {
        self.store.put(&key(sha256), bytes.into()).await?;
        Ok(())
    }

    /// A blob; none where there is none.
    pub async fn find(&self, sha256: Sha256) -> Result<Option<Blob>, BlobError> {
        if let Some(blob) = self.cache().find(sha256) {
            return Ok(Some(blob));
        }
        let found = match self.store.get(&key(sha256)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            other => other?.bytes().await?,
        };
        let hashing = tokio::task::spawn_blocking(move || (digest(&found), md5(&found), found));
        let Ok((actual, md5, bytes)) = hashing.await else {
            return Err(BlobError::Damaged(sha256));
        };
        if actual != sha256 {
            return Err(BlobError::Damaged(sha256));
        }
        let blob = Blob { bytes, md5 };
        self.cache().keep(sha256, blob.clone());
        Ok(Some(blob))
    }

    /// The names of all blobs.
    pub async fn list(&self) -> Result<Vec<Sha256>, BlobError> {
        let found = self.store.list(None).map_ok(|blob| {
            let name = blob.location.filename().unwrap_or("");
            name.parse::<Sha256>().ok()
        });
        let names: Vec<Option<Sha256>> = found.try_collect().await?;
        Ok(names.into_iter().flatten().collect())
    }

    /// A blob's bytes past the cache, for whoever reads all of them once; none where there is none.
    pub async fn read(&self, sha256: Sha256) -> Result<Option<Bytes>, BlobError> {
        let bytes = match self.store.get(&key(sha256)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            other => other?.bytes().await?,
        };
        let hashed = bytes.clone();
        let hashing = tokio::task::spawn_blocking(move || digest(&hashed));
        match hashing.await {
            Ok(actual) if actual == sha256 => Ok(Some(bytes)),
            _ => Err(BlobError::Damaged(sha256)),
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SHA-256 of `bytes`.
pub fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

fn md5(bytes: &[u8]) -> Arc<str> {
    hex::encode(&md5::Md5::digest(bytes)).into()
}

/// Two hex digits of folder keep any folder small.
fn key(sha256: Sha256) -> Key {
    let hex = sha256.to_string();
    Key::from(format!("{}/{hex}", &hex[..2]))
}

/// Blobs in memory, the last used at the end.
#[derive(Default)]
struct Cache {
    blobs: Vec<(Sha256, Blob)>,
}

impl Cache {
    fn find(&mut self, sha256: Sha256) -> Option<Blob> {
        let index = self.blobs.iter().position(|(name, _)| *name == sha256)?;
        let entry = self.blobs.remove(index);
        let blob = entry.1.clone();
        self.blobs.push(entry);
        Some(blob)
    }

    fn keep(&mut self, sha256: Sha256, blob: Blob) {
        if self.find(sha256).is_some() {
            return;
        }
        self.blobs.push((sha256, blob));
        while self.bytes() > CACHE_BYTES_MAX {
            self.blobs.remove(0);
        }
    }

    fn bytes(&self) -> usize {
        self.blobs.iter().map(|(_, blob)| blob.bytes.len()).sum()
    }
}

/// A finished blob is 64 hex digits in a folder of two; whatever else is there was being written
/// when the server was killed.
fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            for file in fs::read_dir(&path)? {
                remove_unless_blob(&file?.path())?;
            }
        } else {
            remove_unless_blob(&path)?;
        }
    }
    Ok(())
}

fn remove_unless_blob(path: &PathBuf) -> io::Result<()> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("");
    if name.parse::<Sha256>().is_ok() {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), "removing what an interrupted upload left");
    fs::remove_file(path)
}
