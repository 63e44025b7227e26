//! The server as a pure function: one standing order, one check-in in, one answer out.
//!
//! Enough to drive the device crate without a network or a database. It keeps no state at all: an
//! order is a level that follows from what the device says of itself.

use std::{io, sync::Arc};

use fota_delta::{Options, Profile};
use fota_image::app;
use fota_proto::{
    Sha256,
    checkin::{
        self, Action, Answer, CheckIn, Conditions, Held, Install, LogHead, Order, Patch, Rollback,
        Running,
    },
    limits::{CHECK_IN_BYTES_MAX, HEAD_BYTES},
};
use sha2::Digest;

use crate::signing::{Maker, SignedRelease};

/// Seconds between check-ins.
const RETRY_AFTER_S: u32 = 30;

/// An image as the server stores it.
#[derive(Clone, Debug)]
pub struct Artifact {
    bytes: Arc<[u8]>,
    /// SHA-256 of all of it.
    pub sha256: Sha256,
    /// `app_elf_sha256`, zeros where it has no description.
    pub elf: Sha256,
    /// Version in its description.
    pub version: String,
    /// The release that was signed for it, if one was.
    pub signed: Option<SignedRelease>,
    /// The patch that is offered to devices that apply them, if one is.
    pub patch: Option<Arc<Offer>>,
}

/// A patch that is offered.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What the order says.
    pub patch: Patch,
    /// What is behind that name.
    pub bytes: Arc<[u8]>,
}

impl Offer {
    /// Any bytes under their name and with their length.
    pub fn new(bytes: Vec<u8>) -> Self {
        let patch = Patch {
            sha256: Sha256(sha2::Sha256::digest(&bytes).into()),
            bytes: bytes.len() as u32,
        };
        let bytes = bytes.into();
        Self { patch, bytes }
    }
}

impl Artifact {
    /// Takes any bytes, valid or not.
    pub fn new(bytes: Vec<u8>) -> Self {
        let desc = app::check_bytes(&bytes).ok().and_then(|image| image.desc);
        Self {
            sha256: Sha256(sha2::Sha256::digest(&bytes).into()),
            elf: Sha256(desc.map_or([0; 32], |desc| desc.app_elf_sha256)),
            version: desc.map_or_else(String::new, |desc| desc.version.as_str().to_string()),
            bytes: bytes.into(),
            signed: None,
            patch: None,
        }
    }

    /// The same with a patch that makes it out of `old`, or out of nothing.
    pub fn patched(self, old: Option<&[u8]>, profile: Profile) -> Self {
        let patch = fota_delta::encode(old, &self.bytes, &Options { profile });
        let patch = patch.expect("images of a simulation are short enough");
        self.offering(patch)
    }

    /// The same with any patch.
    pub fn offering(self, patch: Vec<u8>) -> Self {
        let patch = Some(Arc::new(Offer::new(patch)));
        Self { patch, ..self }
    }

    /// The same as a release of this maker.
    pub fn signed(self, maker: &Maker, sequence: u32, epoch: u32) -> io::Result<Self> {
        let signed = Some(maker.release(&self.bytes, sequence, epoch)?);
        Ok(Self { signed, ..self })
    }

    /// The blob with this name: the image, its signed release, its artifact or its patch.
    pub fn blob(&self, name: &Sha256) -> Option<&[u8]> {
        let signed = self.signed.as_ref();
        let all = [
            Some((self.sha256, &self.bytes[..])),
            signed.map(|signed| (signed.digest, &signed.release[..])),
            signed.map(|signed| (signed.artifact_digest, &signed.artifact[..])),
            self.patch
                .as_ref()
                .map(|offer| (offer.patch.sha256, &offer.bytes[..])),
        ];
        let named = all.into_iter().flatten().find(|(digest, _)| digest == name);
        named.map(|(_, bytes)| bytes)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The longest of these claims that is true of this image.
    pub fn longest_held(&self, held: &[Held]) -> u32 {
        let is_true = |held: &&Held| {
            let prefix = self.bytes.get(HEAD_BYTES..held.bytes as usize);
            prefix.is_some_and(|prefix| sha2::Sha256::digest(prefix).starts_with(&held.digest))
        };
        let lengths = held.iter().filter(is_true).map(|held| held.bytes);
        lengths.max().unwrap_or(0)
    }
}

/// What stands.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Nothing.
    Nothing,
    /// Until the device runs this image, confirmed.
    Install(Artifact),
    /// Until the device runs another image than this.
    Leave(Sha256),
    /// The order is withdrawn.
    Cancel,
}

/// A server with one device and one order.
#[derive(Clone, Debug)]
pub struct ScriptedServer {
    /// Number of the order.
    pub order: u64,
    /// The order.
    pub ask: Ask,
    /// Deadline of its trial.
    pub trial_deadline_s: u32,
    /// Who signs, for devices that trust only them.
    pub maker: Option<Maker>,
    /// The head of its release log, where it keeps one.
    pub log: Option<LogHead>,
    /// Whether an image is to be downloaded and not installed yet.
    pub hold: bool,
    /// What must hold on the device before it installs.
    pub conditions: Option<Conditions>,
}

impl ScriptedServer {
    /// A server with an order.
    pub fn new(order: u64, ask: Ask) -> Self {
        Self {
            order,
            ask,
            trial_deadline_s: 300,
            maker: None,
            log: None,
            hold: false,
            conditions: None,
        }
    }

    /// The same server with this maker's online key.
    pub fn signing(self, maker: &Maker) -> Self {
        let maker = Some(maker.clone());
        Self { maker, ..self }
    }

    /// The answer to a check-in. An outcome is acknowledged at once, and ends the order.
    pub fn answer(&self, check_in: &CheckIn) -> Vec<u8> {
        let outcome = check_in.outcome.as_ref().map(|outcome| outcome.order);
        let stands = outcome != Some(self.order);
        let answer = Answer {
            acknowledged: outcome,
            order: self
                .action(check_in)
                .filter(|_| stands)
                .map(|action| Order {
                    id: self.order,
                    action,
                }),
            ..Answer::nothing(check_in.nonce, RETRY_AFTER_S)
        };
        self.seal(&answer, check_in)
    }

    /// Signs the answer where the device asks for that.
    pub fn seal(&self, answer: &Answer, check_in: &CheckIn) -> Vec<u8> {
        let root = self.maker.as_ref().map(|maker| maker.roots().len() as u32);
        let answer = Answer {
            device: check_in.root.map(|_| check_in.device),
            root,
            log: self.log,
            ..answer.clone()
        };
        let mut buffer = [0; CHECK_IN_BYTES_MAX];
        let encoded = checkin::encode(&answer, &mut buffer);
        let encoded = encoded.expect("an answer fits the limit");
        match (&self.maker, check_in.root) {
            (Some(maker), Some(_)) => maker.answer(encoded).expect("an answer fits the limit"),
            _ => encoded.to_vec(),
        }
    }

    fn action(&self, check_in: &CheckIn) -> Option<Action<'_>> {
        match &self.ask {
            Ask::Nothing => None,
            Ask::Install(artifact) => {
                let is_done = check_in.running_elf == artifact.elf
                    && check_in.confirmed == Running::Confirmed;
                (!is_done).then(|| Action::Install(self.install(artifact, check_in)))
            }
            Ask::Leave(elf) => {
                (check_in.running_elf == *elf).then_some(Action::Rollback(Rollback {
                    leave: *elf,
                    reason: "",
                }))
            }
            Ask::Cancel => Some(Action::Cancel),
        }
    }

    fn install<'a>(&self, artifact: &'a Artifact, check_in: &CheckIn) -> Install<'a> {
        let mut head = [0; HEAD_BYTES];
        let known = artifact.bytes.len().min(HEAD_BYTES);
        head[..known].copy_from_slice(&artifact.bytes[..known]);
        Install {
            image: artifact.sha256,
            bytes: artifact.bytes.len() as u32,
            head,
            elf: artifact.elf,
            version: &artifact.version,
            resume_from: artifact.longest_held(&check_in.held),
            trial_deadline_s: self.trial_deadline_s,
            release: artifact.signed.as_ref().map(|signed| signed.digest),
            patch: check_in
                .patches
                .and(artifact.patch.as_ref())
                .map(|offer| offer.patch),
            hold: self.hold.then_some(true),
            conditions: self.conditions,
            artifact: artifact
                .signed
                .as_ref()
                .map(|signed| signed.artifact_digest),
        }
    }
}
