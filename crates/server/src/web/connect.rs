//! The way of a first device to this server: which kinds of firmware it can talk to today, and which
//! not yet.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    chrome::{Ask, Chrome, screen},
    fault::Fault,
    pieces::{Cli, When},
};
use crate::{AppState, api::fleet, domain::fit::chip_name, store::StoreError};

#[derive(Template)]
#[template(path = "connect.html")]
struct Connect {
    chrome: Chrome,
    ways: Vec<Way>,
    chosen: &'static str,
    origin: String,
    host: String,
    is_plain_http: bool,
    is_loopback: bool,
    total: u64,
    online: u64,
    simulate: Cli,
    root_version: u32,
    poll_s: u32,
    newest: Vec<Newest>,
    legacy_id: String,
}

/// A device that was first seen lately.
struct Newest {
    id: String,
    version: String,
    chip: String,
    at: When,
}

struct Way {
    id: &'static str,
    name: &'static str,
    works: bool,
    is_here: bool,
}

/// Devices shown of those that came last.
const NEWEST_SHOWN: i64 = 5;

const WAYS: [(&str, &str, bool); 6] = [
    ("rust", "Rust", true),
    ("arduino", "Arduino (seed)", true),
    ("simulated", "Simulated", true),
    ("idf", "ESP-IDF", false),
    ("esphome", "ESPHome", false),
    ("hawkbit", "hawkBit client", false),
];

/// `GET /connect`.
pub async fn show(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let summary = fleet::summary(State(state.clone())).await?;
    let chosen = WAYS.iter().find(|(id, ..)| *id == ask.text("with"));
    let (chosen, ..) = chosen.unwrap_or(&WAYS[0]);
    let newest = newest(&state).await?;
    let plan = state.fleet.newest_plan(&state.store).await?;
    let host = ask.origin.split("://").nth(1).unwrap_or("").to_owned();
    let name = host
        .rsplit_once(':')
        .map_or(host.as_str(), |(name, _)| name);
    let is_loopback = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
    screen(&Connect {
        chrome: Chrome::new(&state, &ask, "/connect", "Connect a device").live("all"),
        ways: WAYS
            .iter()
            .map(|(id, name, works)| Way {
                id,
                name,
                works: *works,
                is_here: id == chosen,
            })
            .collect(),
        chosen,
        is_plain_http: ask.origin.starts_with("http://"),
        is_loopback,
        total: summary.total,
        online: summary.online,
        simulate: Cli::new(format!("fota sim --devices 3 --server {}", ask.origin)),
        newest,
        root_version: plan.root.unwrap_or(0),
        poll_s: state.config.poll_s,
        legacy_id: state.config.legacy_default_device_id.clone(),
        origin: ask.origin,
        host,
    })
}

async fn newest(state: &AppState) -> Result<Vec<Newest>, StoreError> {
    let now = state.now_ms();
    let found = state
        .store
        .read()
        .await?
        .newest_devices(NEWEST_SHOWN)
        .await?;
    let row = |(id, version, chip, at): (String, Option<String>, Option<u16>, i64)| Newest {
        id,
        version: version.unwrap_or_else(|| "no version".to_owned()),
        chip: chip.map_or_else(|| "no chip".to_owned(), chip_name),
        at: When::new(at, now),
    };
    Ok(found.into_iter().map(row).collect())
}
