//! Which version ran on how many devices, over time, out of the sentences in which devices were
//! heard to say so.

use std::collections::{BTreeMap, HashMap};

/// Changes that are kept one by one: 100 rollouts to 10,000 devices. What is older is kept as the
/// counts that it led to.
const CHANGES_MAX: usize = 1_000_000;

const RUNS: &str = "runs ";
const FIRST: &str = "seen for the first time, ";

/// The sentence of a device that runs something else than before.
pub fn running_text(version: &str) -> String {
    format!("{RUNS}{version}")
}

/// The sentence of a device that was not known before.
pub fn first_text(version: &str) -> String {
    format!("{FIRST}{}", running_text(version))
}

/// The version in such a sentence.
fn version_in(text: &str) -> Option<&str> {
    text.strip_prefix(FIRST).unwrap_or(text).strip_prefix(RUNS)
}

/// A device goes from one version to another.
#[derive(Clone, Copy, Debug)]
struct Change {
    at: i64,
    from: Option<u32>,
    to: u32,
}

/// What was heard so far.
#[derive(Debug, Default)]
pub struct History {
    /// The last event that was read.
    pub last: i64,
    versions: Vec<String>,
    numbers: HashMap<String, u32>,
    runs: HashMap<String, u32>,
    /// Devices by version before the first of `changes`.
    base: BTreeMap<u32, i64>,
    changes: Vec<Change>,
}

/// Devices by version at moments that are equally far apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// The moments, oldest first.
    pub at: Vec<i64>,
    /// Each version that some device ran at one of them, with its count at each; the version that
    /// most devices run at the end first.
    pub versions: Vec<(String, Vec<u64>)>,
}

impl History {
    /// Takes in an event of a device, in the order of their numbers.
    pub fn learn(&mut self, event: i64, at: i64, device: &str, text: &str) {
        self.last = event;
        let Some(version) = version_in(text) else {
            return;
        };
        let to = self.number(version);
        let from = self.runs.insert(device.to_owned(), to);
        if from == Some(to) {
            return;
        }
        self.changes.push(Change { at, from, to });
        if self.changes.len() > CHANGES_MAX {
            for change in self.changes.drain(..CHANGES_MAX / 2) {
                apply(&mut self.base, change);
            }
        }
    }

    fn number(&mut self, version: &str) -> u32 {
        if let Some(number) = self.numbers.get(version) {
            return *number;
        }
        let number = self.versions.len() as u32;
        self.versions.push(version.to_owned());
        self.numbers.insert(version.to_owned(), number);
        number
    }

    /// When the first change that is kept was heard.
    pub fn first_at(&self) -> Option<i64> {
        self.changes.first().map(|change| change.at)
    }

    /// Counts at `points` moments from `from` to `to`.
    pub fn series(&self, from: i64, to: i64, points: usize) -> Series {
        let step = (to - from) / (points.max(2) as i64 - 1);
        let at: Vec<i64> = (0..points as i64).map(|n| from + n * step).collect();
        let mut counts = self.base.clone();
        let mut changes = self.changes.iter().peekable();
        let mut seen: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (point, moment) in at.iter().enumerate() {
            while let Some(change) = changes.next_if(|change| change.at <= *moment) {
                apply(&mut counts, *change);
            }
            for (version, count) in counts.iter().filter(|(_, count)| **count > 0) {
                let row = seen.entry(*version).or_insert_with(|| vec![0; at.len()]);
                row[point] = count.unsigned_abs();
            }
        }
        let name = |number: u32| self.versions[number as usize].clone();
        let mut versions: Vec<_> = seen.into_iter().map(|(n, row)| (name(n), row)).collect();
        versions.sort_by(|(_, one), (_, other)| other.last().cmp(&one.last()));
        Series { at, versions }
    }
}

fn apply(counts: &mut BTreeMap<u32, i64>, change: Change) {
    if let Some(from) = change.from {
        *counts.entry(from).or_default() -= 1;
    }
    *counts.entry(change.to).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_counted_by_what_they_ran_at_each_moment() {
        let mut history = History::default();
        history.learn(1, 0, "a", &first_text("1.0.5"));
        history.learn(2, 10, "b", &first_text("1.0.5"));
        history.learn(3, 20, "a", &running_text("1.0.6"));
        history.learn(4, 25, "a", "something else");
        let series = history.series(0, 30, 4);
        assert_eq!(series.at, [0, 10, 20, 30]);
        let wanted = [
            ("1.0.5".to_owned(), vec![1, 2, 1, 1]),
            ("1.0.6".to_owned(), vec![0, 0, 1, 1]),
        ];
        assert_eq!(series.versions, wanted);
        assert_eq!((history.last, history.first_at()), (4, Some(0)));
    }

    #[test]
    fn what_was_before_the_first_moment_counts() {
        let mut history = History::default();
        history.learn(1, 0, "a", &first_text("1"));
        let series = history.series(100, 200, 2);
        assert_eq!(series.versions, [("1".to_owned(), vec![1, 1])]);
        assert_eq!(History::default().series(0, 1, 2).versions, []);
    }
}
