//! `fota doctor`: each thing that must work for an update, tried in order.

use fota_client::DeviceFilter;
use fota_proto::manager::Presence;
use serde_json::json;

use crate::{
    clock::now_ms,
    context::Context,
    credentials,
    failure::{Failure, Result},
    output::Mark,
    text,
};

/// One thing that was tried.
struct Check {
    name: &'static str,
    mark: Mark,
    text: String,
}

pub async fn run(context: &Context) -> Result {
    let mut checks = Vec::new();
    let ended = examine(context, &mut checks).await;
    for check in &checks {
        context
            .out
            .verdict(check.mark, &format!("{:<9}{}", check.name, check.text));
    }
    let word = |mark| match mark {
        Mark::Good => "good",
        Mark::Attention => "attention",
        Mark::Bad => "bad",
    };
    let list: Vec<_> = checks
        .iter()
        .map(|check| json!({"check": check.name, "state": word(check.mark), "text": check.text}))
        .collect();
    context
        .out
        .document("fota.doctor/1", &json!({"checks": list}));
    ended
}

async fn examine(context: &Context, checks: &mut Vec<Check>) -> Result {
    let mut say = |name, mark, text: String| checks.push(Check { name, mark, text });
    let server = &context.config.server;
    match credentials::find(&context.config)? {
        Some(token) => say("token", Mark::Good, format!("from {}", token.origin)),
        None => say(
            "token",
            Mark::Attention,
            "none found; `fota login` stores one".to_owned(),
        ),
    }
    let info = context.client()?.server().await;
    let info = match info {
        Ok(info) => info,
        Err(error) => {
            say("server", Mark::Bad, error.to_string());
            return Err(Failure::from(error));
        }
    };
    let here = env!("CARGO_PKG_VERSION");
    let mark = if info.version == here {
        Mark::Good
    } else {
        Mark::Attention
    };
    let (url, origin) = (&server.value, &server.origin);
    let text = format!("{url} ({origin}): fota {}, this is {here}", info.version);
    say("server", mark, text);
    say("database", Mark::Good, info.database.clone());
    if !url.starts_with("https://") && !credentials::is_loopback(url) {
        say(
            "tls",
            Mark::Attention,
            "plain HTTP: the token can be read on the way".to_owned(),
        );
    }
    if info.lab {
        say(
            "lab",
            Mark::Attention,
            "takes files that no chip would boot".to_owned(),
        );
    }
    if info.legacy_open {
        say(
            "legacy",
            Mark::Attention,
            "/api/cloud/… works without a token".to_owned(),
        );
    }
    let devices = context.client()?.devices(&DeviceFilter::default()).await?;
    let online = devices
        .iter()
        .filter(|device| device.presence == Presence::Online)
        .count();
    say(
        "devices",
        Mark::Good,
        format!("{} known, {online} online", devices.len()),
    );
    // A device's last check-in cannot lie in the future unless the two clocks differ.
    let newest = devices
        .iter()
        .map(|device| device.last_seen)
        .max()
        .unwrap_or(0);
    let ahead = newest - now_ms();
    if ahead > 5_000 {
        let ahead = text::age(0, ahead);
        say(
            "clock",
            Mark::Attention,
            format!("the server's clock is {ahead} ahead of this one"),
        );
    }
    Ok(())
}
