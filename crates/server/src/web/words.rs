//! States and events in words, icons and tones: every such decision is here, the templates only
//! place them.

use fota_proto::{
    AttemptState, RollbackCause,
    manager::{Attempt, Device, Event, Pin, Presence, RollbackState, Rollout, RolloutState},
};

use super::pieces::{Badge, Counted, Strip, When};

/// Kinds of events that the script listens to; a browser only hands on those it is asked for.
/// What is missing here shows up with the next refresh, seconds later.
pub const EVENT_KINDS: [&str; 58] = [
    "attempt.aborted",
    "attempt.downloaded",
    "attempt.downloading",
    "attempt.failed",
    "attempt.installing",
    "attempt.offered",
    "attempt.progress",
    "attempt.rolled_back",
    "attempt.skipped",
    "attempt.stalled",
    "attempt.succeeded",
    "attempt.superseded",
    "attempt.timed_out",
    "attempt.trial",
    "attempt.waiting",
    "delta.failed",
    "delta.ready",
    "delta.useless",
    "device.blocked",
    "device.claimed",
    "device.enrolled",
    "device.pinned",
    "device.provisioned",
    "device.re_enrolment",
    "device.refused",
    "device.revoked",
    "device.running",
    "device.seen",
    "device.tagged",
    "device.unblocked",
    "device.unpinned",
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
    "rollout.advanced",
    "rollout.approved",
    "rollout.ended",
    "rollout.paused",
    "rollout.promoted",
    "rollout.resumed",
    "rollout.retried",
    "rollout.started",
    "rollout.superseded",
    "root.added",
    "webhook.disabled",
];

/// Marks the warning of a device that sends no `Device-ID`.
pub const UNIDENTIFIED: &str = "unidentified";

/// A line of history.
pub struct Line {
    pub icon: &'static str,
    pub tone: &'static str,
    pub device: Option<String>,
    pub rollout: Option<i64>,
    pub verb: &'static str,
    pub text: String,
    pub kind: String,
    pub actor: String,
    pub at: When,
}

impl Line {
    pub fn new(event: &Event, now_ms: i64) -> Self {
        let badge = event_badge(event);
        Self {
            icon: badge.icon,
            tone: badge.tone,
            device: event.device.clone(),
            rollout: event.rollout,
            verb: verb(&event.kind),
            text: event.text.clone(),
            kind: event.kind.clone(),
            actor: event.actor.clone(),
            at: When::new(event.at, now_ms),
        }
    }
}

/// The devices of a rollout as a bar.
pub fn strip(rollout: &Rollout) -> Strip {
    let counts = &rollout.counts;
    let open = counts.waiting + counts.updating + counts.trial;
    let counted = |tone, count, word| Counted { tone, count, word };
    let counts = vec![
        counted("ok", counts.succeeded, "confirmed"),
        counted("busy", counts.updating, "updating"),
        counted("trial", counts.trial, "on trial"),
        counted("bad", counts.failed, "failed"),
        counted("warn", counts.rolled_back, "rolled back"),
        counted("idle", counts.skipped, "left out"),
        counted("idle", counts.ended, "ended"),
        counted("wait", counts.waiting, "waiting"),
    ];
    let label = format!("Devices of rollout r-{} that have ended", rollout.id);
    Strip::new(label, counts, open)
}

pub fn rollout_badge(state: RolloutState) -> Badge {
    match state {
        RolloutState::Active => Badge::new("down", "active", "busy"),
        RolloutState::Paused => Badge::new("pause", "paused", "warn"),
        RolloutState::Aborted => Badge::new("cross", "aborted", "bad"),
        RolloutState::Complete => Badge::new("tick", "complete", "ok"),
    }
}

pub fn running_note(device: &Device) -> &'static str {
    match (device.protocol.as_str(), device.confirmed) {
        ("seed", _) if device.version.is_some() => "claimed",
        (_, Some(false)) => "on trial",
        _ => "",
    }
}

pub fn target(attempt: &Attempt, running: Option<&str>) -> Option<String> {
    let there = attempt.state == AttemptState::Succeeded || running == Some(&attempt.version);
    (!there).then(|| attempt.version.clone())
}

pub fn state(device: &Device) -> Option<Badge> {
    let attempt = device.attempt.as_ref();
    let order = device.rollback.as_ref();
    let order = order.map(|order| (order.state, order.requested_at));
    match order {
        Some((RollbackState::Standing, _)) => Some(Badge::new("back", "rolling back", "warn")),
        // The attempt has succeeded once, and stays so in its rollout; the device has left it since.
        Some((RollbackState::Done, at)) if attempt.is_some_and(|one| one.updated_at <= at) => {
            Some(went_back())
        }
        _ => attempt.map(|attempt| badge(attempt.state)),
    }
}

/// The state of a device that an operator's order has brought back.
pub fn went_back() -> Badge {
    badge(AttemptState::RolledBack(RollbackCause::Operator))
}

pub fn badge(state: AttemptState) -> Badge {
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

/// What a device is pinned to.
pub fn pin(pin: &Pin) -> String {
    match &pin.version {
        Some(version) => format!("pinned to {version}"),
        None => "held".to_owned(),
    }
}

pub fn words(name: &str) -> String {
    name.replace('_', " ")
}

pub fn percent(attempt: &Attempt) -> Option<u8> {
    use AttemptState as S;
    let moving = matches!(
        attempt.state,
        S::Offered | S::Downloading | S::Downloaded | S::Installing
    );
    moving.then(|| attempt.percent.min(100))
}

/// The one sentence below a state: what to worry about, or why it ended so.
pub fn note(device: &Device) -> Option<String> {
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

pub fn presence(presence: Presence) -> Badge {
    match presence {
        Presence::Online => Badge::new("dot", "online", "ok"),
        Presence::Late => Badge::new("half", "late", "warn"),
        Presence::Offline => Badge::new("ring", "offline", "idle"),
    }
}

/// What the text of an event leaves to its kind.
pub fn verb(kind: &str) -> &'static str {
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

pub fn event_badge(event: &Event) -> Badge {
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
