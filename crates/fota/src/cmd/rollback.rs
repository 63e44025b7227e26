//! `fota rollback`: order devices back, and see them there.

use std::{collections::BTreeSet, time::Duration};

use fota_client::{DeviceFilter, Incoming};
use fota_proto::manager::{Device, Excluded, RollbackAccepted, RollbackRequest, RollbackState};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    args::RollbackArgs,
    clock,
    context::Context,
    failure::{Exit, Failure, Result},
    follow::Pump,
    output::Mark,
    text,
};

/// Reason where a person at the menu gives none; the seed's.
pub const REASON_DEFAULT: &str = "Manual rollback";
/// The server's reason for a device that does not run the release of `--release`.
const RUNS_ANOTHER: &str = "runs_another_release";
/// Longest time between two looks, in case an event was missed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Above this many devices one listing is cheaper than a request for each.
const ASK_EACH_MAX: usize = 8;
/// Devices that are named one by one in an answer; more are counted.
const NAMED_MAX: usize = 20;

/// Where the devices of a rollback stand.
#[derive(Debug, Default)]
pub struct Outcome {
    pub done: Vec<Device>,
    pub refused: Vec<Device>,
    pub standing: Vec<Device>,
}

pub async fn run(context: &Context, args: &RollbackArgs) -> Result {
    let release = match &args.release {
        Some(name) => Some(context.release(name).await?.id.to_string()),
        None => None,
    };
    let reason = consent(context, args).await?;
    let request = RollbackRequest {
        to: args.to.clone(),
        release,
        reason,
    };
    let mut accepted = context.client()?.roll_back(&request).await?;
    if request.release.is_some() {
        // "Those that run it" was the question; the others are not left out, they were not meant.
        accepted
            .excluded
            .retain(|excluded| excluded.reason != RUNS_ANOTHER);
    }
    tell_excluded(context, &accepted.excluded);
    if accepted.orders.is_empty() {
        return Err(nobody(&accepted));
    }
    let number = text::count(accepted.orders.len() as u64, "device");
    context
        .out
        .note(Mark::Good, &format!("rollback ordered on {number}"));
    if args.no_wait {
        context.out.document("fota.rollback/1", &accepted);
        return Ok(());
    }
    context.set_reattach(Some(format!("fota status {}", names(&accepted))));
    let devices = accepted
        .orders
        .iter()
        .map(|order| order.device.clone())
        .collect();
    let outcome = wait(context, devices, clock::now() + args.timeout).await?;
    context.set_reattach(None);
    conclude(context, args, &accepted, &outcome)
}

fn names(accepted: &RollbackAccepted) -> String {
    let names: Vec<&str> = accepted
        .orders
        .iter()
        .map(|order| order.device.as_str())
        .collect();
    if names.len() > ASK_EACH_MAX {
        String::new()
    } else {
        names.join(" ")
    }
}

/// Asks what must be asked and gives the reason. The whole fleet wants its name typed.
async fn consent(context: &Context, args: &RollbackArgs) -> Result<String> {
    let everybody = args.to.iter().any(|target| target == "all");
    let targets = args.to.join(", ");
    let needs = match (everybody, args.reason.is_some()) {
        (true, _) => "--confirm all and --reason TEXT",
        (false, true) => "--yes",
        (false, false) => "--yes and --reason TEXT",
    };
    let agreed = match (everybody, args.confirm.as_deref()) {
        (_, Some(name)) if name == targets => true,
        (_, Some(name)) => {
            let message = format!("--confirm says {name:?}, the target is {targets:?}");
            return Err(Failure::usage(message));
        }
        (true, None) if context.voice == crate::context::Voice::Menu => true,
        (true, None) => {
            let question = "  Roll back every device? Type `all` to go on: ";
            context.out.ask(question, needs).await?.as_deref() == Some("all")
        }
        (false, None) => {
            context
                .confirm(&format!("Roll back {targets}?"), needs)
                .await?
        }
    };
    if !agreed {
        return Err(Failure::error("nothing was changed"));
    }
    if let Some(reason) = &args.reason {
        return Ok(reason.clone());
    }
    let question = format!("  Reason [{REASON_DEFAULT}]: ");
    let reason = context
        .out
        .ask(&question, "--reason TEXT")
        .await?
        .unwrap_or_default();
    Ok(if reason.is_empty() {
        REASON_DEFAULT.to_owned()
    } else {
        reason
    })
}

fn tell_excluded(context: &Context, excluded: &[Excluded]) {
    for Excluded { device, reason } in excluded.iter().take(NAMED_MAX) {
        context
            .out
            .note(Mark::Attention, &format!("{device} is left out: {reason}"));
    }
    if excluded.len() > NAMED_MAX {
        let more = excluded.len() - NAMED_MAX;
        context
            .out
            .note(Mark::Attention, &format!("and {more} more are left out"));
    }
}

fn nobody(accepted: &RollbackAccepted) -> Failure {
    let Some(first) = accepted.excluded.first() else {
        return Failure::not_found("no device matches").hint("`fota status` shows the devices");
    };
    let Excluded { device, reason } = first;
    let more = match accepted.excluded.len() {
        1 => String::new(),
        number => format!(" (and {} more)", number - 1),
    };
    Failure::refused(
        reason,
        format!("nothing to roll back: {device}: {reason}{more}"),
    )
    .hint("install a good release instead: `fota update FILE|VERSION --to …`")
}

/// Waits until no order stands on `devices`, or until `deadline`.
pub async fn wait(
    context: &Context,
    devices: BTreeSet<String>,
    deadline: Instant,
) -> Result<Outcome> {
    let mut events = Pump::start(context.client()?.event_stream(None, None));
    loop {
        let outcome = look(context, &devices).await?;
        if outcome.standing.is_empty() || clock::now() >= deadline {
            return Ok(outcome);
        }
        let pause = deadline.min(clock::now() + LOOK_EVERY);
        let heard = async {
            loop {
                match events.next().await? {
                    Incoming::Event(event) if event.bytes_done.is_none() => return Ok(()),
                    _ => {}
                }
            }
        };
        tokio::time::timeout_at(pause, heard)
            .await
            .unwrap_or(Ok::<(), Failure>(()))?;
    }
}

async fn look(context: &Context, devices: &BTreeSet<String>) -> Result<Outcome> {
    let client = context.client()?;
    let mut found = Vec::new();
    if devices.len() <= ASK_EACH_MAX {
        for device in devices {
            found.push(client.device(device).await?);
        }
    } else {
        let all = client.devices(&DeviceFilter::default()).await?;
        found.extend(
            all.into_iter()
                .filter(|device| devices.contains(&device.id)),
        );
    }
    let mut outcome = Outcome::default();
    for device in found {
        match device.rollback.as_ref().map(|order| order.state) {
            Some(RollbackState::Standing) => outcome.standing.push(device),
            Some(RollbackState::Refused) => outcome.refused.push(device),
            Some(RollbackState::Done) | None => outcome.done.push(device),
        }
    }
    Ok(outcome)
}

fn conclude(
    context: &Context,
    args: &RollbackArgs,
    accepted: &RollbackAccepted,
    outcome: &Outcome,
) -> Result {
    for device in outcome.done.iter().take(NAMED_MAX) {
        let runs = device.version.as_deref();
        let runs = runs.map_or_else(|| "another image".to_owned(), text::plain);
        context
            .out
            .verdict(Mark::Good, &format!("{} runs {runs}", device.id));
    }
    for device in outcome.refused.iter().take(NAMED_MAX) {
        let order = device.rollback.as_ref();
        let code = order
            .and_then(|order| order.code.as_deref())
            .unwrap_or("no reason given");
        context
            .out
            .verdict(Mark::Bad, &format!("{} refused: {code}", device.id));
    }
    for device in outcome.standing.iter().take(NAMED_MAX) {
        let line = format!(
            "{} has not been seen on the other image yet; the order stands",
            device.id
        );
        context.out.verdict(Mark::Attention, &line);
    }
    let ids = |devices: &[Device]| devices.iter().map(|it| it.id.clone()).collect::<Vec<_>>();
    let report = json!({
        "done": ids(&outcome.done), "refused": ids(&outcome.refused),
        "standing": ids(&outcome.standing), "excluded": accepted.excluded,
    });
    context.out.document("fota.rollback_result/1", &report);
    let all_refused = outcome.done.is_empty() && outcome.standing.is_empty();
    let left_out = !accepted.excluded.is_empty() && !args.to.iter().any(|target| target == "all");
    match (outcome.standing.is_empty(), outcome.refused.is_empty()) {
        (true, true) if !left_out => Ok(()),
        (true, true) => Err(Failure::new(
            Exit::NotSuccessful,
            "partial",
            "some devices were left out",
        )),
        (false, _) => Err(Failure::new(
            Exit::TimedOut,
            "timed_out",
            format!("waited {}; the orders stand", text::duration(args.timeout)),
        )
        .hint(format!("look on with `fota status {}`", names(accepted)))),
        (true, false) if all_refused => Err(Failure::refused(
            "no_rollback_target",
            "no device could go back",
        )),
        (true, false) => Err(Failure::new(
            Exit::NotSuccessful,
            "partial",
            "some devices could not go back",
        )),
    }
}
