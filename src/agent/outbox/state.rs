//! The state of the outbox.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{options::OutboxOptions, transport::Transports, wakeups::PeerWakeups};
use crate::{
    agent::{
        inbox::Inbox, metrics::Metrics, own_dids::OwnDids, return_routes::ReturnRoutes, sealed_store::SealedStore,
    },
    did::Resolver,
};

/// Sends the messages in the store.
pub struct Outbox {
    pub(super) parts: OutboxParts,
    /// Limits how many messages are sent at the same time in total.
    pub(super) permits: Semaphore,
}

/// The parts of an outbox.
pub struct OutboxParts {
    pub store: Arc<SealedStore>,
    pub own_dids: Arc<OwnDids>,
    pub resolver: Arc<dyn Resolver>,
    pub routes: Arc<ReturnRoutes>,
    pub transports: Transports,
    pub metrics: Arc<Metrics>,
    pub wakeups: Arc<PeerWakeups>,
    /// Accepts the messages that peers return in response to a sent message.
    pub inbox: Arc<Inbox>,
    pub options: OutboxOptions,
}

impl Outbox {
    /// Makes an outbox. The outbox sends messages only while [`Outbox::work`] runs.
    pub fn new(parts: OutboxParts) -> Self {
        let permits = Semaphore::new(parts.options.concurrent);
        Self { parts, permits }
    }

    /// Tries the waiting messages for a peer now, because a return route to the peer was opened.
    pub fn retry_now(&self, peer: &str) {
        self.parts.wakeups.wake_task(peer);
    }

    /// Whether messages wait for a peer.
    pub fn has_waiting(&self, peer: &str) -> bool {
        self.parts.wakeups.has_task(peer)
    }
}
