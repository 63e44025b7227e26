//! `fota rollout plan`: a rollout out of a file.
//!
//! The file is TOML: the release and its targets, and beside them the sections of the plan
//! ([`fota_proto::manager::RolloutPlan`]). `--example` prints one with every setting.

use std::path::Path;

use fota_proto::manager::{DryRun, RolloutPlan, RolloutRequest, Span};
use serde::Deserialize;

use crate::{
    args::RolloutPlanArgs,
    cmd::rollout,
    context::Context,
    failure::{Failure, Result},
    output::Mark,
    text,
};

/// What `--example` prints.
pub const EXAMPLE: &str = include_str!("rollout_plan.toml");

/// What the file says of the rollout itself; the rest is its plan.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    release: String,
    to: Vec<String>,
    failures_max: Option<u32>,
    #[serde(default)]
    rollback_on_failure: bool,
    trial_deadline: Option<Span>,
    #[serde(default)]
    allow_product_change: bool,
}

const HEAD: [&str; 6] = [
    "release",
    "to",
    "failures_max",
    "rollback_on_failure",
    "trial_deadline",
    "allow_product_change",
];

pub async fn run(context: &Context, args: &RolloutPlanArgs) -> Result {
    let Some(path) = &args.file else {
        context.out.answer(EXAMPLE);
        return Ok(());
    };
    let mut request = read(path)?;
    let preview = context.client()?.preview(&request).await?;
    context.out.note(
        Mark::Good,
        &format!("plan     {}", text::plain(&preview.sentence)),
    );
    if args.dry_run {
        let played = context.client()?.dry_run(&request).await?;
        tell(context, &played);
        return Ok(());
    }
    if preview.matched == 0 {
        let release = context.release(&request.release).await?;
        return super::update::nothing_to_do(context, &release, &preview).await;
    }
    rollout::agreed(context, &preview).await?;
    request.idempotency_key = Some(rollout::key());
    let rollout = rollout::launch(context, &request).await?;
    let number = text::count(preview.matched, "device");
    let (id, version) = (rollout.id, &rollout.version);
    context
        .out
        .verdict(Mark::Good, &format!("r-{id} brings {version} to {number}"));
    let next = match rollout.plan.as_ref().is_some_and(|plan| plan.approval) {
        true => format!("  somebody else approves it with `fota rollout approve r-{id}`"),
        false => format!("  look on with `fota rollout watch r-{id}`"),
    };
    context.out.say(&next);
    context.out.document("fota.rollout/1", &rollout);
    Ok(())
}

fn read(path: &Path) -> Result<RolloutRequest> {
    let shown = path.display();
    let unread = |error| Failure::error(format!("{shown}: {error}"));
    let text = std::fs::read_to_string(path).map_err(unread)?;
    parse(&text).map_err(|error| {
        Failure::usage(format!("{shown}: {error}")).hint("`fota rollout plan --example` shows one")
    })
}

/// The request that a file describes.
pub fn parse(text: &str) -> std::result::Result<RolloutRequest, String> {
    let whole: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| error.to_string())?;
    let is_head = |key: &String| HEAD.contains(&key.as_str());
    let (head, plan): (toml::Table, toml::Table) =
        whole.into_iter().partition(|(key, _)| is_head(key));
    let said = |error: toml::de::Error| error.to_string().trim().replace('\n', " ");
    let head: Head = head.try_into().map_err(said)?;
    let plan: RolloutPlan = plan.try_into().map_err(said)?;
    let deadline = head.trial_deadline.map(|deadline| deadline.ms() / 1000);
    Ok(RolloutRequest {
        release: head.release,
        to: head.to,
        failures_max: head.failures_max,
        rollback_on_failure: head.rollback_on_failure,
        trial_deadline_s: deadline.map(|s| u32::try_from(s).unwrap_or(u32::MAX)),
        allow_product_change: head.allow_product_change,
        idempotency_key: None,
        plan: Some(plan),
    })
}

/// What the rollout would do.
fn tell(context: &Context, played: &DryRun) {
    let end = |at: Option<i64>| at.map_or_else(|| "-".to_owned(), text::time);
    let rows: Vec<Vec<String>> = played
        .phases
        .iter()
        .map(|phase| {
            vec![
                phase.number.to_string(),
                phase.reaches.clone(),
                phase.devices.to_string(),
                text::time(phase.begins_at),
                end(phase.ends_at),
            ]
        })
        .collect();
    let heading = ["WAVE", "REACHES", "DEVICES", "BEGINS (UTC)", "ENDS (UTC)"];
    context.out.answer(&text::table(&heading, &rows));
    let number = text::count(played.matched, "device");
    let bytes = text::Grouped(played.bytes);
    let line = match played.finished_at {
        Some(at) => format!("{number}, {bytes} bytes, done at {} UTC", text::time(at)),
        None => format!("{number}, {bytes} bytes; it does not end by itself"),
    };
    let line = format!(
        "{line} ({} online were played through, none failed)",
        text::count(played.played, "device")
    );
    context.out.verdict(Mark::Good, &line);
    for held in &played.held {
        let number = text::count(held.devices, "device");
        context.out.note(
            Mark::Bad,
            &format!("{number} held by the rule {}", held.rule),
        );
    }
    context.out.document("fota.dry_run/1", played);
}

#[cfg(test)]
mod tests {
    use super::*;
    use fota_server::domain::plan;

    #[test]
    fn the_example_is_a_plan_that_the_server_takes_and_sets_everything() {
        let request = parse(EXAMPLE).expect("a plan");
        let given = request.plan.expect("a plan");
        let plan = plan::RolloutPlan::check(&given).expect("makes sense");
        assert_eq!(plan.waves.len(), 4);
        // Whoever adds a setting adds it to the example.
        let whole: toml::Table = EXAMPLE.parse().expect("TOML");
        let mut shown: Vec<&str> = whole.keys().map(String::as_str).collect();
        shown.retain(|key| !HEAD.contains(key));
        shown.sort_unstable();
        let all = [
            "filter",
            "priority",
            "via",
            "approval",
            "canary",
            "waves",
            "gates",
            "limits",
            "schedule",
            "conditions",
            "retries",
            "timeouts",
        ];
        let mut all = all.to_vec();
        all.sort_unstable();
        assert_eq!(shown, all);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_name() {
        let cases = [
            ("to = [\"all\"]", "release"),
            ("release = \"1\"\nto = [\"all\"]\nwafes = []", "wafes"),
            (
                "release = \"1\"\nto = [\"all\"]\n[limits]\nparalel = 1",
                "paralel",
            ),
            (
                "release = \"1\"\nto = [\"all\"]\n[timeouts]\ntrial = \"soon\"",
                "soon",
            ),
        ];
        for (text, word) in cases {
            let error = parse(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
