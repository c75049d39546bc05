//! The connections whose client is not known yet: anyone can open them.
//!
//! A new connection is never refused. If there are too many, it takes the place of the one that has waited longest. A
//! client needs its place only for the milliseconds of a handshake, so silent connections do not lock it out, even from
//! its own address.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::agent::server::peer_address_prefix;

/// The most connections of strangers.
const MAX_PLACES: usize = 128;
/// The most connections of strangers from one address.
const MAX_PLACES_PER_ADDRESS: usize = 16;

/// The places of all strangers, the longest occupied first.
#[derive(Default)]
pub struct Strangers(Arc<Mutex<VecDeque<Occupied>>>);

struct Occupied {
    address: IpAddr,
    lost: CancellationToken,
}

/// The place of one connection. It is free again when this is dropped.
pub struct Place {
    all: Arc<Mutex<VecDeque<Occupied>>>,
    lost: CancellationToken,
}

impl Strangers {
    /// Gives a place to a connection from this address.
    pub fn enter(&self, address: IpAddr) -> Place {
        let address = peer_address_prefix(address);
        let lost = CancellationToken::new();
        let mut all = lock(&self.0);
        let from_there = all.iter().filter(|other| other.address == address).count();
        let oldest = match (from_there >= MAX_PLACES_PER_ADDRESS, all.len() >= MAX_PLACES) {
            (true, _) => all.iter().position(|other| other.address == address),
            (false, true) => Some(0),
            (false, false) => None,
        };
        if let Some(oldest) = oldest.and_then(|oldest| all.remove(oldest)) {
            oldest.lost.cancel();
        }
        all.push_back(Occupied { address, lost: lost.clone() });
        Place { all: self.0.clone(), lost }
    }
}

impl Place {
    /// Waits until a newer connection has taken the place.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Marks the entry, since tokens cannot be compared.
        self.lost.cancel();
        lock(&self.all).retain(|other| !other.lost.is_cancelled());
    }
}

fn lock(all: &Mutex<VecDeque<Occupied>>) -> MutexGuard<'_, VecDeque<Occupied>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_connections_have_the_places() {
        let strangers = Strangers::default();
        let enter = |text: &str| strangers.enter(text.parse().unwrap());
        let other = enter("192.0.2.1");
        let mut same: Vec<Place> = (0..MAX_PLACES_PER_ADDRESS).map(|_| enter("2001:db8::1")).collect();
        assert!(!same[0].lost.is_cancelled());
        same.push(enter("2001:db8::2"));
        assert!(same[0].lost.is_cancelled() && !same[1].lost.is_cancelled() && !other.lost.is_cancelled());

        let many: Vec<Place> = (0..MAX_PLACES).map(|last| enter(&format!("198.51.100.{last}"))).collect();
        assert!(other.lost.is_cancelled() && same.iter().all(|place| place.lost.is_cancelled()));
        assert!(many.iter().all(|place| !place.lost.is_cancelled()));
        assert_eq!(lock(&strangers.0).len(), MAX_PLACES);
        drop((other, same, many));
        assert!(lock(&strangers.0).is_empty());
    }
}
