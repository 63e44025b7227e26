//! Reading and judging the PEM files.

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
};

use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

/// A chain of certificates with its key is a few kilobytes; a file beyond this is another one.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read or written.
    #[error("{path}: {error}: check the path and who may read it")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It holds something else.
    #[error("{path} holds no {wanted}: give a PEM file with one")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
    },
    /// What it holds is of no use.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificate and key do not belong together.
    #[error("the key in {key} does not belong to the first certificate in {cert}: {reason}")]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library said.
        reason: String,
    },
}

impl TlsError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error,
        }
    }

    pub(super) fn unusable(path: &Path, reason: &dyn Display) -> Self {
        Self::Unusable {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn is_not_found_at(&self, file: &Path) -> bool {
        matches!(self, Self::Io { path, error }
            if path == file && error.kind() == io::ErrorKind::NotFound)
    }
}

/// The files as read.
pub(super) struct Files<'p> {
    cert: (&'p Path, Vec<u8>),
    key: (&'p Path, Vec<u8>),
    client_ca: Option<(&'p Path, Vec<u8>)>,
}

impl<'p> Files<'p> {
    pub fn read(
        cert: &'p Path,
        key: &'p Path,
        client_ca: Option<&'p Path>,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            cert: (cert, read(cert)?),
            key: (key, read(key)?),
            client_ca: match client_ca {
                Some(path) => Some((path, read(path)?)),
                None => None,
            },
        })
    }

    /// Tells whether anything has changed; file times can stand still, contents cannot.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let all = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        for (_, bytes) in all.into_iter().flatten() {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        hasher.finalize().into()
    }

    pub fn parse(&self) -> Result<(CertifiedKey, Option<RootCertStore>), TlsError> {
        let (cert_path, bytes) = &self.cert;
        let chain = certificates(cert_path, bytes)?;
        let (key_path, bytes) = &self.key;
        let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| TlsError::Missing {
            path: (*key_path).to_owned(),
            wanted: "private key",
        })?;
        let provider = rustls::crypto::ring::default_provider();
        let pair = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InvalidCertificate(_) => TlsError::unusable(cert_path, &error),
            rustls::Error::InconsistentKeys(_) => TlsError::Pair {
                cert: (*cert_path).to_owned(),
                key: (*key_path).to_owned(),
                reason: error.to_string(),
            },
            _ => TlsError::unusable(key_path, &error),
        })?;
        let roots = match &self.client_ca {
            Some((path, bytes)) => Some(roots(path, bytes)?),
            None => None,
        };
        Ok((pair, roots))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let io = |error| TlsError::io(path, error);
    let bytes = fs::metadata(path).map_err(io)?.len();
    if bytes > FILE_BYTES_MAX {
        let reason = format!("has {bytes} bytes; at most {FILE_BYTES_MAX} are read");
        return Err(TlsError::unusable(path, &reason));
    }
    fs::read(path).map_err(io)
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let all = all.map_err(|error| TlsError::unusable(path, &error))?;
    match all.is_empty() {
        false => Ok(all),
        true => Err(TlsError::Missing {
            path: path.to_owned(),
            wanted: "certificate",
        }),
    }
}

fn roots(path: &Path, bytes: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, bytes)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::unusable(path, &error))?;
    }
    Ok(roots)
}
