//! The agent, and the requests that an application makes to it.

use std::{sync::Arc, time::Duration};

use tokio::sync::{broadcast, watch};

use super::{
    clock::{Millis, now},
    error::AgentError,
    event::Event,
    inbox::Inbox,
    invitations::{AcceptedInvitation, InvitationOptions, Invitations},
    known_peers::KnownPeers,
    mediation::Mediation,
    metrics::{Metrics, TokenStates},
    options::AgentOptions,
    outbox::Outbox,
    own_dids::{OwnDids, OwnDocuments},
    protocol::{connections::Connection, issued_invitation::IssuedInvitation, out_of_band::Invitation},
    return_routes::ReturnRoutes,
    rotation::own::{OwnRotations, RotationOutcome},
    sealed_store::{DeliveryContent, SealedStore},
    server::ServerOptions,
    store::{Delivery, DeliveryQuery, OutboxEntry, Retention, Store, StoreError, ThreadEntry, Usage},
};

/// A DIDComm agent.
pub struct Agent {
    pub(super) store: Arc<SealedStore>,
    pub(super) known_peers: Arc<KnownPeers>,
    pub(super) own_dids: Arc<OwnDids>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) routes: Arc<ReturnRoutes>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) invitations: Arc<Invitations>,
    pub(super) rotations: OwnRotations,
    pub(super) mediation: Arc<Mediation>,
    pub(super) reload_documents: Option<ReloadDocuments>,
    pub(super) read_token_states: Option<ReadTokenStates>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) options: AgentOptions,
    /// The server options. They may change while the agent runs.
    pub(super) server: watch::Sender<Arc<ServerOptions>>,
    pub(super) retention: watch::Sender<Retention>,
}

/// Reads the documents of our DIDs again, and has the keepers look for new keys in the tokens. The error is a message
/// for people.
pub type ReloadDocuments = Box<dyn Fn() -> Result<OwnDocuments, String> + Send + Sync>;

/// Returns the current state of each token.
pub type ReadTokenStates = Box<dyn Fn() -> TokenStates + Send + Sync>;

/// How long a token may take to show the keys of a new DID.
const NEW_KEYS_TIMEOUT: Duration = Duration::from_secs(10);

impl Agent {
    /// The messages for the application, each with its content unless it is acknowledged.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn deliveries(
        &self,
        query: DeliveryQuery,
    ) -> Result<Vec<(Delivery, Option<DeliveryContent>)>, StoreError> {
        let deliveries = self.store.inner().deliveries(query).await?;
        deliveries.into_iter().map(|delivery| Ok((delivery.clone(), self.content(&delivery)?))).collect()
    }

    /// The content of a message for the application, or `None` if it is acknowledged.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the store is sealed; [`StoreError::Unusable`] if the content is damaged.
    pub fn content(&self, delivery: &Delivery) -> Result<Option<DeliveryContent>, StoreError> {
        self.store.content(delivery)
    }

    /// Acknowledges messages: their content is deleted. Returns how many were not acknowledged before.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn acknowledge(&self, ids: &[String]) -> Result<usize, StoreError> {
        self.store.inner().acknowledge(ids).await
    }

    /// The outbox entry with this id, as [`send`](Self::send) returned it. `None` if it is unknown or was deleted.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn outbox_entry(&self, id: &str) -> Result<Option<OutboxEntry>, StoreError> {
        self.store.inner().outbox_entry(id).await
    }

    /// At most `limit` messages of a thread that were delivered to the application or sent, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn thread(&self, thread: &str, limit: usize) -> Result<Vec<ThreadEntry>, StoreError> {
        self.store.inner().thread_entries(thread, limit).await
    }

    /// How much waits in the store, and the size of the store.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        self.store.inner().usage().await
    }

    /// Reads the documents of our DIDs again, after a DID was created while the agent runs. Waits up to ten seconds
    /// until the tokens have shown the keys that the documents name now and did not name before.
    ///
    /// # Errors
    /// A message for people, if a document is damaged. Then the DIDs stay as they are.
    pub async fn reload_dids(&self) -> Result<(), String> {
        let Some(reload) = &self.reload_documents else { return Ok(()) };
        let known = self.own_dids.key_ids();
        self.own_dids.replace(reload()?);
        self.rotations.retire_expired().await;
        // A token may take some seconds to announce a new key.
        let mut keys = self.own_dids.secrets().keys();
        let all_shown = async {
            let is_new_missing = || self.own_dids.missing_keys().iter().any(|key| !known.contains(key));
            while is_new_missing() && keys.changed().await.is_ok() {
                keys.borrow_and_update();
                self.own_dids.refresh();
            }
        };
        let _ = tokio::time::timeout(NEW_KEYS_TIMEOUT, all_shown).await;
        self.own_dids.refresh();
        self.own_dids.log_refused();
        // The new keys must be able to open the store too.
        if self.store.is_unlocked()
            && let Err(reason) = self.store.unlock(&self.own_dids).await
        {
            tracing::warn!(reason, "store key not wrapped for the new keys");
        }
        self.mediation.notify_changed();
        Ok(())
    }

    /// Changes the options that may change while the agent runs. `public_url` does not change: invitations contain it.
    pub fn update_options(&self, server: ServerOptions, retention: Retention) {
        let public_url = self.options.server.public_url.clone();
        self.server.send_replace(Arc::new(ServerOptions { public_url, ..server }));
        self.retention.send_replace(retention);
    }

    /// Rotates one of our DIDs to another. Every peer gets an empty message from the new DID. Messages to the
    /// old DID are read for `overlap` more milliseconds.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if a DID is not ours, or `from_prior` does not prove the rotation or is not signed by
    /// the old DID; [`AgentError::Store`] if the store fails. The call can be repeated after an error.
    pub async fn rotate_did(
        &self,
        from: &str,
        to: &str,
        from_prior: &str,
        overlap: Millis,
    ) -> Result<RotationOutcome, AgentError> {
        self.rotations.rotate(from, to, from_prior, overlap).await
    }

    /// Gives up a DID of ours that has rotated and whose overlap is over. Afterwards the DID's keys may be deleted.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if the DID has not rotated, its overlap is not over, or messages to it wait to be
    /// opened; [`AgentError::Store`] if no other key of ours is ready to open the store, or the store fails.
    pub async fn give_up_did(&self, did: &str) -> Result<(), AgentError> {
        self.rotations.give_up(did).await
    }

    /// Ends the relationship of one of our DIDs with a peer, and tells the peer.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if there is no such relationship, or `from_prior` does not prove its end;
    /// [`AgentError::Store`] if the store fails.
    pub async fn end_relationship(&self, own_did: &str, peer_did: &str, from_prior: &str) -> Result<(), AgentError> {
        self.rotations.end_relationship(own_did, peer_did, from_prior).await
    }

    /// Issues an invitation.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if `from` is not one of our DIDs; [`AgentError::Store`] if the store fails.
    pub async fn issue_invitation(&self, options: InvitationOptions) -> Result<IssuedInvitation, AgentError> {
        self.invitations.issue(options).await
    }

    /// At most `limit` issued invitations with keys after `after`, each with its key.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn invitations(&self, after: &str, limit: usize) -> Result<Vec<(String, IssuedInvitation)>, StoreError> {
        self.invitations.list(after, limit).await
    }

    /// The URL that contains an invitation, and a short URL that leads to it, if the agent has a public URL.
    pub fn invitation_urls(&self, invitation: &Invitation) -> (String, Option<String>) {
        self.invitations.urls(invitation)
    }

    /// Revokes an issued invitation. An unknown id is no error.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn revoke_invitation(&self, id: &str) -> Result<(), StoreError> {
        self.invitations.revoke(id).await
    }

    /// Accepts an invitation, given as a URL or as JSON. `label` is our name for the peer.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if `invitation` contains no invitation or the invitation cannot be fetched, has expired
    /// or is our own, if the inviter's DID cannot be resolved, or if `from` is not one of our DIDs;
    /// [`AgentError::Store`] if the store fails.
    pub async fn accept_invitation(
        &self,
        invitation: &str,
        from: &str,
        label: Option<String>,
    ) -> Result<AcceptedInvitation, AgentError> {
        self.invitations.accept(invitation, from, label).await
    }

    /// At most `limit` connections with keys after `after`, each with its key. The proofs of our own rotations are left
    /// out.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn connections(&self, after: &str, limit: usize) -> Result<Vec<(String, Connection)>, StoreError> {
        let found = self.store.list::<Connection>(after, limit).await?;
        let shown = |it| Connection { from_prior: None, long_form_kept: false, known_since: None, ..it };
        Ok(found.into_iter().map(|(key, it)| (key, shown(it))).collect())
    }

    /// The mediators of this agent.
    pub fn mediation(&self) -> &Arc<Mediation> {
        &self.mediation
    }

    /// Subscribes to the events from now on. A slow subscriber loses events, and must then read the store.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Our DIDs.
    pub fn own_dids(&self) -> &Arc<OwnDids> {
        &self.own_dids
    }

    /// The underlying store. Its content is sealed.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.store.inner()
    }

    /// Whether a token is ready to decrypt messages, and the store is unlocked.
    pub fn is_token_ready(&self) -> bool {
        self.inbox.can_open_messages()
    }

    /// The size of the largest accepted message, in bytes.
    pub fn max_message_bytes(&self) -> usize {
        self.options.inbox.limits.bytes
    }

    /// The most bytes of messages in one page of the API's inbox.
    pub fn max_page_bytes(&self) -> usize {
        self.options.max_page_bytes
    }

    /// The metrics in the text format of OpenMetrics 1.0.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn metrics(&self) -> Result<String, StoreError> {
        self.metrics.set_paused_servers(self.outbox.paused_servers());
        let tokens = self.read_token_states.as_ref().map(|read| read()).unwrap_or_default();
        let refused_dids = self.own_dids.refused().len();
        Ok(self.metrics.render(&self.usage().await?, &tokens, refused_dids, now()))
    }
}
