//! Who may speak for a device.
//!
//! | check-in | no credential stored | an active one | only revoked ones |
//! |---|---|---|---|
//! | plain | taken; refused where sealing is required | refused | refused |
//! | sealed with an active credential | – | taken | – |
//! | sealed with a revoked credential | – | refused as revoked | refused as revoked |
//! | sealed with anything else | refused | refused | refused |
//!
//! Only who holds a revoked credential is told that it is revoked; all other refusals are the same.

use std::fmt;

use fota_proto::{
    DeviceId,
    limits::DEVICE_SECRET_BYTES,
    manager::{CredentialKind, CredentialSource, CredentialState, EnrolmentKeyState},
    signed::{Alg, Credential, PublicKey, Sealed, open_seal},
};

use super::hex;

/// Length of a P-256 public key: 0x04, X, Y.
pub const PUBLIC_KEY_BYTES: usize = 65;
/// Active credentials of one device: the one in use, the next one, and two mistakes. Each may
/// have to be tried at a check-in.
pub const CREDENTIALS_MAX: usize = 4;

/// Which check-ins are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceAuth {
    /// All of them; seals are not looked at.
    Off,
    /// Sealed ones of devices that have a credential, plain ones of the others.
    #[default]
    Optional,
    /// Sealed ones.
    Required,
}

/// What a credential verifies with.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// A P-256 public key.
    Key([u8; PUBLIC_KEY_BYTES]),
    /// A shared secret: needed in plain, because only it verifies a MAC.
    Secret([u8; DEVICE_SECRET_BYTES]),
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(_) => f.write_str("Key(…)"),
            Self::Secret(_) => f.write_str("Secret(…)"),
        }
    }
}

impl Material {
    /// A key from 130 hex digits; none where it is no point of P-256.
    pub fn key_from_hex(text: &str) -> Option<Self> {
        let bytes = hex::decode(text)?;
        let is_usable = PublicKey::new(Alg::Esp256, &bytes).is_some_and(|key| key.is_usable());
        is_usable.then_some(Self::Key(bytes))
    }

    /// Key or secret.
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::Key(_) => CredentialKind::Key,
            Self::Secret(_) => CredentialKind::Secret,
        }
    }

    fn opens(&self, sealed: &Sealed<'_>) -> bool {
        let credential = match self {
            Self::Secret(secret) => Credential::Secret(secret),
            Self::Key(bytes) => match PublicKey::new(Alg::Esp256, bytes) {
                Some(key) => Credential::Key(key),
                None => return false,
            },
        };
        open_seal(sealed, credential).is_ok()
    }
}

/// A credential as stored.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: i64,
    pub device: String,
    pub material: Material,
    pub state: CredentialState,
    pub source: CredentialSource,
    pub enrolment_key: Option<String>,
    pub created_at: i64,
    pub revoked_at: Option<i64>,
    pub last_used: Option<i64>,
}

/// All credentials that a device has or had.
#[derive(Clone, Debug, Default)]
pub struct Known(pub Vec<Stored>);

impl Known {
    /// Whether it has none and never had one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn active(&self) -> impl Iterator<Item = &Stored> {
        let is_active = |stored: &&Stored| stored.state == CredentialState::Active;
        self.0.iter().filter(is_active)
    }

    /// Whose seal it is.
    pub fn seal(&self, sealed: &Sealed<'_>) -> Seal {
        let opens = |stored: &&Stored| stored.material.opens(sealed);
        if let Some(stored) = self.active().find(opens) {
            return Seal::Active(stored.id);
        }
        match self.0.iter().any(|stored| opens(&stored)) {
            true => Seal::Revoked,
            false => Seal::Unknown,
        }
    }
}

/// The seal of a check-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// None.
    Plain,
    /// Of this active credential of the device.
    Active(i64),
    /// Of a credential that it had.
    Revoked,
    /// Of nothing that is stored for it.
    Unknown,
}

/// Why a check-in is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// It may be of anybody.
    NotProven,
    /// It is of the device, or of whoever has its credential, which was revoked.
    Revoked,
}

/// Whether a check-in with this seal is taken.
pub fn judge(policy: DeviceAuth, known: &Known, seal: Seal) -> Result<(), Untrusted> {
    match (policy, seal) {
        (DeviceAuth::Off, _) | (_, Seal::Active(_)) => Ok(()),
        (_, Seal::Revoked) => Err(Untrusted::Revoked),
        (DeviceAuth::Optional, Seal::Plain) if known.is_empty() => Ok(()),
        (_, Seal::Plain | Seal::Unknown) => Err(Untrusted::NotProven),
    }
}

/// Whether the seed's API, which cannot prove anything, may speak for a device.
pub fn judge_legacy(policy: DeviceAuth, known: &Known, is_allowed: bool) -> Result<(), Untrusted> {
    match policy {
        DeviceAuth::Off => Ok(()),
        DeviceAuth::Optional if known.is_empty() => Ok(()),
        DeviceAuth::Required if known.is_empty() && is_allowed => Ok(()),
        _ => Err(Untrusted::NotProven),
    }
}

/// An enrolment key as stored.
#[derive(Clone, Debug)]
pub struct EnrolmentKey {
    pub id: i64,
    pub name: String,
    /// Its name on the wire, in hex.
    pub key_id: String,
    pub devices_max: u32,
    pub devices: u32,
    pub expires_at: i64,
    pub group: Option<String>,
    pub id_prefix: Option<String>,
    pub is_revoked: bool,
    pub created_at: i64,
}

impl EnrolmentKey {
    pub fn state(&self, now: i64) -> EnrolmentKeyState {
        match self {
            key if key.is_revoked => EnrolmentKeyState::Revoked,
            key if key.expires_at <= now => EnrolmentKeyState::Expired,
            key if key.devices >= key.devices_max => EnrolmentKeyState::Full,
            _ => EnrolmentKeyState::Active,
        }
    }
}

/// What an enrolment comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The key is new for this device; these credentials end with it.
    New { replaces: Vec<i64> },
    /// The device has this key already: its last answer was lost.
    Already,
}

/// Why a device may not enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// The enrolment key does not enrol.
    Key(EnrolmentKeyState),
    /// Its devices have other ids.
    Prefix(String),
    /// The device has, or had, another credential.
    Taken,
}

/// Whether a device may enrol `public_key` with an enrolment key that it has proven to hold.
/// `re_enrol_until` is set where an operator has allowed this device another key.
pub fn admit(
    key: &EnrolmentKey,
    device: &DeviceId,
    public_key: &[u8],
    known: &Known,
    re_enrol_until: Option<i64>,
    now: i64,
) -> Result<Admission, NotAdmitted> {
    let is_same = |stored: &Stored| matches!(&stored.material, Material::Key(bytes) if bytes[..] == *public_key);
    if key.is_revoked {
        return Err(NotAdmitted::Key(EnrolmentKeyState::Revoked));
    }
    if known.active().any(is_same) {
        return Ok(Admission::Already);
    }
    match key.state(now) {
        EnrolmentKeyState::Active => {}
        state => return Err(NotAdmitted::Key(state)),
    }
    if let Some(prefix) = &key.id_prefix
        && !device.as_str().starts_with(prefix.as_str())
    {
        return Err(NotAdmitted::Prefix(prefix.clone()));
    }
    let is_allowed = re_enrol_until.is_some_and(|until| now < until);
    // A key that was revoked does not come back, even where another one may come.
    if known.0.iter().any(is_same) || !(known.is_empty() || is_allowed) {
        return Err(NotAdmitted::Taken);
    }
    let replaces = known.active().map(|stored| stored.id).collect();
    Ok(Admission::New { replaces })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: i64, state: CredentialState) -> Stored {
        Stored {
            id,
            device: "a".to_owned(),
            material: Material::Key([id as u8; PUBLIC_KEY_BYTES]),
            state,
            source: CredentialSource::Operator,
            enrolment_key: None,
            created_at: 0,
            revoked_at: None,
            last_used: None,
        }
    }

    fn key() -> EnrolmentKey {
        EnrolmentKey {
            id: 1,
            name: "hall".to_owned(),
            key_id: String::new(),
            devices_max: 2,
            devices: 1,
            expires_at: 100,
            group: None,
            id_prefix: None,
            is_revoked: false,
            created_at: 0,
        }
    }

    #[test]
    fn the_table_above_holds_under_each_policy() {
        let none = Known::default();
        let one = Known(vec![stored(1, CredentialState::Active)]);
        let old = Known(vec![stored(1, CredentialState::Revoked)]);
        let (taken, refused) = (Ok(()), Err(Untrusted::NotProven));
        let revoked = Err(Untrusted::Revoked);
        let cases = [
            (&none, Seal::Plain, taken, refused),
            (&none, Seal::Unknown, refused, refused),
            (&one, Seal::Plain, refused, refused),
            (&one, Seal::Active(1), taken, taken),
            (&one, Seal::Revoked, revoked, revoked),
            (&one, Seal::Unknown, refused, refused),
            (&old, Seal::Plain, refused, refused),
            (&old, Seal::Revoked, revoked, revoked),
            (&old, Seal::Unknown, refused, refused),
        ];
        for (known, seal, optional, required) in cases {
            let what = format!("{seal:?} of {known:?}");
            assert_eq!(judge(DeviceAuth::Optional, known, seal), optional, "{what}");
            assert_eq!(judge(DeviceAuth::Required, known, seal), required, "{what}");
            assert_eq!(judge(DeviceAuth::Off, known, seal), taken, "{what}");
        }
    }

    #[test]
    fn the_seeds_api_speaks_for_nobody_who_has_or_had_a_credential() {
        let one = Known(vec![stored(1, CredentialState::Active)]);
        let old = Known(vec![stored(1, CredentialState::Revoked)]);
        for known in [&one, &old] {
            for policy in [DeviceAuth::Optional, DeviceAuth::Required] {
                assert!(judge_legacy(policy, known, true).is_err(), "{policy:?}");
            }
        }
        let none = Known::default();
        assert!(judge_legacy(DeviceAuth::Optional, &none, false).is_ok());
        assert!(judge_legacy(DeviceAuth::Required, &none, false).is_err());
        assert!(judge_legacy(DeviceAuth::Required, &none, true).is_ok());
    }

    #[test]
    fn an_enrolment_key_has_its_limits() {
        let device: DeviceId = "ESP32-001".parse().expect("an id");
        let none = Known::default();
        let admit =
            |key: &EnrolmentKey, now| admit(key, &device, &[9; PUBLIC_KEY_BYTES], &none, None, now);
        assert_eq!(admit(&key(), 99), Ok(Admission::New { replaces: vec![] }));
        let expired = Err(NotAdmitted::Key(EnrolmentKeyState::Expired));
        assert_eq!(admit(&key(), 100), expired);
        let full = EnrolmentKey {
            devices: 2,
            ..key()
        };
        let refused = Err(NotAdmitted::Key(EnrolmentKeyState::Full));
        assert_eq!(admit(&full, 0), refused);
        let id_prefix = Some("LAB-".to_owned());
        let lab = EnrolmentKey { id_prefix, ..key() };
        assert_eq!(admit(&lab, 0), Err(NotAdmitted::Prefix("LAB-".to_owned())));
    }

    #[test]
    fn a_device_gets_another_key_only_where_an_operator_allows_it() {
        let device: DeviceId = "a".parse().expect("an id");
        let admit = |number: u8, known: &Known, until| {
            let public_key = [number; PUBLIC_KEY_BYTES];
            admit(&key(), &device, &public_key, known, until, 50)
        };
        let one = Known(vec![stored(1, CredentialState::Active)]);
        assert_eq!(admit(1, &one, None), Ok(Admission::Already));
        assert_eq!(admit(2, &one, None), Err(NotAdmitted::Taken));
        assert_eq!(
            admit(2, &one, Some(50)),
            Err(NotAdmitted::Taken),
            "too late"
        );
        let new = Ok(Admission::New { replaces: vec![1] });
        assert_eq!(admit(2, &one, Some(51)), new);
        let old = Known(vec![stored(1, CredentialState::Revoked)]);
        assert_eq!(admit(2, &old, None), Err(NotAdmitted::Taken));
        assert_eq!(admit(1, &old, Some(51)), Err(NotAdmitted::Taken));
        assert_eq!(
            admit(2, &old, Some(51)),
            Ok(Admission::New { replaces: vec![] })
        );
    }
}
