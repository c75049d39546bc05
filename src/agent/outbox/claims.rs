//! The messages that another node would send, although the peer can be reached here: this node claims them.
//!
//! A peer may have connections to several nodes, and these nodes would take its messages from one another for ever. So a node
//! that has claimed messages and sent none of them waits before it claims again. A node that learns of messages elsewhere lets
//! the other node send them first. It claims at once only if the peer connects.
//!
//! A return route for one message is opened for each request of a peer that polls, while a claim takes all messages of the
//! peer. So the pause after such a claim does not end when the message is sent.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a node waits before it claims the messages of a peer again, if it has sent none of them.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a node waits for another one to send the messages, if the peer was connected here before they came.
const PATIENCE: Duration = Duration::from_millis(300);
/// With so many peers, those are forgotten whose pause is over.
const MANY: usize = 1000;

/// How many messages a return route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteCapacity {
    /// One: an HTTP response.
    One,
    /// As many as there are, while the connection lasts.
    Many,
}

/// When the messages of which peers may be claimed.
#[derive(Default)]
pub(super) struct Claims(Mutex<HashMap<String, Claim>>);

/// What is known of the claims for a peer.
struct Claim {
    /// The end of the pause after the last claim.
    paused_until: Instant,
    /// Whether the pause remains if a message is sent.
    is_kept: bool,
    /// Since when messages wait elsewhere while the peer is connected here.
    since: Option<Instant>,
    /// The kind of the route that the peer has opened meanwhile.
    opened: Option<RouteCapacity>,
}

impl Claims {
    /// Notes that the peer has opened a return route, and messages wait for it elsewhere.
    pub fn open(&self, peer: &str, capacity: RouteCapacity, now: Instant) {
        Claim::of(&mut self.lock(), peer, now).opened = Some(capacity);
    }

    /// When the messages that wait for a peer elsewhere may be claimed, at the earliest `now`. The peer is connected here.
    pub fn due(&self, peer: &str, now: Instant) -> Instant {
        let mut claims = self.lock();
        let claim = Claim::of(&mut claims, peer, now);
        let since = *claim.since.get_or_insert(now);
        let patience = if claim.opened.is_some() { Duration::ZERO } else { PATIENCE };
        claim.paused_until.max(since + patience).max(now)
    }

    /// Notes that no messages wait elsewhere for a peer that is connected here.
    pub fn settle(&self, peer: &str, now: Instant) {
        let mut claims = self.lock();
        if let Some(claim) = claims.get_mut(peer) {
            (claim.opened, claim.since) = (None, None);
            if claim.paused_until <= now {
                claims.remove(peer);
            }
        }
    }

    /// Notes that the messages of a peer are claimed now.
    pub fn begin(&self, peer: &str, now: Instant) {
        let mut claims = self.lock();
        let claim = Claim::of(&mut claims, peer, now);
        let is_kept = claim.opened == Some(RouteCapacity::One);
        *claim = Claim { paused_until: now + PAUSE, is_kept, since: None, opened: None };
    }

    /// Notes that a message of a peer was sent. If messages wait elsewhere again, another node has claimed them meanwhile, and the
    /// pause remains.
    pub fn sent(&self, peer: &str) {
        let mut claims = self.lock();
        if claims.get(peer).is_some_and(|claim| !claim.is_kept && claim.since.is_none()) {
            claims.remove(peer);
        }
    }

    /// Forgets the claim of a peer's messages, because it has failed.
    pub fn forget(&self, peer: &str) {
        self.lock().remove(peer);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Claim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    fn of<'a>(claims: &'a mut HashMap<String, Self>, peer: &str, now: Instant) -> &'a mut Self {
        if claims.len() >= MANY && !claims.contains_key(peer) {
            // A claim that is due or becomes so has a task of its peer, which ends it.
            claims.retain(|_, claim| claim.paused_until > now || claim.since.is_some() || claim.opened.is_some());
        }
        let none = Self { paused_until: now, is_kept: false, since: None, opened: None };
        claims.entry(peer.to_owned()).or_insert(none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_sends_nothing_waits_before_it_claims_again() {
        let (claims, mut now) = (Claims::default(), Instant::now());
        for _ in 0..2 {
            claims.open("alice", RouteCapacity::Many, now);
            assert_eq!(claims.due("alice", now), now, "the peer has connected");
            claims.begin("alice", now);
            claims.open("alice", RouteCapacity::Many, now);
            assert_eq!(claims.due("alice", now), now + PAUSE);
            now += PAUSE;
            assert_eq!(claims.due("alice", now), now);
        }
        claims.begin("alice", now);
        claims.sent("alice");
        claims.open("alice", RouteCapacity::Many, now);
        assert_eq!(claims.due("alice", now), now);
        // However many peers connect, few are remembered.
        for number in 0..3 * MANY {
            now += PAUSE / 100;
            claims.begin(&format!("stranger {number}"), now);
        }
        assert!(claims.lock().len() <= MANY, "{}", claims.lock().len());
    }

    /// Peers may connect by the thousand, as after the end of a node: each has its own time.
    #[test]
    fn no_peer_waits_longer_because_others_connect() {
        let (claims, now) = (Claims::default(), Instant::now());
        let (stranger, later) = (|number| format!("stranger {number}"), now + PATIENCE);
        assert_eq!(claims.due("alice", now), later);
        claims.open("bob", RouteCapacity::Many, now);
        for number in 0..2 * MANY {
            claims.due(&stranger(number), now);
        }
        assert_eq!((claims.due("alice", later), claims.due("bob", now)), (later, now));
        (0..2 * MANY).for_each(|number| claims.settle(&stranger(number), later));
        assert_eq!(claims.lock().len(), 2);
    }

    /// The peer is connected to both nodes. What waits elsewhere is a moment old, and the other node is sending it.
    #[test]
    fn a_node_lets_another_one_send_first() {
        let (claims, now) = (Claims::default(), Instant::now());
        let due = now + PATIENCE;
        assert_eq!((claims.due("alice", now), claims.due("alice", due)), (due, due));
        // It was sent. Others wait, which have their own time, however many there are.
        claims.settle("alice", due);
        assert!(claims.lock().is_empty());
        let later = due + PAUSE;
        assert_eq!(claims.due("alice", later), later + PATIENCE);
        // The peer connects here.
        claims.open("alice", RouteCapacity::Many, later);
        assert_eq!(claims.due("alice", later), later);
        // This node has sent something since, and is as patient as before.
        claims.begin("alice", later);
        claims.sent("alice");
        assert_eq!(claims.due("alice", later), later + PATIENCE);
    }

    #[test]
    fn a_peer_that_polls_has_its_messages_claimed_rarely() {
        let (claims, now) = (Claims::default(), Instant::now());
        let open = |now| claims.open("alice", RouteCapacity::One, now);
        open(now);
        assert_eq!(claims.due("alice", now), now);
        claims.begin("alice", now);
        claims.sent("alice");
        claims.settle("alice", now);
        open(now);
        assert_eq!(claims.due("alice", now), now + PAUSE);
        assert_eq!(claims.due("alice", now + PAUSE), now + PAUSE);
    }
}
