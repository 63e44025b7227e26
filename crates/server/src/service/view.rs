//! What is stored, in the words of the manager API.

use fota_proto::{FailureCode, manager};

use super::{advance, population, signed, watch};
use crate::{
    AppState,
    domain::{
        attempt::{explain, percent},
        delta::with_index,
        fit::chip_name,
        kind::Selection,
        model::{
            Attempt, Device, Plan, Protocol, Release, RollbackOrder, RollbackState, Rollout, Target,
        },
        plan::sentence,
        presence::{heard, presence},
        rollout::{counts, state as state_of},
        step::{Facts, join_groups},
        wave::{Verdict, judge, reaches},
    },
    store::{StoreError, Tx},
};

/// Sums over devices that a release is shown with.
pub struct ReleaseSums {
    running_on: Vec<(i64, u64)>,
    spared: Vec<(i64, i64)>,
}

impl ReleaseSums {
    pub async fn read(tx: &mut Tx) -> Result<Self, StoreError> {
        Ok(Self {
            running_on: tx.running_on().await?,
            spared: tx.spared_by_release().await?,
        })
    }
}

/// A release with the number of devices that run it, and what its patches spared.
pub fn release(release: &Release, sums: &ReleaseSums) -> manager::Release {
    let runs = sums.running_on.iter().find(|(id, _)| *id == release.id);
    let spared = sums.spared.iter().find(|(id, _)| *id == release.id);
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
        spared_bytes: spared.map_or(0, |(_, bytes)| *bytes),
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
    let mut facts = Facts {
        groups: tx.groups_of(id).await?,
        tags: tx.tags(id).await?,
        ..Facts::default()
    };
    join_groups(&mut facts, plan, device);
    facts.groups.sort();
    let last_seen = state.fleet.last_seen(id, device.last_seen);
    let (heard_at, bits) = tx.heard(id).await?;
    Ok(manager::Device {
        id: id.clone(),
        groups: facts.groups,
        tags: facts.tags,
        attributes: device.attributes.clone(),
        metrics: device.metrics.clone(),
        chip: device.chip.map(chip_name),
        project: device.project.clone(),
        version: device.version.clone(),
        elf_sha256: device.elf,
        confirmed: device.confirmed,
        slot: device.slot,
        rollback_version: device.rollback_version().map(str::to_owned),
        rollback_available: device.rollback_available(),
        protocol: device.protocol.name().to_owned(),
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
        pin: tx.pin(id).await?.map(|pin| manager::Pin {
            version: pin.release.map(|release| version(plan, release)),
            release: pin.release,
            reason: pin.reason,
            since: pin.at,
        }),
        heard: heard(heard_at, bits, state.now_ms()),
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
        patch_bytes: attempt.patch.map(|offered| offered.patch.bytes.into()),
        patch_given_up: attempt.patch.is_some_and(|offered| offered.given_up),
        artifact_bytes: with_index(attempt.bytes_total),
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
        patch_bytes: None,
        patch_given_up: false,
        artifact_bytes: with_index(release.map_or(0, |release| release.bytes)),
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
    state: &AppState,
    tx: &mut Tx,
    plan: &Plan,
    rollout: &Rollout,
) -> Result<manager::Rollout, StoreError> {
    let tally = population::tally(tx, plan, rollout).await?;
    let version = version(plan, rollout.release);
    Ok(manager::Rollout {
        id: rollout.id,
        release: rollout.release,
        sentence: sentence(&version, rollout),
        version,
        to: rollout.target.to_texts(),
        state: state_of(rollout, &tally),
        reason: rollout.reason.clone(),
        failures_max: rollout.failures_max,
        rollback_on_failure: rollout.rollback_on_failure,
        created_at: rollout.created_at,
        counts: counts(rollout.standing, &tally),
        bytes_sent: tx.rollout_bytes_sent(rollout.id).await?,
        spared_bytes: tx.rollout_spared(rollout.id).await?,
        plan: (!rollout.plan.is_empty()).then(|| rollout.plan.given().clone()),
        wave: wave(state, tx, rollout).await?,
        created_by: rollout.created_by.clone(),
        approved_by: rollout.approved_by.clone(),
        rollback: rollback_counts(tx, rollout.id).await?,
        health: state
            .watches
            .health(rollout.id)
            .map(|health| watch::view(&health, rollout)),
    })
}

/// Where a rollout of several waves stands in them.
async fn wave(
    state: &AppState,
    tx: &mut Tx,
    rollout: &Rollout,
) -> Result<Option<manager::WaveStatus>, StoreError> {
    let of = rollout.plan.waves.len();
    if of < 2 {
        return Ok(None);
    }
    let now = state.now_ms();
    let poll_ms = i64::from(state.config.poll_s) * 1000;
    let counted = advance::counted(state, tx, rollout).await?;
    let (waits_for, until) = match judge(rollout, &counted, poll_ms, now) {
        Verdict::Stay { why, until } => (why, until),
        Verdict::Advance { why } => (format!("the next wave begins: {why}"), None),
        Verdict::Pause { why } | Verdict::Breach { why } | Verdict::End { why } => (why, None),
    };
    Ok(Some(manager::WaveStatus {
        number: rollout.wave + 1,
        of: u32::try_from(of).unwrap_or(u32::MAX),
        reaches: reaches(rollout),
        since: rollout.wave_since,
        devices: rollout.wave_devices,
        started: counted.wave.started,
        healthy: counted.wave.healthy,
        waits_for,
        until,
    }))
}

/// Devices that the rollout itself ordered back; none where it ordered none.
async fn rollback_counts(
    tx: &mut Tx,
    id: i64,
) -> Result<Option<manager::RollbackCounts>, StoreError> {
    let rows = tx.rollback_counts(id).await?;
    let of = |state| {
        let found = rows.iter().find(|(of, _)| *of == state);
        found.map_or(0, |(_, devices)| *devices)
    };
    let counts = manager::RollbackCounts {
        standing: of(RollbackState::Standing),
        proven: of(RollbackState::Done),
        refused: of(RollbackState::Refused),
    };
    Ok((!rows.is_empty()).then_some(counts))
}

/// Groups with their devices; only the one of this name where one is given.
pub async fn groups(
    tx: &mut Tx,
    plan: &Plan,
    only: Option<&str>,
) -> Result<Vec<manager::Group>, StoreError> {
    let mut groups = Vec::new();
    for name in tx.groups().await? {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let rule = plan.groups.iter().find(|rule| rule.name == name);
        let filter = rule.and_then(|rule| rule.filter.as_ref());
        let devices = if filter.is_some() {
            let target = Target {
                groups: [name.clone()].into(),
                ..Target::default()
            };
            let members = population::ids(tx, &Selection::new(plan, &target, None)).await?;
            members.into_iter().collect()
        } else {
            tx.group_members(&name).await?
        };
        groups.push(manager::Group {
            devices,
            filter: filter.map(ToString::to_string),
            bytes_per_s: rule.and_then(|rule| rule.bytes_per_s),
            name,
        });
    }
    Ok(groups)
}
