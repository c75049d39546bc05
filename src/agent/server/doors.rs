//! How many may come in, and how often.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Counts connections, in all and of each address.
#[derive(Default)]
pub struct Doors {
    inside: Arc<Inside>,
}

#[derive(Default)]
struct Inside {
    all: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that came in; it leaves when this is dropped.
pub struct Entered {
    inside: Arc<Inside>,
    address: IpAddr,
}

impl Doors {
    /// None if there is no room for it: so many are in at most, and so many of one address.
    pub fn enter(&self, address: IpAddr, most: usize, most_of_one: usize) -> Option<Entered> {
        let address = of_one_peer(address);
        let mut by_address = self.inside.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let own = by_address.get(&address).copied().unwrap_or(0);
        if self.inside.all.load(Ordering::Relaxed) >= most || own >= most_of_one {
            return None;
        }
        by_address.insert(address, own + 1);
        self.inside.all.fetch_add(1, Ordering::Relaxed);
        Some(Entered { inside: self.inside.clone(), address })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut by_address = self.inside.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                by_address.remove(&self.address);
            }
        }
        self.inside.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many messages an address may bring: what it has brought, at the rate that counts.
#[derive(Default)]
pub struct Budget(RwLock<(u32, Option<DefaultKeyedRateLimiter<IpAddr>>)>);

/// Addresses that are remembered before those are forgotten that have been quiet.
const REMEMBERED: usize = 10_000;

impl Budget {
    /// Whether the address may bring one more now: so many messages a second, after a burst of as many; any number if it is 0.
    /// With another rate than before all begin anew.
    pub fn allows(&self, address: IpAddr, rate: u32) -> bool {
        if self.0.read().unwrap_or_else(PoisonError::into_inner).0 != rate {
            let limiter = NonZeroU32::new(rate).map(|rate| RateLimiter::keyed(Quota::per_second(rate)));
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = (rate, limiter);
        }
        let limiter = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(limiter) = &limiter.1 else { return true };
        if limiter.len() > REMEMBERED {
            limiter.retain_recent();
        }
        limiter.check_key(&of_one_peer(address)).is_ok()
    }
}

/// Whoever has one IPv6 address has a network of 64 bits of them.
pub(super) fn of_one_peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many() {
        let doors = Doors::default();
        let enter = |text: &str| doors.enter(text.parse().unwrap(), 3, 2);
        let first = enter("2001:db8::1").unwrap();
        let _second = enter("2001:db8::2").unwrap();
        assert!(enter("2001:db8::3").is_none());
        let _other = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.2").is_none());
        drop(first);
        assert!(enter("::ffff:192.0.2.1").is_some());
    }

    #[test]
    fn an_address_has_a_budget_of_its_own() {
        let budget = Budget::default();
        let allowed = |text: &str, rate| (0..5).filter(|_| budget.allows(text.parse().unwrap(), rate)).count();
        assert_eq!(allowed("192.0.2.1", 0), 5);
        assert!((2..4).contains(&allowed("192.0.2.1", 2)));
        assert!((2..4).contains(&allowed("192.0.2.2", 2)));
        assert_eq!(allowed("192.0.2.1", 0), 5);
    }
}
