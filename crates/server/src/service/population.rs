//! The devices that a rollout names, whatever the size of the fleet: asked kind by kind
//! ([`crate::domain::kind`]), and device by device only where an answer depends on the id.

use std::collections::BTreeSet;

use crate::{
    domain::{
        filter::Filter,
        kind::{Kind, Selection},
        model::{Plan, Rollout, Target},
        plan::{Reach, bucket},
        rollout::Tally,
    },
    store::{StoreError, Tx},
};

/// Devices that are meant.
pub enum Part<'k> {
    /// All of a kind.
    Whole {
        number: i64,
        kind: &'k Kind,
        devices: u64,
    },
    /// One, as its kind with its id.
    One { kind: &'k Kind, last_seen: i64 },
}

impl Part<'_> {
    pub fn kind(&self) -> &Kind {
        match self {
            Self::Whole { kind, .. } | Self::One { kind, .. } => kind,
        }
    }

    pub fn devices(&self) -> u64 {
        match self {
            Self::Whole { devices, .. } => *devices,
            Self::One { .. } => 1,
        }
    }
}

/// Gives all devices that were seen and are meant, each in one part.
pub async fn parts(
    tx: &mut Tx,
    selection: &Selection<'_>,
    mut take: impl FnMut(Part),
) -> Result<(), StoreError> {
    if let Some(ids) = selection.only() {
        return ones(tx, selection, &ids, false, take).await;
    }
    let mut undecided = Vec::new();
    tx.each_kind(|number, kind, devices| match selection.of_kind(&kind) {
        Some(true) => {
            let kind = &kind;
            take(Part::Whole {
                number,
                kind,
                devices,
            });
        }
        Some(false) => {}
        None => undecided.push(number),
    })
    .await?;
    tx.each_of_kinds(&undecided, |kind, last_seen| {
        if selection.holds(kind) {
            take(Part::One { kind, last_seen });
        }
    })
    .await?;
    ones(tx, selection, &selection.target.devices, true, take).await
}

/// Those of these devices that are meant; where `alone`, not those whose kinds speak for them.
async fn ones(
    tx: &mut Tx,
    selection: &Selection<'_>,
    ids: &BTreeSet<String>,
    alone: bool,
    mut take: impl FnMut(Part),
) -> Result<(), StoreError> {
    for id in ids {
        let Some((kind, last_seen)) = tx.sighted(id).await? else {
            continue;
        };
        let is_left_out = !alone || selection.of_kind(&kind) == Some(false);
        if is_left_out && selection.holds(&kind) {
            let kind = &kind;
            take(Part::One { kind, last_seen });
        }
    }
    Ok(())
}

/// Gives every device that was seen and is meant, as its kind with its id, and when it was seen; in
/// no order.
pub async fn each(
    tx: &mut Tx,
    selection: &Selection<'_>,
    mut take: impl FnMut(&Kind, i64),
) -> Result<(), StoreError> {
    let mut whole = Vec::new();
    parts(tx, selection, |part| match part {
        Part::Whole { number, .. } => whole.push(number),
        Part::One { kind, last_seen } => take(kind, last_seen),
    })
    .await?;
    tx.each_of_kinds(&whole, take).await
}

/// Gives the id of every device that was seen and is meant; in no order.
async fn each_id(
    tx: &mut Tx,
    selection: &Selection<'_>,
    mut take: impl FnMut(&str),
) -> Result<(), StoreError> {
    let mut whole = Vec::new();
    parts(tx, selection, |part| match part {
        Part::Whole { number, .. } => whole.push(number),
        Part::One { kind, .. } => take(&kind.device.id),
    })
    .await?;
    tx.each_id_of_kinds(&whole, take).await
}

/// Devices that are named and were never seen. Of these nothing is known but their names, so a
/// filter leaves them out.
pub async fn unseen(
    tx: &mut Tx,
    selection: &Selection<'_>,
) -> Result<BTreeSet<String>, StoreError> {
    let mut unseen = BTreeSet::new();
    if selection.filter.is_some() {
        return Ok(unseen);
    }
    for id in &selection.target.devices {
        if tx.sighted(id).await?.is_none() {
            unseen.insert(id.clone());
        }
    }
    for group in &selection.target.groups {
        unseen.extend(tx.unseen_members(group).await?);
    }
    Ok(unseen)
}

/// The ids of the devices that were seen and of which the filter holds.
pub async fn listed(
    tx: &mut Tx,
    plan: &Plan,
    filter: &Filter,
) -> Result<BTreeSet<String>, StoreError> {
    let everybody = Target {
        all: true,
        ..Target::default()
    };
    let selection = Selection::new(plan, &everybody, Some(filter));
    let mut ids = BTreeSet::new();
    each_id(tx, &selection, |id| {
        ids.insert(id.to_owned());
    })
    .await?;
    Ok(ids)
}

/// The ids of all devices that are meant, seen or not.
pub async fn ids(tx: &mut Tx, selection: &Selection<'_>) -> Result<BTreeSet<String>, StoreError> {
    let mut ids = unseen(tx, selection).await?;
    each_id(tx, selection, |id| {
        ids.insert(id.to_owned());
    })
    .await?;
    Ok(ids)
}

/// Some of these ids, at most `limit`, sorted; all where there are no more.
pub async fn some_ids(
    tx: &mut Tx,
    selection: &Selection<'_>,
    limit: usize,
) -> Result<BTreeSet<String>, StoreError> {
    let mut ids = unseen(tx, selection).await?;
    let mut whole = Vec::new();
    parts(tx, selection, |part| match part {
        Part::Whole { number, .. } => whole.push(number),
        Part::One { kind, .. } if ids.len() < limit => {
            ids.insert(kind.device.id.clone());
        }
        Part::One { .. } => {}
    })
    .await?;
    for number in whole {
        // Each kind has a device, so this asks for as many kinds at most as ids are wanted.
        if ids.len() >= limit {
            break;
        }
        ids.extend(tx.ids_of_kind(number, limit as i64).await?);
    }
    Ok(ids.into_iter().take(limit).collect())
}

/// Known devices that the rollout's wave reaches and no wave before it did.
pub async fn wave_devices(tx: &mut Tx, plan: &Plan, rollout: &Rollout) -> Result<u64, StoreError> {
    let selection = Selection::of(plan, rollout);
    if let Reach::First(devices) = rollout.plan.wave(rollout.wave).reach {
        let (seen, unseen) = count(tx, &selection).await?;
        return Ok(u64::from(devices).min(seen + unseen));
    }
    let mut devices = 0;
    each_id(tx, &selection, |id| {
        if rollout.plan.wave_of(id, bucket(rollout.id, id)) == rollout.wave {
            devices += 1;
        }
    })
    .await?;
    Ok(devices)
}

/// How many are meant that were seen, and how many that were not.
async fn count(tx: &mut Tx, selection: &Selection<'_>) -> Result<(u64, u64), StoreError> {
    let mut seen = 0;
    parts(tx, selection, |part| seen += part.devices()).await?;
    Ok((seen, unseen(tx, selection).await?.len() as u64))
}

/// A rollout's devices and what became of them.
pub async fn tally(tx: &mut Tx, plan: &Plan, rollout: &Rollout) -> Result<Tally, StoreError> {
    let attempts = tx.attempts_by_state(rollout.id).await?;
    let selection = Selection::of(plan, rollout);
    let (seen, unseen) = match selection.is_all() {
        true => (tx.count_devices().await?, 0),
        false => count(tx, &selection).await?,
    };
    Ok(Tally {
        named: seen + unseen,
        seen,
        attempts,
    })
}
