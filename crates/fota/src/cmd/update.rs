//! `fota update`: the complete workflow. It exits 0 only when the devices themselves have
//! reported that they run the new image and have confirmed it.
//!
//! | what became of it | exit |
//! |---|---|
//! | every device that the rollout reaches runs the release, confirmed | 0 |
//! | a device failed or went back; the rollout was paused or aborted | 3 |
//! | `--timeout` came first, for example because a device is offline; the rollout goes on | 5 |
//! | no device can take the release | 7, or 6 where no device matches |

use std::{collections::BTreeSet, path::Path, time::Duration};

use fota_client::DeviceFilter;
use fota_proto::manager::{Counts, Device, Excluded, Preview, Release, Rollout, RolloutState};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    args::{UpdateArgs, UploadArgs},
    clock::{self, now_ms},
    cmd::{
        rollback, rollout, upload,
        verify::{self, Proof},
    },
    context::{Context, Step, Voice},
    failure::{Exit, Failure, Result},
    follow::{self, Followed},
    output::Mark,
    text::{self, Grouped},
};

pub async fn run(context: &Context, args: &UpdateArgs) -> Result {
    refuse_file_among_targets(args)?;
    let release = obtain(context, args).await?;
    context.out.document("fota.release/1", &release);
    let mut request = rollout::request(&release, args.to.clone(), &args.options);
    let preview = context.client()?.preview(&request).await?;
    context.out.document("fota.preview/1", &preview);
    if preview.matched == 0 {
        return nothing_to_do(context, &release, &preview).await;
    }
    rollout::limit_failures(&mut request, &args.options, preview.matched);
    rollout::agreed(context, &preview).await?;
    context.step(Step::Trigger);
    let rollout = rollout::launch(context, &request).await?;
    context.out.document("fota.rollout/1", &rollout);
    context.set_reattach(Some(format!("fota rollout watch r-{}", rollout.id)));
    context.step(Step::Monitor);
    let deadline = clock::now() + args.timeout;
    let followed = follow::follow(context, rollout.id, deadline).await?;
    conclude(context, &release, followed, deadline, args.timeout).await
}

/// `--to` takes every word behind it: a file there was meant as the file.
fn refuse_file_among_targets(args: &UpdateArgs) -> Result {
    let is_file = |target: &&String| {
        target.ends_with(".bin") || target.ends_with(".fota") || Path::new(target).is_file()
    };
    match args.to.iter().find(is_file) {
        Some(file) => Err(Failure::usage(format!("{file} is a file, not a target"))
            .hint("put the file in front: fota update FILE --to TARGET…")),
        None => Ok(()),
    }
}

/// The release to bring: uploaded now, or one that is on the server.
async fn obtain(context: &Context, args: &UpdateArgs) -> Result<Release> {
    let upload = |file: Option<&Path>| UploadArgs {
        file: file.map(Path::to_owned),
        version: args.version.clone(),
        allow_version_mismatch: args.allow_version_mismatch,
        notes: args.notes.clone(),
    };
    let Some(what) = &args.what else {
        return upload::send(context, &upload(None)).await;
    };
    let path = Path::new(what);
    let is_a_path = path.components().count() > 1
        || path
            .extension()
            .is_some_and(|it| it == "bin" || it == "fota");
    if path.is_file() || is_a_path {
        return upload::send(context, &upload(Some(path))).await;
    }
    let release = context.release(what).await?;
    let chip = release.chip.as_deref().unwrap_or("any chip");
    let (bytes, sha256) = (Grouped(release.bytes), release.sha256);
    let sha256 = sha256.short();
    let line = format!(
        "{} {} · {chip} · {bytes} B · sha256 {sha256}…",
        release.project, release.version
    );
    context.out.note(Mark::Good, &format!("image    {line}"));
    Ok(release)
}

/// A release that nobody can take. Where everybody has it already, that is success.
pub async fn nothing_to_do(context: &Context, release: &Release, preview: &Preview) -> Result {
    let Some(first) = preview.excluded.first() else {
        return Err(Failure::not_found("no device matches").hint("`fota status` shows the devices"));
    };
    let everybody_has_it = |it: &Excluded| it.reason.ends_with("already_installed");
    if preview.excluded.iter().all(everybody_has_it) {
        return already_there(context, release, preview).await;
    }
    let more = match preview.excluded.len() {
        1 => String::new(),
        number => format!(" (and {} more)", number - 1),
    };
    let (device, reason) = (&first.device, &first.reason);
    let message = format!(
        "no device can take {}: {device}: {reason}{more}",
        release.version
    );
    Err(Failure::refused(reason, message))
}

/// Even a device that is said to have the release is asked what it runs.
async fn already_there(context: &Context, release: &Release, preview: &Preview) -> Result {
    let devices = context.client()?.devices(&DeviceFilter::default()).await?;
    let named: BTreeSet<&str> = preview
        .excluded
        .iter()
        .map(|it| it.device.as_str())
        .collect();
    let doubtful: Vec<&Device> = devices
        .iter()
        .filter(|device| named.contains(device.id.as_str()))
        .filter(|device| matches!(verify::proof(device, release), Proof::Trial | Proof::Other))
        .collect();
    let now = now_ms();
    for device in &doubtful {
        let proof = verify::proof(device, release);
        context
            .out
            .note(Mark::Bad, &verify::sentence(device, release, proof, now));
    }
    let state = if doubtful.is_empty() {
        End::Succeeded
    } else {
        End::NotVerified
    };
    let number = text::count(preview.excluded.len() as u64, "device");
    if doubtful.is_empty() {
        let line = format!(
            "done     {number} had {} already, confirmed",
            release.version
        );
        context.out.verdict(Mark::Good, &line);
    }
    let succeeded = preview.excluded.len() - doubtful.len();
    context.out.document(
        "fota.result/1",
        &json!({"rollout": null, "state": state.name(),
        "version": release.version, "succeeded": succeeded, "failed": 0, "rolled_back": 0,
        "waiting": 0}),
    );
    match doubtful.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(
            Exit::NotSuccessful,
            state.name(),
            format!("{} of {number} not confirmed", doubtful.len()),
        )),
    }
}

/// How an update ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Succeeded,
    NotVerified,
    Failed,
    RolledBack,
    Paused,
    Aborted,
    TimedOut,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::NotVerified => "not_verified",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Paused => "paused",
            Self::Aborted => "aborted",
            Self::TimedOut => "timed_out",
        }
    }

    /// The end of a rollout before its devices were looked at.
    fn of(rollout: &Rollout, settled: bool, back: u64) -> Self {
        let counts = &rollout.counts;
        match rollout.state {
            _ if !settled => Self::TimedOut,
            _ if back > 0 => Self::RolledBack,
            RolloutState::Aborted => Self::Aborted,
            RolloutState::Paused if counts.failed + counts.rolled_back == 0 => Self::Paused,
            _ if counts.rolled_back > 0 => Self::RolledBack,
            RolloutState::Paused => Self::Paused,
            _ if counts.failed + counts.ended > 0 => Self::Failed,
            RolloutState::Active | RolloutState::Complete => Self::Succeeded,
        }
    }
}

/// What the devices of a rollout prove about it.
#[derive(Debug, Default)]
struct Proofs {
    confirmed: u64,
    claimed: u64,
    /// Devices whose attempt succeeded and that do not run the release now.
    others: Vec<Device>,
}

/// Waits for an automatic rollback, asks the devices what they run, and gives the verdict.
pub async fn conclude(
    context: &Context,
    release: &Release,
    followed: Followed,
    deadline: Instant,
    timeout: Duration,
) -> Result {
    let Followed {
        mut detail,
        mut settled,
    } = followed;
    let mut back = 0;
    if settled && detail.rollout.state == RolloutState::Paused && detail.rollout.rollback_on_failure
    {
        let outcome = automatic_rollback(context, release, detail.rollout.id, deadline).await?;
        (back, settled) = (outcome.done, outcome.all_done);
        detail = context.client()?.rollout(detail.rollout.id).await?;
    }
    context.step(Step::Verify);
    let proofs = proofs(context, release, detail.rollout.id).await?;
    let mut end = End::of(&detail.rollout, settled, back);
    if end == End::Succeeded
        && (!proofs.others.is_empty() || nobody_updated(&detail.rollout.counts))
    {
        end = End::NotVerified;
    }
    context.set_reattach(None);
    report(context, release, &detail.rollout, end, &proofs, back);
    verdict(context, &detail.rollout, end, timeout)
}

fn nobody_updated(counts: &Counts) -> bool {
    counts.succeeded == 0 && counts.skipped > 0
}

struct Back {
    done: u64,
    all_done: bool,
}

/// Sees the orders through that the server gave when it paused the rollout.
async fn automatic_rollback(
    context: &Context,
    release: &Release,
    rollout: i64,
    deadline: Instant,
) -> Result<Back> {
    let ours = |device: &Device| {
        let attempt = device.attempt.as_ref();
        attempt.is_some_and(|attempt| attempt.rollout == rollout) && device.rollback.is_some()
    };
    let devices = context.client()?.devices(&DeviceFilter::default()).await?;
    let ordered: BTreeSet<String> = devices
        .iter()
        .filter(|device| ours(device))
        .map(|device| device.id.clone())
        .collect();
    if ordered.is_empty() {
        return Ok(Back {
            done: 0,
            all_done: true,
        });
    }
    if context.voice == Voice::Menu {
        context.out.answer("Initiating automatic rollback...\n");
    }
    let number = text::count(ordered.len() as u64, "updated device");
    context
        .out
        .note(Mark::Attention, &format!("rolling back {number}…"));
    let total = ordered.len();
    let outcome = rollback::wait(context, ordered, deadline).await?;
    let done = outcome.done.len();
    let mark = if done == total {
        Mark::Good
    } else {
        Mark::Attention
    };
    let versions: BTreeSet<String> = outcome
        .done
        .iter()
        .filter_map(|device| device.version.clone())
        .collect();
    let versions: Vec<String> = versions
        .iter()
        .map(|version| text::plain(version))
        .collect();
    let blocked = &release.version;
    let line = format!(
        "rollback {done}/{total} on {}, release {blocked} blocked there",
        versions.join(", ")
    );
    context.out.note(mark, &line);
    Ok(Back {
        done: done as u64,
        all_done: outcome.standing.is_empty(),
    })
}

async fn proofs(context: &Context, release: &Release, rollout: i64) -> Result<Proofs> {
    let devices = context.client()?.devices(&DeviceFilter::default()).await?;
    let mut proofs = Proofs::default();
    for device in devices {
        let attempt = device.attempt.as_ref();
        let succeeded = attempt.is_some_and(|attempt| {
            attempt.rollout == rollout && attempt.state == fota_proto::AttemptState::Succeeded
        });
        if !succeeded {
            continue;
        }
        match verify::proof(&device, release) {
            Proof::Confirmed => proofs.confirmed += 1,
            Proof::Claimed => proofs.claimed += 1,
            Proof::Trial | Proof::Other => proofs.others.push(device),
        }
    }
    Ok(proofs)
}

fn report(
    context: &Context,
    release: &Release,
    rollout: &Rollout,
    end: End,
    proofs: &Proofs,
    back: u64,
) {
    let counts = &rollout.counts;
    let now = now_ms();
    if end == End::NotVerified {
        for device in &proofs.others {
            let proof = verify::proof(device, release);
            context
                .out
                .note(Mark::Bad, &verify::sentence(device, release, proof, now));
        }
    }
    if proofs.claimed > 0 {
        let number = text::count(proofs.claimed, "device");
        let line =
            format!("{number} can only claim the version: the seed's protocol names no digest");
        context.out.note(Mark::Attention, &line);
    }
    let (mark, text) = summary(release, rollout, end, proofs);
    context.out.verdict(mark, &text);
    context.out.document(
        "fota.result/1",
        &Outcome {
            rollout: format!("r-{}", rollout.id),
            state: end.name(),
            version: &release.version,
            succeeded: counts.succeeded.saturating_sub(back),
            failed: counts.failed,
            rolled_back: counts.rolled_back + back,
            waiting: counts.waiting,
            under_way: counts.updating + counts.trial,
            skipped: counts.skipped,
            ended: counts.ended,
            confirmed_by_digest: proofs.confirmed,
            claimed: proofs.claimed,
        },
    );
}

/// The last line of `--json`.
#[derive(Serialize)]
struct Outcome<'a> {
    rollout: String,
    state: &'static str,
    version: &'a str,
    succeeded: u64,
    failed: u64,
    rolled_back: u64,
    waiting: u64,
    under_way: u64,
    skipped: u64,
    ended: u64,
    confirmed_by_digest: u64,
    claimed: u64,
}

/// `1 device runs`, `3 devices run`
fn runs(devices: u64) -> String {
    let verb = if devices == 1 { "runs" } else { "run" };
    format!("{} {verb}", text::count(devices, "device"))
}

fn summary(release: &Release, rollout: &Rollout, end: End, proofs: &Proofs) -> (Mark, String) {
    let version = &release.version;
    let counts = follow::counts(&rollout.counts);
    let because = rollout
        .reason
        .as_deref()
        .map(|why| format!(" – {}", text::plain(why)));
    let because = because.unwrap_or_default();
    match end {
        End::Succeeded => {
            let run = runs(rollout.counts.succeeded);
            let proven = match proofs.claimed {
                0 => "confirmed".to_owned(),
                claimed => format!("{claimed} of them by their word only"),
            };
            (Mark::Good, format!("done     {run} {version}, {proven}"))
        }
        End::NotVerified => (Mark::Bad, format!("not verified: {counts}")),
        End::Failed => (Mark::Bad, format!("failed   {counts}")),
        End::RolledBack => (Mark::Bad, format!("rolled back: {counts}{because}")),
        End::Paused => (Mark::Bad, format!("paused   {counts}{because}")),
        End::Aborted => (Mark::Bad, format!("aborted  {counts}{because}")),
        End::TimedOut => (Mark::Attention, format!("not finished: {counts}")),
    }
}

fn verdict(context: &Context, rollout: &Rollout, end: End, timeout: Duration) -> Result {
    let id = rollout.id;
    match end {
        End::Succeeded => Ok(()),
        End::TimedOut => {
            let waited = text::duration(timeout);
            let message = format!("waited {waited}; r-{id} goes on");
            Err(Failure::new(Exit::TimedOut, "timed_out", message)
                .hint(format!("look on with `fota rollout watch r-{id}`")))
        }
        _ => {
            // For people the summary has said it; programs want it in the error too.
            let message = match context.out.json {
                true => format!("r-{id}: {}", follow::counts(&rollout.counts)),
                false => String::new(),
            };
            context
                .out
                .say(&format!("  next: fota rollout show r-{id} · fota status"));
            Err(Failure::new(Exit::NotSuccessful, end.name(), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::tests::rollout;

    #[test]
    fn an_update_ends_well_only_when_nobody_failed() {
        let of = |state, counts| End::of(&rollout(state, counts), true, 0);
        let ok = Counts {
            succeeded: 3,
            ..Counts::default()
        };
        let failed = Counts {
            succeeded: 2,
            failed: 1,
            ..Counts::default()
        };
        let went_back = Counts {
            succeeded: 2,
            rolled_back: 1,
            ..Counts::default()
        };
        let superseded = Counts {
            ended: 1,
            ..Counts::default()
        };
        assert_eq!(of(RolloutState::Complete, ok), End::Succeeded);
        assert_eq!(of(RolloutState::Active, ok), End::Succeeded);
        assert_eq!(of(RolloutState::Paused, ok), End::Paused);
        assert_eq!(of(RolloutState::Aborted, ok), End::Aborted);
        assert_eq!(of(RolloutState::Complete, failed), End::Failed);
        assert_eq!(of(RolloutState::Complete, went_back), End::RolledBack);
        assert_eq!(of(RolloutState::Paused, failed), End::Paused);
        assert_eq!(of(RolloutState::Complete, superseded), End::Failed);
        assert_eq!(
            End::of(&rollout(RolloutState::Active, ok), false, 0),
            End::TimedOut
        );
        assert_eq!(
            End::of(&rollout(RolloutState::Paused, failed), true, 2),
            End::RolledBack
        );
    }
}
