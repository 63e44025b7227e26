//! Back-off after failed logins: per account, and per address of the client.
//!
//! | | free tries | then | forgotten |
//! |---|---|---|---|
//! | account | [`ACCOUNT_TRIES_FREE`] | 1 s, 2 s, 4 s … [`WAIT_MS_MAX`] | after [`FORGET_MS`] |
//! | address | [`ADDRESS_TRIES_FREE`] | the same | the same |
//!
//! A try is charged before the password is looked at, so a thousand at the same time are no more
//! than a thousand one after another. An address from which an account has logged in before is not
//! held up by what others do to that account: nobody can lock a colleague out. Tokens are not
//! looked at here at all; they cannot be guessed.
//!
//! It is in memory and of bounded size: a restart forgives, and what is forgotten first under a
//! flood is what was tried longest ago.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
};

/// Wrong passwords for an account before it waits: people mistype.
pub const ACCOUNT_TRIES_FREE: u32 = 5;
/// Failures of an address before it waits: an office may share one.
pub const ADDRESS_TRIES_FREE: u32 = 20;
/// First wait.
const WAIT_MS_MIN: i64 = 1_000;
/// Longest wait: 15 minutes make a hundred guesses a day.
pub const WAIT_MS_MAX: i64 = 15 * 60 * 1000;
/// Failures are forgotten after so long without another.
pub const FORGET_MS: i64 = 60 * 60 * 1000;
/// Accounts and addresses that are remembered, each: about 400 KB together.
pub const ENTRIES_MAX: usize = 4096;
/// Pairs of account and address that have logged in.
const KNOWN_MAX: usize = 1024;

/// Failures of one account or address.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u32,
    last: i64,
    until: i64,
}

impl Failures {
    fn charge(&mut self, free: u32, now: i64) {
        if now - self.last > FORGET_MS {
            *self = Self::default();
        }
        self.count = self.count.saturating_add(1);
        self.last = now;
        if self.count >= free {
            let doublings = (self.count - free).min(20);
            self.until = now + (WAIT_MS_MIN << doublings).min(WAIT_MS_MAX);
        }
    }

    fn wait_ms(&self, now: i64) -> i64 {
        (self.until - now).max(0)
    }
}

/// Everything that is remembered of failed logins.
#[derive(Debug, Default)]
pub struct Throttle {
    accounts: HashMap<String, Failures>,
    addresses: HashMap<IpAddr, Failures>,
    known: HashMap<(String, IpAddr), i64>,
}

impl Throttle {
    /// Charges a try.
    ///
    /// # Errors
    /// The milliseconds to wait where it comes too early; such a try is not charged.
    pub fn begin(&mut self, account: &str, address: IpAddr, now: i64) -> Result<(), i64> {
        let address = network(address);
        let is_known = self.known.contains_key(&(account.to_owned(), address));
        let of_account = self.accounts.get(account).filter(|_| !is_known);
        let of_address = self.addresses.get(&address);
        let waits = of_account.into_iter().chain(of_address);
        let wait_ms = waits.map(|failures| failures.wait_ms(now)).max();
        if let Some(wait_ms) = wait_ms.filter(|wait_ms| *wait_ms > 0) {
            return Err(wait_ms);
        }
        entry(&mut self.accounts, account.to_owned()).charge(ACCOUNT_TRIES_FREE, now);
        entry(&mut self.addresses, address).charge(ADDRESS_TRIES_FREE, now);
        Ok(())
    }

    /// The try that was charged last was right.
    pub fn succeeded(&mut self, account: &str, address: IpAddr, now: i64) {
        let address = network(address);
        self.accounts.remove(account);
        // Only this try is forgiven: with an account of one's own one could else go on for ever.
        if let Some(failures) = self.addresses.get_mut(&address) {
            failures.count = failures.count.saturating_sub(1);
            if failures.count < ADDRESS_TRIES_FREE {
                failures.until = 0;
            }
        }
        make_room(&mut self.known, KNOWN_MAX, |at| *at);
        self.known.insert((account.to_owned(), address), now);
    }

    /// The try that was charged last was not looked at: the server was busy.
    pub fn withdrawn(&mut self, account: &str, address: IpAddr) {
        let of_account = self.accounts.get_mut(account);
        let of_address = self.addresses.get_mut(&network(address));
        for failures in of_account.into_iter().chain(of_address) {
            failures.count = failures.count.saturating_sub(1);
            failures.until = 0;
        }
    }
}

fn entry<K: Hash + Eq + Clone>(map: &mut HashMap<K, Failures>, key: K) -> &mut Failures {
    if !map.contains_key(&key) {
        make_room(map, ENTRIES_MAX, |failures| failures.last);
    }
    map.entry(key).or_default()
}

/// Forgets the oldest entry of a full map.
fn make_room<K: Hash + Eq + Clone, V>(
    map: &mut HashMap<K, V>,
    entries_max: usize,
    age: impl Fn(&V) -> i64,
) {
    if map.len() < entries_max {
        return;
    }
    let oldest = map.iter().min_by_key(|(_, value)| age(value));
    if let Some(key) = oldest.map(|(key, _)| key.clone()) {
        map.remove(&key);
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + number))
    }

    #[test]
    fn an_account_waits_twice_as_long_each_time() {
        let mut throttle = Throttle::default();
        let mut now = 0;
        for number in 0..ACCOUNT_TRIES_FREE {
            assert_eq!(throttle.begin("anna", address(number), now), Ok(()));
        }
        for (number, wait_ms) in (100..).zip([1_000, 2_000, 4_000, 8_000]) {
            let from = address(number);
            assert_eq!(throttle.begin("anna", from, now), Err(wait_ms));
            assert_eq!(throttle.begin("anna", from, now + wait_ms - 1), Err(1));
            assert_eq!(throttle.begin("bert", from, now), Ok(()));
            now += wait_ms;
            assert_eq!(throttle.begin("anna", from, now), Ok(()));
        }
        for _ in 0..40 {
            now += throttle.begin("anna", address(7), now).err().unwrap_or(0);
        }
        let wait_ms = throttle.begin("anna", address(8), now).err();
        assert!(wait_ms.is_none_or(|wait_ms| wait_ms <= WAIT_MS_MAX));
        now += FORGET_MS + WAIT_MS_MAX;
        for number in 0..ACCOUNT_TRIES_FREE {
            assert_eq!(throttle.begin("anna", address(900 + number), now), Ok(()));
        }
    }

    #[test]
    fn an_address_waits_whatever_names_it_tries() {
        let mut throttle = Throttle::default();
        let took = (0..1000)
            .filter(|number| throttle.begin(&format!("u{number}"), address(1), 0).is_ok())
            .count();
        assert_eq!(took as u32, ADDRESS_TRIES_FREE);
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let mut throttle = Throttle::default();
        let took = (0..1000u16).filter(|number| {
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, *number, 1, 2, 3);
            let name = format!("u{number}");
            throttle.begin(&name, v6.into(), 0).is_ok()
        });
        assert_eq!(took.count() as u32, ADDRESS_TRIES_FREE);
    }

    #[test]
    fn nobody_locks_a_colleague_out() {
        let mut throttle = Throttle::default();
        throttle.begin("anna", address(1), 0).expect("free");
        throttle.succeeded("anna", address(1), 0);
        for number in 100..200 {
            let _ = throttle.begin("anna", address(number), 0);
        }
        assert!(throttle.begin("anna", address(2), 0).is_err());
        assert_eq!(throttle.begin("anna", address(1), 0), Ok(()));
    }

    #[test]
    fn an_own_account_does_not_buy_more_guesses() {
        let mut throttle = Throttle::default();
        let mut guesses = 0;
        for _ in 0..1000 {
            if throttle.begin("mallory", address(1), 0).is_ok() {
                throttle.succeeded("mallory", address(1), 0);
            }
            guesses += u32::from(throttle.begin("anna", address(1), 0).is_ok());
        }
        assert_eq!(guesses, ACCOUNT_TRIES_FREE);
    }

    #[test]
    fn a_flood_does_not_grow_it() {
        let mut throttle = Throttle::default();
        for number in 0..6_000 {
            let name = format!("user{number}");
            let _ = throttle.begin(&name, address(number), i64::from(number));
            throttle.succeeded(&name, address(number), i64::from(number));
            let _ = throttle.begin(&name, address(number), i64::from(number));
        }
        assert!(throttle.accounts.len() <= ENTRIES_MAX);
        assert!(throttle.addresses.len() <= ENTRIES_MAX);
        assert!(throttle.known.len() <= KNOWN_MAX);
    }
}
