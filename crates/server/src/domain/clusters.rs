//! What the failures of a rollout have in common.
//!
//! A *candidate* is a kind of device (chip, chip with revision, version before, signal, or several of
//! these) and a way
//! to fail (any, a state, a state with a reset reason). Its devices are compared with all others:
//! it stands out where at least [`FAILED_MIN`] failed so, more often than elsewhere, and the
//! log-likelihood ratio of two chances of failure against one is at least [`RATIO_MIN`]; the
//! highest is told first. A ratio of rates would put one failure of one device first; this grows
//! with the number of devices as well as with the difference, and unlike a normal interval it holds
//! where nothing failed elsewhere.
//!
//! Then the failures that it explains are taken away and the rest is looked at again, so that what
//! merely overlaps with it (all `esp32c3`, all that come from 1.0.4) is told only where it stands
//! out by itself.

use std::collections::BTreeMap;

use super::fit::chip_name;

/// Kinds of devices that are looked at, each with the ways it ended.
pub const GROUPS_MAX: usize = 5_000;
/// Clusters that are told.
pub const CLUSTERS_MAX: usize = 10;
/// Devices that must have failed so.
pub const FAILED_MIN: u64 = 2;
/// Log-likelihood ratio that it takes, in nats. One candidate reaches this by chance once in 5,000
/// times (twice the ratio is chi-squared); many are looked at.
pub const RATIO_MIN: f64 = 7.0;

/// Devices of one kind that ended in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub kind: Kind,
    /// How they failed; none for those that did not.
    pub failure: Option<Way>,
    pub devices: u64,
}

/// What devices have in common; as a condition, what is none is not part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    pub chip: Option<u16>,
    pub revision: Option<u16>,
    pub from_version: Option<String>,
    pub signal: Option<Signal>,
}

/// How well a device is received, by the metric `rssi` of its last check-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Below -80 dBm: links fail.
    Weak,
    /// Below -67 dBm.
    Fair,
    Good,
}

impl Signal {
    const ALL: [(Self, &str); 3] = [
        (Self::Weak, "weak"),
        (Self::Fair, "fair"),
        (Self::Good, "good"),
    ];

    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(known, _)| *known == self);
        found.map_or("good", |(_, name)| name)
    }

    pub fn of_name(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        found.map(|(signal, _)| *signal)
    }
}

/// A way to fail; likewise.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    pub state: Option<String>,
    pub reset: Option<String>,
}

/// A kind of device that fails more often so.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub kind: Kind,
    pub way: Way,
    pub counts: Counts,
    /// The log-likelihood ratio in nats, beyond what the clusters before it explain.
    pub score: f64,
}

/// Failures and devices, inside and elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub failed: u64,
    pub devices: u64,
    pub elsewhere_failed: u64,
    pub elsewhere_devices: u64,
}

/// The clusters, the one that stands out most first.
pub fn clusters(groups: &[Group]) -> Vec<Cluster> {
    let mut rest: Vec<Group> = groups.iter().take(GROUPS_MAX).cloned().collect();
    let all = rest.clone();
    let mut found = Vec::new();
    while found.len() < CLUSTERS_MAX {
        let Some((kind, way, score)) = best(&rest) else {
            break;
        };
        rest.retain(|group| !(kind.holds(&group.kind) && way.holds(group.failure.as_ref())));
        let counts = count(&all, &kind, &way);
        found.push(Cluster {
            kind,
            way,
            counts,
            score,
        });
    }
    found
}

/// What stands out most; of those that do so equally, the plainest kind and the most exact way.
fn best(groups: &[Group]) -> Option<(Kind, Way, f64)> {
    let total: u64 = groups.iter().map(|group| group.devices).sum();
    let mut devices: BTreeMap<Kind, u64> = BTreeMap::new();
    let mut failed: BTreeMap<(Kind, Way), u64> = BTreeMap::new();
    let mut ways: BTreeMap<Way, u64> = BTreeMap::new();
    for group in groups {
        let kinds = group.kind.conditions();
        for kind in &kinds {
            *devices.entry(kind.clone()).or_default() += group.devices;
        }
        for way in group.failure.iter().flat_map(Way::conditions) {
            for kind in &kinds {
                let key = (kind.clone(), way.clone());
                *failed.entry(key).or_default() += group.devices;
            }
            *ways.entry(way).or_default() += group.devices;
        }
    }
    let scored = failed.into_iter().filter_map(|((kind, way), failed)| {
        let inside = devices.get(&kind).copied().unwrap_or(0);
        let so = ways.get(&way).copied().unwrap_or(0);
        let counts = Counts {
            failed,
            devices: inside,
            elsewhere_failed: so - failed,
            elsewhere_devices: total - inside,
        };
        counts.stands_out().then(|| (kind, way, counts.ratio()))
    });
    scored.min_by(|a, b| {
        let by_score = b.2.total_cmp(&a.2);
        by_score
            .then_with(|| a.0.conditions_set().cmp(&b.0.conditions_set()))
            .then_with(|| b.1.conditions_set().cmp(&a.1.conditions_set()))
            .then_with(|| (&a.0, &a.1).cmp(&(&b.0, &b.1)))
    })
}

fn count(groups: &[Group], kind: &Kind, way: &Way) -> Counts {
    let mut counts = Counts::default();
    for group in groups {
        let fails = way.holds(group.failure.as_ref());
        let (devices, failed) = match kind.holds(&group.kind) {
            true => (&mut counts.devices, &mut counts.failed),
            false => (&mut counts.elsewhere_devices, &mut counts.elsewhere_failed),
        };
        *devices += group.devices;
        *failed += if fails { group.devices } else { 0 };
    }
    counts
}

impl Counts {
    /// Whether so many failures here are hardly chance, and not fewer than elsewhere.
    fn stands_out(&self) -> bool {
        // Both counts are of devices, so far below 2^32 that no product overflows.
        let more = self.failed.saturating_mul(self.elsewhere_devices)
            > self.elsewhere_failed.saturating_mul(self.devices);
        self.failed >= FAILED_MIN && more && self.ratio() >= RATIO_MIN
    }

    /// How much likelier two chances of failure make what happened than one.
    fn ratio(&self) -> f64 {
        let inside = likelihood(self.failed, self.devices);
        let elsewhere = likelihood(self.elsewhere_failed, self.elsewhere_devices);
        let together = likelihood(
            self.failed + self.elsewhere_failed,
            self.devices + self.elsewhere_devices,
        );
        (inside + elsewhere - together).max(0.0)
    }
}

/// Log-likelihood of so many failures at the chance that fits them best.
fn likelihood(failed: u64, devices: u64) -> f64 {
    let term = |count: u64| match count {
        0 => 0.0,
        _ => count as f64 * (count as f64 / devices as f64).ln(),
    };
    term(failed) + term(devices - failed)
}

impl Kind {
    /// The conditions that these devices meet. A revision means something only of its chip.
    fn conditions(&self) -> Vec<Self> {
        let chip = Self {
            chip: self.chip,
            ..Self::default()
        };
        let revision = Self {
            revision: self.chip.and(self.revision),
            ..chip.clone()
        };
        let mut all = vec![Self::default(), chip, revision];
        all.dedup();
        if let Some(version) = &self.from_version {
            let with = |kind: &Self| Self {
                from_version: Some(version.clone()),
                ..kind.clone()
            };
            all.extend(all.iter().map(with).collect::<Vec<_>>());
        }
        if let Some(signal) = self.signal {
            let with = |kind: &Self| Self {
                signal: Some(signal),
                ..kind.clone()
            };
            all.extend(all.iter().map(with).collect::<Vec<_>>());
        }
        all.retain(|kind| *kind != Self::default());
        all
    }

    fn holds(&self, of: &Self) -> bool {
        fn holds<T: PartialEq>(condition: &Option<T>, of: &Option<T>) -> bool {
            condition.is_none() || condition == of
        }
        holds(&self.chip, &of.chip)
            && holds(&self.revision, &of.revision)
            && holds(&self.from_version, &of.from_version)
            && holds(&self.signal, &of.signal)
    }

    fn conditions_set(&self) -> usize {
        let set = [
            self.chip.is_some(),
            self.revision.is_some(),
            self.from_version.is_some(),
            self.signal.is_some(),
        ];
        set.into_iter().filter(|set| *set).count()
    }
}

impl Way {
    /// Any failure, this state, and this state with this reset reason.
    fn conditions(&self) -> Vec<Self> {
        let state = Self {
            state: self.state.clone(),
            reset: None,
        };
        let mut all = vec![Self::default(), state, self.clone()];
        all.dedup();
        all
    }

    fn holds(&self, of: Option<&Self>) -> bool {
        of.is_some_and(|of| {
            (self.state.is_none() || self.state == of.state)
                && (self.reset.is_none() || self.reset == of.reset)
        })
    }

    fn conditions_set(&self) -> usize {
        usize::from(self.state.is_some()) + usize::from(self.reset.is_some())
    }
}

impl Cluster {
    /// `14 of 15 esp32c3 coming from 1.0.4 failed with crash_loop; elsewhere 2 of 320`.
    pub fn text(&self) -> String {
        let Counts {
            failed,
            devices,
            elsewhere_failed,
            elsewhere_devices,
        } = self.counts;
        let kind = self.kind.words();
        let way = self.way.words();
        format!(
            "{failed} of {devices} {kind} {way}; elsewhere {elsewhere_failed} of {elsewhere_devices}"
        )
    }
}

impl Kind {
    fn words(&self) -> String {
        let chip = self.chip.map_or_else(|| "devices".to_owned(), chip_name);
        let revision = self.revision.map(|revision| {
            let (major, minor) = (revision / 100, revision % 100);
            format!(" v{major}.{minor}")
        });
        let from = self.from_version.as_ref();
        let from = from.map(|version| format!(" coming from {version}"));
        let signal = self
            .signal
            .map(|signal| format!(" with a {} signal", signal.name()));
        let more = [revision, from, signal].into_iter().flatten();
        std::iter::once(chip).chain(more).collect()
    }
}

impl Way {
    fn words(&self) -> String {
        let state = match self.state.as_deref().map(|state| state.split_once(':')) {
            None => "failed".to_owned(),
            Some(Some(("failed", code))) => format!("failed with {code}"),
            Some(Some(("rolled_back", "boot"))) => "crashed and went back".to_owned(),
            Some(Some(("rolled_back", "health"))) => "were not healthy and went back".to_owned(),
            Some(_) => self.state.as_deref().unwrap_or_default().replace('_', " "),
        };
        match &self.reset {
            None => state,
            Some(reset) => format!("{state} (reset: {reset})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const C3: u16 = 5;
    const S3: u16 = 9;
    const ESP32: u16 = 0;

    fn group(chip: u16, from: &str, state: Option<&str>, devices: u64) -> Group {
        Group {
            kind: Kind {
                chip: Some(chip),
                revision: Some(3),
                from_version: Some(from.to_owned()),
                signal: None,
            },
            failure: state.map(|state| Way {
                state: Some(state.to_owned()),
                reset: None,
            }),
            devices,
        }
    }

    fn texts(groups: &[Group]) -> Vec<String> {
        clusters(groups).iter().map(Cluster::text).collect()
    }

    const CRASH: Option<&str> = Some("failed:crash_loop");

    #[test]
    fn the_combination_is_told_and_what_merely_overlaps_is_not() {
        let groups = [
            group(C3, "1.0.4", CRASH, 14),
            group(C3, "1.0.4", None, 1),
            group(C3, "1.0.5", None, 100),
            group(ESP32, "1.0.4", None, 58),
            group(ESP32, "1.0.5", None, 60),
            group(ESP32, "1.0.5", CRASH, 2),
            group(S3, "1.0.5", None, 100),
        ];
        let text = "14 of 15 esp32c3 coming from 1.0.4 failed with crash_loop; elsewhere 2 of 320";
        assert_eq!(texts(&groups), [text]);
    }

    #[test]
    fn one_of_one_is_not_told_and_what_fails_everywhere_neither() {
        let one = [group(C3, "1.0.4", CRASH, 1), group(S3, "1.0.5", None, 300)];
        assert_eq!(texts(&one), [""; 0]);
        let two = [group(C3, "1.0.4", CRASH, 2), group(S3, "1.0.5", CRASH, 100)];
        assert_eq!(texts(&two), [""; 0]);
        let alone = [group(C3, "1.0.4", CRASH, 20), group(C3, "1.0.4", None, 5)];
        assert_eq!(texts(&alone), [""; 0], "there is nobody to compare with");
    }

    #[test]
    fn two_causes_are_two_clusters_and_the_larger_is_first() {
        let hash = Some("failed:hash_mismatch");
        let mut panics = group(S3, "1.0.3", Some("rolled_back:boot"), 30);
        panics.failure.as_mut().expect("fails").reset = Some("panic".to_owned());
        let groups = [
            group(ESP32, "1.0.5", hash, 8),
            group(ESP32, "1.0.5", None, 12),
            panics,
            group(S3, "1.0.5", None, 200),
            group(C3, "1.0.3", None, 200),
        ];
        assert_eq!(
            texts(&groups),
            [
                "30 of 30 esp32s3 coming from 1.0.3 crashed and went back (reset: panic); \
                 elsewhere 0 of 420",
                "8 of 20 esp32 failed with hash_mismatch; elsewhere 0 of 430",
            ]
        );
    }

    #[test]
    fn where_only_one_revision_fails_it_is_named() {
        let mut old = group(ESP32, "1.0.5", CRASH, 12);
        old.kind.revision = Some(100);
        let groups = [
            old,
            group(ESP32, "1.0.5", None, 90),
            group(C3, "1.0.5", None, 90),
        ];
        let text = "12 of 12 esp32 v1.0 failed with crash_loop; elsewhere 0 of 180";
        assert_eq!(texts(&groups), [text]);
    }

    #[test]
    fn a_weak_signal_is_told_where_that_is_what_they_share() {
        let with = |signal, state, devices| {
            let mut group = group(C3, "1.0.5", state, devices);
            group.kind.signal = Some(signal);
            group
        };
        let timeout = Some("failed:net_timeout");
        let groups = [
            with(Signal::Weak, timeout, 9),
            with(Signal::Weak, None, 11),
            with(Signal::Good, None, 200),
            group(S3, "1.0.4", None, 50),
        ];
        let text = "9 of 20 devices with a weak signal failed with net_timeout; elsewhere 0 of 250";
        assert_eq!(texts(&groups), [text]);
    }

    /// 300 devices of 36 kinds, each with the same chance to fail.
    fn even_rollout(seed: u64) -> Vec<Group> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = |below: u64| {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
        };
        let one = |_| {
            let (chip, from) = ([C3, S3, ESP32][next(3) as usize], ["1", "2", "3", "4"]);
            let from = from[next(4) as usize];
            let state = (next(100) < 5).then_some("failed:crash_loop");
            let mut one = group(chip, from, state, 1);
            one.kind.signal = Some(Signal::ALL[next(3) as usize].0);
            one
        };
        (0..300).map(one).collect()
    }

    #[test]
    fn where_all_kinds_fail_alike_something_is_told_in_few_rollouts() {
        const ROLLOUTS: u64 = 1_000;
        let told = (1..=ROLLOUTS).filter(|seed| !clusters(&even_rollout(*seed)).is_empty());
        let told = told.count();
        println!("{told} of {ROLLOUTS}");
        assert!(told <= 20, "{told} of {ROLLOUTS}: more than 2 in 100");
    }

    fn groups() -> impl Strategy<Value = Vec<Group>> {
        let state = prop::option::of(prop::sample::select(vec![
            "failed:crash_loop",
            "failed:hash_mismatch",
            "timed_out",
        ]));
        let one = (
            0u16..4,
            0u16..3,
            0u8..4,
            state,
            prop::option::of(0u8..2),
            1u64..50,
            0usize..3,
        );
        let one = one.prop_map(
            |(chip, revision, from, state, reset, devices, signal)| Group {
                kind: Kind {
                    chip: (chip > 0).then_some(chip),
                    revision: (revision > 0).then_some(revision),
                    from_version: (from > 0).then(|| format!("1.0.{from}")),
                    signal: [None, Some(Signal::Weak), Some(Signal::Good)][signal],
                },
                failure: state.map(|state| Way {
                    state: Some(state.to_owned()),
                    reset: reset.map(|reset| format!("r{reset}")),
                }),
                devices,
            },
        );
        prop::collection::vec(one, 0..30)
    }

    proptest! {
        #[test]
        fn every_cluster_is_true_and_fails_more_than_the_rest(groups in groups()) {
            let total: u64 = groups.iter().map(|group| group.devices).sum();
            let found = clusters(&groups);
            prop_assert!(found.len() <= CLUSTERS_MAX);
            for cluster in &found {
                let Counts { failed, devices, elsewhere_failed, elsewhere_devices } = cluster.counts;
                prop_assert!(failed >= FAILED_MIN && failed <= devices);
                prop_assert!(elsewhere_failed <= elsewhere_devices);
                prop_assert_eq!(devices + elsewhere_devices, total);
                let inside = groups.iter().filter(|group| cluster.kind.holds(&group.kind));
                prop_assert_eq!(inside.map(|group| group.devices).sum::<u64>(), devices);
                prop_assert!(cluster.score.is_finite() && cluster.score > 0.0);
                prop_assert!(cluster.kind != Kind::default());
            }
            // The first is the one that the failures as they are put first.
            if let Some(first) = found.first() {
                let Counts { failed, devices, elsewhere_failed, elsewhere_devices } = first.counts;
                prop_assert!(failed * elsewhere_devices > elsewhere_failed * devices);
                prop_assert!(first.counts.stands_out());
            }
        }

        #[test]
        fn order_and_splitting_of_the_groups_do_not_matter(groups in groups(), by in 0usize..30) {
            let before = clusters(&groups);
            let mut split: Vec<Group> = groups.iter().flat_map(|group| {
                let half = group.devices / 2;
                let part = |devices| Group { devices, ..group.clone() };
                [part(half), part(group.devices - half)]
            }).collect();
            split.retain(|group| group.devices > 0);
            let turn = by % split.len().max(1);
            split.rotate_left(turn);
            prop_assert_eq!(clusters(&split), before);
        }

        #[test]
        fn no_failure_is_told_twice(groups in groups()) {
            let found = clusters(&groups);
            for (index, cluster) in found.iter().enumerate() {
                for other in &found[index + 1..] {
                    prop_assert!((&cluster.kind, &cluster.way) != (&other.kind, &other.way));
                    // What is within an earlier one is explained by it.
                    let within = cluster.kind.holds(&other.kind) && cluster.way.holds(Some(&other.way));
                    prop_assert!(!within, "{} and {}", cluster.text(), other.text());
                }
            }
        }
    }
}
