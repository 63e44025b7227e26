//! A certificate that the server signs itself, for a start without any authority.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::TlsError;
use crate::private_file;

const CERT_FILE: &str = "tls-cert.pem";
const KEY_FILE: &str = "tls-key.pem";

/// The pair in the data directory; makes one at the first start. It stays when the names change,
/// because devices may trust just this certificate: whoever wants another removes the two files.
pub(super) fn load_or_make(data: &Path, names: &[String]) -> Result<(PathBuf, PathBuf), TlsError> {
    let (cert, key) = (data.join(CERT_FILE), data.join(KEY_FILE));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let made = make(names).map_err(|error| TlsError::unusable(&cert, &error))?;
    write_private(&key, made.1.as_bytes())?;
    write_private(&cert, made.0.as_bytes())?;
    Ok((cert, key))
}

/// Certificate and key as PEM. It is valid for all times that a device may believe it to be:
/// whoever trusts it has been given it by hand, and a device may have no clock.
fn make(names: &[String]) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "fota self-signed");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Writes a file that only its owner may read, whole or not at all.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    private_file::write(path, bytes).map_err(|error| TlsError::io(path, error))
}
