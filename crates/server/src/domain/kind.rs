//! What a device shares with many others, so that a question about the whole fleet is asked once
//! for each kind and not once for each device.
//!
//! A kind holds all that filters, groups and the fitness of a release depend on, but for the id.
//! What differs from device to device (when it was seen, what is blocked on it) is counted apart.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    filter::{Field, Filter},
    fit::room,
    model::{Device, Plan, Rollout, Slot, Target, Traited},
};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// A device that stands for all of them: without an id, and with one slot that has the room
    /// for an update.
    pub device: Device,
    /// Groups whose lists they are in, sorted.
    pub groups: Vec<String>,
    pub tags: BTreeMap<String, String>,
}

impl Kind {
    pub fn of(device: &Device, groups: &[String], tags: &BTreeMap<String, String>) -> Self {
        let mut of = Device::blank(device.protocol);
        of.chip = device.chip;
        of.chip_revision = device.chip_revision;
        of.project = device.project.clone();
        of.version = device.version.clone();
        of.elf = device.elf;
        of.trust.root = device.trust.root;
        of.trust.epoch = device.trust.epoch;
        of.patches = device.patches;
        of.attributes = device.attributes.clone();
        of.slots.extend(room(device).map(Slot::with_room));
        let mut groups = groups.to_vec();
        groups.sort();
        Self {
            device: of,
            groups,
            tags: tags.clone(),
        }
    }

    fn traits(&self) -> Traited<'_> {
        Traited {
            device: &self.device,
            groups: &self.groups,
            tags: &self.tags,
        }
    }

    /// All its groups: also those whose rule holds of it.
    pub fn all_groups(&self, plan: &Plan) -> Vec<String> {
        let mut groups = self.groups.clone();
        groups.extend(plan.joined(&self.traits()).map(str::to_owned));
        groups
    }
}

/// Which devices are meant: those that a target names and of which a filter holds.
#[derive(Debug)]
pub struct Selection<'a> {
    plan: &'a Plan,
    pub target: &'a Target,
    pub filter: Option<&'a Filter>,
    /// Groups whose rule asks for ids: whether a device is in them, its kind does not tell.
    groups_by_id: BTreeSet<&'a str>,
}

impl<'a> Selection<'a> {
    pub fn new(plan: &'a Plan, target: &'a Target, filter: Option<&'a Filter>) -> Self {
        let by_id = plan.groups.iter().filter(|rule| {
            let filter = rule.filter.as_ref();
            filter.is_some_and(|filter| filter.mentions(&Field::Id))
        });
        Self {
            plan,
            target,
            filter,
            groups_by_id: by_id.map(|rule| rule.name.as_str()).collect(),
        }
    }

    /// Whom a rollout names.
    pub fn of(plan: &'a Plan, rollout: &'a Rollout) -> Self {
        Self::new(plan, &rollout.target, rollout.plan.filter.as_ref())
    }

    /// Whether everybody is meant.
    pub fn is_all(&self) -> bool {
        self.target.all && self.filter.is_none()
    }

    /// The only ids that may be meant, where they are few enough to be written down.
    pub fn only(&self) -> Option<BTreeSet<String>> {
        let asked = self.filter.and_then(Filter::only_ids);
        let target = self.target;
        let is_list = !target.all && !target.seed && target.groups.is_empty();
        match asked {
            Some(ids) => Some(ids.iter().cloned().collect()),
            None => is_list.then(|| target.devices.clone()),
        }
    }

    /// Whether a device is meant; the kind has its id.
    pub fn holds(&self, one: &Kind) -> bool {
        let groups = one.all_groups(self.plan);
        let traits = Traited {
            groups: &groups,
            ..one.traits()
        };
        let device = &one.device;
        self.target.includes(&device.id, device.protocol, &groups)
            && self.filter.is_none_or(|filter| filter.matches(&traits))
    }

    /// Whether all devices of a kind are meant, or none but those that the target names by id; no
    /// answer where it depends on the id.
    pub fn of_kind(&self, kind: &Kind) -> Option<bool> {
        let mut groups = kind.all_groups(self.plan);
        let is_sure = |group: &str| {
            !self.groups_by_id.contains(group) || kind.groups.iter().any(|listed| listed == group)
        };
        groups.retain(|group| is_sure(group));
        let traits = Traited {
            groups: &groups,
            ..kind.traits()
        };
        let unknown = |field: &Field| match field {
            Field::Id => true,
            Field::Group => !self.groups_by_id.is_empty(),
            _ => false,
        };
        let named = self.target.includes("", kind.device.protocol, &groups);
        let aimed = &self.target.groups;
        let named = match named {
            false if self.groups_by_id.iter().any(|group| aimed.contains(*group)) => None,
            named => Some(named),
        };
        let asked = match self.filter {
            None => Some(true),
            Some(filter) => filter.decided(&traits, &unknown),
        };
        match (named, asked) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        }
    }
}
