//! Limits the bytes of messages that are being received, so that ten thousand slow senders do not fill the memory.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::address::peer_address_prefix;

/// The most bytes that are held for messages not yet in the store. A growing buffer may take twice as much memory.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The most of these bytes for one peer address, so that other addresses have room.
const MAX_BYTES_PER_ADDRESS: usize = MAX_BYTES / 4;

/// Counts the bytes of messages that are being received: in total, and for each peer address.
#[derive(Default)]
pub struct ByteBudget(Mutex<BytesInUse>);

/// The reserved bytes, in total and for each peer address.
#[derive(Default)]
struct BytesInUse {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The bytes of one message. They are released when this is dropped.
pub struct ByteReservation {
    budget: Arc<ByteBudget>,
    address: IpAddr,
    bytes: usize,
}

impl ByteBudget {
    /// Returns an empty reservation for a message from `address`.
    pub fn reserve(self: &Arc<Self>, address: IpAddr) -> ByteReservation {
        ByteReservation { budget: self.clone(), address: peer_address_prefix(address), bytes: 0 }
    }

    fn in_use(&self) -> MutexGuard<'_, BytesInUse> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ByteReservation {
    /// Adds received bytes. Returns false, and adds nothing, if the budget has no room for them.
    ///
    /// Only received bytes count. A peer that announces a large body takes nothing from others until it sends it.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let mut in_use = self.budget.in_use();
        let total = in_use.total + bytes;
        let own = in_use.by_address.get(&self.address).unwrap_or(&0) + bytes;
        if total > MAX_BYTES || own > MAX_BYTES_PER_ADDRESS {
            return false;
        }
        in_use.total = total;
        in_use.by_address.insert(self.address, own);
        self.bytes += bytes;
        true
    }

    /// Releases up to `bytes` of the reservation. Returns how many bytes are still reserved.
    pub fn release(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let mut in_use = self.budget.in_use();
        in_use.total -= bytes;
        if let Some(own) = in_use.by_address.get_mut(&self.address) {
            *own -= bytes;
            if *own == 0 {
                in_use.by_address.remove(&self.address);
            }
        }
        self.bytes
    }
}

impl Drop for ByteReservation {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_leaves_room_for_others() {
        let budget = Arc::new(ByteBudget::default());
        let mut large = budget.reserve(address("192.0.2.1"));
        let mut small = budget.reserve(address("192.0.2.1"));
        assert!(large.try_grow(MAX_BYTES_PER_ADDRESS - 1) && small.try_grow(1));
        assert!(!small.try_grow(1));
        assert!(budget.reserve(address("192.0.2.2")).try_grow(MAX_BYTES_PER_ADDRESS));
        assert_eq!(large.release(MAX_BYTES_PER_ADDRESS - 2), 1);
        assert!(small.try_grow(MAX_BYTES_PER_ADDRESS - 2) && !small.try_grow(1));
        drop(large);
        assert!(small.try_grow(1));
    }

    #[test]
    fn the_total_is_limited() {
        let budget = Arc::new(ByteBudget::default());
        let mut all: Vec<ByteReservation> =
            (1..5).map(|last| budget.reserve(address(&format!("2001:db8:0:{last}::1")))).collect();
        assert!(all.iter_mut().all(|reservation| reservation.try_grow(MAX_BYTES_PER_ADDRESS)));
        assert!(!budget.reserve(address("192.0.2.1")).try_grow(1));
        all.pop();
        assert!(budget.reserve(address("192.0.2.1")).try_grow(1));
        drop(all);
        assert!(budget.in_use().by_address.is_empty() && budget.in_use().total == 0);
    }
}
