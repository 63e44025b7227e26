//! Key files: PKCS#8 and SPKI, as PEM or DER, as every other tool reads and writes them.

use fota_proto::signed::{
    Alg, KeyId, PublicKey,
    sign::{Ed25519Key, P256Key, Signer},
};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use pkcs8::{
    AlgorithmIdentifierRef, DecodePrivateKey, DecodePublicKey, EncodePrivateKey,
    EncryptedPrivateKeyInfoRef, LineEnding, ObjectIdentifier, PrivateKeyInfoRef, SecretDocument,
    der::{Decode, asn1::OctetStringRef, pem},
    pkcs5::{pbes2, scrypt},
    spki::SubjectPublicKeyInfoRef,
};
use zeroize::Zeroizing;

const ED25519_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// What stands in front of the point in the SPKI of a P-256 key.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// What stands in front of the 32 bytes in the SPKI of an Ed25519 key.
const ED25519_SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// Cost of the passphrase: scrypt with N = 2^14, r = 8, p = 5, one of the settings that OWASP
/// recommends. A larger N would be more memory than `openssl` allows by default.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);
const SALT_BYTES: usize = 16;
const IV_BYTES: usize = 16;

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither PEM nor DER of anything that is taken.
    #[error("not a key: PKCS#8, SEC 1 or SPKI is needed, as PEM or DER")]
    Form,
    /// OpenSSL's own encryption from before PKCS#8.
    #[error("encrypted in a form that is no longer safe: convert it with `openssl pkcs8 -topk8`")]
    OldEncryption,
    /// Another algorithm or curve.
    #[error("a key of another kind: P-256 and Ed25519 are taken")]
    Kind,
    /// The passphrase does not open it.
    #[error("wrong passphrase, or an encryption that is not supported")]
    Passphrase,
    /// A number out of its range.
    #[error("the key is damaged")]
    Damaged,
}

/// A public key of its own, with the bytes that [`PublicKey`] borrows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    alg: Alg,
    bytes: Vec<u8>,
}

impl Public {
    /// A copy of `key`.
    pub fn of(key: PublicKey<'_>) -> Self {
        Self {
            alg: key.alg(),
            bytes: key.bytes().to_vec(),
        }
    }

    /// The key, for what borrows it.
    pub fn key(&self) -> PublicKey<'_> {
        PublicKey::new(self.alg, &self.bytes).expect("its length was checked when it was made")
    }

    /// Its short name.
    pub fn id(&self) -> KeyId {
        self.key().id()
    }

    /// Hex digits of the raw key: 130 for P-256, 64 for Ed25519.
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = bytes_of_hex(text.trim())?;
        let alg = match bytes.len() {
            65 => Alg::Esp256,
            32 => Alg::Ed25519,
            _ => return None,
        };
        Self::checked(alg, &bytes).ok()
    }

    /// The raw key in hex.
    pub fn to_hex(&self) -> String {
        hex(&self.bytes)
    }

    /// SPKI, as PEM or DER.
    pub fn read(file: &[u8]) -> Result<Self, KeyError> {
        match block(file)? {
            Some((label, der)) if label == "PUBLIC KEY" => Self::from_spki(&der),
            Some(_) => Err(KeyError::Form),
            None => Self::from_spki(file),
        }
    }

    /// SPKI as PEM.
    pub fn to_pem(&self) -> String {
        pem::encode_string("PUBLIC KEY", LineEnding::LF, &self.to_spki())
            .expect("a key is short and its label is plain")
    }

    /// SPKI as DER.
    pub fn to_spki(&self) -> Vec<u8> {
        match self.alg {
            Alg::Esp256 => [&P256_SPKI[..], &self.bytes].concat(),
            Alg::Ed25519 => [&ED25519_SPKI[..], &self.bytes].concat(),
        }
    }

    fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let spki = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| KeyError::Form)?;
        if spki.algorithm.oid == ED25519_OID {
            return Self::checked(Alg::Ed25519, spki.subject_public_key.raw_bytes());
        }
        // Any form of the point is taken; what is kept has one form.
        let key = p256::PublicKey::from_public_key_der(der).map_err(|_| KeyError::Kind)?;
        Self::checked(Alg::Esp256, key.to_sec1_point(false).as_bytes())
    }

    fn checked(alg: Alg, bytes: &[u8]) -> Result<Self, KeyError> {
        let on_curve = match alg {
            Alg::Esp256 => {
                bytes.first() == Some(&4) && p256::PublicKey::from_sec1_bytes(bytes).is_ok()
            }
            Alg::Ed25519 => true,
        };
        let key = PublicKey::new(alg, bytes).filter(|_| on_curve);
        key.map(Self::of).ok_or(KeyError::Damaged)
    }
}

/// A private key in memory; it is wiped when it goes.
#[derive(Clone)]
pub struct Secret {
    alg: Alg,
    bytes: Zeroizing<[u8; 32]>,
}

impl Secret {
    /// A key with this number; none where it is out of range, which happens once in 2^32 times.
    pub fn new(alg: Alg, bytes: [u8; 32]) -> Option<Self> {
        let secret = Self {
            alg,
            bytes: Zeroizing::new(bytes),
        };
        let valid = alg == Alg::Ed25519 || P256Key::new(&bytes).is_some();
        valid.then_some(secret)
    }

    /// What signs with it.
    pub fn signer(&self) -> Box<dyn Signer> {
        match self.alg {
            Alg::Esp256 => Box::new(P256Key::new(&self.bytes).expect("checked when it was made")),
            Alg::Ed25519 => Box::new(Ed25519Key::new(&self.bytes)),
        }
    }

    /// Its public key.
    pub fn public(&self) -> Public {
        Public::of(self.signer().public())
    }

    /// PKCS#8 as PEM, in the clear.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let pem = self.to_pkcs8().to_pem("PRIVATE KEY", LineEnding::LF);
        pem.expect("a key is short and its label is plain")
    }

    /// PKCS#8 as PEM, encrypted with PBES2: scrypt and AES-256-CBC. `random` is salt and IV.
    pub fn to_encrypted_pem(&self, passphrase: &str, random: &[u8; 32]) -> Zeroizing<String> {
        let (log_n, r, p) = SCRYPT;
        let (salt, iv) = random.split_at(SALT_BYTES);
        let iv: [u8; IV_BYTES] = iv.try_into().expect("16 of 32 bytes are left");
        let plain = self.to_pkcs8();
        let info = PrivateKeyInfoRef::try_from(plain.as_bytes()).expect("just encoded");
        let cost = scrypt::Params::new(log_n, r, p).expect("constants in range");
        let locked = pbes2::Parameters::generate_scrypt_aes256cbc(cost, salt, iv)
            .map_err(pkcs8::Error::from)
            .and_then(|parameters| info.encrypt_with_params(parameters, passphrase))
            .expect("parameters and lengths are constants");
        let pem = locked.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF);
        pem.expect("a key is short and its label is plain")
    }

    fn to_pkcs8(&self) -> SecretDocument {
        match self.alg {
            Alg::Esp256 => p256::SecretKey::from_slice(&*self.bytes)
                .ok()
                .and_then(|key| key.to_pkcs8_der().ok())
                .expect("checked when it was made"),
            Alg::Ed25519 => {
                // Version 1, without the public key: OpenSSL 3.0 reads no other.
                let mut octets = Zeroizing::new([0; 34]);
                octets[..2].copy_from_slice(&[0x04, 0x20]);
                octets[2..].copy_from_slice(&*self.bytes);
                let algorithm = AlgorithmIdentifierRef {
                    oid: ED25519_OID,
                    parameters: None,
                };
                let octets = OctetStringRef::new(&*octets).expect("34 bytes");
                SecretDocument::try_from(PrivateKeyInfoRef::new(algorithm, octets))
                    .expect("a short document")
            }
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let info = PrivateKeyInfoRef::try_from(der).map_err(|_| KeyError::Form)?;
        if info.algorithm.oid == ED25519_OID {
            let octets = info.private_key.as_bytes();
            let seed = octets.strip_prefix(&[0x04, 0x20]);
            let seed = seed.and_then(|seed| seed.try_into().ok());
            return Self::new(Alg::Ed25519, seed.ok_or(KeyError::Damaged)?)
                .ok_or(KeyError::Damaged);
        }
        let key = p256::SecretKey::from_pkcs8_der(der).map_err(|_| KeyError::Kind)?;
        Self::new(Alg::Esp256, key.to_bytes().into()).ok_or(KeyError::Damaged)
    }

    fn from_sec1(der: &[u8]) -> Result<Self, KeyError> {
        let key = p256::SecretKey::from_sec1_der(der).map_err(|_| KeyError::Kind)?;
        Self::new(Alg::Esp256, key.to_bytes().into()).ok_or(KeyError::Damaged)
    }
}

/// A private key as it lies in a file.
pub enum KeyFile {
    /// In the clear.
    Open(Secret),
    /// Encrypted PKCS#8, DER.
    Locked(Vec<u8>),
}

impl KeyFile {
    /// PKCS#8 (plain or encrypted) or SEC 1, as PEM or DER.
    pub fn read(file: &[u8]) -> Result<Self, KeyError> {
        let Some((label, der)) = block(file)? else {
            if EncryptedPrivateKeyInfoRef::try_from(file).is_ok() {
                return Ok(Self::Locked(file.to_vec()));
            }
            let secret = match Secret::from_pkcs8(file) {
                Err(KeyError::Form) => Secret::from_sec1(file).map_err(|_| KeyError::Form),
                other => other,
            };
            return secret.map(Self::Open);
        };
        match label.as_str() {
            "PRIVATE KEY" => Secret::from_pkcs8(&der).map(Self::Open),
            "EC PRIVATE KEY" => Secret::from_sec1(&der).map(Self::Open),
            "ENCRYPTED PRIVATE KEY" => Ok(Self::Locked(der.to_vec())),
            _ => Err(KeyError::Form),
        }
    }

    /// Whether a passphrase is needed.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Locked(_))
    }

    /// The key; `passphrase` counts only where it is locked.
    pub fn unlock(&self, passphrase: &str) -> Result<Secret, KeyError> {
        match self {
            Self::Open(secret) => Ok(secret.clone()),
            Self::Locked(der) => {
                let locked = EncryptedPrivateKeyInfoRef::try_from(&der[..]);
                let locked = locked.map_err(|_| KeyError::Form)?;
                let open = locked.decrypt(passphrase);
                Secret::from_pkcs8(open.map_err(|_| KeyError::Passphrase)?.as_bytes())
            }
        }
    }
}

/// A label and what stands under it, DER.
type Block = (String, Zeroizing<Vec<u8>>);

/// The first PEM block that is a key, with its label; none where there is no PEM at all.
fn block(file: &[u8]) -> Result<Option<Block>, KeyError> {
    let Ok(text) = std::str::from_utf8(file) else {
        return Ok(None);
    };
    let mut rest = text;
    while let Some(start) = rest.find("-----BEGIN ") {
        rest = &rest[start..];
        let label = rest["-----BEGIN ".len()..].split_once("-----");
        let label = label.ok_or(KeyError::Form)?.0;
        let end = format!("-----END {label}-----");
        let bytes = rest.find(&end).ok_or(KeyError::Form)? + end.len();
        let (this, behind) = rest.split_at(bytes);
        if this.contains("ENCRYPTED") && this.contains("Proc-Type:") {
            return Err(KeyError::OldEncryption);
        }
        // `openssl ecparam -genkey` writes the name of the curve in front.
        if label != "EC PARAMETERS" {
            let (label, der) = pem::decode_vec(this.as_bytes()).map_err(|_| KeyError::Form)?;
            return Ok(Some((label.to_owned(), Zeroizing::new(der))));
        }
        rest = behind;
    }
    Ok(None)
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> [Secret; 2] {
        [Alg::Esp256, Alg::Ed25519].map(|alg| Secret::new(alg, [7; 32]).expect("in range"))
    }

    #[test]
    fn a_private_key_comes_back_as_it_was_written() {
        for secret in secrets() {
            let open = KeyFile::read(secret.to_pem().as_bytes()).expect("a key");
            assert!(!open.is_locked());
            assert_eq!(open.unlock("").expect("open").bytes, secret.bytes);
            let locked = secret.to_encrypted_pem("correct horse", &[3; 32]);
            let locked = KeyFile::read(locked.as_bytes()).expect("a key");
            assert!(locked.is_locked());
            assert_eq!(
                locked.unlock("correct horse").expect("open").bytes,
                secret.bytes
            );
            let wrong = locked.unlock("wrong horse").map(|_| ());
            assert_eq!(wrong, Err(KeyError::Passphrase));
        }
    }

    #[test]
    fn a_public_key_comes_back_as_it_was_written() {
        for secret in secrets() {
            let public = secret.public();
            assert_eq!(Public::read(public.to_pem().as_bytes()), Ok(public.clone()));
            assert_eq!(Public::read(&public.to_spki()), Ok(public.clone()));
            assert_eq!(Public::from_hex(&public.to_hex()), Some(public.clone()));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in [
            &b""[..],
            b"hello",
            &[0x30, 0x82],
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            b"-----BEGIN X",
        ] {
            assert!(KeyFile::read(bad).is_err());
            assert!(Public::read(bad).is_err());
        }
        for bad in ["", "04", "zz", &"04".repeat(65), &"00".repeat(33)] {
            assert_eq!(Public::from_hex(bad), None, "{bad}");
        }
        let label = "EC PRIVATE KEY";
        let old = format!(
            "-----BEGIN {label}-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END {label}-----\n"
        );
        let old = KeyFile::read(old.as_bytes()).map(|_| ());
        assert_eq!(old, Err(KeyError::OldEncryption));
    }
}
