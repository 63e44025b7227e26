//! A device as it is told of, from what is stored; and the one thing that may be asked of it.

use std::hash::{DefaultHasher, Hash, Hasher};

use fota_proto::{DeviceId, manager::RolloutRequest};
use serde_json::json;

use super::{
    home_assistant::{Attempt, Newest, Picture},
    message::time,
};
use crate::{
    AppState,
    auth::By,
    domain::{
        attempt::percent,
        fit::{chip_name, fits},
        model::{Device, Plan, Release, Standing},
        presence::presence,
        trust::takes,
    },
    service::rollouts,
    store::{StoreError, Tx},
};

/// How old the time of the last sighting that is told may be: told each time, it would be a message
/// for every check-in.
const LAST_SEEN_GRAIN_MS: i64 = 5 * 60 * 1000;
/// A command that comes again within this is the same one.
const SAME_COMMAND_MS: i64 = 60 * 1000;

/// The device as it is now.
pub async fn of(
    state: &AppState,
    tx: &mut Tx,
    plan: &Plan,
    device: &Device,
) -> Result<Picture, StoreError> {
    let attempt = tx.newest_attempt(&device.id).await?;
    let blocked = tx.blocked(&device.id).await?;
    let last_seen = last_seen(state, device);
    let version_of = |release| {
        plan.releases
            .get(&release)
            .map(|found| found.version.clone())
    };
    let now = state.now_ms();
    let newest = newest(plan, device, |release| blocked.contains(&release), now);
    Ok(Picture {
        id: device.id.clone(),
        chip: device.chip.map(chip_name),
        project: device.project.clone(),
        version: device.version.clone(),
        presence: presence(last_seen, now, state.config.poll_s),
        last_seen: time(last_seen),
        attempt: attempt.map(|attempt| Attempt {
            rollout: attempt.rollout,
            version: version_of(attempt.release).unwrap_or_default(),
            state: attempt.state,
            percent: percent(attempt.bytes_done, attempt.bytes_total),
        }),
        newest: newest.map(|release| Newest {
            version: release.version.clone(),
            notes: release.notes.clone(),
        }),
    })
}

fn last_seen(state: &AppState, device: &Device) -> i64 {
    state.fleet.last_seen(&device.id, device.last_seen)
}

/// The newest release of its product that the device would take and a rollout could give it: what
/// runs, too. A release that the device would refuse, because of who signed it or what came before,
/// is no update, and neither is one of which a rollout was stopped or waits for a person.
fn newest<'p>(
    plan: &'p Plan,
    device: &Device,
    is_blocked: impl Fn(i64) -> bool,
    now: i64,
) -> Option<&'p Release> {
    plan.releases.values().rev().find(|release| {
        let is_product = device.project.as_ref() == Some(&release.project);
        let is_offered = !release.yanked && !is_blocked(release.id) && !is_stopped(plan, release);
        let runs = device.running().is(release);
        let is_taken = fits(device, release, false).is_ok()
            && (runs || takes(device, plan, release, now).is_ok());
        is_product && is_offered && is_taken
    })
}

/// Whether the newest rollout of the release stands still: it breached a gate, was paused, or
/// nobody has approved it.
fn is_stopped(plan: &Plan, release: &Release) -> bool {
    let mut rollouts = plan.rollouts.iter();
    let newest = rollouts.find(|rollout| rollout.release == release.id);
    newest.is_some_and(|rollout| rollout.standing == Standing::Paused || rollout.needs_approval())
}

/// What a look at many devices sees of one, without asking for its attempts: where this has not
/// changed and no event told of the device, the picture is the same.
pub fn glance(state: &AppState, plan: &Plan, device: &Device) -> u64 {
    let last_seen = last_seen(state, device);
    let now = state.now_ms();
    let presence = presence(last_seen, now, state.config.poll_s);
    let newest = newest(plan, device, |_| false, now).map(|release| release.id);
    let mut hasher = DefaultHasher::new();
    (presence as u8, newest, last_seen / LAST_SEEN_GRAIN_MS).hash(&mut hasher);
    (&device.version, &device.project, device.elf, device.chip).hash(&mut hasher);
    hasher.finish()
}

/// Starts a rollout of the newest release to this device alone.
///
/// # Errors
/// Why not, for people.
pub async fn install(state: &AppState, id: &DeviceId, by: &By) -> Result<(), String> {
    let (release, version) = {
        let database = |error: StoreError| error.to_string();
        let mut tx = state.store.read().await.map_err(database)?;
        let plan = state.fleet.plan(&mut tx).await.map_err(database)?;
        let device = tx.device(id.as_str()).await.map_err(database)?;
        let device = device.ok_or("there is no such device")?;
        let blocked = tx.blocked(id.as_str()).await.map_err(database)?;
        let now = state.now_ms();
        let newest = newest(&plan, &device, |release| blocked.contains(&release), now);
        let newest = newest.ok_or("there is no release for it")?;
        if device.running().is(newest) {
            return Err(format!("it runs {} already", newest.version));
        }
        (newest.id, newest.version.clone())
    };
    let minute = state.now_ms() / SAME_COMMAND_MS;
    // As a program would send it: what a rollout may also say has its usual value.
    let request: RolloutRequest = serde_json::from_value(json!({
        "release": release.to_string(),
        "to": [id.as_str()],
        "idempotency_key": format!("mqtt:{id}:{release}:{minute}"),
    }))
    .map_err(|error| error.to_string())?;
    let rollout = rollouts::start(state, &request, by).await;
    let rollout = rollout.map_err(|refusal| refusal.detail().to_owned())?;
    tracing::info!(device = %id, %version, rollout = rollout.id, "mqtt: {id} is to be updated");
    Ok(())
}
