//! The operator's key folder: `NAME.pem` holds a private key (PKCS#8, as a rule encrypted),
//! `NAME.pub.pem` its public key, `root-N.cose` the roots made here.
//!
//! Nothing in here talks to a server. A folder has mode 0700 and a private key 0600; one that
//! others may read is refused, as the credentials file is.

pub mod external;
mod passphrase;
mod pem;
#[cfg(feature = "pkcs11")]
pub mod token;

use std::{
    fs,
    path::{Path, PathBuf},
};

use fota_proto::signed::{Alg, KeyId};
use zeroize::Zeroizing;

pub use passphrase::Passphrases;
pub use pem::{KeyFile, Public, Secret, hex};

use crate::{
    config, credentials,
    failure::{Failure, Result},
};

/// Longest name of a key, so that no hex key can be taken for one.
const NAME_CHARS_MAX: usize = 48;
/// Largest key file that is read, bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024;
const PRIVATE: &str = ".pem";
const PUBLIC: &str = ".pub.pem";

/// A folder of keys; it is made when something is first put in.
pub struct Keys {
    dir: PathBuf,
}

/// One key of the folder.
pub struct Entry {
    pub name: String,
    pub public: Public,
    /// How its private key is kept.
    pub private: Private,
}

/// How a private key is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Private {
    /// Encrypted with a passphrase.
    Locked,
    /// In the clear.
    Open,
    /// Not here: on a token, or on another machine.
    Elsewhere,
}

impl Private {
    /// For people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Locked => "passphrase",
            Self::Open => "unprotected",
            Self::Elsewhere => "not here",
        }
    }
}

/// For people and programs.
pub fn alg_name(alg: Alg) -> &'static str {
    match alg {
        Alg::Esp256 => "p256",
        Alg::Ed25519 => "ed25519",
    }
}

impl Keys {
    /// The folder that `--keys` names, or `FOTA_KEYS`, or the user's own.
    pub fn open(named: Option<&Path>) -> Result<Self> {
        let dir = named
            .map(Path::to_owned)
            .or_else(|| config::env("FOTA_KEYS").map(PathBuf::from))
            .or_else(|| config::user_dir().map(|dir| dir.join("keys")));
        let dir = dir.ok_or_else(|| {
            Failure::error("no home folder for the keys").hint("add --keys DIR, or set FOTA_KEYS")
        })?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every key, by name.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut names: Vec<String> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|file| file.strip_suffix(PUBLIC).map(str::to_owned))
            .collect();
        names.sort();
        names.iter().map(|name| self.entry(name)).collect()
    }

    /// The key of this name.
    pub fn entry(&self, name: &str) -> Result<Entry> {
        check_name(name)?;
        let path = self.path(name, PUBLIC);
        if !path.is_file() {
            return Err(self.no_such_key(name));
        }
        let public = Public::read(&read(&path)?).map_err(|error| damaged(&path, error))?;
        let private = self.path(name, PRIVATE);
        let private = match private.is_file() {
            false => Private::Elsewhere,
            true => match self.file(name)?.is_locked() {
                true => Private::Locked,
                false => Private::Open,
            },
        };
        Ok(Entry {
            name: name.to_owned(),
            public,
            private,
        })
    }

    /// The private key of this name, as it lies there.
    pub fn file(&self, name: &str) -> Result<KeyFile> {
        check_name(name)?;
        let path = self.path(name, PRIVATE);
        if !path.is_file() {
            return Err(match self.path(name, PUBLIC).is_file() {
                true => Failure::not_found(format!("the private key of {name} is not here"))
                    .hint("sign where it is, or add --signer-command CMD --public FILE"),
                false => self.no_such_key(name),
            });
        }
        credentials::refuse_if_others_may_read(&path)?;
        KeyFile::read(&read(&path)?).map_err(|error| damaged(&path, error))
    }

    /// The private key of this name as PEM, as locked as it lies there.
    pub fn pem(&self, name: &str) -> Result<Zeroizing<String>> {
        self.file(name)?;
        let path = self.path(name, PRIVATE);
        let pem = String::from_utf8(read(&path)?);
        pem.map(Zeroizing::new)
            .map_err(|_| damaged(&path, pem::KeyError::Form))
    }

    /// A public key by name, by file, or by its hex digits.
    pub fn public(&self, reference: &str) -> Result<Public> {
        if let Some(public) = Public::from_hex(reference) {
            return Ok(public);
        }
        let path = Path::new(reference);
        if path.is_file() {
            return Public::read(&read(path)?).map_err(|error| damaged(path, error));
        }
        if path.components().count() > 1 || reference.ends_with(PRIVATE) {
            return Err(Failure::not_found(format!("{reference}: no such file")));
        }
        self.entry(reference).map(|entry| entry.public)
    }

    /// What a key is called here; its id where it has no name.
    pub fn name_of(&self, id: KeyId) -> String {
        let entries = self.list().unwrap_or_default();
        let found = entries.into_iter().find(|entry| entry.public.id() == id);
        found.map_or_else(|| id.to_string(), |entry| format!("{} ({id})", entry.name))
    }

    /// Adds a private key; a passphrase locks it.
    pub fn add(&self, name: &str, secret: &Secret, passphrase: Option<&str>) -> Result<Entry> {
        self.refuse_existing(name)?;
        let pem = match passphrase {
            Some(passphrase) => secret.to_encrypted_pem(passphrase, &random()?),
            None => secret.to_pem(),
        };
        self.make()?;
        let path = self.path(name, PRIVATE);
        credentials::write_private(&path, &pem).map_err(|error| io(&path, &error))?;
        self.add_public(name, &secret.public())
    }

    /// Adds a key whose private part is elsewhere.
    pub fn add_public(&self, name: &str, public: &Public) -> Result<Entry> {
        check_name(name)?;
        self.make()?;
        let path = self.path(name, PUBLIC);
        credentials::write_private(&path, public.to_pem()).map_err(|error| io(&path, &error))?;
        self.entry(name)
    }

    /// Fails where there is a key of this name already.
    pub fn refuse_existing(&self, name: &str) -> Result {
        check_name(name)?;
        for suffix in [PRIVATE, PUBLIC] {
            let path = self.path(name, suffix);
            if path.exists() {
                let message = format!("there is a key {name} already ({})", path.display());
                return Err(Failure::refused("exists", message)
                    .hint("take another name; a key is never written over"));
            }
        }
        Ok(())
    }

    /// The newest root that is kept here.
    pub fn newest_root(&self) -> Option<PathBuf> {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let version = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            let digits = name.strip_prefix("root-")?.strip_suffix(".cose")?;
            digits.parse::<u32>().ok()
        };
        let roots = files.filter_map(|file| Some((version(&file.path())?, file.path())));
        roots.max().map(|(_, path)| path)
    }

    /// Makes the folder, for its owner alone.
    pub fn make(&self) -> Result {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let made = builder.create(&self.dir);
        made.map_err(|error| io(&self.dir, &error))
    }

    fn path(&self, name: &str, suffix: &str) -> PathBuf {
        self.dir.join(format!("{name}{suffix}"))
    }

    fn no_such_key(&self, name: &str) -> Failure {
        let dir = self.dir.display();
        Failure::not_found(format!("there is no key {name} in {dir}"))
            .hint("`fota key list` shows them; `fota key generate NAME` makes one")
    }
}

/// A new private key.
pub fn generate(alg: Alg) -> Result<Secret> {
    loop {
        if let Some(secret) = Secret::new(alg, random()?) {
            return Ok(secret);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "keys, salts and IVs: the one place of the binary that takes random numbers"
)]
fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| Failure::error(format!("no random numbers: {error}")))?;
    Ok(bytes)
}

fn check_name(name: &str) -> Result {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let valid = (1..=NAME_CHARS_MAX).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with(['.', '-'])
        && !name.ends_with(".pub");
    match valid {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{name:?} is no name of a key: 1 to {NAME_CHARS_MAX} of A-Z a-z 0-9 . _ - are needed, \
             not starting with . or -"
        ))),
    }
}

/// Reads a key or a root.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let size = fs::metadata(path).map_err(|error| io(path, &error))?.len();
    if size > FILE_BYTES_MAX {
        let path = path.display();
        let message = format!("{path} has {size} bytes; at most {FILE_BYTES_MAX} are read");
        return Err(Failure::refused("too_long", message));
    }
    fs::read(path).map_err(|error| io(path, &error))
}

fn damaged(path: &Path, error: pem::KeyError) -> Failure {
    Failure::refused("key_invalid", format!("{}: {error}", path.display()))
}

/// What went wrong with a file.
pub fn io(path: &Path, error: &std::io::Error) -> Failure {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(message),
        _ => Failure::error(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn keys() -> (tempfile::TempDir, Keys) {
        let dir = tempfile::tempdir().expect("a folder");
        let keys = Keys::open(Some(&dir.path().join("keys"))).expect("named");
        (dir, keys)
    }

    #[test]
    fn a_key_is_never_written_over_and_has_no_strange_name() {
        let (_dir, keys) = keys();
        let secret = generate(Alg::Esp256).expect("random");
        keys.add("lab", &secret, None).expect("new");
        let again = keys.add("lab", &secret, None).map(|_| ());
        assert_eq!(again.expect_err("refused").exit, Exit::Refused);
        let long = "a".repeat(49);
        for bad in ["", ".x", "-x", "a/b", "..", "a b", "é", "x.pub", &long] {
            let refused = keys.add(bad, &secret, None).map(|_| ());
            assert_eq!(refused.expect_err(bad).exit, Exit::Usage, "{bad}");
        }
        assert_eq!(keys.list().expect("readable").len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read_keys() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, keys) = keys();
        let secret = generate(Alg::Esp256).expect("random");
        keys.add("lab", &secret, None).expect("new");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let file = keys.path("lab", PRIVATE);
        assert_eq!((mode(keys.dir()), mode(&file)), (0o700, 0o600));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("set");
        assert_eq!(
            keys.file("lab").map(|_| ()).expect_err("open").exit,
            Exit::Login
        );
    }
}
