//! How many connections each address has.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts; an address without a connection is not kept.
#[derive(Clone, Default)]
pub(super) struct Addresses(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// Counted as long as it lives.
pub(super) struct Place {
    addresses: Addresses,
    addr: IpAddr,
}

impl Addresses {
    /// None where the address has `max` already.
    pub fn take(&self, addr: IpAddr, max: u32) -> Option<Place> {
        let addr = network(addr);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(addr).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place {
            addresses: self.clone(),
            addr,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let counts = self.addresses.0.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.addr) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.addr);
            }
        }
    }
}

/// One customer has a whole /64 of IPv6, so its addresses count as one.
fn network(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(_) => addr,
        IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let addresses = Addresses::default();
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = addresses.take(one, 2).expect("free");
        let second = addresses.take(one, 2).expect("free");
        assert!(addresses.take(one, 2).is_none());
        assert!(addresses.take(other, 2).is_some());
        drop((first, second));
        assert!(addresses.0.lock().expect("whole").is_empty());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let addresses = Addresses::default();
        let place = |text: &str| addresses.take(text.parse().expect("an address"), 1);
        let first = place("2001:db8::1");
        assert!(first.is_some());
        assert!(place("2001:db8::ffff:2").is_none());
        assert!(place("2001:db8:0:1::1").is_some());
    }
}
