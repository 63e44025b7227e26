//! The state machine: start, check-in, answer, what is next.

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_image::{
    Text,
    app::Chip,
    partition::{Layout, LayoutError, Region},
};
use fota_proto::{
    DeviceId, FailureCode, Sha256,
    checkin::{
        self, Action, Answer, CheckIn, End, Order, Phase, Progress, ResetReason, Running,
        SlotReport, SlotState,
    },
    limits::{CHALLENGE_BYTES, CHECK_IN_BYTES_MAX, SLOTS_MAX},
    list::List,
    signed::SignedError,
};

use crate::{
    choice::Choice,
    decoder::PatchDecoder,
    flash::{Fault, Guarded, SECTOR_BYTES},
    job::{Job, Stage},
    mark::{Mark, VERDICT_WORD_OFFSET, Verdict},
    readiness::{Readiness, Told},
    report::Report,
    slot::{Content, Slot},
    trial::{Trial, TrialError},
    trust::{Keeper, Opened, Trust, TrustError},
};

/// Shortest wait between check-ins, seconds: a server that says 0 must not keep the radio on.
const WAIT_S_MIN: u32 = 1;
/// Longest wait, seconds: a week. A slip of an operator must not silence a fleet for ever.
const WAIT_S_MAX: u32 = 7 * 24 * 60 * 60;

/// What the caller knows at boot.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// The device's name for itself.
    pub device: DeviceId,
    /// The chip this runs on.
    pub chip: Chip,
    /// Its revision, major × 100 + minor; where unknown, images are not checked against it.
    pub chip_revision: Option<u16>,
    /// Revision of the board; where unknown, releases are not checked against it.
    pub hardware: Option<u16>,
    /// Where the partition table lies: 0x8000 unless the build says otherwise.
    pub table_offset: u32,
    /// Size of the flash.
    pub flash_bytes: u32,
    /// Any flash offset inside the partition that the running code is mapped from. The truth about
    /// what runs: otadata may name another slot, where the bootloader fell back.
    pub running_offset: u32,
    /// Why the chip reset.
    pub reset: ResetReason,
}

/// What [`Updater::start`] found.
#[allow(clippy::large_enum_variant)] // no heap to box it, and it is moved once
pub enum Started<'w, F> {
    /// Go on.
    Run(Updater<'w, F>),
    /// The running image crashed on trial and has been given up: reset now.
    Reset(ResetNow),
}

/// Why a device cannot update itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The partition table.
    #[error(transparent)]
    Layout(LayoutError<Fault>),
    /// `running_offset` is in no slot.
    #[error("running code at flash offset {offset:#x} is in no app partition of the table")]
    NotAnApp {
        /// As given.
        offset: u32,
    },
    /// What it is to trust.
    #[error(transparent)]
    Trust(TrustError),
    /// The flash.
    #[error(transparent)]
    Flash(#[from] Fault),
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Check in after this time (add some jitter).
    Wait {
        /// Seconds.
        seconds: u32,
    },
    /// Check in at once.
    CheckIn,
    /// Fetch `GET /d/v1/roots/{version}` and give its bytes to [`Updater::root`].
    FetchRoot {
        /// Which root.
        version: u32,
    },
    /// Fetch `GET /d/v1/blobs/{release}` and give its bytes to [`Updater::release`].
    FetchRelease {
        /// Which release.
        release: Sha256,
    },
    /// Fetch `GET /d/v1/log/proof?leaf={release}&size={size}` and give its bytes to
    /// [`Updater::log_proof`].
    FetchLogProof {
        /// Which release.
        release: Sha256,
        /// Entries of the log that it must be among.
        size: u64,
    },
    /// Fetch `GET /d/v1/log/consistency?from={from}&to={to}` and give its bytes to
    /// [`Updater::log_growth`].
    FetchLogGrowth {
        /// Entries of the log that this device knows.
        from: u64,
        /// Entries of the log now.
        to: u64,
    },
    /// Fetch these bytes and give them to [`Updater::receive`].
    Download(Download),
    /// Call [`Updater::prove`].
    Prove,
    /// Reset the chip.
    Reset(ResetNow),
}

/// Bytes to fetch: `GET /d/v1/blobs/{blob}` with `Range: bytes={from}-{to - 1}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Download {
    /// The blob: the image, or the artifact of a signed release.
    pub blob: Sha256,
    /// Its first byte that is wanted.
    pub from: u32,
    /// The first byte behind what is wanted; its length, but for a page on its own.
    pub to: u32,
    /// Its length.
    pub bytes: u32,
}

/// The boot choice has changed: reset the chip, and do nothing else.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the boot choice has changed: reset the chip"]
pub struct ResetNow(());

impl ResetNow {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// Why an answer was not followed. Nothing has changed; check in again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not an answer.
    #[error("the answer is not valid CBOR of this protocol")]
    Malformed,
    /// A newer protocol.
    #[error(
        "the answer is of protocol {found}; this device speaks {}",
        checkin::VERSION
    )]
    Protocol {
        /// Its version.
        found: u8,
    },
    /// Not the answer to the last check-in.
    #[error("the answer is not for the last check-in")]
    Nonce,
    /// Nothing vouches for it.
    #[error("the answer is not to be trusted: {0}")]
    Untrusted(SignedError),
    /// Vouched for, but meant for somebody else.
    #[error("the answer is for another device")]
    OtherDevice,
    /// The flash.
    #[error(transparent)]
    Flash(#[from] Fault),
}

/// Why a root was not taken. Nothing has changed; check in again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// This device takes orders from anybody.
    #[error("this device follows no root")]
    NotWanted,
    /// It does not follow from what this device trusts.
    #[error(transparent)]
    Untrusted(SignedError),
    /// The flash.
    #[error(transparent)]
    Flash(#[from] Fault),
}

/// The updater. Holds everything it needs in under 2.5 KiB, one flash page included, besides the
/// [`Workspace`](crate::Workspace) where releases are signed.
///
/// | state | what it waits for | left by |
/// |---|---|---|
/// | idle | an order | an install order that this device can take |
/// | judging | the signed release of the order | a release that this device accepts |
/// | logging, growing | proofs that the log holds it and only grew | the proofs |
/// | locating | the server's word on prefixes that are there | the next answer |
/// | downloading | bytes | the last byte; another order; none |
/// | complete | [`Updater::prove`] | a proof, or a failure |
/// | activated | a reset | a reset |
/// | on trial | [`Updater::confirm`] or [`Updater::reject`]; takes no install | these |
pub struct Updater<'w, F> {
    pub(crate) flash: Guarded<F>,
    pub(crate) boot: BootInfo,
    pub(crate) layout: Layout,
    pub(crate) choice: Choice,
    pub(crate) running: Slot,
    pub(crate) image: Content,
    pub(crate) project: Text<32>,
    pub(crate) target: Option<Slot>,
    /// What the slots hold, by number; the running one's is `image`.
    contents: [Option<Content>; SLOTS_MAX],
    pub(crate) rollback_slot: Option<u8>,
    pub(crate) trial: Option<Trial>,
    pub(crate) job: Option<Job>,
    pub(crate) report: Option<Report>,
    /// The last order that ended without success: it is never started again.
    pub(crate) ended: Option<u64>,
    nonce: Option<u64>,
    /// What the next check-in repeats, for a server that asks for sealed ones.
    challenge: Option<[u8; CHALLENGE_BYTES]>,
    pub(crate) trust: Option<Keeper<'w>>,
    /// Uptime at the last check-in.
    asked_at_s: u32,
    pub(crate) readiness: Readiness,
}

fn wait(seconds: u32) -> Next {
    Next::Wait {
        seconds: seconds.clamp(WAIT_S_MIN, WAIT_S_MAX),
    }
}

impl<'w, F: MultiwriteNorFlash> Updater<'w, F> {
    /// Reads the flash, guards a trial and finds what there is to report. Call it first thing in
    /// `main`: an image that dies before this is not guarded where the bootloader has no rollback.
    ///
    /// Reads the other slots whole, to know whether they could boot.
    pub fn start(flash: F, boot: BootInfo, trust: Trust<'w>) -> Result<Started<'w, F>, StartError> {
        let mut flash = Guarded::new(flash);
        let layout = Layout::read(&mut flash, boot.table_offset, boot.flash_bytes)
            .map_err(StartError::Layout)?;
        let offset = boot.running_offset;
        let running = Slot::at(&layout, offset).ok_or(StartError::NotAnApp { offset })?;
        let target = Slot::target(&layout, running.number);
        let otadata = Region {
            size: 2 * SECTOR_BYTES,
            ..layout.otadata
        };
        let keeps_trust = layout.trust.map(|region| Region {
            size: 2 * SECTOR_BYTES,
            ..region
        });
        let others = [target.map(|slot| slot.region), keeps_trust];
        flash.open(running.region, otadata, others);
        let keeper = match trust {
            Trust::Anybody => None,
            Trust::FirstUse(workspace) => {
                Some(Keeper::read(&mut flash, layout.trust, None, workspace)?)
            }
            Trust::Root(root, workspace) => Some(Keeper::read(
                &mut flash,
                layout.trust,
                Some(root),
                workspace,
            )?),
        };
        let trust = keeper.transpose().map_err(StartError::Trust)?;
        let choice = Choice::read(&mut flash, &layout)?;
        let (image, project) = running.read_desc(&mut flash)?;
        let mut updater = Self {
            flash,
            boot,
            layout,
            choice,
            running,
            image,
            project,
            target,
            contents: [None; SLOTS_MAX],
            rollback_slot: None,
            trial: None,
            job: None,
            report: None,
            ended: None,
            nonce: None,
            challenge: None,
            trust,
            asked_at_s: 0,
            readiness: Readiness::default(),
        };
        if updater.begin_trial()? {
            return Ok(Started::Reset(ResetNow::new()));
        }
        updater.find_verdict()?;
        updater.find_contents()?;
        updater.raise_epoch()?;
        Ok(Started::Run(updater))
    }

    /// Applies patches with this memory, where releases are signed: call it before the first
    /// check-in, which says so to the server. Without it the device takes whole images.
    pub fn apply_patches_with(&mut self, decoder: &'w mut (dyn PatchDecoder + 'static)) {
        if let Some(trust) = &mut self.trust {
            trust.decoder = Some(decoder);
        }
    }

    /// Writes the next check-in and returns it. `nonce` must be unpredictable.
    pub fn check_in<'b>(
        &mut self,
        nonce: u64,
        uptime_s: u32,
        buffer: &'b mut [u8; CHECK_IN_BYTES_MAX],
    ) -> &'b [u8] {
        self.check_in_with(nonce, uptime_s, &Told::default(), buffer)
    }

    /// As [`Updater::check_in`], with what the device tells of itself.
    pub fn check_in_with<'b>(
        &mut self,
        nonce: u64,
        uptime_s: u32,
        told: &Told<'_>,
        buffer: &'b mut [u8; CHECK_IN_BYTES_MAX],
    ) -> &'b [u8] {
        self.nonce = Some(nonce);
        self.asked_at_s = uptime_s;
        let held = match self.job.as_ref().map(|job| &job.stage) {
            Some(Stage::Locating { held, .. }) => held.clone(),
            _ => List::new(),
        };
        let message = CheckIn {
            protocol: checkin::VERSION,
            device: self.boot.device.as_str(),
            nonce,
            chip: self.boot.chip.id(),
            chip_revision: self.boot.chip_revision,
            running_elf: self.image.elf,
            version: self.image.version.as_str(),
            project: self.project.as_str(),
            confirmed: match self.trial {
                Some(_) => Running::Trial,
                None => Running::Confirmed,
            },
            slot: self.running.number,
            slots: self.slot_reports(),
            rollback_slot: self.rollback_slot,
            progress: self.progress(),
            outcome: self.report.as_ref().map(Report::outcome),
            held,
            reset: self.boot.reset,
            uptime_s,
            root: self.trust.as_ref().map(|trust| trust.root_version),
            epoch: self.trust.as_ref().map(|trust| trust.facts.epoch),
            challenge: self.challenge,
            log: self.trust.as_ref().and_then(|trust| trust.facts.log),
            patches: self.patch_profile(),
            attributes: told.attributes(),
            metrics: told.metrics(),
            waits: Some(self.waits()),
        };
        checkin::encode(&message, buffer).expect("the longest check-in fits; fota-proto tests it")
    }

    /// Takes the server's answer and says what to do. On an error nothing has changed.
    pub fn answer(&mut self, bytes: &[u8]) -> Result<Next, AnswerError> {
        let Some(trust) = &self.trust else {
            return self.follow(bytes);
        };
        match trust.open(&mut self.flash, &self.boot.device, bytes)? {
            Opened::Payload(payload) => self.follow(payload),
            Opened::NewerRoot(version) => Ok(Next::FetchRoot { version }),
            Opened::NoRoot {
                retry_after_s,
                challenge,
            } => {
                self.challenge = challenge;
                Ok(wait(retry_after_s))
            }
        }
    }

    /// Takes a root that [`Next::FetchRoot`] asked for, whole.
    pub fn root(&mut self, bytes: &[u8]) -> Result<Next, RootError> {
        let trust = self.trust.as_mut().ok_or(RootError::NotWanted)?;
        trust
            .adopt(&mut self.flash, bytes)?
            .map_err(RootError::Untrusted)?;
        Ok(Next::CheckIn)
    }

    /// Version of the root that is followed; none where orders are taken from anybody, 0 before
    /// the first.
    pub fn root_version(&self) -> Option<u32> {
        self.trust.as_ref().map(|trust| trust.root_version)
    }

    /// Security epoch below which nothing is started; none where orders are taken from anybody.
    pub fn security_epoch(&self) -> Option<u32> {
        self.trust.as_ref().map(|trust| trust.facts.epoch)
    }

    /// Seconds since the server itself was last heard. A link that only brings silence or old
    /// answers cannot keep this low: raise an alarm where it grows to days.
    pub fn stale_s(&self, uptime_s: u32) -> Option<u32> {
        let trust = self.trust.as_ref()?;
        Some(uptime_s.saturating_sub(trust.fresh_at_s))
    }

    /// Whether a head of the release log was shown that does not follow from the one this device
    /// keeps: the server, or somebody in its place, tells different devices different things.
    pub fn log_is_forked(&self) -> bool {
        self.trust.as_ref().is_some_and(|trust| trust.is_forked)
    }

    fn follow(&mut self, bytes: &[u8]) -> Result<Next, AnswerError> {
        let answer: Answer = minicbor::decode(bytes).map_err(|_| AnswerError::Malformed)?;
        if answer.protocol != checkin::VERSION {
            return Err(AnswerError::Protocol {
                found: answer.protocol,
            });
        }
        if self.nonce.take_if(|nonce| *nonce == answer.nonce).is_none() {
            return Err(AnswerError::Nonce);
        }
        self.challenge = answer.challenge;
        if answer.retry_after_s == 0 && answer.order.is_none() {
            // Not taken, and so nothing decided: the order that stands goes on standing.
            return Ok(match self.next() {
                download @ Next::Download(_) => download,
                _ => Next::Wait {
                    seconds: WAIT_S_MIN,
                },
            });
        }
        if let Some(trust) = &mut self.trust {
            trust.fresh_at_s = self.asked_at_s;
            trust.note_head(answer.log);
        }
        if let Some(order) = answer.acknowledged {
            self.forget_report(order)?;
        }
        let next = self.obey(answer.order.as_ref())?;
        Ok(next.unwrap_or(wait(answer.retry_after_s)))
    }

    /// What to do when nothing else is known: after a lost link, a failed request, an error.
    ///
    /// A download goes on at the very byte where it stopped, because the part of a page that is
    /// not yet in flash is kept here.
    pub fn next(&self) -> Next {
        let Some(job) = &self.job else {
            return Next::CheckIn;
        };
        match job.stage {
            Stage::Locating { .. } => Next::CheckIn,
            Stage::Judging => match job.release {
                Some(release) => Next::FetchRelease { release },
                None => Next::CheckIn,
            },
            Stage::Logging => match (job.release, self.trust.as_ref().and_then(|it| it.head)) {
                (Some(release), Some(head)) => Next::FetchLogProof {
                    release,
                    size: head.size,
                },
                _ => Next::CheckIn,
            },
            Stage::Growing => match self.trust.as_ref().and_then(Keeper::growth) {
                Some((known, head)) => Next::FetchLogGrowth {
                    from: known.size,
                    to: head.size,
                },
                None => Next::CheckIn,
            },
            Stage::Downloading => Next::Download(job.download()),
            Stage::Complete => self.next_when_complete(),
            Stage::Activated => Next::Reset(ResetNow::new()),
        }
    }

    /// `app_elf_sha256` of the image that runs.
    pub fn running_elf(&self) -> Sha256 {
        self.image.elf
    }

    /// The flash, to look at.
    pub fn flash(&self) -> &F {
        self.flash.inner()
    }

    /// Gives the flash back; what is not yet in flash is lost.
    pub fn into_flash(self) -> F {
        self.flash.into_inner()
    }

    /// What the order asks for; none where there is nothing to do but wait.
    fn obey(&mut self, order: Option<&Order>) -> Result<Option<Next>, Fault> {
        if let Some(Stage::Activated) = self.job.as_ref().map(|job| &job.stage) {
            // Too late for any order: the next start is the new image.
            return Ok(Some(self.next()));
        }
        let Some(order) = order else {
            self.drop_job()?;
            return Ok(None);
        };
        match &order.action {
            Action::Install(install) => Ok(self.install(order.id, install)),
            Action::Rollback(rollback) => {
                self.drop_job()?;
                self.roll_back(order.id, rollback.leave)
            }
            Action::Cancel => {
                self.drop_job()?;
                Ok(None)
            }
        }
    }

    fn roll_back(&mut self, order: u64, leave: Sha256) -> Result<Option<Next>, Fault> {
        if self.image.elf != leave || self.ended == Some(order) {
            return Ok(None);
        }
        if let (Some(trust), Some(number)) = (&self.trust, self.rollback_slot) {
            let content = self.contents.get(usize::from(number)).copied().flatten();
            let known = content.and_then(|content| trust.facts.of(content.elf));
            let (floor, found) = (trust.facts.epoch, known.map_or(0, |known| known.epoch));
            if found < floor {
                let code = FailureCode::AntiRollback;
                let detail = format_args!("the other image has epoch {found}; {floor} is needed");
                return Ok(Some(self.end(order, End::Refused, code, detail)));
            }
        }
        let left = match self.choice.usable_of(self.running.number) {
            // The operator knows why: there is nothing to report, so no mark.
            Some(index) => self.leave_running(
                index,
                fota_image::otadata::State::Invalid,
                None,
                Verdict::Open,
            ),
            None => Err(TrialError::NoRollbackTarget),
        };
        match left {
            Ok(reset) => Ok(Some(Next::Reset(reset))),
            Err(TrialError::Flash(fault)) => Err(fault),
            Err(error) => {
                let code = FailureCode::NoRollbackTarget;
                Ok(Some(self.end(order, End::Refused, code, error)))
            }
        }
    }

    /// Ends an order without success, to be reported at once.
    pub(crate) fn end(
        &mut self,
        order: u64,
        end: End,
        code: FailureCode,
        detail: impl core::fmt::Display,
    ) -> Next {
        self.job = None;
        self.ended = Some(order);
        self.report = Some(Report::new(order, end, code, detail));
        Next::CheckIn
    }

    fn forget_report(&mut self, order: u64) -> Result<(), Fault> {
        let Some(report) = self.report.take_if(|report| report.order == order) else {
            return Ok(());
        };
        let Some(index) = report.stored else {
            return Ok(());
        };
        let Some(Mark { verdict, .. }) = self.choice.mark(index) else {
            return Ok(());
        };
        let Verdict::Ended {
            end, code, reset, ..
        } = verdict
        else {
            return Ok(());
        };
        let reported = Verdict::Ended {
            end,
            code,
            reset,
            reported: true,
        };
        self.choice
            .clear(&mut self.flash, index, VERDICT_WORD_OFFSET, reported.word())
    }

    fn find_contents(&mut self) -> Result<(), Fault> {
        for number in 0..self.layout.count().min(SLOTS_MAX as u8) {
            let slot = Slot::numbered(&self.layout, number);
            let Some(slot) = slot.filter(|slot| *slot != self.running) else {
                continue;
            };
            self.contents[usize::from(number)] = slot.check(&mut self.flash, &self.boot)?;
        }
        self.refresh_rollback_slot()
    }

    pub(crate) fn refresh_rollback_slot(&mut self) -> Result<(), Fault> {
        self.rollback_slot = self.valid_fallback()?.map(|slot| slot.number);
        Ok(())
    }

    /// The target slot no longer holds what it held.
    pub(crate) fn forget_content(&mut self, slot: u8) {
        if let Some(content) = self.contents.get_mut(usize::from(slot)) {
            *content = None;
        }
    }

    fn slot_reports(&self) -> List<SlotReport<'_>, SLOTS_MAX> {
        let mut reports = List::new();
        for slot in self.layout.slots() {
            let content = match slot.index == self.running.number {
                true => Some(&self.image),
                false => self
                    .contents
                    .get(usize::from(slot.index))
                    .and_then(Option::as_ref),
            };
            let report = SlotReport {
                slot: slot.index,
                bytes: slot.size,
                state: match content {
                    None => SlotState::Empty,
                    Some(_) if self.choice.is_rejected(slot.index) => SlotState::Rejected,
                    Some(_) => SlotState::Image,
                },
                elf: content.map(|content| content.elf),
                version: content.map(|content| content.version.as_str()),
            };
            if reports.push(report).is_err() {
                break; // The protocol reports the first four.
            }
        }
        reports
    }

    fn progress(&self) -> Option<Progress> {
        if let Some(job) = &self.job {
            let phase = match job.stage {
                Stage::Complete => Phase::Downloaded,
                Stage::Activated => Phase::Installing,
                _ => Phase::Downloading,
            };
            return Some(Progress {
                order: job.order,
                phase,
                bytes: job.position(),
            });
        }
        let mark = self.trial?.mark?;
        Some(Progress {
            order: mark.order,
            phase: Phase::Trial,
            bytes: 0,
        })
    }
}
