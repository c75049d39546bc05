//! Limits the number of open connections, in total and for each peer address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::address::peer_address_prefix;

/// Counts the open connections.
#[derive(Default)]
pub struct ConnectionLimiter {
    counts: Arc<Counts>,
}

/// The numbers of open connections, in total and for each peer address.
#[derive(Default)]
struct Counts {
    total: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// An admitted connection. It is counted until this is dropped.
pub struct ConnectionPermit {
    counts: Arc<Counts>,
    address: IpAddr,
}

impl ConnectionLimiter {
    /// Admits a connection from `address`. Returns `None` if there are `max_total` connections already, or
    /// `max_per_address` from this address.
    pub fn admit(&self, address: IpAddr, max_total: usize, max_per_address: usize) -> Option<ConnectionPermit> {
        let address = peer_address_prefix(address);
        let mut by_address = self.counts.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let open_from_address = by_address.get(&address).copied().unwrap_or(0);
        if self.counts.total.load(Ordering::Relaxed) >= max_total || open_from_address >= max_per_address {
            return None;
        }
        by_address.insert(address, open_from_address + 1);
        self.counts.total.fetch_add(1, Ordering::Relaxed);
        Some(ConnectionPermit { counts: self.counts.clone(), address })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut by_address = self.counts.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open_from_address) = by_address.get_mut(&self.address) {
            *open_from_address -= 1;
            if *open_from_address == 0 {
                by_address.remove(&self.address);
            }
        }
        self.counts.total.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_limited_in_total_and_by_address() {
        let limiter = ConnectionLimiter::default();
        let admit = |text: &str| limiter.admit(text.parse().unwrap(), 3, 2);
        let first = admit("2001:db8::1").unwrap();
        let _second = admit("2001:db8::2").unwrap();
        assert!(admit("2001:db8::3").is_none());
        let _other = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.2").is_none());
        drop(first);
        assert!(admit("::ffff:192.0.2.1").is_some());
    }
}
