//! `fota doctor`: each thing that must work for an update, tried in order.

use fota_client::DeviceFilter;
use fota_proto::manager::{Device, Presence, ServerInfo};
use serde_json::json;

use crate::{clock::now_ms, context::Context, credentials, failure::Result, output::Mark, text};

/// Clocks of two machines may differ by so much before it is worth a word.
const CLOCKS_APART_MS: i64 = 5_000;

/// A certificate that ends sooner than this should have been renewed.
const ENDS_SOON_MS: i64 = 14 * 24 * 3600 * 1000;

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
    match credentials::find(&context.config)? {
        Some(token) => say("token", Mark::Good, format!("from {}", token.origin)),
        None => {
            let text = "none found; `fota login` stores one";
            say("token", Mark::Attention, text.to_owned());
        }
    }
    certificate(context, &mut say).await?;
    let info = context.client()?.server().await;
    let info = info.inspect_err(|error| say("server", Mark::Bad, error.to_string()))?;
    let here = env!("CARGO_PKG_VERSION");
    let mark = match info.version == here {
        true => Mark::Good,
        false => Mark::Attention,
    };
    let server = &context.config.server;
    let (url, origin) = (&server.value, &server.origin);
    let text = format!("{url} ({origin}): fota {}, this is {here}", info.version);
    say("server", mark, text);
    say("database", Mark::Good, info.database.clone());
    for (name, text) in risks(url, &info) {
        say(name, Mark::Attention, text.to_owned());
    }
    let devices = context.client()?.devices(&DeviceFilter::default()).await?;
    let is_online = |device: &&Device| device.presence == Presence::Online;
    let online = devices.iter().filter(is_online).count();
    let text = format!("{} known, {online} online", devices.len());
    say("devices", Mark::Good, text);
    // A device's last check-in cannot lie in the future unless the two clocks differ.
    let newest = devices.iter().map(|device| device.last_seen).max();
    let ahead = newest.unwrap_or(0) - now_ms();
    if ahead > CLOCKS_APART_MS {
        let ahead = text::age(0, ahead);
        let text = format!("the server's clock is {ahead} ahead of this one");
        say("clock", Mark::Attention, text);
    }
    Ok(())
}

/// The certificate, before anything is sent on a connection that it protects.
async fn certificate(
    context: &Context,
    say: &mut impl FnMut(&'static str, Mark, String),
) -> Result {
    let server = &context.config.server.value;
    if !server.starts_with("https://") {
        return Ok(());
    }
    let ca = context.config.ca_pem()?;
    // A server that is not there is told of by the next check.
    let Ok(seen) = fota_client::inspect(server, ca.as_deref()).await else {
        return Ok(());
    };
    let (subject, version, left) = (&seen.subject, &seen.version, seen.end_ms - now_ms());
    if let Some(reason) = &seen.refused {
        let certificates = text::count(seen.chain as u64, "certificate");
        let hint = "name its authority with --ca FILE, or give the server a certificate for this \
                    name and its whole chain";
        let text = format!("{subject}: {reason} ({certificates} sent): {hint}");
        say("tls", Mark::Bad, text);
        return Ok(());
    }
    let days = left / (24 * 3600 * 1000);
    let text = format!("{subject}, believed; {version}; it ends in {days} days");
    match left < ENDS_SOON_MS {
        true => say("tls", Mark::Attention, format!("{text}: renew it")),
        false => say("tls", Mark::Good, text),
    }
    Ok(())
}

/// What is set up in a way that is right for a test and wrong for a fleet.
fn risks(url: &str, info: &ServerInfo) -> Vec<(&'static str, &'static str)> {
    let plain = !url.starts_with("https://") && !credentials::is_loopback(url);
    let all = [
        (plain, "tls", "plain HTTP: the token can be read on the way"),
        (info.lab, "lab", "takes files that no chip would boot"),
        (
            info.legacy_open,
            "legacy",
            "/api/cloud/… works without a token",
        ),
    ];
    let risky = all.into_iter().filter(|(is_so, _, _)| *is_so);
    risky.map(|(_, name, text)| (name, text)).collect()
}
