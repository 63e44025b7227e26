//! What a report makes of an attempt.
//!
//! | the device | the attempt becomes |
//! |---|---|
//! | runs the release, confirmed | `succeeded` |
//! | runs the release, on trial | `trial` |
//! | left it while an operator's rollback stood | `rolled_back:operator` |
//! | tells how the order ended | `failed:…`, `rolled_back:boot`, `rolled_back:health` |
//! | claims the release's version but runs another image, after installing | `failed:version_lie` |
//! | was on trial and runs the old image again, confirmed, without a word | `rolled_back:boot`; after a power loss stays |
//! | was installing and its slot holds the release rejected | `rolled_back:boot` |
//! | was installing and came back without a word | stays; after [`INSTALLS_MAX`] times `rolled_back:boot` |
//! | tells how far it is | that state, never an earlier one |

use fota_proto::{
    AttemptState, FailureCode, RollbackCause, SkipReason,
    checkin::{End, Phase, ResetReason, SlotState},
};

use super::model::{Attempt, Outcome, Release, Report};

/// How often a device may come back from an install without a word before the image is taken to
/// be the reason. Once is not enough: the power may have failed between the device's report
/// "installing" and the switch of its boot slot, and that must not block a good release.
pub const INSTALLS_MAX: u32 = 2;

/// The attempt after the report; equal to `attempt` where nothing changed.
pub fn fold(
    attempt: &Attempt,
    release: &Release,
    report: &Report,
    ordered_back: bool,
    now: i64,
) -> Attempt {
    let mut next = attempt.clone();
    if attempt.state.is_end() {
        return next;
    }
    count_installs(&mut next, release, report);
    let (state, detail) = state_after(&next, release, report, ordered_back);
    if attempt.state.may_become(state) {
        next.state = state;
        next.detail = detail;
    }
    take_bytes(&mut next, report);
    if next != *attempt {
        next.updated_at = now;
    }
    next
}

/// Whether this state of an attempt means that the release must not be offered to the device
/// again.
pub fn blocks(state: AttemptState) -> bool {
    matches!(state, AttemptState::RolledBack(_))
}

/// Whether this end counts against the rollout's failure limit.
pub fn is_failure(state: AttemptState) -> bool {
    match state {
        AttemptState::Failed(_) | AttemptState::TimedOut => true,
        // An operator's own order is not the release's fault.
        AttemptState::RolledBack(cause) => cause != RollbackCause::Operator,
        _ => false,
    }
}

/// An end as a sentence with its remedy; none for what needs none.
pub fn explain(state: AttemptState, detail: Option<&str>) -> Option<String> {
    let sentence = match state {
        AttemptState::Failed(code) => format!("{}: {}", code.sentence(), code.remedy()),
        AttemptState::RolledBack(RollbackCause::Boot) => with_remedy(FailureCode::CrashLoop),
        AttemptState::RolledBack(RollbackCause::Health) => {
            "the new image judged itself unfit or missed its deadline: read its report and fix the \
             release"
                .to_owned()
        }
        AttemptState::RolledBack(RollbackCause::Operator) => {
            "an operator ordered the device back".to_owned()
        }
        AttemptState::Skipped(reason) => skip_sentence(reason).to_owned(),
        AttemptState::TimedOut => {
            "it did not get there in the time the plan allows: see whether it is reachable, then \
             retry"
                .to_owned()
        }
        AttemptState::Aborted => "the rollout was aborted before this device installed".to_owned(),
        AttemptState::Superseded => "a newer rollout took this device over".to_owned(),
        _ => return None,
    };
    Some(match detail {
        Some(detail) if !detail.is_empty() => format!("{sentence} ({detail})"),
        _ => sentence,
    })
}

fn with_remedy(code: FailureCode) -> String {
    format!("{}: {}", code.sentence(), code.remedy())
}

fn skip_sentence(reason: SkipReason) -> &'static str {
    match reason {
        SkipReason::AlreadyInstalled => "it runs this release already",
        SkipReason::IncompatibleChip => "the release is for another chip or chip revision",
        SkipReason::IncompatibleProduct => {
            "the release is for another product: allow the product change if it is meant"
        }
        SkipReason::NoSpace => {
            "the image is larger than the device's slot: make it smaller or repartition over USB"
        }
        SkipReason::BlockedRelease => {
            "the release was rolled back on this device before: unblock it if it is meant"
        }
        SkipReason::OptedOut => "the device's owner said no",
        SkipReason::UntrustedRelease => {
            "the device takes only releases that keys of the newest root have signed: sign it, \
             upload the bundle, then retry"
        }
        SkipReason::ExpiredRelease => {
            "its makers signed the release for a time that is over: sign it again, upload the \
             bundle, then retry"
        }
        SkipReason::NotNewer => {
            "the device would refuse it: sign what it is to run with a higher sequence"
        }
    }
}

fn state_after(
    attempt: &Attempt,
    release: &Release,
    report: &Report,
    ordered_back: bool,
) -> (AttemptState, Option<String>) {
    let keep = (attempt.state, attempt.detail.clone());
    if report.running().is(release) {
        return if report.on_trial() {
            (AttemptState::Trial, None)
        } else if report.elf.is_some() || is_installing(attempt) {
            (AttemptState::Succeeded, word_only(report))
        } else {
            keep
        };
    }
    if ordered_back && is_installing(attempt) {
        return (AttemptState::RolledBack(RollbackCause::Operator), None);
    }
    if let Some(outcome) = outcome_of(attempt, report) {
        return end_of(outcome);
    }
    if is_lie(attempt, release, report) {
        let code = FailureCode::VersionLie;
        return (AttemptState::Failed(code), lie_detail(release, report));
    }
    if came_back(attempt, release, report) {
        let detail = "the device runs its old image again and gave no reason";
        return (
            AttemptState::RolledBack(RollbackCause::Boot),
            Some(detail.to_owned()),
        );
    }
    match progress_of(attempt, report) {
        // `Trial` while another image runs is no trial; `is_lie` and `came_back` judge it.
        Some(Phase::Trial) | None => keep,
        Some(Phase::Downloading) => (AttemptState::Downloading, None),
        Some(Phase::Downloaded) => (AttemptState::Downloaded, None),
        Some(Phase::Installing) => (AttemptState::Installing, None),
    }
}

fn word_only(report: &Report) -> Option<String> {
    let said = "the device says so; its protocol cannot prove which image runs";
    report.elf.is_none().then(|| said.to_owned())
}

fn is_installing(attempt: &Attempt) -> bool {
    matches!(
        attempt.state,
        AttemptState::Installing | AttemptState::Trial
    )
}

fn outcome_of<'r>(attempt: &Attempt, report: &'r Report) -> Option<&'r Outcome> {
    let outcome = report.outcome.as_ref()?;
    (outcome.order == attempt.order()).then_some(outcome)
}

fn progress_of(attempt: &Attempt, report: &Report) -> Option<Phase> {
    let progress = report.progress?;
    (progress.order == attempt.order()).then_some(progress.phase)
}

/// Whether the device says that it is on its way to the new image, not back from it.
fn is_at_it(attempt: &Attempt, report: &Report) -> bool {
    let phase = progress_of(attempt, report);
    phase.is_some_and(|phase| phase != Phase::Trial)
}

/// The state that an outcome stands for, with what the device added.
pub fn end_of(outcome: &Outcome) -> (AttemptState, Option<String>) {
    let state = match outcome.end {
        End::Failed | End::Refused => AttemptState::Failed(outcome.code),
        End::RolledBackBoot => AttemptState::RolledBack(RollbackCause::Boot),
        End::RolledBackHealth => AttemptState::RolledBack(RollbackCause::Health),
    };
    let reset = outcome.reset.and_then(reset_words);
    let detail = Some(outcome.detail.clone()).filter(|detail| !detail.is_empty());
    let words: Vec<String> = reset.map(str::to_owned).into_iter().chain(detail).collect();
    (state, (!words.is_empty()).then(|| words.join("; ")))
}

fn reset_words(reset: ResetReason) -> Option<&'static str> {
    Some(match reset {
        ResetReason::Unknown => return None,
        ResetReason::PowerOn => "reset: power came on",
        ResetReason::BrownOut => "reset: the supply sagged",
        ResetReason::Software => "reset: the software asked for it",
        ResetReason::Panic => "reset: panic or exception",
        ResetReason::Watchdog => "reset: watchdog",
        ResetReason::DeepSleep => "reset: deep sleep",
        ResetReason::External => "reset: reset pin",
    })
}

/// The version text says the release, the digest says another image, and the device had come as
/// far as installing; not where it had that version text before.
fn is_lie(attempt: &Attempt, release: &Release, report: &Report) -> bool {
    let claims = report.version.as_deref() == Some(release.version.as_str());
    let is_news = attempt.from_version.as_deref() != Some(release.version.as_str());
    report.elf.is_some()
        && claims
        && is_news
        && is_installing(attempt)
        && !is_at_it(attempt, report)
}

fn lie_detail(release: &Release, report: &Report) -> Option<String> {
    let elf = report.elf?;
    let version = &release.version;
    Some(format!("reports {version} but runs image {}…", elf.short()))
}

/// Whether the device was on the new image, or must have been, and is on another again. A trial that
/// a power loss has ended says nothing of the image: the device goes on with the order, and says so
/// itself when it was too often.
fn came_back(attempt: &Attempt, release: &Release, report: &Report) -> bool {
    if report.on_trial() || !is_installing(attempt) || is_at_it(attempt, report) {
        return false;
    }
    if matches!(
        report.reset,
        Some(ResetReason::PowerOn | ResetReason::BrownOut)
    ) {
        return attempt.back && attempt.installs >= INSTALLS_MAX;
    }
    let rejected = |slot: &&super::model::Slot| {
        slot.state == SlotState::Rejected && slot.elf.is_some() && slot.elf == release.elf
    };
    attempt.state == AttemptState::Trial
        || report.slots.iter().find(rejected).is_some()
        || (attempt.back && attempt.installs >= INSTALLS_MAX)
}

/// Counts how often the device came as far as installing, and notes when it was seen back.
fn count_installs(next: &mut Attempt, release: &Release, report: &Report) {
    if report.running().is(release) {
        return;
    }
    let phase = progress_of(next, report);
    if phase == Some(Phase::Installing) && (next.installs == 0 || next.back) {
        next.installs += 1;
        next.back = false;
    }
    if phase.is_none() && next.state == AttemptState::Installing && !report.on_trial() {
        next.back = true;
    }
}

fn take_bytes(next: &mut Attempt, report: &Report) {
    if matches!(next.state, AttemptState::Trial | AttemptState::Succeeded) {
        next.bytes_done = next.bytes_total;
    } else if let Some(progress) = report.progress
        && progress.order == next.order()
    {
        next.bytes_done = u64::from(progress.bytes).min(next.bytes_total);
    }
}

/// Percent of the image, never above 100.
pub fn percent(bytes_done: u64, bytes_total: u64) -> u8 {
    let percent = bytes_done.saturating_mul(100) / bytes_total.max(1);
    u8::try_from(percent.min(100)).unwrap_or(100)
}
