//! One device: what it runs, what it holds, what happened to it, and what may be done about it.

use askama::Template;
use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use fota_proto::{
    AttemptState,
    checkin::SlotState,
    limits::{NOTES_BYTES_MAX, REASON_BYTES_MAX},
    manager::{
        Device, DeviceCredential, Event, Pin, PinRequest, RollbackRequest, RollbackState, Why,
    },
};

use super::{
    chrome::{Ask, Chrome, screen},
    confirm::{self, Effect, Field, Question, go},
    devices::Row,
    fault::Fault,
    form::Form,
    pieces::{Badge, Cli, When, grouped, shell},
    words::{self, Line},
};
use crate::{
    AppState,
    api::{
        credentials, devices,
        extract::{Json as JsonBody, Segment},
        pins,
        problem::Refusal,
    },
    auth::By,
    domain::{
        attempt::is_failure,
        model::{self, Plan},
    },
    service::{rollbacks, rollouts::device_id, view as facts, why},
    store::{Of, StoreError, Tx},
};

/// Lines of history on the screen.
const EVENTS_SHOWN: i64 = 100;
/// Attempts on the screen.
const ATTEMPTS_SHOWN: i64 = 20;
/// Steps of one attempt: more than any attempt has states.
const STEPS_MAX: i64 = 40;

#[derive(Template)]
#[template(path = "device.html")]
struct Screen {
    chrome: Chrome,
    device: Device,
    row: Row,
    first_seen: When,
    elf: String,
    slots: Vec<Slot>,
    facts: Vec<(&'static str, String)>,
    pinned: Option<Pinned>,
    /// What its application measured last.
    metrics: Vec<(String, i32)>,
    /// The rollout of the steps.
    rollout: i64,
    steps: Vec<Step>,
    /// What became of the attempt that the steps are of.
    outcome: Option<String>,
    attempts: Vec<Attempt>,
    events: Vec<Line>,
    credentials: Vec<Credential>,
    /// What holds it now, and every rule.
    why: Why,
    /// An order that stands.
    standing: Option<String>,
    /// Why it cannot go back; none where it can.
    no_way_back: Option<&'static str>,
    can_revoke: bool,
    /// The rollout in which it went wrong, while that may still be paused.
    failed_in: Option<i64>,
    show_cli: Cli,
    events_cli: Cli,
}

struct Slot {
    name: String,
    is_running: bool,
    is_back: bool,
    state: Badge,
    version: String,
    elf: String,
    bytes: String,
}

/// What an operator has pinned it to, since when, and why.
struct Pinned {
    what: String,
    since: When,
    reason: String,
}

impl Pinned {
    fn new(pin: &Pin, now: i64) -> Self {
        Self {
            what: match &pin.version {
                Some(version) => format!("Pinned to {version}: it takes no other release"),
                None => "Held: it takes no release".to_owned(),
            },
            since: When::new(pin.since, now),
            reason: pin.reason.clone(),
        }
    }
}

/// A state of an attempt, and when it was reached.
struct Step {
    badge: Badge,
    at: When,
    /// How long it lasted.
    lasted: Option<String>,
}

struct Attempt {
    rollout: i64,
    from: String,
    version: String,
    state: Badge,
    explanation: Option<String>,
    bytes: String,
    requests: u64,
    at: When,
}

struct Credential {
    kind: String,
    state: Badge,
    made: When,
    used: Option<When>,
}

/// `GET /devices/{id}`.
pub async fn show(
    State(state): State<AppState>,
    ask: Ask,
    Path(id): Path<String>,
) -> Result<Response, Fault> {
    let id = device_id("id", &id)?;
    state.fleet.flush(&state.store).await?;
    let credentials = credentials::list(State(state.clone()), Segment(id.to_string()));
    let credentials = credentials.await?.0.items;
    let why = why::why(&state, id.as_str()).await?;
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let stored = find(&mut tx, id.as_str()).await?;
    let device = facts::device(&state, &mut tx, &plan, &stored).await?;
    let now = state.now_ms();
    let events = tx.last_events(id.as_str(), EVENTS_SHOWN).await?;
    let attempts = attempts(&mut tx, &plan, id.as_str(), now).await?;
    let newest = device.attempt.as_ref().map_or(0, |attempt| attempt.rollout);
    let asked = ask.text("rollout").trim_start_matches("r-").parse();
    let rollout = asked.unwrap_or(newest);
    let steps = steps(&mut tx, id.as_str(), rollout, now).await?;
    let standing = device.rollback.as_ref();
    let standing = standing.filter(|order| order.state == RollbackState::Standing);
    let word = shell(&device.id);
    screen(&Screen {
        chrome: Chrome::new(&state, &ask, "/devices", device.id.clone())
            .live(format!("device:{}", device.id)),
        why,
        row: Row::new(&device, now),
        first_seen: When::new(device.first_seen, now),
        elf: device
            .elf_sha256
            .map_or_else(String::new, |elf| elf.to_string()),
        slots: slots(&stored),
        facts: known(&device, &stored),
        pinned: device.pin.as_ref().map(|pin| Pinned::new(pin, now)),
        metrics: device.metrics.clone().into_iter().collect(),
        outcome: attempts
            .iter()
            .find(|attempt| attempt.rollout == rollout)
            .and_then(|attempt| attempt.explanation.clone()),
        rollout,
        steps,
        attempts,
        events: events.iter().map(|event| Line::new(event, now)).collect(),
        failed_in: failed_in(&plan, &device),
        can_revoke: credentials.iter().any(|one| one.revoked_at.is_none()),
        credentials: credentials.iter().map(|one| credential(one, now)).collect(),
        standing: standing.map(|order| order.reason.clone()),
        no_way_back: no_way_back(&device),
        show_cli: Cli::new(format!("fota device show {word}")),
        events_cli: Cli::new(format!("fota device events {word}")),
        device,
    })
}

async fn find(tx: &mut Tx, id: &str) -> Result<model::Device, Refusal> {
    let found = tx.device(id).await?;
    found.ok_or_else(|| {
        let what = format!("device {id}: it has never checked in");
        Refusal::not_found(what).of("id")
    })
}

fn failed_in(plan: &Plan, device: &Device) -> Option<i64> {
    let attempt = device.attempt.as_ref()?;
    let rollout = plan.rollout(attempt.rollout)?;
    let is_active = rollout.standing == model::Standing::Active;
    (is_active && is_failure(attempt.state)).then_some(rollout.id)
}

fn no_way_back(device: &Device) -> Option<&'static str> {
    (!device.rollback_available).then_some("no other valid image")
}

fn slots(device: &model::Device) -> Vec<Slot> {
    let shown = |held: &model::Slot| Slot {
        name: format!("ota_{}", held.slot),
        is_running: device.slot == Some(held.slot),
        is_back: device.rollback_slot == Some(held.slot),
        state: match held.state {
            SlotState::Empty => Badge::new("ring", "empty", "idle"),
            SlotState::Image => Badge::new("tick", "valid image", "ok"),
            SlotState::Rejected => Badge::new("cross", "rejected image", "bad"),
        },
        version: held.version.clone().unwrap_or_default(),
        elf: held
            .elf
            .map_or_else(String::new, |elf| elf.short().to_string()),
        bytes: grouped(held.bytes.into()),
    };
    device.slots.iter().map(shown).collect()
}

fn known(device: &Device, stored: &model::Device) -> Vec<(&'static str, String)> {
    let revision = stored
        .chip_revision
        .map(|revision| format!(" revision {}.{}", revision / 100, revision % 100));
    let chip = device.chip.clone().unwrap_or_else(|| "not known".into());
    let mut known = vec![
        ("Chip", chip + &revision.unwrap_or_default()),
        (
            "Product",
            device.project.clone().unwrap_or_else(|| "not known".into()),
        ),
        ("Speaks", device.protocol.clone()),
        (
            "Groups",
            match device.groups.is_empty() {
                true => "none".into(),
                false => device.groups.join(", "),
            },
        ),
        (
            "Rollback",
            match (&device.rollback_version, device.rollback_available) {
                (Some(version), true) => format!("available, to {version}"),
                (None, true) => "available, as far as is known".into(),
                (_, false) => "no other valid image".into(),
            },
        ),
    ];
    known.extend(device.root_version.map(|version| {
        let text = match version {
            0 => "waits for a first root".to_owned(),
            version => format!("root {version}: signed releases only"),
        };
        ("Trusts", text)
    }));
    known.extend(
        device
            .epoch
            .map(|epoch| ("Security epoch", epoch.to_string())),
    );
    known.extend(device.log.as_ref().map(|log| {
        (
            "Release log",
            format!("{} entries seen, root {}", log.size, log.root.short()),
        )
    }));
    known
}

/// The states that a device went through in a rollout, oldest first.
async fn steps(tx: &mut Tx, device: &str, rollout: i64, now: i64) -> Result<Vec<Step>, StoreError> {
    if rollout == 0 {
        return Ok(Vec::new());
    }
    let of = Of {
        device: device.to_owned(),
        rollout,
        kind: "attempt.".to_owned(),
    };
    let mut events = tx.newest_events(&of, i64::MAX, STEPS_MAX).await?;
    events.reverse();
    // A retry begins anew: what was before it is in the list of attempts.
    let begins = |event: &Event| event.state == Some(AttemptState::Offered);
    if let Some(first) = events.iter().rposition(begins) {
        events.drain(..first);
    }
    let ends: Vec<i64> = events.iter().skip(1).map(|event| event.at).collect();
    let step = |(index, event): (usize, &Event)| {
        let state = event.state?;
        let until = ends.get(index).copied();
        let until = until.or((!state.is_end()).then_some(now));
        Some(Step {
            badge: words::badge(state),
            at: When::new(event.at, now),
            lasted: until.map(|until| lasted(until - event.at)),
        })
    };
    let mut steps: Vec<_> = events.iter().enumerate().filter_map(step).collect();
    steps.extend(went_back(tx, device, steps.last(), now).await?);
    Ok(steps)
}

/// The end that an operator's order has put to an attempt that had succeeded.
async fn went_back(
    tx: &mut Tx,
    device: &str,
    last: Option<&Step>,
    now: i64,
) -> Result<Option<Step>, StoreError> {
    let of = Of {
        device: device.to_owned(),
        kind: "rollback.done".to_owned(),
        ..Of::default()
    };
    let done = tx.newest_events(&of, i64::MAX, 1).await?;
    let newer = |event: &&Event| last.is_some_and(|last| last.at.at_ms <= event.at);
    Ok(done.first().filter(newer).map(|event| Step {
        badge: words::went_back(),
        at: When::new(event.at, now),
        lasted: None,
    }))
}

fn lasted(ms: i64) -> String {
    match ms.max(0) {
        0..=999 => format!("{} ms", ms.max(0)),
        1_000..=59_999 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..=3_599_999 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

async fn attempts(
    tx: &mut Tx,
    plan: &Plan,
    id: &str,
    now: i64,
) -> Result<Vec<Attempt>, StoreError> {
    let mut shown = Vec::new();
    for stored in tx.device_attempts(id, ATTEMPTS_SHOWN).await? {
        let attempt = facts::attempt(plan, &stored);
        shown.push(Attempt {
            rollout: attempt.rollout,
            from: attempt.from_version.unwrap_or_default(),
            version: attempt.version,
            state: words::badge(attempt.state),
            explanation: attempt.explanation,
            bytes: grouped(attempt.bytes_sent),
            requests: attempt.requests,
            at: When::new(attempt.updated_at, now),
        });
    }
    Ok(shown)
}

fn credential(credential: &DeviceCredential, now: i64) -> Credential {
    let state = match credential.revoked_at {
        Some(_) => Badge::new("cross", "credential revoked", "bad"),
        None => Badge::new("tick", "valid", "ok"),
    };
    Credential {
        kind: format!("{:?}", credential.kind).to_lowercase(),
        state,
        made: When::new(credential.created_at, now),
        used: credential.last_used.map(|at| When::new(at, now)),
    }
}

/// What may be done to a device.
fn question(device: &Device, plan: &Plan, action: &str) -> Result<Question, Refusal> {
    let (id, word) = (&device.id, shell(&device.id));
    let base = Question {
        here: "/devices",
        title: String::new(),
        lead: String::new(),
        effects: Vec::new(),
        fields: Vec::new(),
        verb: "",
        tone: "bad",
        back: format!("/devices/{id}"),
        cli: String::new(),
    };
    match action {
        "rollback" => back_question(device, base),
        "pin" | "hold" | "unpin" | "block" => Ok(choose_question(device, plan, action, base)),
        "unblock" => Ok(Question {
            title: format!("Unblock a release on {id}"),
            lead: "A release that was rolled back on this device is not offered to it again. \
                   Unblocked, rollouts may bring it once more."
                .to_owned(),
            fields: vec![Field::Choice {
                name: "release",
                label: "Release",
                options: device.blocked.clone(),
            }],
            verb: "Unblock",
            tone: "busy",
            cli: format!("fota device unblock {word} VERSION"),
            ..base
        }),
        "revoke" => Ok(Question {
            title: format!("Revoke the credentials of {id}"),
            lead: format!(
                "{id} can no longer prove who it is: where the server asks for that, its check-ins \
                 are refused from now on. A revoked credential does not come back."
            ),
            effects: vec![Effect {
                who: "every credential of this device".into(),
                what: "revoked at once",
            }],
            verb: "Revoke",
            cli: format!("fota device revoke {word}"),
            ..base
        }),
        _ => Err(Refusal::not_found(format!(
            "action {:?} of a device",
            brief(action)
        ))),
    }
}

/// What a device may take from now on.
fn choose_question(device: &Device, plan: &Plan, action: &str, base: Question) -> Question {
    let reason = || Field::Reason {
        needed: false,
        bytes_max: NOTES_BYTES_MAX,
    };
    let is_its = |release: &&model::Release| {
        let project = device.project.as_deref();
        !release.yanked && project.is_none_or(|project| project == release.project)
    };
    let versions = plan.releases.values().rev().filter(is_its);
    let versions = versions.map(|release| release.version.clone()).collect();
    let (id, word) = (&device.id, shell(&device.id));
    match action {
        "pin" => Question {
            title: format!("Pin {id}"),
            lead: format!("{id} takes this release and no other, whatever rollouts bring."),
            fields: vec![
                Field::Choice {
                    name: "release",
                    label: "Release",
                    options: versions,
                },
                reason(),
            ],
            verb: "Pin",
            tone: "busy",
            cli: format!("fota device pin {word} VERSION"),
            ..base
        },
        "hold" => Question {
            title: format!("Hold the updates of {id}"),
            lead: format!("{id} takes no release until it is let go."),
            fields: vec![reason()],
            verb: "Hold",
            tone: "busy",
            cli: format!("fota device pin {word}"),
            ..base
        },
        "unpin" => Question {
            title: format!("Let {id} go"),
            lead: "It takes releases again as rollouts bring them.".to_owned(),
            verb: "Let go",
            tone: "busy",
            cli: format!("fota device unpin {word}"),
            ..base
        },
        _ => Question {
            title: format!("Block a release on {id}"),
            lead: "It is not offered to this device until it is unblocked here.".to_owned(),
            fields: vec![Field::Choice {
                name: "release",
                label: "Release",
                options: versions,
            }],
            verb: "Block",
            cli: format!("fota device block {word} VERSION"),
            ..base
        },
    }
}

fn back_question(device: &Device, base: Question) -> Result<Question, Refusal> {
    let id = &device.id;
    if let Some(why) = no_way_back(device) {
        let detail = format!("{id}: {why}");
        return Err(Refusal::conflict("no_rollback_target", detail));
    }
    let runs = device.version.as_deref().unwrap_or("what it runs");
    let to = device.rollback_version.as_deref();
    Ok(Question {
        title: format!("Roll {id} back"),
        lead: format!(
            "{id} goes from {runs} back to {}, which it still holds: nothing is downloaded. The \
             order stands until the device is seen on another image, and {runs} is then blocked \
             on this device.",
            to.unwrap_or("its earlier image")
        ),
        fields: vec![Field::Reason {
            needed: true,
            bytes_max: REASON_BYTES_MAX,
        }],
        verb: "Roll back",
        cli: format!("fota rollback {} --reason \"…\"", shell(id)),
        ..base
    })
}

fn brief(text: &str) -> String {
    text.chars().take(40).collect()
}

/// `GET /devices/{id}/{action}`: the question.
pub async fn ask(
    State(state): State<AppState>,
    asked: Ask,
    Path((id, action)): Path<(String, String)>,
) -> Result<Response, Fault> {
    let id = device_id("id", &id)?;
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let stored = find(&mut tx, id.as_str()).await?;
    let device = facts::device(&state, &mut tx, &plan, &stored).await?;
    let question = question(&device, &plan, &action)?;
    confirm::ask(&state, &asked, question)
}

/// `POST /devices/{id}/{action}`: the deed.
pub async fn act(
    State(state): State<AppState>,
    by: By,
    Path((id, action)): Path<(String, String)>,
    form: Form,
) -> Result<Response, Fault> {
    let id = device_id("id", &id)?.to_string();
    match action.as_str() {
        "rollback" => {
            let request = RollbackRequest {
                to: vec![id.clone()],
                release: None,
                reason: form.text("reason").to_owned(),
            };
            let ordered = rollbacks::order(&state, &request, &by).await?;
            if let Some(left_out) = ordered.excluded.first() {
                let detail = format!(
                    "{id} was not ordered back: {}",
                    words::words(&left_out.reason)
                );
                return Err(Refusal::conflict("not_ordered", detail).into());
            }
        }
        "pin" | "hold" => {
            let body = PinRequest {
                release: (action == "pin").then(|| form.text("release").to_owned()),
                reason: form.text("reason").to_owned(),
            };
            let Json(_) = pins::pin(State(state), by, Segment(id.clone()), JsonBody(body)).await?;
        }
        "unpin" => drop(pins::unpin(State(state), by, Segment(id.clone())).await?),
        "block" => {
            let body = devices::Block {
                release: form.text("release").to_owned(),
            };
            let Json(_) =
                devices::block(State(state), by, Segment(id.clone()), JsonBody(body)).await?;
        }
        "unblock" => {
            let body = devices::Unblock {
                release: form.text("release").to_owned(),
            };
            let Json(_) =
                devices::unblock(State(state), by, Segment(id.clone()), JsonBody(body)).await?;
        }
        "revoke" => {
            credentials::revoke_all(State(state), by, Segment(id.clone())).await?;
        }
        _ => {
            let what = format!("action {:?} of a device", brief(&action));
            return Err(Refusal::not_found(what).into());
        }
    }
    Ok(go(&format!("/devices/{id}")))
}
