//! What is stored, in the words of the manager API.

use std::collections::BTreeMap;

use fota_proto::{FailureCode, manager};

use super::signed;
use crate::{
    AppState,
    domain::{
        attempt::{explain, percent},
        fit::chip_name,
        model::{Attempt, Device, Plan, Protocol, Release, RollbackOrder, RollbackState, Rollout},
        presence::presence,
        rollout::{counts, state as state_of},
    },
    store::{StoreError, Tx, protocol_name},
};

/// A release with the number of devices that run it.
pub fn release(release: &Release, running_on: &[(i64, u64)]) -> manager::Release {
    let runs = running_on.iter().find(|(id, _)| *id == release.id);
    manager::Release {
        id: release.id,
        version: release.version.clone(),
        project: release.project.clone(),
        chip: release.chip.map(chip_name),
        bytes: release.bytes,
        sha256: release.sha256,
        elf_sha256: release.elf,
        idf_version: release.idf_version.clone(),
        secure_version: release.secure_version,
        chip_revision_min: release.chip_revision_min,
        chip_revision_max: release.chip_revision_max,
        notes: release.notes.clone(),
        lab: release.lab,
        yanked: release.yanked,
        uploaded_at: release.uploaded_at,
        running_on: runs.map_or(0, |(_, devices)| *devices),
        signed: release.signed.as_ref().map(signed::view),
    }
}

/// A device with its newest attempt and its orders.
pub async fn device(
    state: &AppState,
    tx: &mut Tx,
    plan: &Plan,
    device: &Device,
) -> Result<manager::Device, StoreError> {
    let id = &device.id;
    let blocked = tx.blocked(id).await?;
    let newest = tx.newest_attempt(id).await?;
    let rollback = tx.newest_rollback(id).await?;
    let last_seen = state.fleet.last_seen(id).unwrap_or(device.last_seen);
    Ok(manager::Device {
        id: id.clone(),
        groups: tx.groups_of(id).await?,
        chip: device.chip.map(chip_name),
        project: device.project.clone(),
        version: device.version.clone(),
        elf_sha256: device.elf,
        confirmed: device.confirmed,
        slot: device.slot,
        rollback_version: device.rollback_version().map(str::to_owned),
        rollback_available: device.rollback_available(),
        protocol: protocol_name(device.protocol).to_owned(),
        presence: presence(last_seen, state.now_ms(), state.config.poll_s),
        last_seen,
        first_seen: device.first_seen,
        warning: device
            .warning
            .clone()
            .or_else(|| unidentified(state, device)),
        attempt: newest.map(|newest| attempt(plan, &newest)),
        rollback: rollback.as_ref().map(rollback_order),
        blocked: blocked
            .iter()
            .map(|release| version(plan, *release))
            .collect(),
        root_version: device.trust.root,
        epoch: device.trust.epoch,
        log: device.trust.log.map(|log| manager::SeenHead {
            size: log.size,
            root: log.root,
        }),
    })
}

/// The seed's firmware sends no id with its update requests: all such devices look like one.
fn unidentified(state: &AppState, device: &Device) -> Option<String> {
    let is_default = device.id == state.config.legacy_default_device_id;
    (is_default && device.protocol == Protocol::Seed).then(|| {
        "unidentified: it sends no Device-ID, so several devices may share this name".to_owned()
    })
}

/// The version of a release, for people.
fn version(plan: &Plan, release: i64) -> String {
    let found = plan.releases.get(&release);
    found.map_or_else(
        || format!("release {release}"),
        |release| release.version.clone(),
    )
}

/// An attempt with what its state means.
pub fn attempt(plan: &Plan, attempt: &Attempt) -> manager::Attempt {
    manager::Attempt {
        rollout: attempt.rollout,
        device: attempt.device.clone(),
        release: attempt.release,
        version: version(plan, attempt.release),
        from_version: attempt.from_version.clone(),
        state: attempt.state,
        explanation: explain(attempt.state, attempt.detail.as_deref()),
        bytes_done: attempt.bytes_done,
        bytes_total: attempt.bytes_total,
        percent: percent(attempt.bytes_done, attempt.bytes_total),
        bytes_sent: attempt.bytes_sent,
        requests: attempt.requests,
        updated_at: attempt.updated_at,
    }
}

/// A device that a rollout names and that has no attempt yet.
pub fn waiting(plan: &Plan, rollout: &Rollout, device: String) -> manager::Attempt {
    let release = plan.releases.get(&rollout.release);
    manager::Attempt {
        rollout: rollout.id,
        device,
        release: rollout.release,
        version: version(plan, rollout.release),
        from_version: None,
        state: fota_proto::AttemptState::Waiting,
        explanation: None,
        bytes_done: 0,
        bytes_total: release.map_or(0, |release| release.bytes),
        percent: 0,
        bytes_sent: 0,
        requests: 0,
        updated_at: rollout.created_at,
    }
}

/// A rollback order.
pub fn rollback_order(order: &RollbackOrder) -> manager::RollbackOrder {
    manager::RollbackOrder {
        device: order.device.clone(),
        reason: order.reason.clone(),
        state: match order.state {
            RollbackState::Standing => manager::RollbackState::Standing,
            RollbackState::Done => manager::RollbackState::Done,
            RollbackState::Refused => manager::RollbackState::Refused,
        },
        code: order.code.map(|code| FailureCode::name(code).to_owned()),
        requested_at: order.requested_at,
    }
}

/// A rollout with its counts.
pub async fn rollout(
    tx: &mut Tx,
    plan: &Plan,
    rollout: &Rollout,
) -> Result<manager::Rollout, StoreError> {
    let tally = tx.tally(rollout).await?;
    Ok(manager::Rollout {
        id: rollout.id,
        release: rollout.release,
        version: version(plan, rollout.release),
        to: rollout.target.to_texts(),
        state: state_of(rollout, &tally),
        reason: rollout.reason.clone(),
        failures_max: rollout.failures_max,
        rollback_on_failure: rollout.rollback_on_failure,
        created_at: rollout.created_at,
        counts: counts(rollout.standing, &tally),
        bytes_sent: tx.rollout_bytes_sent(rollout.id).await?,
    })
}

/// Groups with their devices.
pub async fn groups(tx: &mut Tx) -> Result<Vec<manager::Group>, StoreError> {
    let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in tx.groups().await? {
        members.insert(name, Vec::new());
    }
    for (group, device) in tx.memberships().await? {
        members.entry(group).or_default().push(device);
    }
    let groups = members.into_iter();
    Ok(groups
        .map(|(name, devices)| manager::Group { name, devices })
        .collect())
}
