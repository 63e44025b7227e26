//! Starting, ending and watching rollouts.

use std::sync::Arc;

use axum::http::StatusCode;
use fota_proto::{
    AttemptState, DeviceId,
    limits::{NOTES_BYTES_MAX, TARGETS_MAX},
    manager::RolloutRequest,
};

use super::{advance, commit_by, deltas};
use crate::{
    AppState,
    api::problem::Refusal,
    auth::{By, Record},
    domain::{
        model::{NewEvent, Release, Rollout, Standing, Target},
        plan::{RolloutPlan, sentence},
        step::TRIAL_DEADLINE_S,
    },
    store::{StoreError, Tx},
};

/// Longest time a new image may have to confirm itself: a day.
const TRIAL_DEADLINE_S_MAX: u32 = 86_400;
/// Longest idempotency key: a UUID with room to spare.
const KEY_BYTES_MAX: usize = 128;

/// A release as a request names it: its id, or its version where only one release has it.
/// `id:7` is always the id: a version may be a plain number too.
pub async fn find_release(tx: &mut Tx, name: &str) -> Result<Release, Refusal> {
    if let Some(id) = name.strip_prefix("id:") {
        let found = match id.parse() {
            Ok(id) => tx.release(id).await?,
            Err(_) => None,
        };
        let shown: String = id.chars().take(80).collect();
        return found.ok_or_else(|| Refusal::not_found(format!("release {shown}")).of("release"));
    }
    let named = tx.releases_by_version(name).await?;
    let all: Vec<&Release> = named.iter().collect();
    let offered: Vec<&Release> = named.iter().filter(|release| !release.yanked).collect();
    match (&offered[..], &all[..]) {
        ([one], _) | ([], [one]) => return Ok((*one).clone()),
        ([], []) => {}
        _ => {
            let ids: Vec<String> = named.iter().map(|release| release.id.to_string()).collect();
            let detail = format!(
                "version {name} names {} releases: give the id, one of {}",
                ids.len(),
                ids.join(", ")
            );
            return Err(Refusal::conflict("release_ambiguous", detail).of("release"));
        }
    }
    let by_id = match name.parse() {
        Ok(id) => tx.release(id).await?,
        Err(_) => None,
    };
    let shown: String = name.chars().take(80).collect();
    by_id.ok_or_else(|| Refusal::not_found(format!("release {shown:?}")).of("release"))
}

/// Reads targets and checks that they name something.
pub async fn find_target(tx: &mut Tx, texts: &[String]) -> Result<Target, Refusal> {
    if texts.is_empty() {
        let detail = "to is empty: give `all`, `group:NAME`, or device ids";
        return Err(Refusal::field("to", detail));
    }
    if texts.len() > TARGETS_MAX {
        let detail = format!(
            "to names {} targets; at most {TARGETS_MAX} are taken: put them into a group",
            texts.len()
        );
        return Err(Refusal::field("to", detail));
    }
    let target = Target::parse(texts).map_err(|error| Refusal::field("to", error.to_string()))?;
    for group in &target.groups {
        if !tx.group_exists(group).await? {
            return Err(Refusal::not_found(format!("group {group:?}")).of("to"));
        }
    }
    Ok(target)
}

/// A checked request.
#[derive(Clone)]
pub struct Checked {
    pub release: Release,
    pub target: Target,
    pub plan: Arc<RolloutPlan>,
}

impl Checked {
    /// The whole plan as one sentence.
    pub fn sentence(&self, request: &RolloutRequest) -> String {
        sentence(&self.release.version, &draft(self.clone(), request, "", 0))
    }
}

pub async fn check(tx: &mut Tx, request: &RolloutRequest) -> Result<Checked, Refusal> {
    let deadline = request.trial_deadline_s.unwrap_or(TRIAL_DEADLINE_S);
    if !(1..=TRIAL_DEADLINE_S_MAX).contains(&deadline) {
        let detail = format!("trial_deadline_s is {deadline}: give 1 to {TRIAL_DEADLINE_S_MAX}");
        return Err(Refusal::field("trial_deadline_s", detail));
    }
    if request.failures_max == Some(0) {
        let detail = "failures_max is 0: give the number of failures that pauses it, at least 1";
        return Err(Refusal::field("failures_max", detail));
    }
    let key_bytes = request.idempotency_key.as_ref().map_or(1, String::len);
    if !(1..=KEY_BYTES_MAX).contains(&key_bytes) {
        let detail = format!("idempotency_key has {key_bytes} bytes: give 1 to {KEY_BYTES_MAX}");
        return Err(Refusal::field("idempotency_key", detail));
    }
    let release = find_release(tx, &request.release).await?;
    if release.yanked {
        let detail = format!("release {} was withdrawn: choose another", release.version);
        return Err(Refusal::conflict("release_yanked", detail).of("release"));
    }
    let target = find_target(tx, &request.to).await?;
    let plan = match &request.plan {
        Some(given) => RolloutPlan::check(given)
            .map_err(|error| Refusal::field(format!("plan.{}", error.field), error.to_string()))?,
        None => RolloutPlan::default(),
    };
    let plan = Arc::new(plan);
    Ok(Checked {
        release,
        target,
        plan,
    })
}

/// Starts a rollout; the same idempotency key gives the same rollout.
pub async fn start(
    state: &AppState,
    request: &RolloutRequest,
    by: &By,
) -> Result<Rollout, Refusal> {
    let mut tx = state.store.write().await?;
    let checked = check(&mut tx, request).await?;
    let sentence = checked.sentence(request);
    let release = checked.release.clone();
    let new = draft(checked, request, &by.actor, state.now_ms());
    if let Some(key) = &request.idempotency_key
        && let Some(earlier) = tx.rollout_by_key(key).await?
    {
        return same_request(earlier, &new);
    }
    let rollout = tx.insert_rollout(&new).await?;
    let mut events = vec![NewEvent {
        kind: "rollout.started".to_owned(),
        rollout: Some(rollout.id),
        release: Some(release.id),
        actor: "operator",
        text: format!("{} to {}", release.version, rollout.target.shown()),
        ..NewEvent::default()
    }];
    events.extend(supersede(&mut tx, &rollout, &release).await?);
    let mut detail = format!("release:{} {}", release.id, events[0].text);
    if !rollout.plan.is_empty() {
        detail = format!("release:{} {sentence}", release.id);
    }
    let record = Record::new("rollout.started", object(rollout.id), detail);
    commit_by(state, tx, by, record, &events, true).await?;
    deltas::look_ahead(state, &rollout, &release);
    Ok(rollout)
}

/// The rollout as it would begin.
pub fn draft(checked: Checked, request: &RolloutRequest, created_by: &str, now: i64) -> Rollout {
    Rollout {
        id: 0,
        release: checked.release.id,
        target: checked.target,
        standing: Standing::Active,
        held: false,
        reason: None,
        failures_max: request.failures_max,
        rollback_on_failure: request.rollback_on_failure,
        trial_deadline_s: request.trial_deadline_s.unwrap_or(TRIAL_DEADLINE_S),
        allow_product_change: request.allow_product_change,
        idempotency_key: request.idempotency_key.clone(),
        created_at: now,
        plan: checked.plan,
        wave: 0,
        wave_since: now,
        wave_devices: None,
        created_by: created_by.to_owned(),
        approved_by: None,
        forgiven: 0,
    }
}

fn object(id: i64) -> String {
    format!("rollout:{id}")
}

fn same_request(earlier: Rollout, new: &Rollout) -> Result<Rollout, Refusal> {
    let same = earlier.release == new.release
        && earlier.target == new.target
        && earlier.plan.given() == new.plan.given();
    if same {
        return Ok(earlier);
    }
    let detail = format!(
        "this idempotency_key started rollout r-{} with another release, other targets or \
         another plan: use a new key",
        earlier.id
    );
    Err(Refusal::conflict("idempotency_key_reused", detail).of("idempotency_key"))
}

/// Older rollouts of the same product to the same targets have nothing left to say.
async fn supersede(
    tx: &mut Tx,
    rollout: &Rollout,
    release: &Release,
) -> Result<Vec<NewEvent>, StoreError> {
    let mut events = Vec::new();
    for mut older in tx.standing_rollouts().await? {
        let Some(brought) = tx.release(older.release).await? else {
            continue;
        };
        let same_product = brought.project == release.project && brought.chip == release.chip;
        if older.id == rollout.id || older.target != rollout.target || !same_product {
            continue;
        }
        older.standing = Standing::Superseded;
        older.reason = Some(format!("superseded by r-{}", rollout.id));
        tx.set_rollout_standing(&older).await?;
        events.push(NewEvent {
            kind: "rollout.superseded".to_owned(),
            rollout: Some(older.id),
            release: Some(older.release),
            actor: "server",
            text: format!("superseded by r-{} ({})", rollout.id, release.version),
            ..NewEvent::default()
        });
    }
    Ok(events)
}

/// What an operator may do to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Pause,
    Resume,
    Abort,
    Retry,
    /// Go on to the next wave, whatever its gates say.
    Promote,
    /// Say yes to a rollout that somebody else started.
    Approve,
}

/// Does it; a command that is in force already changes nothing.
pub async fn command(
    state: &AppState,
    id: i64,
    command: Command,
    reason: &str,
    by: &By,
) -> Result<Rollout, Refusal> {
    if reason.len() > NOTES_BYTES_MAX {
        let detail = format!(
            "reason has {} bytes; at most {NOTES_BYTES_MAX} are taken",
            reason.len()
        );
        return Err(Refusal::field("reason", detail));
    }
    let mut tx = state.store.write().await?;
    let found = tx.rollout(id).await?;
    let mut rollout =
        found.ok_or_else(|| Refusal::not_found(format!("rollout r-{id}")).of("id"))?;
    let ended = matches!(rollout.standing, Standing::Aborted | Standing::Superseded);
    if ended && !(command == Command::Abort && rollout.standing == Standing::Aborted) {
        let why = rollout.reason.as_deref().unwrap_or("aborted");
        let detail = format!("rollout r-{id} has ended ({why}): start a new one");
        return Err(Refusal::conflict("rollout_ended", detail));
    }
    let (kind, text) =
        carry_out(&mut tx, &mut rollout, (command, reason), by, state.now_ms()).await?;
    tx.set_rollout_standing(&rollout).await?;
    let event = NewEvent {
        kind: kind.to_owned(),
        rollout: Some(id),
        release: Some(rollout.release),
        actor: "operator",
        text: text.unwrap_or_else(|| "no reason given".to_owned()),
        ..NewEvent::default()
    };
    let record = Record::new(kind, object(id), event.text.clone());
    commit_by(state, tx, by, record, &[event], true).await?;
    Ok(rollout)
}

/// Changes the rollout; gives the kind of the event and its text.
async fn carry_out(
    tx: &mut Tx,
    rollout: &mut Rollout,
    (command, reason): (Command, &str),
    by: &By,
    now: i64,
) -> Result<(&'static str, Option<String>), Refusal> {
    let id = rollout.id;
    let said = (!reason.is_empty()).then(|| reason.to_owned());
    Ok(match command {
        Command::Pause => {
            rollout.standing = Standing::Paused;
            rollout.reason = said.or(rollout.reason.take());
            ("rollout.paused", rollout.reason.clone())
        }
        Command::Resume => {
            if rollout.held {
                rollout.forgiven += tx.counted(rollout, now).await?.failures;
                tx.judge_afresh(rollout.id, now).await?;
            }
            rollout.standing = Standing::Active;
            rollout.held = false;
            rollout.reason = None;
            ("rollout.resumed", said)
        }
        Command::Abort => {
            rollout.standing = Standing::Aborted;
            rollout.reason = said.or(rollout.reason.take());
            tx.abort_attempts(id, now).await?;
            ("rollout.aborted", rollout.reason.clone())
        }
        Command::Retry => {
            let again = tx.retry_attempts(id).await?;
            ("rollout.retried", Some(format!("{again} devices again")))
        }
        Command::Promote => {
            promote(rollout, now)?;
            let (number, of) = (rollout.wave + 1, rollout.plan.waves.len());
            let text = format!("wave {number} of {of} begins: by hand");
            ("rollout.promoted", Some(text))
        }
        Command::Approve => {
            approve(rollout, by)?;
            (
                "rollout.approved",
                Some(format!("approved by {}", by.actor)),
            )
        }
    })
}

fn promote(rollout: &mut Rollout, now: i64) -> Result<(), Refusal> {
    let (id, of) = (rollout.id, rollout.plan.waves.len());
    if rollout.wave >= rollout.plan.last_wave() {
        let detail = format!("rollout r-{id} has begun its last wave, {of} of {of}");
        return Err(Refusal::conflict("last_wave", detail));
    }
    if rollout.needs_approval() {
        let detail = format!("rollout r-{id} is not approved: `fota rollout approve r-{id}`");
        return Err(Refusal::conflict("not_approved", detail));
    }
    advance::next_wave(rollout, now);
    Ok(())
}

/// A second pair of eyes: not those of who started it.
fn approve(rollout: &mut Rollout, by: &By) -> Result<(), Refusal> {
    let id = rollout.id;
    if !rollout.plan.approval {
        let detail = format!("rollout r-{id} asks for no approval");
        return Err(Refusal::conflict("no_approval_needed", detail));
    }
    if rollout.created_by == by.actor {
        let detail = format!(
            "{} started rollout r-{id}: somebody else must approve it",
            by.actor
        );
        return Err(Refusal::conflict("own_rollout", detail));
    }
    rollout.approved_by.get_or_insert_with(|| by.actor.clone());
    Ok(())
}

/// A device id in a request.
pub fn device_id(field: &str, text: &str) -> Result<DeviceId, Refusal> {
    text.parse()
        .map_err(|error: fota_proto::ids::DeviceIdError| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "field_invalid",
                format!("{field}: {error}"),
            )
            .of(field)
        })
}

/// Whether the state is one that a device may still leave by itself.
pub fn is_under_way(state: AttemptState) -> bool {
    !state.is_end() && state != AttemptState::Waiting
}
