//! What the page shows, as plain values: every decision about words, icons and bars is here, the
//! templates only place them (and escape them).

use askama::Template;
use fota_image::Grouped;
use fota_proto::{
    AttemptState,
    manager::{
        Attempt, Device, Event, FleetSummary, Presence, RollbackState, Rollout, RolloutState,
        ServerInfo,
    },
};

use super::{
    assets,
    time::{ago, iso},
};

/// Devices on the page; `fota status` lists all. Keeps a page of a large fleet small.
pub const DEVICES_SHOWN_MAX: usize = 100;
/// Lines of history on the page.
pub const EVENTS_SHOWN_MAX: usize = 12;
/// Rollouts looked at for those to show.
pub const ROLLOUTS_READ_MAX: i64 = 20;
/// Finished rollouts on the page, beside all that run.
pub const ROLLOUTS_ENDED_SHOWN_MAX: usize = 2;
/// Versions with a colour of their own in the version bar; the rest share one.
const VERSION_COLOURS: usize = 6;

/// Kinds of events that the script listens to; a browser only hands on those it is asked for.
/// What is missing here shows up with the next refresh, seconds later.
const EVENT_KINDS: [&str; 45] = [
    "attempt.aborted",
    "attempt.downloaded",
    "attempt.downloading",
    "attempt.failed",
    "attempt.installing",
    "attempt.offered",
    "attempt.progress",
    "attempt.rolled_back",
    "attempt.skipped",
    "attempt.succeeded",
    "attempt.superseded",
    "attempt.timed_out",
    "attempt.trial",
    "attempt.waiting",
    "device.claimed",
    "device.enrolled",
    "device.provisioned",
    "device.re_enrolment",
    "device.refused",
    "device.revoked",
    "device.running",
    "device.seen",
    "device.unblocked",
    "device.warning",
    "enrolment_key.created",
    "enrolment_key.revoked",
    "group.changed",
    "group.created",
    "group.removed",
    "log.forked",
    "product.signing",
    "release.signed",
    "release.uploaded",
    "release.yanked",
    "rollback.done",
    "rollback.excluded",
    "rollback.refused",
    "rollback.requested",
    "rollout.aborted",
    "rollout.paused",
    "rollout.resumed",
    "rollout.retried",
    "rollout.started",
    "rollout.superseded",
    "root.added",
];

/// Stored facts that the page is made from.
pub struct Facts<'a> {
    pub summary: &'a FleetSummary,
    pub devices: &'a [Device],
    pub rollouts: &'a [Rollout],
    pub events: &'a [Event],
    pub server: &'a ServerInfo,
    /// Address that the browser used, for commands to copy.
    pub origin: &'a str,
    pub now_ms: i64,
}

/// The page.
#[derive(Template)]
#[template(path = "page.html")]
pub struct Page {
    style: &'static str,
    script: &'static str,
    icon: &'static str,
    server_version: String,
    kinds: String,
    fleet: Fleet,
    visitor: Visitor,
}

/// Who looks at the page.
#[derive(Clone, Debug)]
pub struct Visitor {
    pub actor: String,
    pub role: &'static str,
    /// The CSRF token of the browser's session; none where there is no session to end.
    pub csrf: Option<String>,
}

impl Page {
    pub fn new(facts: &Facts, visitor: Visitor) -> Self {
        Self {
            style: assets::style().path(),
            script: assets::script().path(),
            icon: assets::icon().path(),
            server_version: facts.server.version.clone(),
            kinds: EVENT_KINDS.join(" "),
            fleet: Fleet::new(facts),
            visitor,
        }
    }
}

/// The login, shown to a browser that nobody is known to be behind.
#[derive(Template)]
#[template(path = "door.html")]
pub struct Door<'a> {
    style: &'static str,
    icon: &'static str,
    /// Why the last try did not work.
    refused: Option<&'a str>,
    /// Whether people may log in with a provider.
    has_provider: bool,
}

impl<'a> Door<'a> {
    pub fn new(refused: Option<&'a str>, has_provider: bool) -> Self {
        Self {
            style: assets::style().path(),
            icon: assets::icon().path(),
            refused,
            has_provider,
        }
    }
}

/// The part of the page that changes; the script fetches it again after every event.
#[derive(Template)]
#[template(path = "fleet.html")]
pub struct Fleet {
    now_ms: i64,
    warnings: Vec<&'static str>,
    tiles: Vec<Tile>,
    versions: Vec<Version>,
    rollouts: Vec<RolloutCard>,
    devices: Vec<Row>,
    devices_hidden: u64,
    events: Vec<Line>,
    origin: String,
}

impl Fleet {
    pub fn new(facts: &Facts) -> Self {
        let row = |device| Row::new(device, facts.now_ms);
        let line = |event| Line::new(event, facts.now_ms);
        let shown = facts.devices.len().min(DEVICES_SHOWN_MAX);
        Self {
            now_ms: facts.now_ms,
            warnings: warnings(facts.server),
            tiles: tiles(facts.summary),
            versions: versions(facts.summary),
            rollouts: rollouts(facts.rollouts, facts.now_ms),
            devices: facts.devices[..shown].iter().map(row).collect(),
            devices_hidden: facts.summary.total.saturating_sub(shown as u64),
            events: facts
                .events
                .iter()
                .take(EVENTS_SHOWN_MAX)
                .map(line)
                .collect(),
            origin: facts.origin.into(),
        }
    }
}

struct Tile {
    id: &'static str,
    name: &'static str,
    count: u64,
    tone: &'static str,
    note: String,
}

struct Version {
    name: String,
    devices: u64,
    colour: usize,
    percent: f64,
    start: f64,
}

/// A state as an icon, a word and a tone: never by colour alone.
struct Badge {
    icon: &'static str,
    word: String,
    tone: &'static str,
}

impl Badge {
    fn new(icon: &'static str, word: impl Into<String>, tone: &'static str) -> Self {
        Self {
            icon,
            word: word.into(),
            tone,
        }
    }
}

struct When {
    at_ms: i64,
    iso: String,
    ago: String,
}

impl When {
    fn new(at_ms: i64, now_ms: i64) -> Self {
        Self {
            at_ms,
            iso: iso(at_ms),
            ago: ago(at_ms, now_ms),
        }
    }
}

struct RolloutCard {
    id: i64,
    version: String,
    to: String,
    state: Badge,
    reason: Option<String>,
    percent_ended: u8,
    parts: Vec<Part>,
    counts: String,
    since: When,
}

/// A stretch of a rollout's bar, in percent.
struct Part {
    tone: &'static str,
    start: f64,
    width: f64,
}

struct Row {
    id: String,
    groups: String,
    unidentified: bool,
    chip: String,
    running: String,
    running_note: &'static str,
    target: Option<String>,
    state: Option<Badge>,
    percent: Option<u8>,
    /// Rollout of the attempt, 0 where there is none: a bar of another one starts anew.
    rollout: i64,
    note: Option<String>,
    presence: Badge,
    seen: When,
}

impl Row {
    fn new(device: &Device, now_ms: i64) -> Self {
        let attempt = device.attempt.as_ref();
        let running = device.version.as_deref().filter(|text| !text.is_empty());
        Self {
            id: device.id.clone(),
            groups: device.groups.join(", "),
            unidentified: device.warning.as_deref().is_some_and(is_unidentified),
            chip: device.chip.clone().unwrap_or_default(),
            running: running.unwrap_or("unknown").into(),
            running_note: running_note(device),
            target: attempt.and_then(|attempt| target(attempt, running)),
            state: state(device),
            percent: attempt.and_then(percent),
            rollout: attempt.map_or(0, |attempt| attempt.rollout),
            note: note(device),
            presence: presence(device.presence),
            seen: When::new(device.last_seen, now_ms),
        }
    }
}

struct Line {
    icon: &'static str,
    tone: &'static str,
    /// The device, or else the rollout, that it is about.
    subject: String,
    verb: &'static str,
    text: String,
    at: When,
}

impl Line {
    fn new(event: &Event, now_ms: i64) -> Self {
        let badge = event_badge(event);
        Self {
            icon: badge.icon,
            tone: badge.tone,
            subject: subject(event),
            verb: verb(&event.kind),
            text: event.text.clone(),
            at: When::new(event.at, now_ms),
        }
    }
}

/// Marks the warning of a device that sends no `Device-ID`.
pub const UNIDENTIFIED: &str = "unidentified";

fn is_unidentified(warning: &str) -> bool {
    warning.starts_with(UNIDENTIFIED)
}

fn warnings(server: &ServerInfo) -> Vec<&'static str> {
    let open = "The seed's operator paths need no token (--legacy-open): everyone who reaches \
                this server can upload firmware and order rollbacks.";
    let lab = "Lab mode (--lab): files that no chip would boot are accepted.";
    let mut warnings = Vec::new();
    warnings.extend(server.legacy_open.then_some(open));
    warnings.extend(server.lab.then_some(lab));
    warnings
}

fn tiles(summary: &FleetSummary) -> Vec<Tile> {
    let tile = |id, name, count, tone, note: String| Tile {
        id,
        name,
        count,
        // A zero is no news, whatever it counts.
        tone: if count == 0 { "idle" } else { tone },
        note,
    };
    let away = match (summary.late, summary.offline) {
        (0, 0) => "all answering".into(),
        (late, 0) => format!("{late} late"),
        (0, offline) => format!("{offline} offline"),
        (late, offline) => format!("{late} late · {offline} offline"),
    };
    let newest = summary.versions.first();
    let most = newest.map_or_else(String::new, |most| {
        format!("{} on {}", most.devices, most.version)
    });
    vec![
        tile("total", "Devices", summary.total, "plain", most),
        tile("online", "Online", summary.online, "ok", away),
        tile(
            "updating",
            "Updating",
            summary.updating,
            "busy",
            "offered to trial".into(),
        ),
        tile(
            "failed",
            "Failed",
            summary.failed_24h,
            "bad",
            "or rolled back, 24 h".into(),
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
            colour: colour.min(VERSION_COLOURS),
            percent,
            start,
        };
        start += percent;
        placed
    };
    summary.versions.iter().enumerate().map(place).collect()
}

fn rollouts(rollouts: &[Rollout], now_ms: i64) -> Vec<RolloutCard> {
    let runs =
        |rollout: &&Rollout| matches!(rollout.state, RolloutState::Active | RolloutState::Paused);
    let (mut shown, ended): (Vec<&Rollout>, Vec<&Rollout>) = rollouts.iter().partition(runs);
    shown.extend(ended.into_iter().take(ROLLOUTS_ENDED_SHOWN_MAX));
    shown
        .into_iter()
        .map(|rollout| rollout_card(rollout, now_ms))
        .collect()
}

fn rollout_card(rollout: &Rollout, now_ms: i64) -> RolloutCard {
    let counts = &rollout.counts;
    let stretches = [
        ("ok", counts.succeeded, "confirmed"),
        ("busy", counts.updating + counts.trial, "updating"),
        ("bad", counts.failed, "failed"),
        ("warn", counts.rolled_back, "rolled back"),
        ("idle", counts.skipped, "left out"),
        ("idle", counts.ended, "ended"),
        ("wait", counts.waiting, "waiting"),
    ];
    let total: u64 = stretches.iter().map(|(_, count, _)| count).sum();
    let open = counts.waiting + counts.updating + counts.trial;
    let percent = |count: u64| count as f64 * 100.0 / total.max(1) as f64;
    let mut parts = Vec::new();
    let mut start = 0.0;
    for (tone, count, _) in stretches.iter().filter(|(_, count, _)| *count > 0) {
        let width = percent(*count);
        parts.push(Part { tone, start, width });
        start += width;
    }
    let said = stretches.iter().filter(|(_, count, _)| *count > 0);
    let mut said: Vec<_> = said
        .map(|(_, count, word)| format!("{count} {word}"))
        .collect();
    if rollout.spared_bytes > 0 {
        let spared = Grouped(rollout.spared_bytes.unsigned_abs());
        said.push(format!("patches spared {spared} bytes"));
    }
    RolloutCard {
        id: rollout.id,
        version: rollout.version.clone(),
        to: rollout.to.join(", "),
        state: rollout_badge(rollout.state),
        reason: rollout.reason.clone().filter(|text| !text.is_empty()),
        percent_ended: percent(total - open) as u8,
        parts,
        counts: if said.is_empty() {
            "no devices yet".into()
        } else {
            said.join(" · ")
        },
        since: When::new(rollout.created_at, now_ms),
    }
}

fn rollout_badge(state: RolloutState) -> Badge {
    match state {
        RolloutState::Active => Badge::new("down", "active", "busy"),
        RolloutState::Paused => Badge::new("pause", "paused", "warn"),
        RolloutState::Aborted => Badge::new("cross", "aborted", "bad"),
        RolloutState::Complete => Badge::new("tick", "complete", "ok"),
    }
}

fn running_note(device: &Device) -> &'static str {
    match (device.protocol.as_str(), device.confirmed) {
        ("seed", _) if device.version.is_some() => "claimed",
        (_, Some(false)) => "on trial",
        _ => "",
    }
}

fn target(attempt: &Attempt, running: Option<&str>) -> Option<String> {
    let there = attempt.state == AttemptState::Succeeded || running == Some(&attempt.version);
    (!there).then(|| attempt.version.clone())
}

fn state(device: &Device) -> Option<Badge> {
    let standing = |order: &&_| {
        matches!(
            order,
            fota_proto::manager::RollbackOrder {
                state: RollbackState::Standing,
                ..
            }
        )
    };
    if device.rollback.as_ref().filter(standing).is_some() {
        return Some(Badge::new("back", "rolling back", "warn"));
    }
    device.attempt.as_ref().map(|attempt| badge(attempt.state))
}

fn badge(state: AttemptState) -> Badge {
    use AttemptState as S;
    match state {
        S::Waiting => Badge::new("clock", "waiting", "wait"),
        S::Offered => Badge::new("clock", "offered", "busy"),
        S::Downloading => Badge::new("down", "downloading", "busy"),
        S::Downloaded => Badge::new("down", "downloaded", "busy"),
        S::Installing => Badge::new("turn", "installing", "busy"),
        S::Trial => Badge::new("turn", "on trial", "busy"),
        S::Succeeded => Badge::new("tick", "succeeded", "ok"),
        S::Failed(code) => Badge::new("cross", format!("failed: {}", words(code.name())), "bad"),
        S::RolledBack(cause) => Badge::new("back", format!("rolled back: {cause}"), "warn"),
        S::Skipped(reason) => Badge::new(
            "dash",
            format!("skipped: {}", words(&reason.to_string())),
            "idle",
        ),
        S::TimedOut => Badge::new("clock", "timed out", "bad"),
        S::Aborted => Badge::new("cross", "aborted", "idle"),
        S::Superseded => Badge::new("dash", "superseded", "idle"),
    }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn percent(attempt: &Attempt) -> Option<u8> {
    use AttemptState as S;
    let moving = matches!(
        attempt.state,
        S::Offered | S::Downloading | S::Downloaded | S::Installing
    );
    moving.then(|| attempt.percent.min(100))
}

/// The one sentence below a state: what to worry about, or why it ended so.
fn note(device: &Device) -> Option<String> {
    let reason = device
        .rollback
        .as_ref()
        .filter(|order| order.state == RollbackState::Standing);
    let explained = device
        .attempt
        .as_ref()
        .and_then(|attempt| attempt.explanation.clone());
    device
        .warning
        .clone()
        .or_else(|| reason.map(|order| order.reason.clone()))
        .or(explained)
}

fn presence(presence: Presence) -> Badge {
    match presence {
        Presence::Online => Badge::new("dot", "online", "ok"),
        Presence::Late => Badge::new("half", "late", "warn"),
        Presence::Offline => Badge::new("ring", "offline", "idle"),
    }
}

fn subject(event: &Event) -> String {
    match (&event.device, event.rollout) {
        (Some(device), _) => device.clone(),
        (None, Some(rollout)) => format!("r-{rollout}"),
        (None, None) => String::new(),
    }
}

/// What the text of an event leaves to its kind.
fn verb(kind: &str) -> &'static str {
    match kind {
        "release.uploaded" => "uploaded",
        "release.yanked" => "withdrawn:",
        "rollout.started" => "started:",
        "rollout.paused" => "paused:",
        "rollout.resumed" => "resumed:",
        "rollout.aborted" => "aborted:",
        "rollout.retried" => "tried again:",
        "rollback.requested" => "ordered back:",
        "rollback.done" => "went back:",
        "rollback.excluded" => "not ordered back:",
        _ => "",
    }
}

fn event_badge(event: &Event) -> Badge {
    if let Some(state) = event.state {
        return badge(state);
    }
    match event.kind.split_once('.') {
        Some(("device", "refused" | "revoked")) => Badge::new("cross", "device", "bad"),
        Some(("release", _)) => Badge::new("up", "release", "plain"),
        Some(("rollout", "paused" | "aborted")) => Badge::new("pause", "rollout", "warn"),
        Some(("rollout", _)) => Badge::new("down", "rollout", "busy"),
        Some(("rollback", "done")) => Badge::new("tick", "rollback", "ok"),
        Some(("rollback", "refused")) => Badge::new("cross", "rollback", "bad"),
        Some(("rollback", _)) => Badge::new("back", "rollback", "warn"),
        _ => Badge::new("dot", "event", "plain"),
    }
}
