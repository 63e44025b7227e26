//! Passwords: argon2id, made slow on purpose, so few at a time and in a bounded queue.

use std::{
    fmt,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use fota_proto::operators::Secret;
use tokio::sync::Semaphore;

use super::secret;

/// Shortest password, bytes: what NIST SP 800-63B-4 asks of one that is alone (15) is more than
/// people accept for a server in their own network; with the back-off, 12 cannot be guessed.
pub const PASSWORD_BYTES_MIN: usize = 12;
/// Longest password, bytes: a passphrase with room to spare.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Memory of one hash, KiB; with [`PASSES`] OWASP's recommendation of 2024.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const HASH_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// Hashes computed at the same time: one leaves the other cores to the devices, and still allows
/// tens of logins a second.
const HASHERS_MAX: usize = 1;
/// Hashes that may wait; more logins at a time than this are no people.
const WAITING_MAX: usize = 32;

/// Why there is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordError {
    /// Too many at the same time.
    Busy,
    /// The system has no memory or randomness to give.
    System,
}

impl fmt::Display for PasswordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "too many logins at the same time",
            Self::System => "the system has no memory or randomness for a password hash",
        })
    }
}

/// Computes hashes, a few at a time.
pub struct Hasher {
    turns: Semaphore,
    waiting: Semaphore,
    computed: AtomicU64,
}

impl Default for Hasher {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(HASHERS_MAX),
            waiting: Semaphore::new(WAITING_MAX),
            computed: AtomicU64::new(0),
        }
    }
}

impl Hasher {
    /// The hash of a new password, in PHC form.
    pub async fn hash(&self, password: &Secret) -> Result<String, PasswordError> {
        let password = password.clone();
        self.work(move || phc(&password).ok_or(PasswordError::System))
            .await?
    }

    /// Whether `password` has this hash. Without one the same work is done in vain, so that a
    /// name that nobody has takes as long as a wrong password.
    pub async fn is(&self, password: &Secret, stored: Option<&str>) -> Result<bool, PasswordError> {
        let (password, stored) = (password.clone(), stored.map(str::to_owned));
        self.work(move || matches(&password, stored.as_deref()))
            .await
    }

    /// Hashes computed since the start.
    pub fn computed(&self) -> u64 {
        self.computed.load(Ordering::Relaxed)
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _waiting = self
            .waiting
            .try_acquire()
            .map_err(|_| PasswordError::Busy)?;
        let _turn = self
            .turns
            .acquire()
            .await
            .map_err(|_| PasswordError::Busy)?;
        self.computed.fetch_add(1, Ordering::Relaxed);
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| PasswordError::System)
    }
}

fn argon2id(password: &[u8], salt: &[u8], cost: [u32; 3]) -> Option<[u8; HASH_BYTES]> {
    let [memory, passes, lanes] = cost;
    let params = Params::new(memory, passes, lanes, Some(HASH_BYTES)).ok()?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut hash = [0; HASH_BYTES];
    argon2.hash_password_into(password, salt, &mut hash).ok()?;
    Some(hash)
}

fn phc(password: &Secret) -> Option<String> {
    let random = secret::digest(&secret::random_hex().ok()?);
    let salt = &random.0[..SALT_BYTES];
    let cost = [MEMORY_KIB, PASSES, LANES];
    let hash = argon2id(password.reveal().as_bytes(), salt, cost)?;
    let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
    Some(format!(
        "$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${hash}"
    ))
}

/// The parts of a stored hash.
struct Parsed {
    cost: [u32; 3],
    salt: Vec<u8>,
    hash: Vec<u8>,
}

fn parse(phc: &str) -> Option<Parsed> {
    let rest = phc.strip_prefix("$argon2id$v=19$")?;
    let mut parts = rest.split('$');
    let (costs, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
    let mut cost = costs.split(',').zip(["m=", "t=", "p="]);
    let mut number = || cost.next().and_then(|(text, key)| text.strip_prefix(key));
    let cost = [
        number()?.parse().ok()?,
        number()?.parse().ok()?,
        number()?.parse().ok()?,
    ];
    Some(Parsed {
        cost,
        salt: STANDARD_NO_PAD.decode(salt).ok()?,
        hash: STANDARD_NO_PAD.decode(hash).ok()?,
    })
}

/// The hash of a password that nobody knows, made at the first login of this process.
static NOBODY: LazyLock<Option<String>> = LazyLock::new(|| {
    let password = secret::random_hex().ok()?;
    phc(&Secret::new(password))
});

fn matches(password: &Secret, stored: Option<&str>) -> bool {
    // Made in any case, so that the first login does not tell by its time whether a name exists.
    let nobody = NOBODY.as_deref();
    let is_somebody = stored.is_some();
    let Some(parsed) = stored.or(nobody).and_then(parse) else {
        return false;
    };
    let computed = argon2id(password.reveal().as_bytes(), &parsed.salt, parsed.cost);
    // Digests of digests: the time of comparing them tells nothing of either.
    let same = computed.is_some_and(|computed| {
        use sha2::{Digest, Sha256};
        Sha256::digest(computed) == Sha256::digest(&parsed.hash)
    });
    same && is_somebody
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_again_and_no_other_is() {
        let stored = phc(&Secret::new("correct horse battery")).expect("hashed");
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(matches(
            &Secret::new("correct horse battery"),
            Some(&stored)
        ));
        for wrong in ["", "correct horse batter", "Correct horse battery"] {
            assert!(!matches(&Secret::new(wrong), Some(&stored)), "{wrong}");
        }
        assert!(!matches(&Secret::new("correct horse battery"), None));
        let again = phc(&Secret::new("correct horse battery")).expect("hashed");
        assert_ne!(stored, again, "a salt of its own");
    }

    /// `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1`, the vector of the reference
    /// implementation.
    #[test]
    fn it_is_the_argon2id_of_the_reference_implementation() {
        let hash = argon2id(b"password", b"somesalt", [65_536, 2, 1]).expect("hashed");
        let expected = "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7";
        assert_eq!(fota_proto::Sha256(hash).to_string(), expected);
    }

    #[test]
    fn a_damaged_hash_lets_nobody_in() {
        for stored in [
            "",
            "$",
            "$argon2id$v=19$m=1",
            "$2b$x",
            "$argon2id$v=19$a$b$c",
        ] {
            assert!(!matches(&Secret::new(""), Some(stored)), "{stored}");
        }
    }
}
