//! The devices that a rollout names: one pass over the fleet, whatever its size.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    domain::{
        filter::Filter,
        model::{Device, Plan, Rollout, Target, Traited},
        plan::{Reach, bucket},
        rollout::Tally,
        step::{Facts, join_groups},
    },
    store::{StoreError, Tx},
};

/// A device that is named, seen or not.
pub struct Member {
    pub id: String,
    pub device: Option<Device>,
    pub groups: Vec<String>,
    pub tags: BTreeMap<String, String>,
}

/// What operators said of all devices: groups that are lists, and tags.
pub struct Known {
    groups: BTreeMap<String, Vec<String>>,
    tags: BTreeMap<String, BTreeMap<String, String>>,
}

impl Known {
    pub async fn read(tx: &mut Tx) -> Result<Self, StoreError> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (group, device) in tx.memberships().await? {
            groups.entry(device).or_default().push(group);
        }
        let tags = tx.all_tags().await?;
        Ok(Self { groups, tags })
    }

    /// Whether the filter holds of a device; each is asked about once.
    pub fn is_meant(&mut self, plan: &Plan, filter: &Filter, device: &Device) -> bool {
        let facts = self.facts(plan, device);
        filter.matches(&Traited {
            device,
            groups: &facts.groups,
            tags: &facts.tags,
        })
    }

    /// The groups and tags of a device, which are not asked for again.
    fn facts(&mut self, plan: &Plan, device: &Device) -> Facts {
        let mut facts = Facts {
            groups: self.groups.remove(&device.id).unwrap_or_default(),
            tags: self.tags.remove(&device.id).unwrap_or_default(),
            ..Facts::default()
        };
        join_groups(&mut facts, plan, device);
        facts
    }
}

/// The devices that a target names and of which the filter holds, by id. Of a device that was
/// never seen nothing is known but its name, so a filter leaves it out.
pub async fn members(
    tx: &mut Tx,
    plan: &Plan,
    target: &Target,
    filter: Option<&Filter>,
) -> Result<Vec<Member>, StoreError> {
    let mut unseen: BTreeSet<String> = target.devices.clone();
    let mut known = Known::read(tx).await?;
    let in_group = |(_, groups): &(&String, &Vec<String>)| {
        groups.iter().any(|group| target.groups.contains(group))
    };
    unseen.extend(
        known
            .groups
            .iter()
            .filter(in_group)
            .map(|(id, _)| id.clone()),
    );
    let mut members = Vec::new();
    for device in devices(tx, plan, target, &unseen).await? {
        unseen.remove(&device.id);
        let facts = known.facts(plan, &device);
        let traits = Traited {
            device: &device,
            groups: &facts.groups,
            tags: &facts.tags,
        };
        let is_named = target.includes(&device.id, device.protocol, &facts.groups)
            && filter.is_none_or(|filter| filter.matches(&traits));
        if is_named {
            members.push(Member {
                id: device.id.clone(),
                device: Some(device),
                groups: facts.groups,
                tags: facts.tags,
            });
        }
    }
    if filter.is_none() {
        members.extend(unseen.into_iter().map(|id| Member {
            groups: known.groups.remove(&id).unwrap_or_default(),
            tags: known.tags.remove(&id).unwrap_or_default(),
            id,
            device: None,
        }));
        members.sort_by(|left, right| left.id.cmp(&right.id));
    }
    Ok(members)
}

/// The devices that may be meant: all of them, or where only names are given those.
async fn devices(
    tx: &mut Tx,
    plan: &Plan,
    target: &Target,
    named: &BTreeSet<String>,
) -> Result<Vec<Device>, StoreError> {
    /// As many single look-ups cost as much as reading all.
    const LOOK_UPS_MAX: usize = 200;
    let is_dynamic = |rule: &crate::domain::model::GroupRule| {
        rule.filter.is_some() && target.groups.contains(&rule.name)
    };
    let needs_all = target.all || target.seed || plan.groups.iter().any(is_dynamic);
    if needs_all || named.len() > LOOK_UPS_MAX {
        return tx.all_devices().await;
    }
    let mut devices = Vec::new();
    for id in named {
        devices.extend(tx.device(id).await?);
    }
    Ok(devices)
}

/// Known devices that the rollout's wave reaches and no wave before it did.
pub async fn wave_devices(tx: &mut Tx, plan: &Plan, rollout: &Rollout) -> Result<u64, StoreError> {
    let filter = rollout.plan.filter.as_ref();
    let members = members(tx, plan, &rollout.target, filter).await?;
    if let Reach::First(devices) = rollout.plan.wave(rollout.wave).reach {
        return Ok(u64::from(devices).min(members.len() as u64));
    }
    let of_wave = |member: &&Member| {
        let bucket = bucket(rollout.id, &member.id);
        member.device.is_some() && rollout.plan.wave_of(&member.id, bucket) == rollout.wave
    };
    Ok(members.iter().filter(of_wave).count() as u64)
}

/// A rollout's devices and what became of them.
pub async fn tally(tx: &mut Tx, plan: &Plan, rollout: &Rollout) -> Result<Tally, StoreError> {
    let attempts = tx.attempts_by_state(rollout.id).await?;
    let filter = rollout.plan.filter.as_ref();
    let (named, seen) = if rollout.target.all && filter.is_none() {
        let seen = tx.count_devices().await?;
        (seen, seen)
    } else {
        let members = members(tx, plan, &rollout.target, filter).await?;
        let seen = members.iter().filter(|member| member.device.is_some());
        (members.len() as u64, seen.count() as u64)
    };
    Ok(Tally {
        named,
        seen,
        attempts,
    })
}
