//! The devices that a rollout names, whatever the size of the fleet: asked kind by kind
//! ([`crate::domain::kind`]), and device by device only where an answer depends on the id.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    domain::{
        kind::{Kind, Selection},
        model::{Plan, Rollout},
        plan::{Reach, bucket},
        rollout::Tally,
    },
    store::{Cohort, StoreError, Tx},
};

/// Devices of each kind, by its number.
pub type Cohorts = HashMap<i64, Cohort>;

/// Devices that are meant.
pub enum Part<'k> {
    /// All of a kind.
    Whole {
        number: i64,
        kind: &'k Kind,
        cohort: Cohort,
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
            Self::Whole { cohort, .. } => cohort.devices,
            Self::One { .. } => 1,
        }
    }
}

/// Gives all devices that were seen and are meant, each in one part.
pub async fn parts(
    tx: &mut Tx,
    selection: &Selection<'_>,
    cohorts: &Cohorts,
    mut take: impl FnMut(Part),
) -> Result<(), StoreError> {
    if let Some(ids) = selection.only() {
        return ones(tx, selection, &ids, false, take).await;
    }
    let mut undecided = Vec::new();
    tx.each_kind(|number, kind| match selection.of_kind(&kind) {
        Some(true) => {
            if let Some(cohort) = cohorts.get(&number).copied() {
                let kind = &kind;
                take(Part::Whole {
                    number,
                    kind,
                    cohort,
                });
            }
        }
        Some(false) => {}
        None => undecided.push(number),
    })
    .await?;
    tx.each_of_kinds(&undecided, |_, kind, last_seen| {
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
    if let Some(ids) = selection.only() {
        return ones(tx, selection, &ids, false, one(take)).await;
    }
    let mut meant = BTreeMap::new();
    tx.each_kind(|number, kind| match selection.of_kind(&kind) {
        Some(false) => {}
        decided => {
            meant.insert(number, decided.is_some());
        }
    })
    .await?;
    let numbers: Vec<i64> = meant.keys().copied().collect();
    tx.each_of_kinds(&numbers, |number, kind, last_seen| {
        if meant.get(&number) == Some(&true) || selection.holds(kind) {
            take(kind, last_seen);
        }
    })
    .await?;
    ones(tx, selection, &selection.target.devices, true, one(take)).await
}

fn one(mut take: impl FnMut(&Kind, i64)) -> impl FnMut(Part) {
    move |part| {
        if let Part::One { kind, last_seen } = part {
            take(kind, last_seen);
        }
    }
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

/// The ids of all devices that are meant, seen or not.
pub async fn ids(tx: &mut Tx, selection: &Selection<'_>) -> Result<BTreeSet<String>, StoreError> {
    let mut ids = unseen(tx, selection).await?;
    each(tx, selection, |kind, _| {
        ids.insert(kind.device.id.clone());
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
    let cohorts = tx.cohort_sizes().await?;
    parts(tx, selection, &cohorts, |part| match part {
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
        let cohorts = tx.cohort_sizes().await?;
        let (seen, unseen) = count(tx, &selection, &cohorts).await?;
        return Ok(u64::from(devices).min(seen + unseen));
    }
    let mut devices = 0;
    each(tx, &selection, |kind, _| {
        let id = &kind.device.id;
        if rollout.plan.wave_of(id, bucket(rollout.id, id)) == rollout.wave {
            devices += 1;
        }
    })
    .await?;
    Ok(devices)
}

/// How many are meant that were seen, and how many that were not.
async fn count(
    tx: &mut Tx,
    selection: &Selection<'_>,
    cohorts: &Cohorts,
) -> Result<(u64, u64), StoreError> {
    let mut seen = 0;
    parts(tx, selection, cohorts, |part| seen += part.devices()).await?;
    Ok((seen, unseen(tx, selection).await?.len() as u64))
}

/// A rollout's devices and what became of them. `cohorts` is read where it is not yet known, so
/// that a list of rollouts counts the fleet once.
pub async fn tally(
    tx: &mut Tx,
    plan: &Plan,
    rollout: &Rollout,
    cohorts: &mut Option<Cohorts>,
) -> Result<Tally, StoreError> {
    let attempts = tx.attempts_by_state(rollout.id).await?;
    let selection = Selection::of(plan, rollout);
    let (seen, unseen) = if selection.is_all() {
        (tx.count_devices().await?, 0)
    } else {
        let known = match cohorts.take() {
            Some(known) => known,
            None => tx.cohort_sizes().await?,
        };
        let found = count(tx, &selection, &known).await?;
        *cohorts = Some(known);
        found
    };
    Ok(Tally {
        named: seen + unseen,
        seen,
        attempts,
    })
}
