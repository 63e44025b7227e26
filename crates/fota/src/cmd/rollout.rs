//! `fota rollout …`

use fota_proto::manager::{
    Attempt, Preview, ReasonCount, Release, Rollout, RolloutDetail, RolloutRequest,
};

use crate::{
    args::{RolloutCommand, RolloutOptions},
    clock::{self, now_ms},
    cmd::{clusters, rollout_plan, update},
    context::Context,
    failure::{Failure, Result},
    follow,
    output::Mark,
    text,
};

/// Attempts that `show` prints; they come worst first.
const SHOWN_MAX: usize = 200;

pub async fn run(context: &Context, command: RolloutCommand) -> Result {
    let client = context.client()?;
    match command {
        RolloutCommand::Start {
            release,
            to,
            options,
        } => {
            return start(context, &release, to, &options).await;
        }
        RolloutCommand::Watch { rollout, timeout } => {
            let id = match rollout {
                Some(rollout) => rollout.0,
                None => newest(context).await?,
            };
            return watch(context, id, timeout).await;
        }
        RolloutCommand::List => list(context, &client.rollouts().await?),
        RolloutCommand::Show { rollout } => show(context, &client.rollout(rollout.0).await?),
        RolloutCommand::Pause(args) => {
            changed(context, &client.pause(args.rollout.0, &args.reason).await?);
        }
        RolloutCommand::Resume(args) => {
            changed(context, &client.resume(args.rollout.0, &args.reason).await?);
        }
        RolloutCommand::Abort(args) => {
            let question = format!("End r-{} for good?", args.rollout.0);
            if !context.confirm(&question, "--yes").await? {
                return Err(Failure::error("nothing was changed"));
            }
            changed(context, &client.abort(args.rollout.0, &args.reason).await?);
        }
        RolloutCommand::Plan(args) => return rollout_plan::run(context, &args).await,
        RolloutCommand::Promote(args) => {
            changed(
                context,
                &client.promote(args.rollout.0, &args.reason).await?,
            );
        }
        RolloutCommand::Approve(args) => {
            changed(
                context,
                &client.approve(args.rollout.0, &args.reason).await?,
            );
        }
        RolloutCommand::Retry { rollout } => changed(context, &client.retry(rollout.0).await?),
        RolloutCommand::Clusters { rollout, days } => {
            let found = match rollout {
                Some(rollout) => client.rollout_clusters(rollout.0).await?,
                None => client.clusters(days).await?,
            };
            clusters::show(context, &found);
        }
    }
    Ok(())
}

/// The request for a rollout; how many failures pause it depends on how many devices it reaches.
pub fn request(release: &Release, to: Vec<String>, options: &RolloutOptions) -> RolloutRequest {
    RolloutRequest {
        rollback_on_failure: options.rollback_on_failure,
        trial_deadline_s: options
            .trial_deadline
            .map(|deadline| u32::try_from(deadline.as_secs()).unwrap_or(u32::MAX)),
        allow_product_change: options.allow_product_change,
        idempotency_key: Some(key()),
        ..RolloutRequest::new(release.id.to_string(), to)
    }
}

/// A key of this run: asking again after a lost answer starts no second rollout.
pub fn key() -> String {
    format!("cli-{:x}-{:x}", now_ms(), std::process::id())
}

/// Sets the failure limit for a rollout that reaches `matched` devices. Rolling back on failure
/// needs a limit to act on: the first failure, where none is given.
pub fn limit_failures(request: &mut RolloutRequest, options: &RolloutOptions, matched: u64) {
    let given = options.max_failures.map(|limit| limit.of(matched));
    request.failures_max = given.or(options.rollback_on_failure.then_some(1));
}

/// Whom it reaches, told; and whether to go on, asked.
pub async fn agreed(context: &Context, preview: &Preview) -> Result {
    let offline = preview.matched.saturating_sub(preview.online);
    let mut parts = vec![
        format!("{} match", preview.matched),
        format!("{} online", preview.online),
    ];
    if offline > 0 {
        parts.push(format!("{offline} offline (waits)"));
    }
    if !preview.reasons.is_empty() {
        parts.push(excluded(preview));
    }
    context
        .out
        .note(Mark::Good, &format!("targets  {}", parts.join(" · ")));
    let question = format!(
        "Start rollout to {}?",
        text::count(preview.matched, "device")
    );
    match context.confirm(&question, "--yes").await? {
        true => Ok(()),
        false => Err(Failure::error("nothing was started")),
    }
}

/// `2 excluded (1 incompatible_chip esp32s3, 1 already_installed)`
fn excluded(preview: &Preview) -> String {
    let each = |count: &ReasonCount| {
        let reason = count
            .reason
            .strip_prefix("skipped:")
            .unwrap_or(&count.reason);
        match &count.of {
            Some(of) => format!("{} {reason} {}", count.devices, text::plain(of)),
            None => format!("{} {reason}", count.devices),
        }
    };
    let reasons: Vec<String> = preview.reasons.iter().map(each).collect();
    let number: u64 = preview.reasons.iter().map(|count| count.devices).sum();
    format!("{number} excluded ({})", reasons.join(", "))
}

/// Starts a rollout; a lost answer is asked for again, which the idempotency key makes safe.
pub async fn launch(context: &Context, request: &RolloutRequest) -> Result<Rollout> {
    let client = context.client()?;
    let rollout = match client.start_rollout(request).await {
        Err(fota_client::Error::Unreachable { .. }) => client.start_rollout(request).await?,
        other => other?,
    };
    let (id, base) = (rollout.id, client.base());
    context.out.note(
        Mark::Good,
        &format!("rollout  r-{id}   {base}/rollouts/r-{id}"),
    );
    Ok(rollout)
}

async fn start(
    context: &Context,
    release: &str,
    to: Vec<String>,
    options: &RolloutOptions,
) -> Result {
    let release = context.release(release).await?;
    let mut request = request(&release, to, options);
    let preview = context.client()?.preview(&request).await?;
    if preview.matched == 0 {
        return update::nothing_to_do(context, &release, &preview).await;
    }
    limit_failures(&mut request, options, preview.matched);
    agreed(context, &preview).await?;
    let rollout = launch(context, &request).await?;
    let number = text::count(preview.matched, "device");
    let (id, version) = (rollout.id, &rollout.version);
    context
        .out
        .verdict(Mark::Good, &format!("r-{id} brings {version} to {number}"));
    context
        .out
        .say(&format!("  look on with `fota rollout watch r-{id}`"));
    context.out.document("fota.rollout/1", &rollout);
    Ok(())
}

/// The newest rollout.
pub async fn newest(context: &Context) -> Result<i64> {
    let rollouts = context.client()?.rollouts().await?;
    let newest = rollouts.iter().map(|rollout| rollout.id).max();
    newest.ok_or_else(|| Failure::not_found("there is no rollout yet"))
}

/// Follows a rollout and gives the verdict that `fota update` gives.
pub async fn watch(context: &Context, id: i64, timeout: std::time::Duration) -> Result {
    context.set_reattach(Some(format!("fota rollout watch r-{id}")));
    let deadline = clock::now() + timeout;
    let detail = context.client()?.rollout(id).await?;
    let release = context.client()?.release(detail.rollout.release).await?;
    let line = format!(
        "r-{id} brings {} to {}",
        release.version,
        detail.rollout.to.join(", ")
    );
    context.out.say(&line);
    let followed = follow::follow(context, id, deadline).await?;
    update::conclude(context, &release, followed, deadline, timeout).await
}

fn list(context: &Context, rollouts: &[Rollout]) {
    let rows: Vec<Vec<String>> = rollouts
        .iter()
        .map(|rollout| {
            vec![
                format!("r-{}", rollout.id),
                text::plain(&rollout.version),
                rollout.to.join(" "),
                state(rollout).to_owned(),
                follow::counts(&rollout.counts),
                text::time(rollout.created_at),
            ]
        })
        .collect();
    let heading = ["ROLLOUT", "VERSION", "TO", "STATE", "DEVICES", "STARTED"];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.rollouts/1", &rollouts);
}

fn state(rollout: &Rollout) -> &'static str {
    use fota_proto::manager::RolloutState::{Aborted, Active, Complete, Paused};
    match rollout.state {
        Active => "active",
        Paused => "paused",
        Aborted => "aborted",
        Complete => "complete",
    }
}

/// `2 of 3 (25 %): 40 of 45 healthy; waits: its least time is not over`
fn changed(context: &Context, rollout: &Rollout) {
    let line = format!(
        "r-{} is {}: {}",
        rollout.id,
        state(rollout),
        follow::counts(&rollout.counts)
    );
    context.out.verdict(Mark::Good, &line);
    context.out.document("fota.rollout/1", rollout);
}

fn show(context: &Context, detail: &RolloutDetail) {
    let rollout = &detail.rollout;
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let limit = rollout
        .failures_max
        .map(|limit| match rollout.rollback_on_failure {
            true => format!("pauses at {limit}, then rolls back"),
            false => format!("pauses at {limit}"),
        });
    context.out.answer(&text::facts(&[
        ("rollout", format!("r-{}", rollout.id)),
        (
            "release",
            format!(
                "{} (number {})",
                text::plain(&rollout.version),
                rollout.release
            ),
        ),
        ("to", rollout.to.join(" ")),
        ("state", state(rollout).to_owned()),
        (
            "reason",
            or_dash(rollout.reason.as_deref().map(text::plain)),
        ),
        ("failures", or_dash(limit)),
        ("plan", text::plain(&rollout.sentence)),
        (
            "wave",
            or_dash(
                rollout
                    .wave
                    .as_ref()
                    .map(|wave| text::plain(&wave.to_string())),
            ),
        ),
        (
            "health",
            or_dash(rollout.health.as_ref().map(ToString::to_string)),
        ),
        (
            "went back",
            or_dash(rollout.rollback.map(|back| back.to_string())),
        ),
        ("devices", follow::counts(&rollout.counts)),
        ("sent", text::sent(rollout.bytes_sent, rollout.spared_bytes)),
        ("started", format!("{} UTC", text::time(rollout.created_at))),
    ]));
    let now = now_ms();
    let rows: Vec<Vec<String>> = detail
        .attempts
        .iter()
        .take(SHOWN_MAX)
        .map(|attempt| attempt_row(attempt, now))
        .collect();
    context.out.answer("\n");
    let heading = ["DEVICE", "FROM", "STATE", "DONE", "CHANGED", "WHY"];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.rollout/1", detail);
}

fn attempt_row(attempt: &Attempt, now: i64) -> Vec<String> {
    let plain = |text: &Option<String>| text.as_deref().map(text::plain);
    vec![
        attempt.device.clone(),
        plain(&attempt.from_version).unwrap_or_else(|| "-".to_owned()),
        attempt.state.to_string(),
        format!("{}%", attempt.percent),
        text::age(attempt.updated_at, now),
        plain(&attempt.explanation).unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::rollouts::MaxFailures;

    #[test]
    fn rolling_back_on_failure_needs_a_limit_to_act_on() {
        let release = crate::cmd::verify::tests::release();
        let cases = [
            (None, false, None),
            (None, true, Some(1)),
            (Some(MaxFailures::Percent(10)), true, Some(2)),
            (Some(MaxFailures::Devices(3)), false, Some(3)),
        ];
        for (max_failures, rollback_on_failure, expected) in cases {
            let options = RolloutOptions {
                max_failures,
                rollback_on_failure,
                ..RolloutOptions::default()
            };
            let mut request = request(&release, vec!["all".into()], &options);
            limit_failures(&mut request, &options, 11);
            assert_eq!(request.failures_max, expected);
            assert_eq!(request.release, "2");
        }
    }
}
