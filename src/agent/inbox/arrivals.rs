//! Which envelopes may be opened before they are stored.
//!
//! A repeated envelope must not cost the token time. So an envelope is opened first only if it is certainly new: if the
//! beginning of its digest is not among those of the envelopes that the store knows, and no copy of it is in progress.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::opening::Arrival;
use crate::agent::{
    recent_digests::RecentDigests,
    store::types::{NewEnvelope, digest_beginning},
};

/// How many digests are remembered in each of two generations: together about 20 MB.
pub(super) const MAX_DIGESTS: usize = 500_000;
/// How long all envelopes are stored first after the token was slow, or the store had no room.
const PAUSE: Duration = Duration::from_secs(1);

/// The envelopes that are opened before they are stored, and the digests of those that came earlier.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<State>);

struct State {
    known: RecentDigests,
    /// Whether the digests in the store are among them.
    is_complete: bool,
    in_flight: HashMap<[u8; 32], Arc<Arrival>>,
    store_first_until: Option<Instant>,
}

impl Default for State {
    fn default() -> Self {
        let known = RecentDigests::new(MAX_DIGESTS);
        Self { known, is_complete: false, in_flight: HashMap::new(), store_first_until: None }
    }
}

/// How to treat an envelope that arrives.
pub(super) enum Arrived {
    /// Open it before it is stored.
    New(Arc<Arrival>),
    /// Store it first.
    StoreFirst(NewEnvelope),
    /// A copy of it is being opened, and may not be stored.
    InProgress(Arc<Arrival>),
}

impl Arrivals {
    /// Adds the digests in the store. Before, no envelope is opened first.
    pub fn complete(&self, stored: Vec<u64>) {
        let mut state = self.lock();
        state.known.add_older(stored);
        state.is_complete = true;
    }

    /// Notes that an envelope has arrived. `may_open_first` says whether it may be opened before it is stored.
    pub fn note(&self, envelope: NewEnvelope, may_open_first: bool) -> Arrived {
        let digest = envelope.digest;
        let mut state = self.lock();
        if let Some(arrival) = state.in_flight.get(&digest) {
            return Arrived::InProgress(arrival.clone());
        }
        let is_new = state.known.insert(digest_beginning(&digest)) && state.is_complete;
        let is_paused = state.store_first_until.is_some_and(|until| Instant::now() < until);
        if !is_new || is_paused || !may_open_first {
            return Arrived::StoreFirst(envelope);
        }
        let arrival = Arrival::new(envelope);
        state.in_flight.insert(digest, arrival.clone());
        Arrived::New(arrival)
    }

    /// Has all envelopes stored first for a while.
    pub fn pause(&self) {
        self.lock().store_first_until = Some(Instant::now() + PAUSE);
    }

    /// Removes an envelope whose worker has ended.
    pub fn remove(&self, digest: &[u8; 32]) {
        self.lock().in_flight.remove(digest);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::store::types::Attribution;

    #[test]
    fn only_a_new_envelope_is_opened_first() {
        let arrivals = Arrivals::default();
        let envelope = |number: u8| NewEnvelope {
            packed: Vec::new(),
            digest: [number; 32],
            recipient: String::new(),
            sender: None,
            received: 0,
            attribution: Attribution::Fetched,
            keys: Vec::new(),
        };
        let is_new = |number, may| matches!(arrivals.note(envelope(number), may), Arrived::New(_));
        assert!(!is_new(1, true), "the digests in the store are not read yet");
        arrivals.complete(vec![digest_beginning(&[2; 32])]);
        assert!(!is_new(1, true) && !is_new(2, true), "known");
        assert!(!is_new(3, false));
        assert!(is_new(4, true));
        assert!(matches!(arrivals.note(envelope(4), true), Arrived::InProgress(_)));
        arrivals.remove(&[4; 32]);
        assert!(!is_new(4, true), "known");
        arrivals.pause();
        assert!(!is_new(5, true));
    }
}
