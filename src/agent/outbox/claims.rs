//! The messages that another node would send, although the peer can be reached here: this node claims them.
//!
//! A peer may have connections to several nodes, and these nodes would take its messages from one another for ever. So a node
//! that has claimed messages and sent none of them waits before it claims again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a node waits before it claims the messages of a peer again, if it has sent none of them.
const PAUSE: Duration = Duration::from_secs(5);
/// With so many peers, those are forgotten whose pause is over.
const MANY: usize = 1000;

/// When the messages of which peers were claimed, unless one was sent since.
#[derive(Default)]
pub(super) struct Claims(Mutex<HashMap<String, Instant>>);

impl Claims {
    /// When the messages of a peer may be claimed, at the earliest `now`.
    pub fn due(&self, peer: &str, now: Instant) -> Instant {
        self.lock().get(peer).map_or(now, |claimed| now.max(*claimed + PAUSE))
    }

    /// Notes that the messages of a peer are claimed now.
    pub fn begin(&self, peer: &str, now: Instant) {
        let mut claims = self.lock();
        if claims.len() >= MANY {
            claims.retain(|_, claimed| *claimed + PAUSE > now);
        }
        claims.insert(peer.to_owned(), now);
    }

    /// Forgets that the messages of a peer were claimed: one was sent, or the claim has failed.
    pub fn forget(&self, peer: &str) {
        self.lock().remove(peer);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_sends_nothing_waits_before_it_claims_again() {
        let (claims, mut now) = (Claims::default(), Instant::now());
        assert_eq!(claims.due("alice", now), now);
        claims.begin("alice", now);
        assert_eq!((claims.due("alice", now), claims.due("bob", now)), (now + PAUSE, now));
        now += PAUSE;
        assert_eq!(claims.due("alice", now), now);
        claims.begin("alice", now);
        claims.forget("alice");
        assert_eq!(claims.due("alice", now), now);
        // However many peers connect, few are remembered.
        for number in 0..3 * MANY {
            now += PAUSE / 100;
            claims.begin(&format!("stranger {number}"), now);
        }
        assert!(claims.lock().len() <= MANY, "{}", claims.lock().len());
    }
}
