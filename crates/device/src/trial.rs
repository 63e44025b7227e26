//! A new image is on trial until it confirms itself; this decides what its start means.

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_image::otadata::{Entry, State};
use fota_proto::{
    FailureCode,
    checkin::{End, ResetReason},
};

use crate::{
    flash::Fault,
    mark::{Mark, TRIAL_POWER_LOSS_MAX, TRIAL_WORD_OFFSET, VERDICT_WORD_OFFSET, Verdict},
    report::Report,
    slot::{Slot, fallback},
    trust::Facts,
    updater::{ResetNow, Updater},
};

/// The order of a trial whose mark was torn: no server knows it.
const ORDER_UNKNOWN: u64 = 0;
/// Deadline of a trial whose order names none, seconds.
pub const TRIAL_DEADLINE_S_DEFAULT: u32 = 600;

/// The running image has yet to confirm itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    /// Its entry.
    pub(crate) index: usize,
    /// Our mark in it; none where another tool wrote the entry.
    pub(crate) mark: Option<Mark>,
}

/// What a start of the running image means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Confirmed before, or never in question.
    Confirmed,
    /// Confirmed before, but the entry does not say so to the bootloader.
    Finish(Mark),
    /// On trial; the mark is to be updated to this.
    Trial(Mark),
    /// On trial for another tool, which guards it or does not.
    Foreign,
    /// A torn entry: nobody guards this image until an entry is written again.
    Torn,
    /// It reset before it confirmed itself.
    Abort(Mark),
}

/// The decision, by what the running image's entry says:
///
/// | mark | state | and | start means |
/// |---|---|---|---|
/// | none | VALID | | confirmed |
/// | none | UNDEFINED | there never was one | confirmed |
/// | none | NEW, PENDING_VERIFY | there never was one | on trial for whoever wrote the entry |
/// | none | any other, or there was one | | torn: guard it from now on |
/// | confirmed | NEW, VALID, UNDEFINED | | confirmed |
/// | confirmed | PENDING_VERIFY, other | | confirmed, to be written as VALID |
/// | not started | any | | first start of the trial |
/// | started | any | power was lost, not yet too often | the trial goes on |
/// | started | any | | crashed: abort |
///
/// The mark outranks the state, because a PENDING_VERIFY at the first start is the good case of a
/// bootloader with rollback, and because a torn rewrite by the bootloader can leave any state.
fn judge(entry: &Entry, mark: Option<Mark>, mark_is_lost: bool, reset: ResetReason) -> Start {
    let Some(mark) = mark else {
        return match entry.state {
            State::Valid => Start::Confirmed,
            State::Other(_) => Start::Torn,
            _ if mark_is_lost => Start::Torn,
            State::Undefined => Start::Confirmed,
            _ => Start::Foreign,
        };
    };
    if mark.confirmed {
        return match entry.state {
            State::PendingVerify | State::Other(_) => Start::Finish(mark),
            _ => Start::Confirmed,
        };
    }
    if !mark.started {
        return Start::Trial(Mark {
            started: true,
            ..mark
        });
    }
    if is_power_loss(reset) && mark.power_losses < TRIAL_POWER_LOSS_MAX {
        return Start::Trial(Mark {
            power_losses: mark.power_losses + 1,
            ..mark
        });
    }
    Start::Abort(mark)
}

/// Resets that say nothing about the image.
pub(crate) fn is_power_loss(reset: ResetReason) -> bool {
    matches!(reset, ResetReason::PowerOn | ResetReason::BrownOut)
}

/// Why a trial did not end as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrialError {
    /// The running image is confirmed; use a rollback order to leave it.
    #[error("the running image is not on trial")]
    NotOnTrial,
    /// The running image stays, because nothing else would boot.
    #[error("there is no other valid image to go back to: the running one stays")]
    NoRollbackTarget,
    /// The flash.
    #[error(transparent)]
    Flash(#[from] Fault),
}

impl<F: MultiwriteNorFlash> Updater<'_, F> {
    /// Whether the running image has yet to confirm itself.
    pub fn is_on_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Seconds after this start within which [`Updater::confirm`] must be called; none where the
    /// image is confirmed, or on trial for another tool.
    pub fn deadline_s(&self) -> Option<u32> {
        let mark = self.trial?.mark?;
        Some(u32::from(mark.deadline_s))
    }

    /// Keeps the running image: its self-test has passed, and that includes reaching the server.
    ///
    /// On a bootloader without rollback this is one bit, so no power cut can lose it. With
    /// rollback the entry must become VALID, which takes an erase: a cut in between boots the
    /// earlier image, and the order, which still stands, is carried out again without a download.
    pub fn confirm(&mut self) -> Result<(), TrialError> {
        let Some(trial) = self.trial else {
            return Ok(());
        };
        let entry = *self.choice.entry(trial.index);
        match (trial.mark, entry.state) {
            (Some(mark), State::New | State::Valid | State::Undefined) => {
                let word = confirmed(mark).trial_word();
                self.choice
                    .clear(&mut self.flash, trial.index, TRIAL_WORD_OFFSET, word)?;
            }
            (mark, _) => self.write_valid(trial.index, mark.map(confirmed))?,
        }
        self.trial = None;
        self.raise_epoch()?;
        self.refresh_rollback_slot()?;
        Ok(())
    }

    /// From a confirmed release on, nothing of an older security epoch is started. A power cut
    /// before this is made good at the next start.
    pub(crate) fn raise_epoch(&mut self) -> Result<(), Fault> {
        let Some(trust) = &mut self.trust else {
            return Ok(());
        };
        let epoch = trust
            .facts
            .of(self.image.elf)
            .map_or(0, |known| known.epoch);
        if self.trial.is_some() || epoch <= trust.facts.epoch {
            return Ok(());
        }
        let facts = Facts {
            epoch,
            ..trust.facts.clone()
        };
        trust.store(&mut self.flash, facts, None)
    }

    /// Gives the running image up: its self-test has failed. Reset after it.
    pub fn reject(&mut self, code: FailureCode) -> Result<ResetNow, TrialError> {
        let trial = self.trial.ok_or(TrialError::NotOnTrial)?;
        let verdict = Verdict::Ended {
            end: End::RolledBackHealth,
            code,
            reset: ResetReason::Unknown,
            reported: false,
        };
        self.leave_running(trial.index, State::Invalid, trial.mark, verdict)
    }

    /// Gives the running image up if its deadline has passed; call it now and then during a trial.
    pub fn tick(&mut self, uptime_s: u32) -> Result<Option<ResetNow>, TrialError> {
        match self.deadline_s() {
            Some(deadline_s) if uptime_s >= deadline_s => {
                self.reject(FailureCode::NotConfirmed).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// At start: finds out whether this is a trial, and guards it. True if the chip must reset.
    pub(crate) fn begin_trial(&mut self) -> Result<bool, Fault> {
        let Some(index) = self.choice.usable_of(self.running.number) else {
            self.heal()?;
            return Ok(false);
        };
        let start = judge(
            self.choice.entry(index),
            self.choice.mark(index),
            self.choice.has_lost_its_mark(index),
            self.boot.reset,
        );
        match start {
            Start::Confirmed => {}
            Start::Finish(mark) => self.write_valid(index, Some(mark))?,
            Start::Trial(mark) => self.guard(index, mark)?,
            Start::Foreign => self.trial = Some(Trial { index, mark: None }),
            Start::Torn => {
                let unknown = Mark::new(ORDER_UNKNOWN, TRIAL_DEADLINE_S_DEFAULT, 0);
                self.adopt(index, unknown)?;
            }
            Start::Abort(mark) => return self.abort(index, mark),
        }
        Ok(false)
    }

    /// What runs is the truth, and not that its entry reads as damaged: writes it again, before the
    /// bootloader reads the same and goes elsewhere. An image that was on trial is on trial again.
    fn heal(&mut self) -> Result<(), Fault> {
        let Some(index) = self.choice.damaged_of(self.running.number) else {
            return Ok(());
        };
        match Mark::parse(&self.choice.entry(index).label) {
            Some(mark) if !mark.confirmed => self.adopt(index, mark),
            mark => self.write_valid(index, mark),
        }
    }

    /// At start of the earlier image: what became of the image that was to replace it.
    pub(crate) fn find_verdict(&mut self) -> Result<(), Fault> {
        for index in 0..2 {
            let known = |mark: &Mark| mark.order != ORDER_UNKNOWN;
            let Some(mark) = self.choice.mark(index).filter(known) else {
                continue;
            };
            if self.choice.slot(index) == self.running.number && self.trial.is_some() {
                continue;
            }
            let verdict = match mark.verdict {
                Verdict::Open => self.note_verdict(index)?,
                noted => noted,
            };
            let Verdict::Ended {
                end,
                code,
                reset,
                reported,
            } = verdict
            else {
                continue;
            };
            self.ended = Some(mark.order);
            if !reported {
                self.report = Some(Report::stored(index, mark.order, end, code, reset));
            }
        }
        Ok(())
    }

    /// Adds the verdict that the bootloader could not write: it knows neither codes nor resets.
    fn note_verdict(&mut self, index: usize) -> Result<Verdict, Fault> {
        let Some(mark) = self.choice.mark(index) else {
            return Ok(Verdict::Open);
        };
        let verdict = match self.choice.entry(index).state {
            State::Aborted | State::Invalid => {
                let end = End::RolledBackBoot;
                verdict_of(mark, self.boot.reset, end, FailureCode::CrashLoop)
            }
            // The choice names an image that did not boot: the bootloader refused it. But where power
            // was lost the entry may be torn, and have read as wrong then and as right now.
            _ if !mark.confirmed
                && self.choice.active() == Some(index)
                && self.choice.slot(index) != self.running.number =>
            {
                let code = FailureCode::ImageInvalid;
                verdict_of(mark, self.boot.reset, End::Failed, code)
            }
            _ => return Ok(Verdict::Open),
        };
        self.choice
            .clear(&mut self.flash, index, VERDICT_WORD_OFFSET, verdict.word())?;
        Ok(verdict)
    }

    /// Makes the bootloader leave the running image, if something valid would boot instead.
    pub(crate) fn leave_running(
        &mut self,
        index: usize,
        state: State,
        mark: Option<Mark>,
        verdict: Verdict,
    ) -> Result<ResetNow, TrialError> {
        if self.valid_fallback()?.is_none() {
            return Err(TrialError::NoRollbackTarget);
        }
        let mut entry = Entry::new(self.choice.entry(index).seq, state);
        if let Some(mark) = mark {
            entry.label = Mark { verdict, ..mark }.label();
        }
        self.choice.replace(&mut self.flash, index, &entry)?;
        Ok(ResetNow::new())
    }

    /// Where a rollback would go: what the bootloader chooses without the running entry, if a
    /// valid image is there.
    pub(crate) fn valid_fallback(&mut self) -> Result<Option<Slot>, Fault> {
        let Some(slot) = fallback(&self.layout, &self.choice, self.running.number) else {
            return Ok(None);
        };
        let content = slot.check(&mut self.flash, &self.boot)?;
        Ok(content.map(|_| slot))
    }

    fn guard(&mut self, index: usize, mark: Mark) -> Result<(), Fault> {
        let word = mark.trial_word();
        self.choice
            .clear(&mut self.flash, index, TRIAL_WORD_OFFSET, word)?;
        let mark = Some(mark);
        self.trial = Some(Trial { index, mark });
        Ok(())
    }

    /// Writes the running image's entry anew, as one of a trial that has begun.
    fn adopt(&mut self, index: usize, mark: Mark) -> Result<(), Fault> {
        let mark = Mark {
            started: true,
            ..mark
        };
        let entry = Entry {
            label: mark.label(),
            ..Entry::new(self.choice.entry(index).seq, State::New)
        };
        self.choice.replace(&mut self.flash, index, &entry)?;
        let mark = Some(mark);
        self.trial = Some(Trial { index, mark });
        Ok(())
    }

    fn abort(&mut self, index: usize, mark: Mark) -> Result<bool, Fault> {
        let verdict = Verdict::Ended {
            end: End::RolledBackBoot,
            code: FailureCode::CrashLoop,
            reset: self.boot.reset,
            reported: false,
        };
        match self.leave_running(index, State::Aborted, Some(mark), verdict) {
            Ok(_) => Ok(true),
            Err(TrialError::Flash(fault)) => Err(fault),
            Err(_) => {
                // Nothing else would boot, so a crashing image is better than none.
                let mark = Some(mark);
                self.trial = Some(Trial { index, mark });
                Ok(false)
            }
        }
    }

    fn write_valid(&mut self, index: usize, mark: Option<Mark>) -> Result<(), Fault> {
        let old = self.choice.entry(index);
        let entry = Entry {
            label: mark.map_or(old.label, |mark| mark.label()),
            ..Entry::new(old.seq, State::Valid)
        };
        self.choice.replace(&mut self.flash, index, &entry)
    }
}

fn confirmed(mark: Mark) -> Mark {
    Mark {
        started: true,
        confirmed: true,
        ..mark
    }
}

/// How a trial ended that did not last: by a power loss, which says nothing of the image unless there
/// were too many, or by the image.
fn verdict_of(mark: Mark, reset: ResetReason, end: End, code: FailureCode) -> Verdict {
    if is_power_loss(reset) && mark.power_losses < TRIAL_POWER_LOSS_MAX {
        return Verdict::Interrupted;
    }
    Verdict::Ended {
        end,
        code,
        reset,
        reported: false,
    }
}
