//! Limits the number of open connections, in total and for each peer.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Counts the open connections by peer. `K` tells peers apart: the prefix of an address, or the name of a client.
pub struct ConnectionLimiter<K: Eq + Hash> {
    counts: Arc<Counts<K>>,
}

/// The numbers of open connections, in total and for each peer.
struct Counts<K> {
    total: AtomicUsize,
    by_peer: Mutex<HashMap<K, usize>>,
}

/// An admitted connection. It is counted until this is dropped.
pub struct ConnectionPermit<K: Eq + Hash> {
    counts: Arc<Counts<K>>,
    peer: K,
}

impl<K: Eq + Hash> Default for ConnectionLimiter<K> {
    fn default() -> Self {
        Self { counts: Arc::new(Counts { total: AtomicUsize::new(0), by_peer: Mutex::default() }) }
    }
}

impl<K: Eq + Hash + Clone> ConnectionLimiter<K> {
    /// Admits a connection of `peer`. Returns `None` if there are `max_total` connections already, or `max_per_peer` of
    /// this peer.
    pub fn admit(&self, peer: K, max_total: usize, max_per_peer: usize) -> Option<ConnectionPermit<K>> {
        let mut by_peer = self.counts.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        let open_of_peer = by_peer.get(&peer).copied().unwrap_or(0);
        if self.counts.total.load(Ordering::Relaxed) >= max_total || open_of_peer >= max_per_peer {
            return None;
        }
        by_peer.insert(peer.clone(), open_of_peer + 1);
        self.counts.total.fetch_add(1, Ordering::Relaxed);
        Some(ConnectionPermit { counts: self.counts.clone(), peer })
    }
}

impl<K: Eq + Hash> Drop for ConnectionPermit<K> {
    fn drop(&mut self) {
        let mut by_peer = self.counts.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open_of_peer) = by_peer.get_mut(&self.peer) {
            *open_of_peer -= 1;
            if *open_of_peer == 0 {
                by_peer.remove(&self.peer);
            }
        }
        self.counts.total.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::address::peer_address_prefix, *};

    #[test]
    fn connections_are_limited_in_total_and_by_address() {
        let limiter = ConnectionLimiter::default();
        let admit = |text: &str| limiter.admit(peer_address_prefix(text.parse().unwrap()), 3, 2);
        let first = admit("2001:db8::1").unwrap();
        let _second = admit("2001:db8::2").unwrap();
        assert!(admit("2001:db8::3").is_none());
        let _other = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.2").is_none());
        drop(first);
        assert!(admit("::ffff:192.0.2.1").is_some());
    }
}
