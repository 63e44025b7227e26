//! What happened: the events of the fleet, why devices failed, and who did what.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::{extract::State, response::Response};
use fota_proto::{AttemptState, operators::AuditEntry};

use super::{
    chrome::{Ask, Chrome, screen},
    fault::Fault,
    pieces::{Badge, Cli, When, shell},
    words::{self, Line},
};
use crate::{AppState, domain::attempt::explain, service::rollouts::device_id, store::Of};

const ROWS: i64 = 100;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// How far back reasons are counted.
const REASON_DAYS: i64 = 30;

/// How the kind of an event begins, and the word for all of those.
const KINDS: [(&str, &str); 7] = [
    ("attempt.", "attempts"),
    ("device.", "devices"),
    ("rollout.", "rollouts"),
    ("rollback.", "rollbacks"),
    ("release.", "releases"),
    ("group.", "groups"),
    ("root.", "roots"),
];

#[derive(Template)]
#[template(path = "activity.html")]
struct Events {
    chrome: Chrome,
    lines: Vec<Line>,
    device: String,
    rollout: String,
    kinds: Vec<(&'static str, &'static str, bool)>,
    next: Option<String>,
    is_first: bool,
    cli: Cli,
}

/// `GET /activity`.
pub async fn events(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let device = ask.text("device");
    if !device.is_empty() {
        device_id("device", device)?;
    }
    let rollout = ask.text("rollout");
    let number = rollout.strip_prefix("r-").unwrap_or(rollout).parse();
    let kind = KINDS.iter().find(|(kind, _)| *kind == ask.text("kind"));
    let of = Of {
        device: device.to_owned(),
        rollout: number.unwrap_or(0),
        kind: kind.map_or_else(String::new, |(kind, _)| (*kind).to_owned()),
    };
    let before = ask.text("before").parse().unwrap_or(i64::MAX);
    let events = state
        .store
        .read()
        .await?
        .newest_events(&of, before, ROWS)
        .await?;
    let now = state.now_ms();
    let last = events.last().filter(|_| events.len() as i64 == ROWS);
    let next = last.map(|event| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for name in ["device", "rollout", "kind"] {
            query.append_pair(name, ask.text(name));
        }
        query.append_pair("before", &event.id.to_string());
        format!("/activity?{}", query.finish())
    });
    let mut cli = "fota event list".to_owned();
    for (name, value) in [("device", device), ("rollout", rollout)] {
        if !value.is_empty() {
            cli.push_str(&format!(" --{name} {}", shell(value)));
        }
    }
    screen(&Events {
        chrome: Chrome::new(&state, &ask, "/activity", "Activity").live("all"),
        lines: events.iter().map(|event| Line::new(event, now)).collect(),
        device: device.to_owned(),
        rollout: rollout.to_owned(),
        kinds: KINDS
            .iter()
            .map(|(word, name)| (*word, *name, *word == ask.text("kind")))
            .collect(),
        next,
        is_first: before == i64::MAX,
        cli: Cli::new(cli),
    })
}

#[derive(Template)]
#[template(path = "reasons.html")]
struct Reasons {
    chrome: Chrome,
    versions: Vec<String>,
    rows: Vec<Reason>,
    total: u64,
    days: i64,
}

struct Reason {
    badge: Badge,
    state: String,
    why: String,
    /// One per version.
    counts: Vec<u64>,
    total: u64,
    percent: u64,
}

/// `GET /activity/reasons`.
pub async fn reasons(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let since = state.now_ms() - REASON_DAYS * DAY_MS;
    let found = state.store.read().await?.failure_reasons(since).await?;
    let versions: BTreeSet<String> = found
        .iter()
        .map(|(_, version, _)| version.clone())
        .collect();
    let total: u64 = found.iter().map(|(.., devices)| devices).sum();
    let mut by_state: BTreeMap<String, (AttemptState, BTreeMap<String, u64>)> = BTreeMap::new();
    for (end, version, devices) in found {
        let (_, counts) = by_state
            .entry(end.to_string())
            .or_insert((end, BTreeMap::new()));
        *counts.entry(version).or_default() += devices;
    }
    let row = |(state, (end, counts)): (String, (AttemptState, BTreeMap<String, u64>))| {
        let sum: u64 = counts.values().sum();
        Reason {
            badge: words::badge(end),
            state,
            why: explain(end, None).unwrap_or_default(),
            counts: versions
                .iter()
                .map(|one| counts.get(one).copied().unwrap_or(0))
                .collect(),
            total: sum,
            percent: sum * 100 / total.max(1),
        }
    };
    let mut rows: Vec<_> = by_state.into_iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.total));
    screen(&Reasons {
        chrome: Chrome::new(&state, &ask, "/activity", "Why devices failed").live("all"),
        rows,
        versions: versions.into_iter().collect(),
        total,
        days: REASON_DAYS,
    })
}

#[derive(Template)]
#[template(path = "audit.html")]
struct Audit {
    chrome: Chrome,
    entries: Vec<(AuditEntry, When)>,
    next: Option<String>,
    is_first: bool,
    list: Cli,
    verify: Cli,
}

/// `GET /activity/audit`.
pub async fn audit(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let before = ask.text("before").parse().unwrap_or(i64::MAX);
    let entries = state.store.read().await?.newest_audit(before, ROWS).await?;
    let now = state.now_ms();
    let last = entries.last().filter(|_| entries.len() as i64 == ROWS);
    screen(&Audit {
        chrome: Chrome::new(&state, &ask, "/activity", "Audit log").live("all"),
        next: last.map(|entry| format!("/activity/audit?before={}", entry.seq)),
        entries: entries
            .into_iter()
            .map(|entry| {
                let at = When::new(entry.at, now);
                (entry, at)
            })
            .collect(),
        is_first: before == i64::MAX,
        list: Cli::new("fota audit list"),
        verify: Cli::new("fota audit verify"),
    })
}
