//! What a device is to live through, and what must hold at every moment of it.

use std::sync::Arc;

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_device::Updater;
use fota_proto::{
    FailureCode, Sha256,
    checkin::{CheckIn, Running},
    limits::PATCH_REFETCHED_BYTES_MAX,
};

use crate::{
    boot::Boot,
    scripted::{Artifact, Ask, ScriptedServer},
};

/// What happens, one order after the other.
#[derive(Clone, Debug)]
pub struct Life {
    /// The orders.
    pub steps: Vec<Step>,
    /// Digest and ELF digest of every image that may ever run; the first one from the start.
    pub authentic: Vec<[Sha256; 2]>,
}

/// An order, and what ends it.
#[derive(Clone, Debug)]
pub struct Step {
    /// In a word.
    pub name: &'static str,
    /// The server while the order stands.
    pub server: ScriptedServer,
    /// What the server has to see.
    pub goal: Goal,
}

/// What the server has to see of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// It runs this image, confirmed.
    Runs(Sha256),
    /// It runs another image than this one.
    Left(Sha256),
    /// It reports that the order has failed with this code.
    Reports(FailureCode),
    /// It follows this root.
    Follows(u32),
}

/// A promise that did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An image that nobody made can boot.
    #[error("{place} is bootable and not authentic")]
    NotAuthentic {
        /// Where.
        place: &'static str,
    },
    /// otadata leads to a slot without an authentic image.
    #[error("otadata entry {entry} names slot {slot}, which holds no authentic image")]
    Named {
        /// Index of the entry.
        entry: usize,
        /// The slot.
        slot: u8,
    },
    /// A torn write or erase made an entry that boots and that nobody wrote.
    #[error("otadata entry {entry} is usable, and neither what it was nor what it was to become")]
    Torn {
        /// Index of the entry.
        entry: usize,
    },
    /// A new image runs and nobody would take it back.
    #[error("an image runs unconfirmed and is not on trial")]
    Unmonitored,
    /// What the device trusts was lost.
    #[error(
        "the device follows root {root} at epoch {epoch}, after root {had_root} at {had_epoch}"
    )]
    Trust {
        /// Its root.
        root: u32,
        /// Its security epoch.
        epoch: u32,
        /// The root that it followed before.
        had_root: u32,
        /// Its security epoch before.
        had_epoch: u32,
    },
    /// An order ended otherwise than it had to.
    #[error("step {step} ended with {}", .code.name())]
    Lost {
        /// Which.
        step: u8,
        /// How.
        code: FailureCode,
    },
    /// The server believes something else than what is.
    #[error("what the server last heard is not what runs")]
    View,
    /// The running slot, bootloader or table was touched.
    #[error("a write to the running slot, bootloader or table was attempted")]
    Protected,
    /// The cut did not happen, or a fork is not what a replay gives.
    #[error("the cut did not happen as it was planned")]
    NotExecuted,
    /// A cut costs more than it may.
    #[error("a cut costs {found} more {what}; at most {most} are allowed")]
    Cost {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// How many may be.
        most: u64,
    },
}

/// What the world remembers of a device through any power cut: the server's part, and what must not
/// be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The order that stands.
    pub step: u8,
    /// Images that may run unwatched: their confirmation was begun, a bit each.
    pub confirmed: u16,
    /// Root that the device follows at least.
    pub root: u32,
    /// Security epoch that it has at least.
    pub epoch: u32,
    /// Updates that were given up after too many power losses in their trial, a bit each.
    pub given_up: u16,
}

/// [`Seen`] and what it cost, from a flash operation on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// The next flash operation.
    pub(crate) op: u64,
    pub(crate) seen: Seen,
    pub(crate) downloaded_bytes: u64,
    pub(crate) activations: u32,
}

/// The server's picture of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    elf: Sha256,
    is_confirmed: bool,
    root: Option<u32>,
    epoch: Option<u32>,
}

/// A life as far as it is, and the promises on the way.
#[derive(Clone, Debug)]
pub struct Watch {
    life: Arc<Life>,
    /// What is remembered.
    pub seen: Seen,
    /// More power losses than a trial may take: an update may be given up.
    pub may_give_up: bool,
    view: Option<View>,
    marks: Option<Vec<Mark>>,
}

impl Life {
    /// The images by which it is known what is authentic.
    pub fn authentic(images: &[&Artifact]) -> Vec<[Sha256; 2]> {
        images.iter().map(|it| [it.sha256, it.elf]).collect()
    }

    /// The server while a step is under way; behind the last one nothing is ordered.
    pub fn server(&self, step: u8) -> ScriptedServer {
        if let Some(step) = self.steps.get(usize::from(step)) {
            return step.server.clone();
        }
        let last = self.steps.last();
        ScriptedServer {
            maker: last.and_then(|step| step.server.maker.clone()),
            ..ScriptedServer::new(u64::MAX, Ask::Nothing)
        }
    }

    /// Whether an image of this digest may run.
    pub fn is_authentic(&self, sha256: &[u8; 32]) -> bool {
        self.authentic.iter().any(|[image, _]| image.0 == *sha256)
    }
}

impl Step {
    /// What is fetched again after a power cut because nothing of it is kept: a short patch.
    pub fn again_bytes(&self) -> u32 {
        let Ask::Install(artifact) = &self.server.ask else {
            return 0;
        };
        let patch = artifact.patch.as_ref().map_or(0, |offer| offer.patch.bytes);
        patch.min(PATCH_REFETCHED_BYTES_MAX)
    }

    /// Length of what is fetched without a patch: image and index.
    pub(super) fn artifact_bytes(&self) -> u64 {
        let Ask::Install(artifact) = &self.server.ask else {
            return 0;
        };
        let signed = artifact.signed.as_ref();
        signed
            .map_or(artifact.bytes(), |signed| &signed.artifact)
            .len() as u64
    }
}

impl Goal {
    fn is_reached(&self, check_in: &CheckIn) -> bool {
        let is_confirmed = check_in.confirmed == Running::Confirmed;
        match self {
            Goal::Runs(elf) => is_confirmed && check_in.running_elf == *elf,
            Goal::Left(elf) => is_confirmed && check_in.running_elf != *elf,
            Goal::Reports(_) => false,
            Goal::Follows(version) => check_in.root == Some(*version),
        }
    }
}

impl Watch {
    /// The beginning of a life.
    pub fn new(life: Arc<Life>) -> Self {
        Self {
            life,
            seen: Seen {
                step: 0,
                confirmed: 1,
                root: 0,
                epoch: 0,
                given_up: 0,
            },
            may_give_up: false,
            view: None,
            marks: None,
        }
    }

    pub(crate) fn life(&self) -> Arc<Life> {
        self.life.clone()
    }

    /// Notes from now on what is remembered at which flash operation.
    pub(crate) fn start_marks(&mut self) {
        self.marks = Some(Vec::new());
    }

    pub(crate) fn take_marks(&mut self) -> Vec<Mark> {
        self.marks.take().unwrap_or_default()
    }

    pub(crate) fn mark(&mut self, op: u64, downloaded_bytes: u64, activations: u32) {
        let seen = self.seen;
        if let Some(marks) = &mut self.marks {
            marks.push(Mark {
                op,
                seen,
                downloaded_bytes,
                activations,
            });
        }
    }

    /// The bootloader has started this.
    pub(crate) fn booted(&self, boot: &Boot) -> Result<(), Broken> {
        match self.life.is_authentic(&boot.image.sha256) {
            true => Ok(()),
            false => Err(Broken::NotAuthentic {
                place: "what boots",
            }),
        }
    }

    /// An image runs; from here on it is watched by its updater, or by nobody.
    pub(crate) fn started<F: MultiwriteNorFlash>(
        &mut self,
        updater: &Updater<'_, F>,
    ) -> Result<(), Broken> {
        let may_run = self.bit(updater.running_elf()) & self.seen.confirmed != 0;
        if !may_run && !updater.is_on_trial() {
            return Err(Broken::Unmonitored);
        }
        let (had_root, had_epoch) = (self.seen.root, self.seen.epoch);
        let root = updater.root_version().unwrap_or(0);
        let epoch = updater.security_epoch().unwrap_or(0);
        if root < had_root || epoch < had_epoch {
            return Err(Broken::Trust {
                root,
                epoch,
                had_root,
                had_epoch,
            });
        }
        self.trusts(updater);
        Ok(())
    }

    /// What the device trusts now it must trust for ever.
    pub(crate) fn trusts<F: MultiwriteNorFlash>(&mut self, updater: &Updater<'_, F>) {
        self.seen.root = updater.root_version().unwrap_or(0);
        self.seen.epoch = updater.security_epoch().unwrap_or(0);
    }

    /// The running image is about to confirm itself.
    pub(crate) fn confirms<F: MultiwriteNorFlash>(&mut self, updater: &Updater<'_, F>) {
        self.seen.confirmed |= self.bit(updater.running_elf());
    }

    /// The server hears from the device; gives the server of the next order where the one that stood
    /// has come to its end.
    pub(crate) fn heard(&mut self, check_in: &CheckIn) -> Result<Option<ScriptedServer>, Broken> {
        self.view = Some(View {
            elf: check_in.running_elf,
            is_confirmed: check_in.confirmed == Running::Confirmed,
            root: check_in.root,
            epoch: check_in.epoch,
        });
        let before = self.seen.step;
        while let Some(step) = self.life.steps.get(usize::from(self.seen.step)) {
            let outcome = check_in.outcome.as_ref();
            let outcome = outcome.filter(|outcome| outcome.order == step.server.order);
            match outcome.map(|outcome| FailureCode::from_number(outcome.code)) {
                Some(code) if step.goal == Goal::Reports(code) => {}
                Some(_) if self.may_give_up => self.seen.given_up |= 1 << self.seen.step,
                Some(code) => {
                    let step = self.seen.step;
                    return Err(Broken::Lost { step, code });
                }
                None if step.goal.is_reached(check_in) => {}
                None => break,
            }
            self.seen.step += 1;
        }
        Ok((before != self.seen.step).then(|| self.life.server(self.seen.step)))
    }

    /// Whether all orders have ended. Then server and device must agree.
    pub(crate) fn is_over<F: MultiwriteNorFlash>(
        &self,
        updater: &Updater<'_, F>,
    ) -> Result<bool, Broken> {
        if usize::from(self.seen.step) < self.life.steps.len() {
            return Ok(false);
        }
        let is = View {
            elf: updater.running_elf(),
            is_confirmed: !updater.is_on_trial(),
            root: updater.root_version(),
            epoch: updater.security_epoch(),
        };
        match self.view == Some(is) {
            true => Ok(true),
            false => Err(Broken::View),
        }
    }

    /// What a power cut leaves of it.
    pub(crate) fn remember(&mut self, seen: Seen) {
        (self.seen, self.view, self.marks) = (seen, None, None);
    }

    fn bit(&self, elf: Sha256) -> u16 {
        let index = self.life.authentic.iter().position(|[_, it]| *it == elf);
        index.map_or(0, |index| 1 << index)
    }
}
