//! The root of trust: which keys count, and for what.

use core::fmt;

use minicbor::{Decode, Encode};

use super::{SignedError, canonical, envelope::Envelope, key::PublicKey, release::Release};
use crate::{
    limits::{KEYS_MAX, PROJECT_BYTES_MAX},
    list::List,
};

/// What the payload of a root begins with; another kind is another object.
const KIND: u8 = 0x10;
const WHAT: &str = "root";

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// The next root.
    Root,
    /// Releases.
    Release,
    /// Answers to devices: only picks among what release keys have signed.
    Online,
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Release => "release",
            Self::Online => "online",
        })
    }
}

/// The keys of a role, and how many of them must sign.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Role {
    /// Distinct keys that must sign, at least 1.
    #[n(0)]
    pub threshold: u8,
    /// Indexes into [`Root::keys`], rising.
    #[n(1)]
    pub keys: List<u8, KEYS_MAX>,
}

/// A root. Version N + 1 needs the thresholds of the root keys of both N and N + 1.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Root<'a> {
    #[n(0)]
    kind: u8,
    /// 1 for the first, then one more each time.
    #[n(1)]
    pub version: u32,
    /// Every key of any role.
    #[b(2)]
    pub keys: List<PublicKey<'a>, KEYS_MAX>,
    /// Who may sign the next root.
    #[n(3)]
    pub root: Role,
    /// Who may sign releases.
    #[n(4)]
    pub release: Role,
    /// Who may sign answers; its threshold is 1.
    #[n(5)]
    pub online: Role,
    /// Unix time in seconds after which a party with a clock no longer uses it.
    #[n(6)]
    pub expires: Option<u64>,
    /// The one product it is for; absent: all.
    #[b(7)]
    pub product: Option<&'a str>,
}

impl<'a> Root<'a> {
    /// A root to sign; [`SignedError::Field`] where it contradicts itself.
    pub fn new(
        version: u32,
        keys: List<PublicKey<'a>, KEYS_MAX>,
        [root, release, online]: [Role; 3],
    ) -> Result<Self, SignedError> {
        let root = Self {
            kind: KIND,
            version,
            keys,
            root,
            release,
            online,
            expires: None,
            product: None,
        };
        root.check()?;
        Ok(root)
    }

    /// The root that firmware is built with: it is trusted because it is there, but it must carry
    /// its own signatures, so that a damaged one is found.
    pub fn first(bytes: &'a [u8]) -> Result<Self, SignedError> {
        let envelope = Envelope::parse(bytes)?;
        let root = Self::parse(envelope.payload)?;
        root.require(RoleName::Root, &envelope)?;
        Ok(root)
    }

    /// The root that follows this one directly, signed by the thresholds of both.
    pub fn succeed<'n>(&self, bytes: &'n [u8]) -> Result<Root<'n>, SignedError> {
        let envelope = Envelope::parse(bytes)?;
        // Before any of its content is looked at: the old keys speak.
        self.require(RoleName::Root, &envelope)?;
        let next = Root::parse(envelope.payload)?;
        if next.version.checked_sub(1) != Some(self.version) {
            return Err(SignedError::RootVersion {
                trusted: self.version,
                found: next.version,
            });
        }
        next.require(RoleName::Root, &envelope)?;
        Ok(next)
    }

    /// A release that a threshold of the release keys has signed.
    pub fn release<'r>(&self, bytes: &'r [u8]) -> Result<Release<'r>, SignedError> {
        let envelope = Envelope::parse(bytes)?;
        self.require(RoleName::Release, &envelope)?;
        Release::parse(envelope.payload)
    }

    /// The payload of an answer that an online key has signed.
    pub fn answer<'r>(&self, bytes: &'r [u8]) -> Result<&'r [u8], SignedError> {
        let envelope = Envelope::parse(bytes)?;
        self.require(RoleName::Online, &envelope)?;
        Ok(envelope.payload)
    }

    /// Reads a payload whose signatures are not checked here.
    pub fn parse(payload: &'a [u8]) -> Result<Self, SignedError> {
        let root: Self = canonical::decode(WHAT, payload)?;
        root.check()?;
        Ok(root)
    }

    /// The keys and threshold of a role.
    pub fn role(&self, name: RoleName) -> &Role {
        match name {
            RoleName::Root => &self.root,
            RoleName::Release => &self.release,
            RoleName::Online => &self.online,
        }
    }

    /// The keys that have a role.
    pub fn keys_of(&self, name: RoleName) -> impl Iterator<Item = &PublicKey<'a>> {
        let indexes = self.role(name).keys.iter();
        indexes.filter_map(|index| self.keys.get(usize::from(*index)))
    }

    /// Whether enough distinct keys of the role have signed. Work is bounded by the number of
    /// signatures an envelope can hold: each is checked against one key at most.
    pub fn require(&self, name: RoleName, envelope: &Envelope<'_>) -> Result<(), SignedError> {
        let threshold = self.role(name).threshold;
        let mut found = 0;
        for key in self.keys_of(name) {
            if found == threshold {
                break;
            }
            found += u8::from(envelope.is_signed_by(key));
        }
        match found == threshold {
            true => Ok(()),
            false => Err(SignedError::Threshold {
                role: name,
                found,
                threshold,
            }),
        }
    }

    fn check(&self) -> Result<(), SignedError> {
        let wrong = |field| SignedError::Field { what: WHAT, field };
        if self.kind != KIND {
            return Err(SignedError::Payload { what: WHAT });
        }
        if self.version == 0 {
            return Err(wrong("version"));
        }
        let distinct = (1..self.keys.len()).all(|index| {
            self.keys[..index]
                .iter()
                .all(|key| *key != self.keys[index])
        });
        if !distinct {
            return Err(wrong("keys"));
        }
        for (name, field) in [
            (RoleName::Root, "root role"),
            (RoleName::Release, "release role"),
            (RoleName::Online, "online role"),
        ] {
            let role = self.role(name);
            let rises = role.keys.windows(2).all(|pair| pair[0] < pair[1]);
            let exists = |index: &u8| usize::from(*index) < self.keys.len();
            let enough = (1..=role.keys.len()).contains(&usize::from(role.threshold));
            if !rises || !role.keys.iter().all(exists) || !enough {
                return Err(wrong(field));
            }
        }
        if self.online.threshold != 1 {
            return Err(wrong("online role"));
        }
        let product = self.product.unwrap_or("x");
        match (1..=PROJECT_BYTES_MAX).contains(&product.len()) {
            true => Ok(()),
            false => Err(wrong("product")),
        }
    }
}
