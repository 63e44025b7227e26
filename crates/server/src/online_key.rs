//! The server's own key, which signs answers to devices. Whoever steals it can pick among what the
//! release keys have signed, and no more.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fota_proto::signed::{
    Form, PublicKey,
    sign::{P256Key, Signer, sign},
};
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};

use crate::{domain::hex, private_file, random};

/// File in the data directory.
const FILE: &str = "online-key.pem";

/// A P-256 key in memory.
pub struct OnlineKey {
    key: P256Key,
}

impl OnlineKey {
    /// The key in `file`; without one that of the data directory, made at the first start.
    pub fn load_or_make(data: &Path, file: Option<&Path>) -> Result<Self, (PathBuf, io::Error)> {
        let path = file.map_or_else(|| data.join(FILE), Path::to_owned);
        let loaded = load(&path);
        let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let key = match loaded {
            // A file that was named is never made: a wrong name must not start a new key.
            Err(error) if file.is_none() && is_missing(&error) => make(&path),
            other => other,
        };
        key.map(|key| Self { key }).map_err(|error| (path, error))
    }

    /// The key that a root names in its online role.
    pub fn public(&self) -> PublicKey<'_> {
        self.key.public()
    }

    /// Its 65 bytes in hex.
    pub fn public_hex(&self) -> String {
        hex::encode(self.public().bytes())
    }

    /// The payload as a COSE_Sign1 of this key.
    pub fn sign(&self, payload: &[u8]) -> io::Result<Vec<u8>> {
        sign(Form::Sign1, payload, &[&self.key])
    }
}

fn load(path: &Path) -> io::Result<P256Key> {
    let text = fs::read_to_string(path)?;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let error = format!("others may read it (mode {mode:03o}): chmod 600 it");
        return Err(io::Error::other(error));
    }
    // The parser's own message is dropped: it could tell of the key.
    let secret = p256::SecretKey::from_pkcs8_pem(&text)
        .map_err(|_| io::Error::other("is no P-256 key in PKCS#8 PEM: restore it from a backup"))?;
    key_of(&secret)
}

fn make(path: &Path) -> io::Result<P256Key> {
    let secret = random_key()?;
    let pem = secret.to_pkcs8_pem(LineEnding::LF);
    let pem = pem.map_err(|error| io::Error::other(error.to_string()))?;
    private_file::write(path, pem.as_bytes())?;
    key_of(&secret)
}

fn key_of(secret: &p256::SecretKey) -> io::Result<P256Key> {
    let key = P256Key::new(&secret.to_bytes().into());
    key.ok_or_else(|| io::Error::other("is no P-256 key: restore it from a backup"))
}

fn random_key() -> io::Result<p256::SecretKey> {
    let bytes: [u8; 32] = random::bytes()?;
    // One number in 2^32 is none of the group: the next start draws another.
    p256::SecretKey::from_slice(&bytes)
        .map_err(|_| io::Error::other("no key was drawn: start again"))
}
