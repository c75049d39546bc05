//! The state of the outbox.

use std::sync::Arc;

use tokio::{sync::Semaphore, time::Instant};
use tracing::Instrument;

use super::{
    claims::{Claims, RouteCapacity},
    options::OutboxOptions,
    origins::Origins,
    reply_rate::ReplyRate,
    transport::Transports,
    waits::{Wait, wait},
    wakeups::PeerWakeups,
};
use crate::{
    agent::{
        blocked_peers::BlockedPeers,
        clock::now,
        inbox::Inbox,
        metrics::Metrics,
        own_dids::OwnDids,
        return_routes::ReturnRoutes,
        sealed_store::SealedStore,
        store::{
            StoreError,
            types::{OutboxEntry, SendState},
        },
    },
    did::Resolver,
};

/// Sends the messages in the store.
pub struct Outbox {
    pub(super) parts: OutboxParts,
    /// Limits how many messages are sent at the same time, in total and to each server.
    pub(super) origins: Origins,
    /// Limits how many replies to strangers are packed per second.
    pub(super) reply_rate: ReplyRate,
    /// Limits how many documents are fetched for messages to strangers at the same time.
    pub(super) stranger_fetches: Semaphore,
    pub(super) claims: Claims,
}

/// The parts of an outbox.
pub struct OutboxParts {
    pub store: Arc<SealedStore>,
    pub own_dids: Arc<OwnDids>,
    pub resolver: Arc<dyn Resolver>,
    pub routes: Arc<ReturnRoutes>,
    pub transports: Transports,
    pub metrics: Arc<Metrics>,
    pub blocked: Arc<BlockedPeers>,
    pub wakeups: Arc<PeerWakeups>,
    /// Accepts the messages that peers return in response to a sent message.
    pub inbox: Arc<Inbox>,
    pub options: OutboxOptions,
}

impl Outbox {
    /// Makes an outbox. The outbox sends messages only while [`Outbox::work`] runs.
    pub fn new(parts: OutboxParts) -> Self {
        let origins = Origins::new(&parts.options);
        let reply_rate = ReplyRate::new(parts.options.stranger_replies_per_second);
        let stranger_fetches = Semaphore::new(parts.options.concurrent_unknown.clamp(1, Semaphore::MAX_PERMITS));
        Self { parts, origins, reply_rate, stranger_fetches, claims: Claims::default() }
    }

    /// Tries the waiting messages for a peer now, because a return route to the peer was opened. The peer's task claims those that
    /// wait elsewhere.
    pub fn retry_now(&self, peer: &str, capacity: RouteCapacity) {
        if self.waits_elsewhere(peer) {
            self.claims.open(peer, capacity, Instant::now());
            self.parts.wakeups.wake(peer);
        } else {
            self.parts.wakeups.wake_task(peer);
        }
    }

    /// Wakes the tasks of the peers that have a return route here, and for which messages wait elsewhere. These claim them.
    pub fn wake_connected(&self) {
        let peers = self.parts.routes.peers().into_iter().filter(|peer| self.waits_elsewhere(peer));
        peers.for_each(|peer| self.parts.wakeups.wake(&peer));
    }

    /// Tries a message now, whatever pause its peer or the peer's server has. If another node would send it, this one does, also
    /// if the caller stops waiting, as that of a closed connection does: otherwise no node would send what was claimed.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn try_now(self: &Arc<Self>, entry: &OutboxEntry) -> Result<(), StoreError> {
        let (outbox, peer, id) = (self.clone(), entry.peer.clone(), entry.id.clone());
        let claiming = async move {
            // A node whose token is away sends nothing.
            if outbox.parts.inbox.can_open_messages() {
                outbox.parts.store.inner().claim_outgoing(&peer).await?;
            }
            outbox.parts.wakeups.request(&peer, &id);
            Ok(())
        };
        let claiming = tokio::spawn(claiming.in_current_span());
        claiming.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    /// Has the messages behind a cancelled one wait for it no longer.
    pub fn cancelled(&self, entry: &OutboxEntry) {
        self.parts.wakeups.cancelled(&entry.peer, &entry.id);
    }

    /// What a message waits for. `None` if it does not wait.
    pub fn wait_of(&self, entry: &OutboxEntry) -> Option<Wait> {
        if entry.state != SendState::Waiting {
            return None;
        }
        match self.parts.wakeups.waits(&entry.peer) {
            _ if self.waits_elsewhere(&entry.peer) => Some(Wait::for_other_node(entry)),
            None if !self.parts.store.is_unlocked() => Some(Wait::for_first_token()),
            waits => Some(wait(entry, &waits.unwrap_or_default(), now())),
        }
    }

    /// Whether a transport can send to this URI.
    pub fn has_transport(&self, uri: &str) -> bool {
        self.parts.transports.for_uri(uri).is_some()
    }

    /// How many servers of peers get no messages for a while, because they failed.
    pub fn paused_servers(&self) -> usize {
        self.origins.open_breakers()
    }

    /// Whether messages wait for a peer, here or elsewhere.
    pub fn has_waiting(&self, peer: &str) -> bool {
        self.parts.wakeups.has_task(peer) || self.waits_elsewhere(peer)
    }

    /// Claims the messages that wait for a peer elsewhere, if the peer has a return route here, and it is time.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub(super) async fn claim_if_connected(&self, peer: &str) -> Result<(), StoreError> {
        if self.next_claim(peer).is_none_or(|due| due > Instant::now()) {
            return Ok(());
        }
        self.claims.begin(peer, Instant::now());
        let claimed = self.parts.store.inner().claim_outgoing(peer).await;
        if claimed.is_err() {
            self.claims.forget(peer);
        }
        claimed
    }

    /// When the messages that wait for a peer elsewhere are claimed. `None` if there are none, the peer has no return route here,
    /// or no token here could pack them.
    pub(super) fn next_claim(&self, peer: &str) -> Option<Instant> {
        let now = Instant::now();
        let may_claim = self.waits_elsewhere(peer) && self.parts.routes.has_any_route(peer);
        if may_claim && self.parts.inbox.can_open_messages() {
            return Some(self.claims.due(peer, now));
        }
        self.claims.settle(peer, now);
        None
    }

    fn waits_elsewhere(&self, peer: &str) -> bool {
        self.parts.store.inner().waits_elsewhere(peer)
    }
}
