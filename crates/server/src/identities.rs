//! What is kept in memory about who is who: credentials that were looked up, the challenge that
//! each device is to repeat, and when credentials were used.
//!
//! All of this can be lost at any moment. After a restart a device's next sealed check-in is
//! answered with a new challenge, and the one after that is taken: one round trip.
//!
//! A device has at most one challenge outstanding. It is used up by the check-in that repeats it,
//! and until then every other check-in of the device is told the same one: whoever sends old
//! check-ins again cannot push out the challenge that the device was given. Only devices with a
//! credential have one, so there are never more of them than rows in the database.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use fota_proto::{DeviceId, limits::CHALLENGE_BYTES};
use hmac::{Hmac, KeyInit, Mac};

use crate::{
    domain::identity::Known,
    random,
    store::{Store, StoreError},
};

/// Devices whose credentials are remembered; ids that nobody has heard of are among them.
const REMEMBERED_MAX: usize = 100_000;
/// How often the history tells that a revoked device has come, ms.
const REFUSAL_INTERVAL_MS: i64 = 60 * 60 * 1000;
/// Devices that one enrolment key may enrol in a minute: a factory line starts no more, and a
/// stolen key is noticed before it has done its worst.
const ENROLMENTS_PER_MINUTE_MAX: u32 = 600;
const MINUTE_MS: i64 = 60_000;
/// How long a challenge for an enrolment is good: this long, or twice as long.
const ENROLMENT_WINDOW_MS: i64 = 10 * MINUTE_MS;

/// A challenge, on the wire 8 bytes.
pub type Challenge = [u8; CHALLENGE_BYTES];

/// See the module.
#[derive(Default)]
pub struct Identities {
    remembered: Mutex<Remembered>,
    challenges: Mutex<HashMap<String, Challenge>>,
    used: Mutex<HashMap<i64, i64>>,
    refusals: Mutex<HashMap<String, i64>>,
    enrolments: Mutex<HashMap<i64, (i64, u32)>>,
    enrolment_secret: OnceLock<[u8; 32]>,
}

#[derive(Default)]
struct Remembered {
    /// Grows with every change, so that what was read before it is not remembered after it.
    changes: u64,
    /// The newest generation of the credentials that this node knows of.
    generation: i64,
    known: HashMap<String, Arc<Known>>,
}

/// Whether a sealed check-in is new, and what the next one is to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It is.
    Fresh(Challenge),
    /// It may be an old one, sent again.
    Stale(Challenge),
}

impl Identities {
    /// The credentials of a device.
    pub async fn known(&self, store: &Store, device: &DeviceId) -> Result<Arc<Known>, StoreError> {
        let device = device.as_str();
        let changes = {
            let remembered = lock(&self.remembered);
            if let Some(known) = remembered.known.get(device) {
                return Ok(Arc::clone(known));
            }
            remembered.changes
        };
        let credentials = store.read().await?.credentials_of(device).await?;
        let known = Arc::new(Known(credentials));
        let mut remembered = lock(&self.remembered);
        if remembered.changes == changes {
            if remembered.known.len() >= REMEMBERED_MAX {
                remembered.known.clear();
            }
            let known = Arc::clone(&known);
            remembered.known.insert(device.to_owned(), known);
        }
        Ok(known)
    }

    /// Takes note that credentials have changed here.
    pub fn changed<'d>(&self, devices: impl IntoIterator<Item = &'d str>) {
        let mut remembered = lock(&self.remembered);
        let mut challenges = lock(&self.challenges);
        remembered.changes += 1;
        for device in devices {
            remembered.known.remove(device);
            challenges.remove(device);
        }
    }

    /// Takes note of the generation of the credentials; forgets all where another node changed
    /// them.
    pub fn learn_generation(&self, generation: i64) {
        let mut remembered = lock(&self.remembered);
        if remembered.generation != generation {
            remembered.generation = generation;
            remembered.changes += 1;
            remembered.known.clear();
        }
    }

    /// Whether a check-in repeats the device's challenge, which is used up by that.
    pub fn present(&self, device: &DeviceId, repeated: Option<Challenge>) -> io::Result<Freshness> {
        let next: Challenge = random::bytes()?;
        let mut challenges = lock(&self.challenges);
        match challenges.get_mut(device.as_str()) {
            Some(outstanding) if repeated == Some(*outstanding) => {
                *outstanding = next;
                Ok(Freshness::Fresh(next))
            }
            Some(outstanding) => Ok(Freshness::Stale(*outstanding)),
            None => {
                challenges.insert(device.to_string(), next);
                Ok(Freshness::Stale(next))
            }
        }
    }

    /// Notes that a credential opened a check-in.
    pub fn used(&self, credential: i64, now: i64) {
        lock(&self.used).insert(credential, now);
    }

    /// Whether it is time to tell that a revoked device has come.
    pub fn tells_refusal(&self, device: &DeviceId, now: i64) -> bool {
        let mut refusals = lock(&self.refusals);
        let last = refusals.get(device.as_str());
        let is_due = last.is_none_or(|last| now - last >= REFUSAL_INTERVAL_MS);
        if is_due {
            refusals.insert(device.to_string(), now);
        }
        is_due
    }

    /// Counts an enrolment with a key; false where it has had enough in this minute.
    pub fn may_enrol(&self, enrolment_key: i64, now: i64) -> bool {
        let mut enrolments = lock(&self.enrolments);
        let (since, count) = enrolments.entry(enrolment_key).or_insert((now, 0));
        if now - *since >= MINUTE_MS {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= ENROLMENTS_PER_MINUTE_MAX
    }

    /// The challenge that a device is to repeat to enrol, and the one of the window before, which
    /// is good too. Nothing is kept for it: it is a MAC under a secret of this process over the
    /// device, the number of credentials it has had (so an enrolment uses it up) and the time.
    pub fn enrolment_challenges(
        &self,
        device: &DeviceId,
        credentials: usize,
        now: i64,
    ) -> io::Result<[Challenge; 2]> {
        let secret = match self.enrolment_secret.get() {
            Some(secret) => secret,
            None => {
                let fresh = random::bytes()?;
                self.enrolment_secret.get_or_init(|| fresh)
            }
        };
        let window = now.div_euclid(ENROLMENT_WINDOW_MS);
        Ok([window, window - 1].map(|window| {
            let mac = Hmac::<sha2::Sha256>::new_from_slice(secret)
                .expect("HMAC takes any length")
                .chain_update(window.to_be_bytes())
                .chain_update((credentials as u64).to_be_bytes())
                .chain_update(device.as_str())
                .finalize()
                .into_bytes();
            let mut challenge = [0; CHALLENGE_BYTES];
            challenge.copy_from_slice(&mac[..CHALLENGE_BYTES]);
            challenge
        }))
    }

    /// Writes when credentials were used.
    pub async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let used = std::mem::take(&mut *lock(&self.used));
        if used.is_empty() {
            return Ok(());
        }
        let written = write(store, &used).await;
        if written.is_err() {
            let mut waiting = lock(&self.used);
            for (credential, at) in used {
                waiting.entry(credential).or_insert(at);
            }
        }
        written
    }
}

async fn write(store: &Store, used: &HashMap<i64, i64>) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    for (credential, at) in used {
        tx.touch_credential(*credential, *at).await?;
    }
    tx.commit().await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks, and a map is whole between two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str) -> DeviceId {
        id.parse().expect("an id")
    }

    fn told(freshness: io::Result<Freshness>) -> Challenge {
        match freshness.expect("random") {
            Freshness::Fresh(challenge) | Freshness::Stale(challenge) => challenge,
        }
    }

    #[test]
    fn a_challenge_opens_once() {
        let (identities, device) = (Identities::default(), device("a"));
        let first = told(identities.present(&device, None));
        let fresh = identities.present(&device, Some(first)).expect("random");
        assert!(matches!(fresh, Freshness::Fresh(next) if next != first));
        let again = identities.present(&device, Some(first)).expect("random");
        assert!(matches!(again, Freshness::Stale(_)));
    }

    #[test]
    fn old_check_ins_do_not_push_out_the_challenge_of_the_device() {
        let (identities, device) = (Identities::default(), device("a"));
        let given = told(identities.present(&device, None));
        for old in [None, Some([0; 8]), Some([1; 8])] {
            let stale = identities.present(&device, old).expect("random");
            assert_eq!(stale, Freshness::Stale(given));
        }
        let fresh = identities.present(&device, Some(given)).expect("random");
        assert!(matches!(fresh, Freshness::Fresh(_)));
    }

    #[test]
    fn a_challenge_is_of_one_device() {
        let identities = Identities::default();
        let given = told(identities.present(&device("a"), None));
        let other = identities.present(&device("b"), Some(given));
        assert!(matches!(other.expect("random"), Freshness::Stale(_)));
    }

    #[test]
    fn an_enrolment_key_enrols_so_many_in_a_minute() {
        let identities = Identities::default();
        let enrolled = (0..2 * ENROLMENTS_PER_MINUTE_MAX)
            .filter(|_| identities.may_enrol(1, 0))
            .count();
        assert_eq!(enrolled as u32, ENROLMENTS_PER_MINUTE_MAX);
        assert!(identities.may_enrol(2, 0));
        assert!(identities.may_enrol(1, MINUTE_MS));
    }

    #[test]
    fn a_challenge_to_enrol_ends_with_time_and_with_use() {
        let (identities, device) = (Identities::default(), device("a"));
        let at = |credentials, now| {
            identities
                .enrolment_challenges(&device, credentials, now)
                .expect("random")
        };
        let [given, _] = at(0, 0);
        assert!(at(0, 2 * ENROLMENT_WINDOW_MS - 1).contains(&given));
        assert!(!at(0, 2 * ENROLMENT_WINDOW_MS).contains(&given));
        assert!(!at(1, 0).contains(&given));
    }
}
