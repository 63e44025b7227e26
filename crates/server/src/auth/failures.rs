//! Failed logins on their way into the audit log: counted, so that ten thousand of them make a few
//! entries and not ten thousand.

use std::{collections::BTreeMap, net::IpAddr};

use super::Record;

/// Failures of so long become one entry; the first after a quiet time is written at once.
pub const INTERVAL_MS: i64 = 60_000;
/// Names and addresses that an entry lists; the rest is a number.
const LISTED_MAX: usize = 8;

/// Failures since the last entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tries that were refused.
    tries: u64,
    /// Those of them that were refused without looking at the password.
    early: u64,
    /// By user. What was typed as the name of nobody is not kept: it may be a password.
    accounts: BTreeMap<String, u64>,
    addresses: BTreeMap<String, u64>,
}

impl Tally {
    /// What the audit log says.
    pub fn record(&self) -> Record {
        let detail = serde_json::json!({
            "tries": self.tries,
            "early": self.early,
            "accounts": self.accounts,
            "addresses": self.addresses,
        });
        Record::new("login.failed", "login", detail.to_string())
    }

    fn add(&mut self, other: &Self) {
        self.tries += other.tries;
        self.early += other.early;
        for (name, count) in &other.accounts {
            count_up(&mut self.accounts, name, *count);
        }
        for (address, count) in &other.addresses {
            count_up(&mut self.addresses, address, *count);
        }
    }
}

fn count_up(counts: &mut BTreeMap<String, u64>, key: &str, by: u64) {
    let is_listed = counts.contains_key(key) || counts.len() < LISTED_MAX;
    let key = if is_listed { key } else { "others" };
    *counts.entry(key.to_owned()).or_default() += by;
}

/// A failed login.
#[derive(Clone, Copy, Debug)]
pub enum Failure<'a> {
    /// The password of this user was wrong.
    Wrong(&'a str),
    /// There is no such user, or no such token.
    Unknown,
    /// It came too early; whether it was right is not known.
    Early,
}

/// What waits to be written.
#[derive(Debug, Default)]
pub struct Failures {
    waiting: Tally,
    written_at: Option<i64>,
}

impl Failures {
    /// Counts one.
    pub fn note(&mut self, failure: Failure<'_>, address: IpAddr) {
        let mut one = Tally {
            tries: 1,
            ..Tally::default()
        };
        match failure {
            Failure::Wrong(name) => count_up(&mut one.accounts, name, 1),
            Failure::Unknown => count_up(&mut one.accounts, "(no such user)", 1),
            Failure::Early => one.early = 1,
        }
        count_up(&mut one.addresses, &address.to_canonical().to_string(), 1);
        self.waiting.add(&one);
    }

    /// What is to be written now.
    pub fn take(&mut self, now: i64, is_end: bool) -> Option<Tally> {
        let is_time = self.written_at.is_none_or(|at| now - at >= INTERVAL_MS);
        if self.waiting.tries == 0 || !(is_time || is_end) {
            return None;
        }
        self.written_at = Some(now);
        Some(std::mem::take(&mut self.waiting))
    }

    /// It could not be written.
    pub fn put_back(&mut self, tally: Tally) {
        self.written_at = None;
        self.waiting.add(&tally);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_entries_of_bounded_size() {
        let mut failures = Failures::default();
        let mut entries = Vec::new();
        for number in 0..10_000u32 {
            let name = format!("user{number}");
            let failure = match number % 3 {
                0 => Failure::Wrong(&name),
                1 => Failure::Unknown,
                _ => Failure::Early,
            };
            failures.note(failure, IpAddr::V4(number.into()));
            entries.extend(failures.take(i64::from(number) * 30, false));
        }
        entries.extend(failures.take(0, true));
        assert!(entries.len() <= 7, "{} entries", entries.len());
        let tries: u64 = entries.iter().map(|tally| tally.tries).sum();
        assert_eq!(tries, 10_000);
        for tally in entries {
            assert!(tally.record().detail.len() < 1024);
        }
    }
}
