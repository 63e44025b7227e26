//! What happened: the events of the fleet, why devices failed, and who did what.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fota_proto::{AttemptState, operators::AuditEntry};
use futures_util::stream;

use super::{
    chrome::{Ask, Chrome, screen},
    fault::Fault,
    pieces::{Badge, Cli, When, shell},
    words::{self, Line},
};
use crate::{
    AppState,
    domain::attempt::explain,
    service::rollouts::device_id,
    store::{Of, StoreError},
};

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

/// Who does something, as events have it.
const ACTORS: [(&str, &str); 3] = [
    ("device", "devices"),
    ("operator", "operators"),
    ("server", "the server"),
];
/// Events read at a time for an export.
const EXPORT_BATCH: i64 = 500;

#[derive(Template)]
#[template(path = "activity.html")]
struct Events {
    chrome: Chrome,
    lines: Vec<Line>,
    device: String,
    rollout: String,
    kinds: Vec<(&'static str, &'static str, bool)>,
    actors: Vec<(&'static str, &'static str, bool)>,
    export: String,
    next: Option<String>,
    is_first: bool,
    cli: Cli,
}

/// `GET /activity`.
pub async fn events(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let of = filter(&ask)?;
    let (device, rollout) = (ask.text("device"), ask.text("rollout"));
    let before = ask.text("before").parse().unwrap_or(i64::MAX);
    let events = state
        .store
        .read()
        .await?
        .newest_events(&of, before, ROWS)
        .await?;
    let now = state.now_ms();
    let last = events.last().filter(|_| events.len() as i64 == ROWS);
    let next = last.map(|event| format!("/activity?{}&before={}", filter_query(&ask), event.id));
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
        actors: ACTORS
            .iter()
            .map(|(word, name)| (*word, *name, *word == ask.text("actor")))
            .collect(),
        export: format!("/activity.ndjson?{}", filter_query(&ask)),
        next,
        is_first: before == i64::MAX,
        cli: Cli::new(cli),
    })
}

fn filter(ask: &Ask) -> Result<Of, Fault> {
    let device = ask.text("device");
    if !device.is_empty() {
        device_id("device", device)?;
    }
    let rollout = ask.text("rollout");
    let number = rollout.strip_prefix("r-").unwrap_or(rollout).parse();
    let known = |list: &[(&'static str, &str)], name| {
        let found = list.iter().find(|(word, _)| *word == ask.text(name));
        found.map_or_else(String::new, |(word, _)| (*word).to_owned())
    };
    Ok(Of {
        device: device.to_owned(),
        rollout: number.unwrap_or(0),
        kind: known(&KINDS, "kind"),
        actor: known(&ACTORS, "actor"),
    })
}

fn filter_query(ask: &Ask) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for name in ["device", "rollout", "kind", "actor"] {
        query.append_pair(name, ask.text(name));
    }
    query.finish()
}

/// `GET /activity.ndjson`: all events that fit, newest first, one JSON object per line.
pub async fn export(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let of = filter(&ask)?;
    let lines = stream::unfold(Some((state, of, i64::MAX)), |place| async move {
        let (state, of, before) = place?;
        match batch(&state, &of, before).await {
            // The connection breaks off: an export that only looked whole would be worse.
            Err(error) => {
                tracing::error!(%error, "an export of events breaks off");
                Some((Err(error), None))
            }
            Ok((_, None)) => None,
            Ok((lines, Some(last))) => Some((Ok(lines), Some((state, of, last)))),
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Lines of the events before `before`, and the last of them.
async fn batch(state: &AppState, of: &Of, before: i64) -> Result<(Bytes, Option<i64>), StoreError> {
    let mut tx = state.store.read().await?;
    let events = tx.newest_events(of, before, EXPORT_BATCH).await?;
    let mut lines = Vec::new();
    for event in &events {
        // Our own types always serialize.
        lines.extend(serde_json::to_vec(event).unwrap_or_default());
        lines.push(b'\n');
    }
    Ok((lines.into(), events.last().map(|event| event.id)))
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
    actor: String,
    action: String,
    next: Option<String>,
    is_first: bool,
    list: Cli,
    verify: Cli,
}

/// `GET /activity/audit`.
pub async fn audit(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let before = ask.text("before").parse().unwrap_or(i64::MAX);
    let (actor, action) = (ask.text("actor"), ask.text("action"));
    let mut tx = state.store.read().await?;
    let entries = tx.newest_audit(actor, action, before, ROWS).await?;
    drop(tx);
    let filter = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("actor", actor), ("action", action)])
        .finish();
    let now = state.now_ms();
    let last = entries.last().filter(|_| entries.len() as i64 == ROWS);
    screen(&Audit {
        chrome: Chrome::new(&state, &ask, "/activity", "Audit log").live("all"),
        next: last.map(|entry| format!("/activity/audit?{filter}&before={}", entry.seq)),
        actor: actor.to_owned(),
        action: action.to_owned(),
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
