//! One rollout: where its devices are, what went wrong, what was decided, and what may be done.

use askama::Template;
use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use fota_proto::{
    AttemptState,
    limits::{NOTES_BYTES_MAX, REASON_BYTES_MAX},
    manager::{Attempt, Counts, ReasonBody, RollbackRequest, Rollout, RolloutDetail, RolloutState},
};

use super::{
    chrome::{Ask, Chrome, screen},
    confirm::{self, Effect, Field, Question, go},
    fault::Fault,
    fleet::{Card, card},
    form::Form,
    pieces::{Badge, Cli, When, grouped},
    words::{self, Line},
};
use crate::{
    AppState,
    api::{
        extract::{JsonOrNothing, Segment},
        problem::Refusal,
        rollouts,
    },
    auth::By,
    domain::attempt::explain,
    service::{clusters, rollbacks, why},
    store::Of,
};
use waves::Waves;

mod waves;

/// Devices in the table; the API lists up to 1,000.
const DEVICES_SHOWN: usize = 100;
/// Devices named as examples of a failure.
const EXAMPLES: usize = 5;
const DECISIONS_SHOWN: i64 = 50;
/// Waiting devices that are told at once why; of the others their own screen tells.
const WHY_SHOWN: usize = 5;

#[derive(Template)]
#[template(path = "rollout.html")]
struct Screen {
    chrome: Chrome,
    card: Card,
    release: i64,
    plan: Vec<(&'static str, String)>,
    waves: Option<Waves>,
    failures: Vec<Group>,
    /// What the failures have in common, as sentences.
    clusters: Vec<String>,
    devices: Vec<Row>,
    hidden: usize,
    decisions: Vec<Line>,
    is_over: bool,
    can_promote: bool,
    needs_approval: bool,
    can_retry: bool,
    can_roll_back: bool,
    show: Cli,
    watch: Cli,
}

/// Devices that ended alike.
struct Group {
    badge: Badge,
    /// As in the addresses and the API.
    state: String,
    count: usize,
    why: String,
    examples: Vec<String>,
}

struct Row {
    device: String,
    badge: Badge,
    from: String,
    percent: Option<u8>,
    note: Option<String>,
    /// Whether its own screen tells what it waits for.
    waits: bool,
    at: When,
}

/// `GET /rollouts/{id}`.
pub async fn show(
    State(state): State<AppState>,
    ask: Ask,
    Path(id): Path<String>,
) -> Result<Response, Fault> {
    let Json(detail) = rollouts::show(State(state.clone()), Segment(id)).await?;
    let RolloutDetail { rollout, attempts } = &detail;
    let now = state.now_ms();
    let of = Of {
        rollout: rollout.id,
        kind: "rollout.".to_owned(),
        ..Of::default()
    };
    let devices = rows(&state, attempts, now).await?;
    let mut tx = state.store.read().await?;
    let decisions = tx.newest_events(&of, i64::MAX, DECISIONS_SHOWN).await?;
    let counts = &rollout.counts;
    let is_over = has_ended(rollout);
    let wave = rollout.wave.as_ref();
    let needs_approval = needs_approval(rollout) && !is_over;
    let clusters = match counts.failed + counts.rolled_back {
        0 => Vec::new(),
        _ => clusters::of_rollout(&mut tx, rollout.id).await?.clusters,
    };
    let title = format!("r-{} · {}", rollout.id, rollout.version);
    screen(&Screen {
        chrome: Chrome::new(&state, &ask, "/rollouts", title)
            .live(format!("rollout:{}", rollout.id)),
        card: card(rollout, now),
        release: rollout.release,
        plan: plan(rollout),
        waves: Waves::new(rollout, &tx.wave_devices(rollout.id).await?),
        failures: failures(attempts),
        clusters: clusters.into_iter().map(|one| one.text).collect(),
        hidden: attempts.len().saturating_sub(DEVICES_SHOWN),
        devices,
        decisions: decisions
            .iter()
            .map(|event| Line::new(event, now))
            .collect(),
        can_promote: !is_over && !needs_approval && wave.is_some_and(|at| at.number < at.of),
        needs_approval,
        can_retry: !is_over && counts.failed + counts.rolled_back + counts.ended > 0,
        can_roll_back: counts.succeeded + counts.trial > 0,
        is_over,
        show: Cli::new(format!("fota rollout show r-{}", rollout.id)),
        watch: Cli::new(format!("fota rollout watch r-{}", rollout.id)),
    })
}

fn has_ended(rollout: &Rollout) -> bool {
    let reason = rollout.reason.as_deref().unwrap_or("");
    rollout.state == RolloutState::Aborted || reason.starts_with("superseded")
}

fn needs_approval(rollout: &Rollout) -> bool {
    let asks = rollout.plan.as_ref().is_some_and(|plan| plan.approval);
    asks && rollout.approved_by.is_none()
}

fn plan(rollout: &Rollout) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Plan", rollout.sentence.clone()),
        ("To", rollout.to.join(", ")),
    ];
    facts.push(("Started by", rollout.created_by.clone()));
    facts.extend(rollout.approved_by.clone().map(|by| ("Approved by", by)));
    facts.extend(rollout.rollback.map(|back| ("Sent back", back.to_string())));
    facts.push(("Sent", format!("{} bytes", grouped(rollout.bytes_sent))));
    if let Ok(spared @ 1..) = u64::try_from(rollout.spared_bytes) {
        facts.push(("Spared by patches", format!("{} bytes", grouped(spared))));
    }
    facts
}

fn failures(attempts: &[Attempt]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let bad = |state: &AttemptState| {
        matches!(
            state,
            AttemptState::Failed(_) | AttemptState::RolledBack(_) | AttemptState::TimedOut
        )
    };
    for attempt in attempts.iter().filter(|attempt| bad(&attempt.state)) {
        let state = attempt.state.to_string();
        let found = groups.iter().position(|group| group.state == state);
        let index = found.unwrap_or_else(|| {
            groups.push(Group {
                badge: words::badge(attempt.state),
                state,
                count: 0,
                why: explain(attempt.state, None).unwrap_or_default(),
                examples: Vec::new(),
            });
            groups.len() - 1
        });
        groups[index].count += 1;
        if groups[index].examples.len() < EXAMPLES {
            groups[index].examples.push(attempt.device.clone());
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups
}

async fn rows(state: &AppState, attempts: &[Attempt], now: i64) -> Result<Vec<Row>, Refusal> {
    let mut rows = Vec::new();
    let mut told = 0;
    // Those that were left out come last, behind those that still wait.
    let is_left_out = |attempt: &&Attempt| matches!(attempt.state, AttemptState::Skipped(_));
    let mut shown: Vec<&Attempt> = attempts.iter().collect();
    shown.sort_by_key(is_left_out);
    for attempt in shown.into_iter().take(DEVICES_SHOWN) {
        let mut row = row(attempt, now);
        if row.waits && told < WHY_SHOWN {
            told += 1;
            row.note = match why::why(state, &attempt.device).await {
                Ok(why) => Some(why.answer),
                Err(_) => Some("it has never checked in".to_owned()),
            };
        }
        rows.push(row);
    }
    Ok(rows)
}

fn row(attempt: &Attempt, now: i64) -> Row {
    Row {
        device: attempt.device.clone(),
        badge: words::badge(attempt.state),
        from: attempt.from_version.clone().unwrap_or_default(),
        percent: words::percent(attempt),
        note: attempt.explanation.clone(),
        waits: attempt.state == AttemptState::Waiting,
        at: When::new(attempt.updated_at, now),
    }
}

/// What an operator may do to a rollout.
fn question(rollout: &Rollout, action: &str) -> Result<Question, Refusal> {
    let id = rollout.id;
    let base = Question {
        here: "/rollouts",
        title: String::new(),
        lead: String::new(),
        effects: Vec::new(),
        fields: vec![Field::Reason {
            needed: false,
            bytes_max: NOTES_BYTES_MAX,
        }],
        verb: "",
        tone: "busy",
        back: format!("/rollouts/r-{id}"),
        cli: format!("fota rollout {action} r-{id}"),
    };
    Ok(match action {
        "pause" => Question {
            title: format!("Pause r-{id}"),
            lead: format!(
                "{} is offered to nobody else until it is resumed.",
                rollout.version
            ),
            effects: effects(&rollout.counts, PAUSED),
            verb: "Pause",
            ..base
        },
        "resume" => Question {
            title: format!("Resume r-{id}"),
            lead: format!("{} is offered again.", rollout.version),
            effects: effects(&rollout.counts, RESUMED),
            verb: "Resume",
            ..base
        },
        "abort" => Question {
            title: format!("Abort r-{id}"),
            lead: "The rollout ends for good. To bring the release to the rest, start a new one."
                .to_owned(),
            effects: effects(&rollout.counts, ABORTED),
            verb: "Abort",
            tone: "bad",
            ..base
        },
        "retry" => Question {
            title: format!("Retry what failed in r-{id}"),
            lead: format!(
                "{} is offered again to the devices that failed, and to no others. It stays \
                 blocked where it was rolled back.",
                rollout.version
            ),
            effects: effects(&rollout.counts, RETRIED),
            fields: Vec::new(),
            verb: "Retry failed",
            ..base
        },
        "rollback" => back_question(rollout, base),
        "promote" | "approve" => forward_question(rollout, action, base),
        _ => {
            return Err(question_of_nothing(action));
        }
    })
}

fn forward_question(rollout: &Rollout, action: &str, base: Question) -> Question {
    match action {
        "promote" => Question {
            title: format!("Begin the next wave of r-{}", rollout.id),
            lead: format!(
                "{} is offered to the next wave now, whatever its gates say.",
                rollout.version
            ),
            effects: effects(&rollout.counts, PROMOTED),
            verb: "Next wave",
            ..base
        },
        _ => Question {
            title: format!("Approve r-{}", rollout.id),
            lead: format!(
                "{} Started by {}; somebody else approves it, and then it begins.",
                rollout.sentence, rollout.created_by
            ),
            verb: "Approve",
            ..base
        },
    }
}

fn back_question(rollout: &Rollout, base: Question) -> Question {
    Question {
        title: format!(
            "Roll back {} everywhere in r-{}",
            rollout.version, rollout.id
        ),
        lead: format!(
            "Every device that this rollout names and that runs {0} is ordered back to the image \
             it still holds. Those without one are left out and keep {0}; offline ones go back \
             when they check in. {0} is then blocked where it was rolled back.",
            rollout.version
        ),
        effects: effects(&rollout.counts, ROLLED_BACK),
        fields: vec![Field::Reason {
            needed: true,
            bytes_max: REASON_BYTES_MAX,
        }],
        verb: "Roll back all",
        tone: "bad",
        cli: format!(
            "fota rollback {} --release {} --reason \"…\"",
            rollout.to.join(" "),
            rollout.version
        ),
        ..base
    }
}

/// What happens to devices that: have not started, update, are on trial, are confirmed, failed.
type Meaning = [&'static str; 5];

const PAUSED: Meaning = [
    "wait until it is resumed",
    "go on and finish",
    "go on: they confirm or go back by themselves",
    "stay on it",
    "stay as they are",
];
const RESUMED: Meaning = [
    "are offered it at their next check-in",
    "go on",
    "go on",
    "stay on it",
    "stay as they are: use “Retry failed”",
];
const PROMOTED: Meaning = [
    "are offered it when their wave has begun",
    "go on",
    "go on",
    "stay on it",
    "stay as they are",
];
const ABORTED: Meaning = [
    "are never offered it: aborted",
    "drop it if they have not begun to install; else they finish",
    "go on: they confirm or go back by themselves",
    "stay on it",
    "stay as they are",
];
const RETRIED: Meaning = [
    "go on waiting",
    "go on",
    "go on",
    "stay on it",
    "are offered it again",
];
const ROLLED_BACK: Meaning = [
    "are still offered it: pause or abort the rollout as well",
    "go on, and are not ordered back yet",
    "are ordered back",
    "are ordered back",
    "stay as they are",
];

fn effects(counts: &Counts, [waiting, updating, trial, done, failed]: Meaning) -> Vec<Effect> {
    let rows = [
        (counts.waiting, "not started", waiting),
        (counts.updating, "downloading or installing", updating),
        (counts.trial, "on trial", trial),
        (counts.succeeded, "confirmed", done),
        (
            counts.failed + counts.rolled_back,
            "failed or rolled back",
            failed,
        ),
    ];
    let some = rows.into_iter().filter(|(count, ..)| *count > 0);
    some.map(|(count, who, what)| Effect {
        who: format!("{count} {who}"),
        what,
    })
    .collect()
}

/// `GET /rollouts/{id}/{action}`: the question.
pub async fn ask(
    State(state): State<AppState>,
    asked: Ask,
    Path((id, action)): Path<(String, String)>,
) -> Result<Response, Fault> {
    let Json(detail) = rollouts::show(State(state.clone()), Segment(id)).await?;
    let question = question(&detail.rollout, &action)?;
    confirm::ask(&state, &asked, question)
}

/// `POST /rollouts/{id}/{action}`: the deed.
pub async fn act(
    State(state): State<AppState>,
    by: By,
    Path((id, action)): Path<(String, String)>,
    form: Form,
) -> Result<Response, Fault> {
    let place = format!("/rollouts/{id}");
    let (to, id) = (State(state.clone()), Segment(id));
    let body = JsonOrNothing(ReasonBody {
        reason: form.text("reason").to_owned(),
    });
    let done = match action.as_str() {
        "pause" => rollouts::pause(to, by, id, body).await,
        "resume" => rollouts::resume(to, by, id, body).await,
        "abort" => rollouts::abort(to, by, id, body).await,
        "retry" => rollouts::retry(to, by, id, body).await,
        "promote" => rollouts::promote(to, by, id, body).await,
        "approve" => rollouts::approve(to, by, id, body).await,
        "rollback" => {
            let shown = rollouts::show(to, id).await?;
            roll_back(&state, &by, &shown.rollout, form.text("reason")).await?;
            return Ok(go(&place));
        }
        _ => Err(question_of_nothing(&action)),
    };
    let Json(_) = done?;
    Ok(go(&place))
}

fn question_of_nothing(action: &str) -> Refusal {
    let shown: String = action.chars().take(40).collect();
    Refusal::not_found(format!("action {shown:?} of a rollout"))
}

async fn roll_back(
    state: &AppState,
    by: &By,
    rollout: &Rollout,
    reason: &str,
) -> Result<(), Refusal> {
    let request = RollbackRequest {
        to: rollout.to.clone(),
        release: Some(rollout.release.to_string()),
        reason: reason.to_owned(),
    };
    let ordered = rollbacks::order(state, &request, by).await?;
    if ordered.orders.is_empty() {
        let detail = format!(
            "nobody was ordered back: {} devices run another release or hold no other image",
            ordered.excluded.len()
        );
        return Err(Refusal::conflict("not_ordered", detail));
    }
    Ok(())
}
