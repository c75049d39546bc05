//! How many bytes of messages are on their way in: ten thousand who send slowly must not fill the memory.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::doors::of_one_peer;

/// The bytes of messages that are not kept yet, at most, and those of one address: it leaves room for others. What grows
/// takes up to twice as much memory.
const IN_ALL: usize = 64 * 1024 * 1024;
const OF_ONE: usize = IN_ALL / 4;

/// Counts them, in all and of each address.
#[derive(Default)]
pub struct Hall(Mutex<Crowd>);

#[derive(Default)]
struct Crowd {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The bytes of one message; they are free again when this is dropped.
pub struct Burden {
    hall: Arc<Hall>,
    address: IpAddr,
    bytes: usize,
}

impl Hall {
    /// A message begins.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Burden {
        Burden { hall: self.clone(), address: of_one_peer(address), bytes: 0 }
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Burden {
    /// More of it came; false if there is no room. What comes is counted and not what was announced: who announces much
    /// takes nothing from others.
    pub fn grows(&mut self, bytes: usize) -> bool {
        let mut crowd = self.hall.crowd();
        let (all, own) = (crowd.all + bytes, crowd.by_address.get(&self.address).unwrap_or(&0) + bytes);
        if all > IN_ALL || own > OF_ONE {
            return false;
        }
        crowd.all = all;
        crowd.by_address.insert(self.address, own);
        self.bytes += bytes;
        true
    }

    /// So much of it, at most, is not held any more; how much still is.
    pub fn lightens(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let mut crowd = self.hall.crowd();
        crowd.all -= bytes;
        if let Some(own) = crowd.by_address.get_mut(&self.address) {
            *own -= bytes;
            if *own == 0 {
                crowd.by_address.remove(&self.address);
            }
        }
        self.bytes
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        self.lightens(self.bytes);
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
        let hall = Arc::new(Hall::default());
        let (mut large, mut small) = (hall.enter(address("192.0.2.1")), hall.enter(address("192.0.2.1")));
        assert!(large.grows(OF_ONE - 1) && small.grows(1));
        assert!(!small.grows(1));
        assert!(hall.enter(address("192.0.2.2")).grows(OF_ONE));
        assert_eq!(large.lightens(OF_ONE - 2), 1);
        assert!(small.grows(OF_ONE - 2) && !small.grows(1));
        drop(large);
        assert!(small.grows(1));
    }

    #[test]
    fn there_is_room_for_so_much() {
        let hall = Arc::new(Hall::default());
        let mut all: Vec<Burden> = (1..5).map(|last| hall.enter(address(&format!("2001:db8:0:{last}::1")))).collect();
        assert!(all.iter_mut().all(|one| one.grows(OF_ONE)));
        assert!(!hall.enter(address("192.0.2.1")).grows(1));
        all.pop();
        assert!(hall.enter(address("192.0.2.1")).grows(1));
        drop(all);
        assert!(hall.crowd().by_address.is_empty() && hall.crowd().all == 0);
    }
}
