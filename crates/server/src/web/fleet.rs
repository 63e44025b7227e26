//! The fleet in one screen.

use askama::Template;
use axum::{Json, extract::State, response::Response};
use fota_proto::{
    AttemptState,
    manager::{FleetSummary, Rollout, RolloutState},
};

use super::{
    chart::{self, Areas},
    chrome::{Ask, Chrome, screen},
    fault::Fault,
    pieces::{Badge, Cli, Strip, When},
    words::{self, Line},
};
use crate::{
    AppState, api::fleet, domain::attempt::explain, service::view as facts, store::StoreError,
    store::Tx,
};

/// Lines of history on the screen.
const EVENTS_SHOWN: i64 = 10;
/// Rollouts looked at for those to show.
const ROLLOUTS_READ_MAX: i64 = 20;
/// Finished rollouts on the screen, beside all that run.
const ROLLOUTS_ENDED_SHOWN_MAX: usize = 2;
/// Changes of version read at once.
const HISTORY_BATCH: i64 = 5_000;
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

/// Name in the address, name for people, length.
const RANGES: [(&str, &str, i64); 4] = [
    ("1h", "1 hour", 60 * MINUTE_MS),
    ("1d", "1 day", DAY_MS),
    ("7d", "7 days", 7 * DAY_MS),
    ("30d", "30 days", 30 * DAY_MS),
];

#[derive(Template)]
#[template(path = "fleet.html")]
struct Fleet {
    chrome: Chrome,
    tiles: Vec<Tile>,
    versions: Vec<Version>,
    ranges: Vec<Range>,
    chart: Option<Areas>,
    rollouts: Vec<Card>,
    attention: Vec<Alarm>,
    events: Vec<Line>,
    is_empty: bool,
    simulate: Cli,
    status: Cli,
}

struct Tile {
    id: &'static str,
    name: &'static str,
    count: u64,
    tone: &'static str,
    note: String,
    href: String,
}

struct Version {
    name: String,
    devices: u64,
    colour: usize,
    percent: f64,
    start: f64,
}

struct Range {
    id: &'static str,
    name: &'static str,
    is_here: bool,
}

/// A rollout in short.
pub struct Card {
    pub id: i64,
    pub version: String,
    pub to: String,
    pub state: Badge,
    pub reason: Option<String>,
    pub strip: Strip,
    pub since: When,
    pub may_pause: bool,
    pub may_resume: bool,
    /// Whether something went wrong that a rollback would end.
    pub may_roll_back: bool,
    /// What happens next.
    pub next: String,
}

/// Something that an operator should look at.
struct Alarm {
    icon: &'static str,
    tone: &'static str,
    what: String,
    why: String,
    href: String,
    more: &'static str,
    /// The rollout that it is about, where something may be done to it at once.
    deeds: Option<Deeds>,
}

/// What may be done to a rollout where its failures are shown.
struct Deeds {
    rollout: i64,
    can_pause: bool,
    can_roll_back: bool,
}

impl Deeds {
    fn of(rollout: &Rollout) -> Self {
        let counts = &rollout.counts;
        Self {
            rollout: rollout.id,
            can_pause: rollout.state == RolloutState::Active,
            can_roll_back: counts.succeeded + counts.trial > 0,
        }
    }
}

/// `GET /`.
pub async fn show(state: &AppState, ask: &Ask) -> Result<Response, Fault> {
    let Json(summary) = fleet::summary(State(state.clone())).await?;
    let mut tx = state.store.read().await?;
    let now = state.now_ms();
    let rollouts = rollouts(state, &mut tx).await?;
    let range = RANGES.iter().find(|(id, ..)| *id == ask.text("range"));
    let (range, _, length) = range.unwrap_or(&RANGES[1]);
    let events = tx.last_events("", EVENTS_SHOWN).await?;
    let attention = attention(state, &mut tx, &summary, &rollouts).await?;
    let chart = chart(state, &mut tx, now - length, now).await?;
    screen(&Fleet {
        chrome: Chrome::new(state, ask, "/", "Fleet").live("all"),
        tiles: tiles(&summary),
        versions: versions(&summary),
        ranges: RANGES
            .iter()
            .map(|(id, name, _)| Range {
                id,
                name,
                is_here: id == range,
            })
            .collect(),
        chart,
        rollouts: rollouts.iter().map(|rollout| card(rollout, now)).collect(),
        attention,
        events: events.iter().map(|event| Line::new(event, now)).collect(),
        is_empty: summary.total == 0,
        simulate: Cli::new(format!("fota sim --devices 3 --server {}", ask.origin)),
        status: Cli::new("fota status"),
    })
}

/// All that run, then the last that have ended.
async fn rollouts(state: &AppState, tx: &mut Tx) -> Result<Vec<Rollout>, StoreError> {
    let plan = state.fleet.plan(tx).await?;
    let (mut shown, mut ended) = (Vec::new(), Vec::new());
    for rollout in tx.rollouts_page(i64::MAX, ROLLOUTS_READ_MAX).await? {
        let may_offer = plan.rollout(rollout.id).is_some();
        if !may_offer && ended.len() >= ROLLOUTS_ENDED_SHOWN_MAX {
            // Counting a rollout's devices is the dear part of this screen.
            continue;
        }
        let rollout = facts::rollout(state, tx, &plan, &rollout).await?;
        match rollout.state {
            RolloutState::Active | RolloutState::Paused => shown.push(rollout),
            _ => ended.push(rollout),
        }
    }
    shown.extend(ended.into_iter().take(ROLLOUTS_ENDED_SHOWN_MAX));
    Ok(shown)
}

async fn chart(
    state: &AppState,
    tx: &mut Tx,
    from: i64,
    to: i64,
) -> Result<Option<Areas>, StoreError> {
    let mut history = state.history.lock().await;
    loop {
        let changes = tx.version_changes(history.last, HISTORY_BATCH).await?;
        for (event, at, device, text) in &changes {
            history.learn(*event, *at, device, text);
        }
        if (changes.len() as i64) < HISTORY_BATCH {
            break;
        }
    }
    // A young fleet fills the chart: before its first device there is nothing to see.
    let from = history.first_at().map_or(from, |first| from.max(first));
    Ok(Areas::new(&history.series(from, to, chart::POINTS)))
}

fn tiles(summary: &FleetSummary) -> Vec<Tile> {
    let tile = |id, name, count, tone, note: &str, href: &str| Tile {
        id,
        name,
        count,
        // A zero is no news, whatever it counts.
        tone: if count == 0 { "idle" } else { tone },
        note: note.to_owned(),
        href: format!("/devices{href}"),
    };
    let most = summary.versions.first();
    let most = most.map_or_else(String::new, |most| {
        format!("{} on {}", most.devices, most.version)
    });
    vec![
        tile("total", "Devices", summary.total, "plain", &most, ""),
        tile(
            "online",
            "Online",
            summary.online,
            "ok",
            "checked in on time",
            "?presence=online",
        ),
        tile(
            "late",
            "Late",
            summary.late,
            "warn",
            "missed a check-in",
            "?presence=late",
        ),
        tile(
            "offline",
            "Offline",
            summary.offline,
            "plain",
            "not failed: they wait",
            "?presence=offline",
        ),
        tile(
            "updating",
            "Updating",
            summary.updating,
            "busy",
            "offered to trial",
            "?state=downloading",
        ),
        tile(
            "failed",
            "Failed",
            summary.failed_24h,
            "bad",
            "or rolled back, 24 h",
            "?state=failed",
        ),
    ]
}

fn versions(summary: &FleetSummary) -> Vec<Version> {
    let total: u64 = summary.versions.iter().map(|version| version.devices).sum();
    let share = |devices: u64| devices as f64 * 100.0 / total.max(1) as f64;
    let mut start = 0.0;
    let place = |(colour, version): (usize, &fota_proto::manager::VersionCount)| {
        let percent = share(version.devices);
        let placed = Version {
            name: version.version.clone(),
            devices: version.devices,
            colour: colour.min(chart::VERSIONS_SHOWN),
            percent,
            start,
        };
        start += percent;
        placed
    };
    summary.versions.iter().enumerate().map(place).collect()
}

/// A rollout in short.
pub fn card(rollout: &Rollout, now_ms: i64) -> Card {
    let counts = &rollout.counts;
    Card {
        id: rollout.id,
        version: rollout.version.clone(),
        to: rollout.to.join(", "),
        state: words::rollout_badge(rollout.state),
        reason: rollout.reason.clone().filter(|text| !text.is_empty()),
        strip: words::strip(rollout),
        since: When::new(rollout.created_at, now_ms),
        may_pause: rollout.state == RolloutState::Active,
        may_resume: rollout.state == RolloutState::Paused,
        may_roll_back: counts.failed + counts.rolled_back > 0
            && counts.succeeded + counts.trial > 0,
        next: next(rollout),
    }
}

/// What a rollout waits for, as a sentence.
pub fn next(rollout: &Rollout) -> String {
    let counts = &rollout.counts;
    let moving = counts.updating + counts.trial;
    match rollout.state {
        RolloutState::Paused => "offers nothing until it is resumed".into(),
        RolloutState::Active if moving > 0 => format!("{moving} under way"),
        RolloutState::Active if counts.waiting == 1 => "waits for 1 device to check in".into(),
        RolloutState::Active => format!("waits for {} devices to check in", counts.waiting),
        RolloutState::Complete if counts.waiting > 0 => {
            format!("complete except {} that wait", counts.waiting)
        }
        RolloutState::Complete => "every device has ended".into(),
        RolloutState::Aborted => "ended by an operator".into(),
    }
}

async fn attention(
    state: &AppState,
    tx: &mut Tx,
    summary: &FleetSummary,
    rollouts: &[Rollout],
) -> Result<Vec<Alarm>, StoreError> {
    let now = state.now_ms();
    let mut alarms: Vec<_> = rollouts.iter().filter_map(paused).collect();
    for (end, version, devices) in tx.failure_reasons(now - DAY_MS).await? {
        let brings = |rollout: &&Rollout| rollout.version == version;
        let deeds = rollouts.iter().find(brings).map(Deeds::of);
        alarms.push(failed(end, &version, devices, deeds));
    }
    let still_ms = (i64::from(state.config.poll_s) * 3_000).max(MINUTE_MS);
    let stalled = tx.stalled_attempts(now - still_ms).await?;
    let offline = summary.offline;
    alarms.extend((stalled > 0).then(|| Alarm {
        icon: "clock",
        tone: "warn",
        what: format!("{stalled} stalled"),
        why: format!("under way, but not moved for {} s", still_ms / 1_000),
        href: "/devices?sort=away".into(),
        more: "Look",
        deeds: None,
    }));
    alarms.extend((offline > 0).then(|| Alarm {
        icon: "ring",
        tone: "idle",
        what: format!("{offline} offline"),
        why: "not failed: what stands for them waits".into(),
        href: "/devices?presence=offline&sort=away".into(),
        more: "Look",
        deeds: None,
    }));
    if tx
        .device(&state.config.legacy_default_device_id)
        .await?
        .is_some()
    {
        alarms.push(Alarm {
            icon: "warn",
            tone: "warn",
            what: "Devices without an id".into(),
            why: "they send no Device-ID, so all of them look like one".into(),
            href: format!("/devices/{}", state.config.legacy_default_device_id),
            more: "Look",
            deeds: None,
        });
    }
    Ok(alarms)
}

fn paused(rollout: &Rollout) -> Option<Alarm> {
    (rollout.state == RolloutState::Paused).then(|| Alarm {
        icon: "pause",
        tone: "warn",
        what: format!("r-{} is paused", rollout.id),
        why: rollout
            .reason
            .clone()
            .unwrap_or_else(|| "no reason was given".into()),
        href: format!("/rollouts/r-{}", rollout.id),
        more: "Decide",
        deeds: Some(Deeds::of(rollout)),
    })
}

fn failed(end: AttemptState, version: &str, devices: u64, deeds: Option<Deeds>) -> Alarm {
    let badge = words::badge(end);
    let state = end.to_string();
    Alarm {
        icon: badge.icon,
        tone: badge.tone,
        what: format!("{devices} × {} on {version}", badge.word),
        why: explain(end, None).unwrap_or_default(),
        href: format!("/devices?state={state}"),
        more: "Devices",
        deeds,
    }
}
