//! `fota rollout clusters`: what the failures of a rollout have in common.

use fota_proto::notify::RolloutClusters;

use crate::{context::Context, output::Mark, text};

/// The counts, then one line for each cluster.
pub fn show(context: &Context, found: &RolloutClusters) {
    let mark = if found.failed > 0 {
        Mark::Bad
    } else {
        Mark::Good
    };
    let states = found.states.iter().map(|count| {
        let state = text::plain(&count.state);
        format!("{} {state}", count.devices)
    });
    let states: Vec<String> = states.collect();
    let of = match (found.rollout, found.days) {
        (Some(rollout), _) => format!("r-{rollout}"),
        (None, days) => format!("the last {}", text::count(days.unwrap_or(0).into(), "day")),
    };
    let line = format!(
        "{of}: {} of {} failed{}{}",
        found.failed,
        found.devices,
        if states.is_empty() { "" } else { ": " },
        states.join(", ")
    );
    context.out.verdict(mark, &line);
    for cluster in &found.clusters {
        let line = format!("  {}\n", text::plain(&cluster.text));
        context.out.answer(&line);
    }
    if found.clusters.is_empty() && found.failed > 0 {
        context
            .out
            .say("nothing stands out: no kind of device fails more than the others");
    }
    context.out.document("fota.rollout-clusters/1", found);
}
