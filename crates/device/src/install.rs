//! An install order: refuse or take it, receive the bytes, prove them, switch the boot choice.
//!
//! *Invariant*: nothing unverified is ever bootable. The first 16 bytes of an image, without which
//! no bootloader takes it for one, come in the order and not from the download. They stay erased
//! in flash until a hash over them and everything behind them in flash equals the order's; only
//! then are they programmed, and the whole is read back once more. Before the first byte of a slot
//! changes, no otadata entry names that slot any more.

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_image::{
    Grouped,
    app::{self, CheckError, HEAD_BYTES_MIN, Image, ImageError, Source},
    otadata::{Entry, SEQ_EMPTY, State},
};
use fota_proto::{
    FailureCode,
    checkin::{End, Install, Waits},
    limits::HEAD_BYTES,
    log::{self, Inclusion},
    signed::{Release, SignedError},
};
use sha2::Digest;

use crate::{
    feed::{Feed, FeedError, REJECTED_MAX},
    flash::{Fault, Guarded, is_blank},
    job::{Job, Stage, digest},
    mark::{Mark, TRIAL_POWER_LOSS_MAX, Verdict},
    patch::PatchEnd,
    readiness::Asks,
    slot::Slot,
    trial::{TRIAL_DEADLINE_S_DEFAULT, is_power_loss},
    trust::Known,
    updater::{Next, ResetNow, Updater},
};

/// Why bytes were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// No download is under way, or it was replaced: drop the connection and see
    /// [`Updater::next`].
    #[error("no download is under way")]
    NotDownloading,
    /// The body is longer than the image. None of these bytes were taken.
    #[error("{surplus} bytes more than the image has: the server sent another range or file")]
    TooMany {
        /// How many.
        surplus: u32,
    },
    /// A chunk or a page of the index is not what the signed release names: nothing of it was
    /// programmed. Drop the connection and see [`Updater::next`]; after some of them the order ends.
    #[error("the bytes at {at} of the image are not those of the signed release")]
    NotAuthentic {
        /// Where the chunk begins.
        at: u32,
    },
    /// What is left of these bytes was not taken: a page of the index comes first. Drop the
    /// connection and see [`Updater::next`]; the patch goes on afterwards where it stopped.
    #[error("a page of the index comes first")]
    PageFirst,
    /// The patch is not used any more: drop the connection and see [`Updater::next`], which goes on
    /// with the image from here.
    #[error("the patch ends at {at} of the image: {why}")]
    PatchEnded {
        /// Where the first chunk that it did not make begins.
        at: u32,
        /// Why.
        why: PatchEnd,
    },
    /// The flash; the order has ended with `flash_write`.
    #[error(transparent)]
    Flash(#[from] Fault),
}

/// Why a release was not taken. See [`Updater::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// No order waits for one.
    #[error("no order waits for a release")]
    NotAwaited,
    /// The server sent something else; ask again later.
    #[error("these bytes are not the release that the order names")]
    OtherBytes,
    /// The flash; the order has ended with `flash_write`.
    #[error(transparent)]
    Flash(#[from] Fault),
}

/// Why an image was not proven. What follows is in [`Updater::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProveError {
    /// There is no complete download.
    #[error("there is no complete download to prove")]
    NotComplete,
    /// It is not the time: the image waits, see [`Updater::waits`].
    #[error("the image is not to be installed now: check in, and ask for what is next")]
    NotNow,
    /// The digest is wrong after a resume; the download starts again, once.
    #[error("the resumed bytes were not the image's: downloading again from the start")]
    StartedOver,
    /// The order has ended with this code, to be reported at the next check-in.
    #[error("{}", .0.sentence())]
    Failed(FailureCode),
}

/// Why a proven image was not activated; the order has ended with `flash_write`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActivateError {
    /// The flash.
    #[error(transparent)]
    Flash(#[from] Fault),
    /// otadata does not choose the image after it was written.
    #[error("otadata does not choose the new image after it was written")]
    NotChosen,
}

/// The image in the target slot is the ordered one, bit by bit, read back from flash. Only
/// [`Updater::prove`] makes it, and only it can switch the boot choice.
#[must_use = "call `activate` to boot the image"]
pub struct Verified<'a, 'w, F> {
    updater: &'a mut Updater<'w, F>,
}

impl<F> core::fmt::Debug for Verified<'_, '_, F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Verified")
    }
}

impl<'w, F: MultiwriteNorFlash> Updater<'w, F> {
    /// Erases what the next bytes go to. [`Updater::receive`] does it where this was not called;
    /// between a request and its answer it costs no time. Erasing 64 KiB takes longer than most
    /// round trips.
    pub fn erase_ahead(&mut self) -> Result<(), ReceiveError> {
        let (Some(job), Some(slot)) = (&mut self.job, self.target) else {
            return Err(ReceiveError::NotDownloading);
        };
        let is_awaited = matches!(job.stage, Stage::Downloading) && job.patching.is_none();
        if !is_awaited {
            return Ok(());
        }
        let order = job.order;
        job.erase_ahead(&mut self.flash, slot).map_err(|fault| {
            self.end(order, End::Failed, FailureCode::FlashWrite, fault);
            ReceiveError::Flash(fault)
        })
    }

    /// Takes the bytes that [`crate::Download`] asks for, in any split. Where releases are signed,
    /// each 4 KiB is proven before it is programmed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        let (Some(job), Some(slot)) = (&mut self.job, self.target) else {
            return Err(ReceiveError::NotDownloading);
        };
        if !matches!(job.stage, Stage::Downloading) {
            let is_complete = matches!(job.stage, Stage::Complete);
            return match bytes.len() as u32 {
                0 => Ok(()),
                // The end of a patch may say nothing more.
                _ if is_complete && job.patching.is_some() => Ok(()),
                surplus if is_complete => Err(ReceiveError::TooMany { surplus }),
                _ => Err(ReceiveError::NotDownloading),
            };
        }
        if job.patching.is_some() {
            return self.receive_patch(slot, bytes);
        }
        if job.feed.is_some() {
            return self.receive_proven(slot, bytes);
        }
        let room = job.bytes - job.position();
        if let Some(surplus @ 1..) = (bytes.len() as u64).checked_sub(room.into()) {
            let surplus = surplus as u32;
            return Err(ReceiveError::TooMany { surplus });
        }
        let order = job.order;
        job.take(&mut self.flash, slot, bytes).map_err(|fault| {
            self.end(order, End::Failed, FailureCode::FlashWrite, fault);
            ReceiveError::Flash(fault)
        })
    }

    fn receive_proven(&mut self, slot: Slot, bytes: &[u8]) -> Result<(), ReceiveError> {
        let (Some(job), Some(trust)) = (&mut self.job, &mut self.trust) else {
            return Err(ReceiveError::NotDownloading);
        };
        let taken = job.take_proven(&mut self.flash, slot, trust.workspace, bytes);
        taken.map_err(|error| self.not_taken(error))
    }

    pub(crate) fn not_taken(&mut self, error: FeedError) -> ReceiveError {
        let Some(job) = &mut self.job else {
            return ReceiveError::NotDownloading;
        };
        let (order, at) = (job.order, job.written());
        match error {
            FeedError::TooMany(surplus) => ReceiveError::TooMany { surplus },
            FeedError::NotAuthentic => {
                let rejected = job.feed.as_mut().map_or(REJECTED_MAX, |feed| {
                    feed.rejected += 1;
                    feed.rejected
                });
                let error = ReceiveError::NotAuthentic { at };
                if rejected >= REJECTED_MAX {
                    self.end(order, End::Failed, FailureCode::HashMismatch, error);
                }
                error
            }
            FeedError::Flash(fault) => {
                self.end(order, End::Failed, FailureCode::FlashWrite, fault);
                ReceiveError::Flash(fault)
            }
        }
    }

    /// Proves the downloaded image by reading it back from flash: its structure, chip and ELF
    /// digest, and the SHA-256 of the order. Programs the image's head in between.
    pub fn prove(&mut self) -> Result<Verified<'_, 'w, F>, ProveError> {
        let (Some(job), Some(slot)) = (&self.job, self.target) else {
            return Err(ProveError::NotComplete);
        };
        if !matches!(job.stage, Stage::Complete) {
            return Err(ProveError::NotComplete);
        }
        let (order, resumed) = (job.order, job.resumed);
        if self.waits() != Waits::Nothing {
            return Err(ProveError::NotNow);
        }
        match self.proof(slot) {
            Ok(()) => Ok(Verified { updater: self }),
            Err(Unproven::Digest) if resumed => {
                self.begin_from(slot, 0).map_err(|fault| {
                    self.end(order, End::Failed, FailureCode::FlashWrite, fault);
                    ProveError::Failed(FailureCode::FlashWrite)
                })?;
                Err(ProveError::StartedOver)
            }
            Err(unproven) => {
                let code = unproven.code();
                // Should flash have changed under the proof, its head must not stay.
                let _ = self.drop_job();
                self.end(order, End::Failed, code, unproven);
                Err(ProveError::Failed(code))
            }
        }
    }

    /// Takes, refuses or continues an install order. A fault ends it, so that no download goes on
    /// over a slot that was not released.
    pub(crate) fn install(&mut self, id: u64, install: &Install) -> Option<Next> {
        match self.try_install(id, install) {
            Ok(next) => next,
            Err(fault) => Some(self.end(id, End::Failed, FailureCode::FlashWrite, fault)),
        }
    }

    fn try_install(&mut self, id: u64, install: &Install) -> Result<Option<Next>, Fault> {
        let busy = self.trial.is_some(); // the slot holds the only way back
        if busy || self.ended == Some(id) || install.elf == self.image.elf {
            self.drop_job()?;
            return Ok(None);
        }
        if self.job.as_ref().is_some_and(|job| job.is_for(id, install)) {
            self.note_offer(install.patch);
            if let Some(job) = &mut self.job {
                job.asks = Asks::of(install);
            }
            let next = self.go_on(install.resume_from)?;
            let waits = self.waits() != Waits::Nothing;
            // A complete image that waits comes back when the server says.
            return Ok((!waits).then_some(next));
        }
        self.drop_job()?;
        let mut job = Job::new(id, install, is_power_loss(self.boot.reset));
        let refused = match (&self.trust, install.release, install.artifact) {
            (None, ..) => self.refusal(&job).map(drop),
            (Some(_), Some(_), Some(artifact)) => {
                job.feed = Some(Feed::new(artifact));
                job.stage = Stage::Judging;
                Ok(())
            }
            (Some(_), ..) => Err(Refusal::NotSigned),
        };
        self.job = Some(job);
        match refused {
            Err(refusal) => Ok(Some(self.refuse(refusal))),
            Ok(()) if self.trust.is_some() => Ok(Some(self.next())),
            Ok(()) => self.locate().map(Some),
        }
    }

    /// Takes the signed release that the order names, whole. What is wrong with it ends the order,
    /// and is reported; what is not it changes nothing.
    pub fn release(&mut self, bytes: &[u8]) -> Result<Next, ReleaseError> {
        let Some(job) = &self.job else {
            return Err(ReleaseError::NotAwaited);
        };
        let Stage::Judging = job.stage else {
            return Err(ReleaseError::NotAwaited);
        };
        let found: [u8; 32] = sha2::Sha256::digest(bytes).into();
        if job.release.map(|release| release.0) != Some(found) {
            return Err(ReleaseError::OtherBytes);
        }
        let order = job.order;
        let judged = match self.judge(bytes) {
            Ok(Ok(())) => self.ask_for_log(),
            Ok(Err(refusal)) => Ok(self.refuse(refusal)),
            Err(fault) => Err(fault),
        };
        self.ended_by_fault(order, judged)
    }

    /// Takes the proof that [`Next::FetchLogProof`] asked for, whole. A release that is not in the
    /// log is refused.
    pub fn log_proof(&mut self, bytes: &[u8]) -> Result<Next, ReleaseError> {
        let (Some(job), Some(trust)) = (&mut self.job, &self.trust) else {
            return Err(ReleaseError::NotAwaited);
        };
        let (Stage::Logging, Some(release), Some(head)) = (&job.stage, job.release, trust.head)
        else {
            return Err(ReleaseError::NotAwaited);
        };
        let Ok(proof) = minicbor::decode::<Inclusion>(bytes) else {
            return Err(ReleaseError::OtherBytes);
        };
        if !log::verify_inclusion(release, &proof, head) {
            return Ok(self.refuse(Refusal::NotLogged));
        }
        let order = job.order;
        let next = match trust.growth() {
            Some(_) => {
                job.stage = Stage::Growing;
                Ok(self.next())
            }
            None => self.locate(),
        };
        self.ended_by_fault(order, next)
    }

    /// Takes the proof that [`Next::FetchLogGrowth`] asked for, whole. A log that did not only grow
    /// is noted ([`Updater::log_is_forked`]), and the update goes on.
    pub fn log_growth(&mut self, bytes: &[u8]) -> Result<Next, ReleaseError> {
        let (Some(job), Some(trust)) = (&self.job, &mut self.trust) else {
            return Err(ReleaseError::NotAwaited);
        };
        let Stage::Growing = job.stage else {
            return Err(ReleaseError::NotAwaited);
        };
        let Ok(path) = minicbor::decode::<log::Path>(bytes) else {
            return Err(ReleaseError::OtherBytes);
        };
        trust.grow(&path);
        let order = job.order;
        let next = self.locate();
        self.ended_by_fault(order, next)
    }

    /// A release that is accepted must be in the log, where the server keeps one; a server that once
    /// showed a log cannot do without.
    fn ask_for_log(&mut self) -> Result<Next, Fault> {
        let (Some(job), Some(trust)) = (&mut self.job, &self.trust) else {
            return Ok(Next::CheckIn);
        };
        match (trust.head, trust.facts.log) {
            (None, None) => self.locate(),
            (None, Some(_)) => Ok(self.refuse(Refusal::NotLogged)),
            (Some(_), _) => {
                job.stage = Stage::Logging;
                Ok(self.next())
            }
        }
    }

    fn ended_by_fault(
        &mut self,
        order: u64,
        next: Result<Next, Fault>,
    ) -> Result<Next, ReleaseError> {
        next.map_err(|fault| {
            self.end(order, End::Failed, FailureCode::FlashWrite, fault);
            ReleaseError::Flash(fault)
        })
    }

    /// The ordered rules, each of which refuses: signature, product, chip, board, epoch, sequence,
    /// and that the order says nothing else than the release.
    fn judge(&mut self, bytes: &[u8]) -> Result<Result<(), Refusal>, Fault> {
        let (Some(job), Some(trust)) = (&mut self.job, &mut self.trust) else {
            return Ok(Err(Refusal::NotSigned));
        };
        let release = match trust.release(&mut self.flash, bytes)? {
            Ok(release) => release,
            Err(error) => return Ok(Err(Refusal::Signature(error))),
        };
        let running = trust.facts.of(self.image.elf);
        let this = Device {
            product: self.project.as_str(),
            chip: self.boot.chip.id(),
            hardware: self.boot.hardware,
            epoch: trust.facts.epoch,
            sequence: running.map_or(0, |known| known.sequence),
        };
        if let Err(refusal) = this.refusal(&release) {
            return Ok(Err(refusal));
        }
        let ordered = (job.image, job.bytes, job.elf);
        if ordered != (release.image, release.bytes, release.elf) {
            return Ok(Err(Refusal::Mixed));
        }
        trust.workspace.pages[..release.pages.len()].copy_from_slice(release.pages);
        (job.sequence, job.epoch) = (release.sequence, release.epoch);
        if let Some(deadline_s) = release.self_test_deadline_s {
            job.deadline_s = deadline_s.into();
        }
        if let Some(attempts) = release.trial_attempts {
            job.power_losses_max = attempts.min(TRIAL_POWER_LOSS_MAX);
        }
        Ok(self.refusal_of_job().map(drop))
    }

    fn refusal_of_job(&self) -> Result<Slot, Refusal> {
        match &self.job {
            Some(job) => self.refusal(job),
            None => Err(Refusal::NoSlot),
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Next {
        let order = self.job.as_ref().map_or(0, |job| job.order);
        self.end(order, End::Refused, refusal.code(), refusal)
    }

    /// The order is one to carry out: finds where its download begins.
    fn locate(&mut self) -> Result<Next, Fault> {
        let (Some(job), Some(slot)) = (&mut self.job, self.target) else {
            return Ok(Next::CheckIn);
        };
        job.stage = Stage::Downloading;
        job.locate(&mut self.flash, slot)?;
        if matches!(job.stage, Stage::Downloading) {
            self.begin_from(slot, 0)?;
            self.begin_patch(slot, 0)?;
        }
        Ok(self.next())
    }

    /// Forgets a job. Its bytes stay, to be found by the same order; but an image that was proven
    /// and is not wanted any more must not be bootable.
    pub(crate) fn drop_job(&mut self) -> Result<(), Fault> {
        let (Some(job), Some(slot)) = (self.job.take(), self.target) else {
            return Ok(());
        };
        match job.head_is_ours {
            true => self.destroy_head(slot),
            false => Ok(()),
        }
    }

    /// The standing order again: it does not disturb a download, but answers a question.
    fn go_on(&mut self, resume_from: u32) -> Result<Next, Fault> {
        if let (Some(job), Some(slot)) = (&mut self.job, self.target)
            && matches!(job.stage, Stage::Locating { .. })
        {
            job.learn(&mut self.flash, slot, resume_from)?;
            if matches!(job.stage, Stage::Downloading) {
                let from = job.position();
                self.begin_from(slot, from)?;
                self.begin_patch(slot, from)?;
            }
        }
        Ok(self.next())
    }

    /// Prepares otadata and the slot for the first byte.
    fn begin_from(&mut self, slot: Slot, from: u32) -> Result<(), Fault> {
        self.free(slot)?;
        self.forget_content(slot.number);
        let mut head = [0; HEAD_BYTES];
        self.flash.read(slot.region.offset, &mut head)?;
        if !is_blank(&head) {
            // A torn erase could leave an old head in front of a mixture.
            self.destroy_head(slot)?;
        }
        if let Some(job) = &mut self.job {
            job.start_from(from);
        }
        Ok(())
    }

    /// From here on nothing names the target slot, and the running image is what boots.
    fn free(&mut self, slot: Slot) -> Result<usize, Fault> {
        let running = self.running.number;
        let free = self.choice.anchor(&mut self.flash, running, slot.number)?;
        self.choice.retire_slot(&mut self.flash, slot.number)?;
        self.refresh_rollback_slot()?;
        Ok(free)
    }

    fn destroy_head(&mut self, slot: Slot) -> Result<(), Fault> {
        self.flash
            .program_checked(slot.region.offset, &[0; HEAD_BYTES])
    }

    /// What can be said against an order before its first byte.
    fn refusal(&self, job: &Job) -> Result<Slot, Refusal> {
        let slot = self.target.ok_or(Refusal::NoSlot)?;
        let (bytes, slot_bytes) = (job.bytes, slot.region.size);
        if bytes > slot_bytes {
            return Err(Refusal::NoSpace {
                bytes,
                slot: slot.number,
                slot_bytes,
            });
        }
        if bytes < HEAD_BYTES_MIN as u32 {
            return Err(Refusal::TooShort { bytes });
        }
        let (magic, chip) = (job.head[0], [job.head[12], job.head[13]]);
        if magic != app::MAGIC {
            return Err(Refusal::Magic { found: magic });
        }
        let chip = u16::from_le_bytes(chip);
        if chip != self.boot.chip.id() {
            return Err(Refusal::Chip {
                found: chip,
                this: self.boot.chip.id(),
            });
        }
        Ok(slot)
    }

    fn proof(&mut self, slot: Slot) -> Result<(), Unproven> {
        let Some(job) = &mut self.job else {
            return Err(Unproven::Digest);
        };
        let image = check_with_head(&mut self.flash, slot, job)?;
        // The chip id is in the head, which `refusal` has seen.
        if let Some(revision) = self.boot.chip_revision
            && !image.header.allows_revision(revision)
        {
            return Err(Unproven::Revision {
                needs: image.header.min_rev_full,
                this: revision,
            });
        }
        let elf = image.desc.map_or([0; 32], |desc| desc.app_elf_sha256);
        if elf != job.elf.0 {
            return Err(Unproven::Elf);
        }
        let (head, bytes, wanted) = (job.head, job.bytes, job.image);
        if !self.flash.holds(slot.region.offset, &head)? {
            let free = self.free(slot)?;
            // Not later: a torn write there can cost the running entry, and must find nothing else
            // that is bootable.
            self.choice.hand_over(&mut self.flash, free)?;
            if let Some(job) = &mut self.job {
                job.head_is_ours = true;
            }
        }
        // Also where it reads right: cells of a torn write may do so only now.
        self.flash.program_checked(slot.region.offset, &head)?;
        match digest(&mut self.flash, slot, None, bytes)? == wanted {
            true => Ok(()),
            false => Err(Unproven::Digest),
        }
    }
}

impl<F: MultiwriteNorFlash> Verified<'_, '_, F> {
    /// Makes the image the one that boots next, on trial. The last operation of this image.
    pub fn activate(self) -> Result<ResetNow, ActivateError> {
        let updater = self.updater;
        let order = updater.job.as_ref().map_or(0, |job| job.order);
        let activated = updater.activate();
        if let Err(error) = &activated {
            updater.end(order, End::Failed, FailureCode::FlashWrite, error);
        }
        activated
    }
}

impl<F: MultiwriteNorFlash> Updater<'_, F> {
    fn activate(&mut self) -> Result<ResetNow, ActivateError> {
        let (Some(job), Some(slot)) = (&self.job, self.target) else {
            return Err(ActivateError::NotChosen);
        };
        let deadline_s = match job.deadline_s {
            0 => TRIAL_DEADLINE_S_DEFAULT,
            given => given,
        };
        let spared = TRIAL_POWER_LOSS_MAX - job.power_losses_max;
        let losses = self.earlier_power_losses(job.order).max(spared);
        let mark = Mark::new(job.order, deadline_s, losses);
        self.remember_release()?;
        let free = self.free(slot)?;
        let seq = self.choice.next_seq(slot.number);
        if seq == SEQ_EMPTY {
            return Err(ActivateError::NotChosen);
        }
        let entry = Entry {
            label: mark.label(),
            ..Entry::new(seq, State::New)
        };
        self.choice.hand_over(&mut self.flash, free)?;
        self.choice.replace(&mut self.flash, free, &entry)?;
        if self.choice.active() != Some(free) || self.choice.slot(free) != slot.number {
            return Err(ActivateError::NotChosen);
        }
        if let Some(job) = &mut self.job {
            job.stage = Stage::Activated;
        }
        Ok(ResetNow::new())
    }

    /// What the slot will hold is known before anything names it: without that the device could
    /// later be talked into an older release, or find no way back.
    fn remember_release(&mut self) -> Result<(), Fault> {
        let (Some(job), Some(trust)) = (&self.job, &mut self.trust) else {
            return Ok(());
        };
        let known = Known {
            elf: job.elf,
            sequence: job.sequence,
            epoch: job.epoch,
        };
        if trust.facts.of(job.elf) == Some(&known) {
            return Ok(());
        }
        let facts = trust.facts.with(known, self.image.elf);
        trust.store(&mut self.flash, facts, None)
    }

    /// Power losses that ended earlier trials of the same order, this one's included.
    fn earlier_power_losses(&self, order: u64) -> u8 {
        let marks = (0..2).filter_map(|index| self.choice.mark(index));
        let interrupted =
            |mark: &Mark| mark.order == order && matches!(mark.verdict, Verdict::Interrupted);
        let mark = marks.into_iter().find(interrupted);
        mark.map_or(0, |mark| mark.power_losses.saturating_add(1))
    }
}

/// Checks the image as if its head were there already.
fn check_with_head<F: MultiwriteNorFlash>(
    flash: &mut Guarded<F>,
    slot: Slot,
    job: &Job,
) -> Result<Image, Unproven> {
    let mut source = WithHead {
        flash,
        slot,
        head: &job.head,
    };
    let checked = match app::check(&mut source, job.bytes) {
        Ok(image) => Ok(image),
        Err(CheckError::Image(error)) => Err(error),
        Err(CheckError::Read { error, .. }) => return Err(Unproven::Flash(error)),
    };
    let found = match &checked {
        // The check has read all of it already.
        Ok(image) if image.image_bytes == job.bytes => fota_proto::Sha256(image.sha256),
        _ => digest(flash, slot, Some(&job.head), job.bytes)?,
    };
    match found == job.image {
        true => checked.map_err(Unproven::Image),
        false => Err(Unproven::Digest),
    }
}

/// A slot with its head in place.
struct WithHead<'a, F> {
    flash: &'a mut Guarded<F>,
    slot: Slot,
    head: &'a [u8; HEAD_BYTES],
}

impl<F: MultiwriteNorFlash> Source for WithHead<'_, F> {
    type Error = Fault;

    fn read(&mut self, offset: u32, buf: &mut [u8]) -> Result<(), Fault> {
        self.flash.read(self.slot.region.offset + offset, buf)?;
        let head = self.head.iter().skip(offset as usize);
        buf.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

/// Why an order is refused before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("no second slot to install to: give the device a table with two ota partitions")]
    NoSlot,
    #[error("image is {} bytes; slot ota_{slot} holds {}", Grouped(u64::from(*.bytes)), Grouped(u64::from(*.slot_bytes)))]
    NoSpace {
        bytes: u32,
        slot: u8,
        slot_bytes: u32,
    },
    #[error("image is {bytes} bytes; an app image has at least {HEAD_BYTES_MIN}")]
    TooShort { bytes: u32 },
    #[error("image begins with {found:#04x}, an app image with 0xe9")]
    Magic { found: u8 },
    #[error("image is for chip id {found:#06x}, this is {this:#06x}")]
    Chip { found: u16, this: u16 },
    #[error("the order names no signed release")]
    NotSigned,
    #[error("the release is not in the server's release log")]
    NotLogged,
    #[error("{0}")]
    Signature(SignedError),
    #[error("the order and the signed release name different images")]
    Mixed,
    #[error("the release is for another product")]
    Product,
    #[error("the release is for board revisions {low} to {high}, this is {this}")]
    Hardware { low: u16, high: u16, this: u16 },
    #[error("the release has security epoch {found}; this device takes {floor} and above")]
    Epoch { found: u32, floor: u32 },
    #[error("the release has sequence {found}; this device runs {running}")]
    Sequence { found: u32, running: u32 },
}

/// What a release must fit.
struct Device<'a> {
    product: &'a str,
    chip: u16,
    hardware: Option<u16>,
    epoch: u32,
    sequence: u32,
}

impl Device<'_> {
    fn refusal(&self, release: &Release) -> Result<(), Refusal> {
        if release.product != self.product {
            return Err(Refusal::Product);
        }
        if release.chip != self.chip {
            let (found, this) = (release.chip, self.chip);
            return Err(Refusal::Chip { found, this });
        }
        if let (Some((low, high)), Some(this)) = (release.hardware, self.hardware)
            && !(low..=high).contains(&this)
        {
            return Err(Refusal::Hardware { low, high, this });
        }
        if release.epoch < self.epoch {
            let (found, floor) = (release.epoch, self.epoch);
            return Err(Refusal::Epoch { found, floor });
        }
        if release.sequence <= self.sequence {
            let (found, running) = (release.sequence, self.sequence);
            return Err(Refusal::Sequence { found, running });
        }
        Ok(())
    }
}

impl Refusal {
    fn code(&self) -> FailureCode {
        match self {
            Self::NoSlot | Self::NoSpace { .. } => FailureCode::NoSpace,
            Self::TooShort { .. } | Self::Magic { .. } => FailureCode::ImageInvalid,
            Self::Chip { .. } => FailureCode::WrongChip,
            Self::NotSigned => FailureCode::NotSigned,
            Self::NotLogged => FailureCode::NotLogged,
            Self::Signature(_) | Self::Mixed => FailureCode::SignatureInvalid,
            Self::Product => FailureCode::WrongProduct,
            Self::Hardware { .. } => FailureCode::WrongHardware,
            Self::Epoch { .. } => FailureCode::AntiRollback,
            Self::Sequence { .. } => FailureCode::DowngradeRefused,
        }
    }
}

/// Why the bytes in the slot are not the image to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unproven {
    #[error("the bytes in flash have another sha-256 than the order's")]
    Digest,
    #[error(transparent)]
    Image(ImageError),
    #[error("image needs chip revision {needs} or another; this is {this}")]
    Revision { needs: u16, this: u16 },
    #[error("image has another app_elf_sha256 than the order's")]
    Elf,
    #[error(transparent)]
    Flash(#[from] Fault),
}

impl Unproven {
    fn code(&self) -> FailureCode {
        match self {
            Self::Digest => FailureCode::HashMismatch,
            Self::Image(_) | Self::Elf => FailureCode::ImageInvalid,
            Self::Revision { .. } => FailureCode::WrongRevision,
            Self::Flash(_) => FailureCode::FlashWrite,
        }
    }
}
