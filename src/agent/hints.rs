//! What this node does when the store tells what another node has done ([`Hint`]).
//!
//! Tasks are woken and subscribers are told at once. What is kept in memory is marked ([`Stale`]), and one task reads it again:
//! a thousand hints cost one reading.
//!
//! Some of what is in memory needs no hint. The record cache is compared with the store by each commit, and read again after a
//! second by what commits nothing. Labels, invitations and the wrapped store key are read for each use. Documents of peers are
//! no part of the store.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::broadcast,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    agent::Agent,
    blocked_peers::BlockedPeer,
    event::Event,
    mediation::Mediator,
    outbox::PeerWakeups,
    protocol::RecordType,
    return_routes::ReturnRoutes,
    shared_dids::VERSION_KIND,
    stale::{Part, Stale},
    store::{
        Hint, HintListener, StoreError,
        types::{CONNECTION_KIND, OWN_ROTATION_KIND},
    },
    unlock::STORE_KEY_KIND,
};

/// The pause between two readings. A peer may cause hints without end.
const PAUSE: Duration = Duration::from_millis(200);
/// How often messages that wait elsewhere for peers connected here are looked for, in case that a hint was of no use: the peer
/// may have connected while the hint came.
const CONNECTED_INTERVAL: Duration = Duration::from_secs(60);

/// Returns the function that the store calls with hints.
pub fn hint_listener(
    wakeups: Arc<PeerWakeups>,
    routes: Arc<ReturnRoutes>,
    events: broadcast::Sender<Event>,
    stale: Arc<Stale>,
) -> HintListener {
    Box::new(move |hints| {
        // Sending fails if there is no subscriber.
        let tell = |event| drop(events.send(event));
        for hint in hints {
            match hint {
                // The peer's task claims what the other node does not send soon.
                Hint::Outgoing { peer, is_here } if *is_here || routes.has_any_route(peer) => wakeups.wake(peer),
                Hint::Outgoing { .. } => {}
                Hint::Delivered { id } => tell(Event::Delivered { id: id.clone() }),
                Hint::Recorded => tell(Event::Recorded),
                Hint::Changed { kind } => part_of(kind).into_iter().for_each(|part| stale.mark(part)),
                Hint::Pending => stale.mark(Part::Envelopes),
                Hint::Anything => {
                    Part::ALL.into_iter().for_each(|part| stale.mark(part));
                    // Any event has a subscriber read the store.
                    tell(Event::Recorded);
                }
            }
        }
    })
}

/// Returns what is kept in memory of the records of a kind.
fn part_of(kind: &str) -> Option<Part> {
    match kind {
        BlockedPeer::KIND => Some(Part::BlockedPeers),
        CONNECTION_KIND => Some(Part::KnownPeers),
        Mediator::KIND => Some(Part::Mediators),
        // The store's key is no longer wrapped for the keys of a DID that is given up. No node may accept messages to it then.
        OWN_ROTATION_KIND | STORE_KEY_KIND => Some(Part::RetiredDids),
        VERSION_KIND => Some(Part::OwnDids),
        _ => None,
    }
}

impl Agent {
    /// Reads again what other nodes have changed, until `shutdown` is cancelled.
    pub(super) async fn read_stale(self: Arc<Self>, shutdown: CancellationToken) {
        let mut is_failing = false;
        let mut connected = interval(CONNECTED_INTERVAL);
        connected.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.stale.marked() => {}
                // No message was accepted from these peers before the store was unlocked.
                _ = connected.tick() => self.outbox.wake_connected(),
            }
            let mut failure = None;
            for part in self.stale.take() {
                if let Err(error) = self.read_again(part).await {
                    self.stale.mark(part);
                    failure = Some(error);
                }
            }
            // A store that fails for hours is reported once.
            if let Some(error) = failure.as_ref().filter(|_| !is_failing) {
                tracing::warn!(%error, "changes of other nodes not read");
            }
            is_failing = failure.is_some();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(PAUSE) => {}
            }
        }
    }

    async fn read_again(&self, part: Part) -> Result<(), StoreError> {
        match part {
            Part::Envelopes => self.inbox.note_backlog(),
            Part::KnownPeers => self.known_peers.forget(),
            Part::Mediators => self.mediation.notify_changed(),
            // While the store is sealed, no overlap is known to be over. The agent tries again from time to time.
            Part::RetiredDids => {
                // Another node may have wrapped the store's key for one of ours.
                if !self.store.is_unlocked() {
                    let _ = self.store.unlock(&self.own_dids).await;
                }
                self.rotations.retire_expired().await;
            }
            Part::BlockedPeers => self.blocked.load().await?,
            Part::OwnDids => self.merge_dids().await?,
            // Once a token unlocks the store, the outbox reads them by itself.
            Part::OutboxPeers if !self.store.is_unlocked() => {}
            Part::OutboxPeers => self.outbox.wake_all().await?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::sync::mpsc;

    use super::*;
    use crate::agent::return_routes::ReturnRoute;

    #[tokio::test]
    async fn each_hint_reaches_what_it_concerns() {
        let (wakeups, routes) = (Arc::<PeerWakeups>::default(), Arc::<ReturnRoutes>::default());
        let ((events, mut told), stale) = (broadcast::channel(10), Arc::<Stale>::default());
        let hear = hint_listener(wakeups.clone(), routes.clone(), events, stale.clone());
        let outgoing = |peer: &str, is_here| Hint::Outgoing { peer: peer.to_owned(), is_here };
        hear(&[outgoing("here", true), outgoing("away", false)]);
        assert!(wakeups.has_new("here") && !wakeups.has_new("away"));
        let route = routes.reserve("away", ReturnRoute::All, mpsc::channel(1).0);
        route.open();
        hear(&[outgoing("away", false)]);
        assert!(!wakeups.has_new("away"), "the connection has ended");
        let (connection, _messages) = mpsc::channel(1);
        let route = routes.reserve("away", ReturnRoute::All, connection);
        hear(&[outgoing("away", false)]);
        assert!(!wakeups.has_new("away"), "the route is not open");
        route.open();
        hear(&[outgoing("away", false)]);
        assert!(wakeups.has_new("away"));

        hear(&[Hint::Delivered { id: "one".to_owned() }, Hint::Recorded]);
        assert_eq!(told.try_recv().unwrap(), Event::Delivered { id: "one".to_owned() });
        assert_eq!(told.try_recv().unwrap(), Event::Recorded);

        let changed = |kind: &str| Hint::Changed { kind: kind.to_owned() };
        assert!(stale.take().is_empty());
        hear(&[changed("blocked"), changed("thread"), changed("rotated"), changed("store-key"), changed("blocked")]);
        assert_eq!(stale.take(), BTreeSet::from([Part::RetiredDids, Part::BlockedPeers]));
        hear(&[changed("connection"), changed("mediator"), changed("own-dids"), Hint::Pending]);
        assert_eq!(stale.take(), BTreeSet::from([Part::Envelopes, Part::KnownPeers, Part::Mediators, Part::OwnDids]));
        hear(&[Hint::Anything]);
        assert_eq!(stale.take(), BTreeSet::from(Part::ALL));
        assert_eq!(told.try_recv().unwrap(), Event::Recorded);
    }
}
