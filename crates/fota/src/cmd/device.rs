//! `fota status`, `fota device …`

use fota_client::DeviceFilter;
use fota_proto::{
    AttemptState,
    manager::{Device, Event, PinRequest, Presence, RollbackState, TagsRequest, Why, WhyRule},
};

use crate::{
    args::{DeviceCommand, StatusArgs},
    clock::now_ms,
    cmd::{device_identity, event},
    context::Context,
    failure::{Failure, Result},
    output::Mark,
    text,
};

pub async fn run(context: &Context, command: DeviceCommand) -> Result {
    let client = context.client()?;
    match command {
        DeviceCommand::List(args) => list(context, &args).await?,
        DeviceCommand::Show { device } => {
            show(
                context,
                &client.device(&device).await?,
                &client.device_events(&device).await?,
            );
        }
        DeviceCommand::Events { device } => {
            let events = client.device_events(&device).await?;
            event::print(context, &events);
        }
        DeviceCommand::Why { device } => why(context, &client.why(&device).await?),
        DeviceCommand::Tag { device, tags } => {
            let tagged = client.tag(&device, &tags_request(&tags)?).await?;
            let said = tagged
                .tags
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            let line = format!("{device}: {}", said.collect::<Vec<_>>().join(" "));
            context.out.verdict(Mark::Good, &text::plain(&line));
            context.out.document("fota.tags/1", &tagged);
        }
        DeviceCommand::Provision(args) => device_identity::provision(context, &args).await?,
        DeviceCommand::Claim { file } => device_identity::claim(context, &file).await?,
        DeviceCommand::Credentials { device } => {
            device_identity::credentials(context, &device).await?;
        }
        DeviceCommand::Revoke(args) => device_identity::revoke(context, &args).await?,
        DeviceCommand::ReEnrol { device } => device_identity::re_enrol(context, &device).await?,
        DeviceCommand::EnrolmentKey(command) => {
            device_identity::enrolment_key(context, command).await?;
        }
        DeviceCommand::Pin {
            device,
            release,
            reason,
        } => {
            let request = PinRequest { release, reason };
            pinned(context, &client.pin(&device, &request).await?);
        }
        DeviceCommand::Unpin { device } => {
            client.unpin(&device).await?;
            pinned(context, &client.device(&device).await?);
        }
        DeviceCommand::Block { device, release } => {
            let release = context.release(&release).await?;
            let after = client.block(&device, &release.id.to_string()).await?;
            let line = format!("{} is not offered to {device}", release.version);
            context.out.verdict(Mark::Good, &line);
            context.out.document("fota.device/1", &after);
        }
        DeviceCommand::Unblock { device, release } => {
            let release = context.release(&release).await?;
            let after = client.unblock(&device, &release.id.to_string()).await?;
            let line = format!("{} may be offered to {device} again", release.version);
            context.out.verdict(Mark::Good, &line);
            context.out.document("fota.device/1", &after);
        }
    }
    Ok(())
}

/// What a device may take from now on.
fn pinned(context: &Context, device: &Device) {
    let line = match &device.pin {
        Some(pin) => match &pin.version {
            Some(version) => format!("{} takes {version} and no other release", device.id),
            None => format!("{} takes no release", device.id),
        },
        None => format!("{} takes releases as rollouts bring them", device.id),
    };
    context.out.verdict(Mark::Good, &text::plain(&line));
    context.out.document("fota.device/1", device);
}

/// `NAME=VALUE` sets a tag, `NAME=` takes it away.
fn tags_request(tags: &[String]) -> Result<TagsRequest> {
    let mut request = TagsRequest::default();
    for tag in tags {
        let wrong = || Failure::usage(format!("{tag:?} is no tag: write NAME=VALUE, or NAME="));
        let (name, value) = tag.split_once('=').ok_or_else(wrong)?;
        match value {
            "" => request.remove.push(name.to_owned()),
            value => drop(request.set.insert(name.to_owned(), value.to_owned())),
        }
    }
    Ok(request)
}

/// Every rule, and which of them holds the device.
fn why(context: &Context, why: &Why) {
    let until = why
        .until
        .map(|at| format!(" (until {} UTC)", text::time(at)));
    let answer = format!("{}{}", text::plain(&why.answer), until.unwrap_or_default());
    context.out.answer(&format!("{}: {answer}\n\n", why.device));
    let mut rows: Vec<Vec<String>> = why.rules.iter().map(|rule| rule_row("", rule)).collect();
    for rollout in &why.rollouts {
        let of = format!("r-{} {}", rollout.rollout, text::plain(&rollout.version));
        rows.extend(rollout.rules.iter().map(|rule| rule_row(&of, rule)));
    }
    context.out.answer(&text::table(
        &["ROLLOUT", "RULE", "SAYS", "WHY", "UNTIL"],
        &rows,
    ));
    context.out.document("fota.why/1", why);
}

fn rule_row(of: &str, rule: &WhyRule) -> Vec<String> {
    let until = rule.until.map(text::time);
    vec![
        of.to_owned(),
        rule.rule.clone(),
        rule.verdict.word().to_owned(),
        text::plain(&rule.sentence),
        until.unwrap_or_default(),
    ]
}

/// The table that `fota status` prints, on a terminal and in a pipe.
pub async fn list(context: &Context, args: &StatusArgs) -> Result {
    let client = context.client()?;
    let devices = match args.devices.as_slice() {
        [] => {
            let group = args.group.clone();
            let (state, filter) = (args.state.clone(), args.filter.clone());
            let wanted = DeviceFilter {
                group,
                state,
                filter,
            };
            client.devices(&wanted).await?
        }
        named => {
            let mut devices = Vec::new();
            for id in named {
                devices.push(client.device(id).await?);
            }
            devices
        }
    };
    let now = now_ms();
    let rows: Vec<Vec<String>> = devices.iter().map(|device| row(device, now)).collect();
    let heading = [
        "DEVICE", "GROUP", "CHIP", "RUNNING", "TARGET", "STATE", "SEEN",
    ];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.devices/1", &devices);
    if devices.is_empty() {
        context
            .out
            .say("no device has checked in yet; `fota sim` starts simulated ones");
    }
    for device in &devices {
        if let Some(warning) = &device.warning {
            context.out.note(
                Mark::Attention,
                &format!("{}: {}", device.id, text::plain(warning)),
            );
        }
    }
    Ok(())
}

fn row(device: &Device, now: i64) -> Vec<String> {
    let or_dash = |value: Option<&str>| value.map_or_else(|| "-".to_owned(), text::plain);
    let groups = device.groups.join(",");
    vec![
        device.id.clone(),
        or_dash(Some(groups.as_str()).filter(|groups| !groups.is_empty())),
        or_dash(device.chip.as_deref()),
        or_dash(device.version.as_deref()),
        or_dash(target(device)),
        state(device),
        seen(device, now),
    ]
}

fn standing_rollback(device: &Device) -> bool {
    let order = device.rollback.as_ref();
    order.is_some_and(|order| order.state == RollbackState::Standing)
}

/// The version that a device is to reach; none once it is over.
fn target(device: &Device) -> Option<&str> {
    if standing_rollback(device) {
        return device.rollback_version.as_deref();
    }
    let attempt = device.attempt.as_ref()?;
    (!attempt.state.is_end()).then_some(attempt.version.as_str())
}

fn state(device: &Device) -> String {
    if let Some(state) = rollback_state(device) {
        return state.to_owned();
    }
    match &device.attempt {
        Some(attempt) if attempt.state == AttemptState::Downloading => {
            format!("downloading {}%", attempt.percent)
        }
        Some(attempt) => attempt.state.to_string(),
        None => trust(device).to_owned(),
    }
}

/// The state of a rollback order where it is newer than the last attempt: that attempt has ended
/// and its history is not rewritten, but it is not how the device stands.
fn rollback_state(device: &Device) -> Option<&'static str> {
    let order = device.rollback.as_ref()?;
    let attempt = device.attempt.as_ref();
    let outdated = attempt.is_some_and(|attempt| attempt.updated_at > order.requested_at);
    match order.state {
        RollbackState::Standing => Some("rollback ordered"),
        _ if outdated => None,
        RollbackState::Done => Some("rolled_back:operator"),
        RollbackState::Refused => Some("rollback refused"),
    }
}

/// How far a device trusts what it runs.
pub fn trust(device: &Device) -> &'static str {
    match device.confirmed {
        Some(true) => "confirmed",
        Some(false) => "trial",
        None => "not known",
    }
}

fn seen(device: &Device, now: i64) -> String {
    let age = text::age(device.last_seen, now);
    match device.presence {
        Presence::Online => age,
        Presence::Late => format!("{age} (late)"),
        Presence::Offline => format!("{age} (offline)"),
    }
}

fn show(context: &Context, device: &Device, events: &[Event]) {
    let or_dash =
        |value: Option<String>| value.map_or_else(|| "-".to_owned(), |it| text::plain(&it));
    let now = now_ms();
    let slot = device.slot.map(|slot| match slot {
        255 => "factory".to_owned(),
        slot => format!("ota_{slot}"),
    });
    let back = match (device.rollback_available, &device.rollback_version) {
        (false, _) => "none: no other valid image".to_owned(),
        (true, version) => or_dash(version.clone()),
    };
    let last = device.attempt.as_ref().map(|attempt| {
        let (rollout, version, state) = (attempt.rollout, &attempt.version, attempt.state);
        let why = attempt
            .explanation
            .as_ref()
            .map(|why| format!(" – {why}"))
            .unwrap_or_default();
        format!("r-{rollout}: {version} {state}{why}")
    });
    let order = device.rollback.as_ref().map(|order| {
        let state = format!("{:?}", order.state).to_lowercase();
        format!("{state}: {}", order.reason)
    });
    context.out.answer(&text::facts(&[
        ("device", device.id.clone()),
        (
            "groups",
            or_dash(Some(device.groups.join(" ")).filter(|groups| !groups.is_empty())),
        ),
        ("chip", or_dash(device.chip.clone())),
        ("project", or_dash(device.project.clone())),
        (
            "running",
            format!("{} ({})", or_dash(device.version.clone()), trust(device)),
        ),
        (
            "elf sha256",
            or_dash(device.elf_sha256.map(|elf| elf.to_string())),
        ),
        ("slot", or_dash(slot)),
        ("goes back to", back),
        ("protocol", device.protocol.clone()),
        ("seen", seen(device, now)),
        ("last update", or_dash(last)),
        ("rollback", or_dash(order)),
        (
            "blocked",
            or_dash(Some(device.blocked.join(" ")).filter(|it| !it.is_empty())),
        ),
        ("warning", or_dash(device.warning.clone())),
    ]));
    let newest = &events[events.len().saturating_sub(5)..];
    for event in newest {
        context.out.answer(&format!("{}\n", event::line(event)));
    }
    context.out.document("fota.device/1", device);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::verify::tests::device;
    use fota_proto::manager::{Attempt, RollbackOrder};

    fn attempt(state: AttemptState) -> Attempt {
        Attempt {
            rollout: 1,
            device: "ESP32-001".into(),
            release: 2,
            version: "1.0.6".into(),
            from_version: None,
            state,
            explanation: None,
            bytes_done: 61,
            bytes_total: 100,
            percent: 61,
            bytes_sent: 0,
            requests: 1,
            patch_bytes: None,
            patch_given_up: false,
            artifact_bytes: 0,
            updated_at: 100,
        }
    }

    fn order(state: RollbackState, requested_at: i64) -> RollbackOrder {
        RollbackOrder {
            device: "ESP32-001".into(),
            reason: "x".into(),
            state,
            code: None,
            requested_at,
        }
    }

    #[test]
    fn the_newer_of_attempt_and_rollback_is_the_state() {
        let mut device = device("1.0.5", Some(5), Some(true));
        assert_eq!(state(&device), "confirmed");
        device.attempt = Some(attempt(AttemptState::Downloading));
        assert_eq!(
            (state(&device).as_str(), target(&device)),
            ("downloading 61%", Some("1.0.6"))
        );
        device.attempt = Some(attempt(AttemptState::Succeeded));
        assert_eq!(
            (state(&device).as_str(), target(&device)),
            ("succeeded", None)
        );
        device.rollback = Some(order(RollbackState::Standing, 200));
        assert_eq!(state(&device), "rollback ordered");
        device.rollback = Some(order(RollbackState::Done, 200));
        assert_eq!(state(&device), "rolled_back:operator");
        device.rollback = Some(order(RollbackState::Done, 50));
        assert_eq!(state(&device), "succeeded");
    }
}
