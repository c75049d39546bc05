//! The agent, and the requests that an application makes to it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{
    sync::{broadcast, watch},
    time::timeout,
};

use super::{
    blocked_peers::BlockedPeers,
    clock::{Millis, now},
    error::{AgentError, ReloadError},
    event::{Event, EventKind},
    inbox::Inbox,
    invitations::{AcceptedInvitation, InvitationOptions, Invitations},
    known_peers::KnownPeers,
    label::Label,
    mediation::Mediation,
    metrics::Metrics,
    options::AgentOptions,
    outbox::Outbox,
    own_dids::{OwnDids, OwnDocuments},
    protocol::{connections::Connection, issued_invitation::IssuedInvitation, out_of_band::Invitation},
    repeatable::Repeatable,
    return_routes::ReturnRoutes,
    rotation::own::{OwnRotation, OwnRotations, RotationOutcome},
    sealed_store::{DeliveryContent, SealedStore},
    server::ServerOptions,
    shared_dids::SharedDids,
    stale::{Part, Stale},
    store::{Delivery, DeliveryQuery, Retention, Store, StoreError, StoreNode, Usage},
    token_report::{OpeningWaits, ReadTokenStates, TokenReport},
};
use crate::did::{Relationship, Resolver};

/// How long the figures of the store are waited for: a scraper waits for ten seconds.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(5);

/// A DIDComm agent.
pub struct Agent {
    pub(super) store: Arc<SealedStore>,
    pub(super) known_peers: Arc<KnownPeers>,
    pub(super) blocked: Arc<BlockedPeers>,
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) own_dids: Arc<OwnDids>,
    pub(super) shared_dids: Arc<SharedDids>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) routes: Arc<ReturnRoutes>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) invitations: Arc<Invitations>,
    pub(super) rotations: OwnRotations,
    pub(super) mediation: Arc<Mediation>,
    pub(super) reload_documents: Option<ReloadDocuments>,
    pub(super) refresh_keys: Option<RefreshKeys>,
    pub(super) read_token_states: Option<ReadTokenStates>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) stale: Arc<Stale>,
    pub(super) options: AgentOptions,
    /// The server options. They may change while the agent runs.
    pub(super) server: watch::Sender<Arc<ServerOptions>>,
    pub(super) retention: watch::Sender<Retention>,
}

/// Reads the documents of our DIDs again, and has the keepers look for new keys in the tokens. The error is a message
/// for people.
pub type ReloadDocuments = Box<dyn Fn() -> Result<OwnDocuments, String> + Send + Sync>;

/// Has the tokens searched for new keys. It must return soon.
pub type RefreshKeys = Box<dyn Fn() + Send + Sync>;

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

    /// At most `limit` messages for the application whose ids in the inbox begin with a text, acknowledged or not, in the order
    /// of their ids.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn deliveries_by_id(
        &self,
        beginning: &str,
        limit: usize,
    ) -> Result<Vec<(Delivery, Option<DeliveryContent>)>, StoreError> {
        let deliveries = self.store.inner().deliveries_by_id(beginning, limit).await?;
        deliveries.into_iter().map(|delivery| Ok((delivery.clone(), self.content(&delivery)?))).collect()
    }

    /// Acknowledges messages: their content is deleted. Returns how many were not acknowledged before.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn acknowledge(&self, ids: &[String]) -> Result<usize, StoreError> {
        self.store.inner().acknowledge(ids).await
    }

    /// How much waits in the store and the size of the store, and the agents that share it, oldest first. There are none of them if
    /// the store is this agent's alone.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails, or does not answer within five seconds.
    pub async fn store_figures(&self) -> Result<(Usage, Vec<StoreNode>), StoreError> {
        let figures = async { Ok((self.store.inner().usage().await?, self.nodes().await?)) };
        let late = |_| Err(StoreError::Unavailable("it does not answer".to_owned()));
        timeout(FIGURES_TIMEOUT, figures).await.unwrap_or_else(late)
    }

    /// The agents that share the store, oldest first. Empty if the store is this agent's alone.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn nodes(&self) -> Result<Vec<StoreNode>, StoreError> {
        self.store.inner().nodes().await
    }

    /// Reads the documents of our DIDs again, after a DID was created while the agent runs. Waits up to ten seconds
    /// until the tokens have shown the keys that the documents name now and did not name before. With several agents on one
    /// store, the others use the documents too. `changed` is a DID whose document was just changed: it counts even if the
    /// others know it as an earlier document of the DID.
    ///
    /// # Errors
    /// [`ReloadError`]. Then the DIDs stay as they are.
    pub async fn reload_dids(&self, changed: Option<&str>) -> Result<(), ReloadError> {
        let Some(reload) = &self.reload_documents else { return Ok(()) };
        let known = self.own_dids.key_ids();
        self.shared_dids.replace_folder(reload().map_err(ReloadError::Document)?, changed);
        // If the store is away, the documents are used once it is back.
        self.shared_dids.merge().await.inspect_err(|_| self.stale.mark(Part::OwnDids))?;
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

    /// Merges the documents of our DIDs with those of other nodes, and looks for the keys of new ones in the tokens.
    pub(super) async fn merge_dids(&self) -> Result<(), StoreError> {
        let known = self.own_dids.key_ids();
        if !self.shared_dids.merge().await? {
            return Ok(());
        }
        self.own_dids.log_refused();
        self.rotations.retire_expired().await;
        let has_new = self.own_dids.key_ids().difference(&known).next().is_some();
        if let Some(refresh) = self.refresh_keys.as_ref().filter(|_| has_new) {
            refresh();
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
        self.check_keys_shown(to)?;
        self.rotations.rotate(from, to, from_prior, overlap).await
    }

    /// The rotation of one of our DIDs. None if it has not rotated.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the store is sealed; another [`StoreError`] if the store fails.
    pub async fn rotation_of(&self, did: &str) -> Result<Option<OwnRotation>, StoreError> {
        Ok(self.store.get::<OwnRotation>(did).await?.map(|(rotation, _)| rotation))
    }

    /// Checks that the tokens have shown each key of a DID of ours. Without them, messages to the DID could not be read.
    fn check_keys_shown(&self, did: &str) -> Result<(), AgentError> {
        let refused = self.own_dids.refused().iter().find(|refused| refused.did == did).cloned();
        let keys = refused.map(|refused| refused.keys.into_iter().map(|key| key.id).collect());
        let missing: Vec<String> = keys.unwrap_or_else(|| self.missing_keys_of(did));
        if missing.is_empty() {
            return Ok(());
        }
        let tokens = self.tokens().into_iter().map(|token| token.name).collect();
        Err(AgentError::KeysNotShown { did: did.to_owned(), keys: missing, tokens })
    }

    /// The ids of the keys in the document of a DID of ours that no token has shown.
    fn missing_keys_of(&self, did: &str) -> Vec<String> {
        let Some(document) = self.own_dids.document(did) else { return Vec::new() };
        let uses = [Relationship::KeyAgreement, Relationship::Authentication];
        let methods = uses.into_iter().flat_map(|usage| document.methods(usage));
        let keys: Vec<&str> = methods.map(|method| method.id.as_str()).collect();
        self.own_dids.missing_keys().into_iter().filter(|missing| keys.contains(&missing.as_str())).collect()
    }

    /// Gives up a DID of ours that has rotated and whose overlap is over. Afterwards the DID's keys may be deleted.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if the DID has not rotated, its overlap is not over, or messages to it wait to be
    /// opened; [`AgentError::Store`] if no other key of ours is ready to open the store, or the store fails.
    pub async fn give_up_did(&self, did: &str) -> Result<(), AgentError> {
        self.rotations.give_up(did).await
    }

    /// Issues an invitation. A request with an `id` of the caller can be repeated: it issues one invitation, and gets the
    /// same one each time.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if `from` is not one of our DIDs, the id is malformed, or the invitation of a repeated request
    /// was revoked; [`AgentError::IdTaken`] if another invitation was issued under the id; [`AgentError::Store`] if the store
    /// fails.
    pub async fn issue_invitation(
        &self,
        options: InvitationOptions,
        id: Option<&str>,
    ) -> Result<IssuedInvitation, AgentError> {
        let request = self.repeatable("invite", id, &options)?;
        let from = match &options.from {
            Some(from) => from.clone(),
            None => self.newest_own_did().await?,
        };
        self.invitations.issue(from, options, request.as_ref()).await
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

    /// Accepts an invitation, given as a URL or as JSON. `label` is our name for the peer. A request with an `id` of the caller
    /// can be repeated: it accepts once, sends one ping, and gets the same answer each time.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if `invitation` contains no invitation or the invitation cannot be fetched, has expired
    /// or is our own, if the inviter's DID cannot be resolved, or if `from` is not one of our DIDs;
    /// [`AgentError::ConnectionEnded`] if the connection with the inviter has ended; [`AgentError::Blocked`] if the inviter
    /// is blocked; [`AgentError::LabelTaken`] if another peer has the label; [`AgentError::Store`] if the store fails.
    pub async fn accept_invitation(
        &self,
        invitation: &str,
        from: Option<&str>,
        label: Option<&Label>,
        id: Option<&str>,
    ) -> Result<AcceptedInvitation, AgentError> {
        let request = self.repeatable("accept", id, &(invitation, from, label.map(Label::as_str)))?;
        let from = match from {
            Some(from) => from.to_owned(),
            None => self.newest_own_did().await?,
        };
        self.invitations.accept(invitation, &from, label, request.as_ref()).await
    }

    /// Returns a request that can be repeated, if it has an id.
    fn repeatable<'a>(
        &'a self,
        operation: &str,
        id: Option<&'a str>,
        request: &impl Serialize,
    ) -> Result<Option<Repeatable<'a>>, AgentError> {
        // As long as the outbox has an entry of a message that the request has sent.
        let lifetime = self.options.outbox.message_lifetime.saturating_add(self.retention.borrow().history);
        id.map(|id| Repeatable::new(&self.store, operation, id, request, lifetime)).transpose()
    }

    /// At most `limit` connections with keys after `after`, each with its key. The proofs of our own rotations are left
    /// out.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn connections(&self, after: &str, limit: usize) -> Result<Vec<(String, Connection)>, StoreError> {
        let found = self.store.list::<Connection>(after, limit).await?;
        Ok(found.into_iter().map(|(key, connection)| (key, connection.without_proofs())).collect())
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

    /// The kinds of events that are recorded.
    pub fn recorded_events(&self) -> BTreeSet<EventKind> {
        EventKind::ALL.into_iter().filter(|kind| self.store.recorded_events().contains(*kind)).collect()
    }

    /// Replaces the kinds of events that are recorded. Those that were recorded stay.
    pub fn record_events(&self, kinds: impl IntoIterator<Item = EventKind>) {
        self.store.recorded_events().set(kinds);
    }

    /// The state of each configured token, in configured order.
    pub fn tokens(&self) -> Vec<TokenReport> {
        self.read_token_states.as_ref().map(|read| read()).unwrap_or_default()
    }

    /// What received messages wait for; none if they are opened ([`is_token_ready`](Self::is_token_ready)).
    pub fn opening_waits(&self) -> Option<OpeningWaits> {
        match () {
            () if self.is_token_ready() => None,
            () if self.own_dids.dids().is_empty() => Some(OpeningWaits::ForDid),
            () if self.own_dids.ready_agreement_keys().is_empty() => Some(OpeningWaits::ForToken),
            () => Some(OpeningWaits::ForStore),
        }
    }

    /// The size of the largest accepted message, in bytes.
    pub fn max_message_bytes(&self) -> usize {
        self.options.inbox.limits.bytes
    }

    /// The most bytes of messages in one page of the API's inbox.
    pub fn max_page_bytes(&self) -> usize {
        self.options.max_page_bytes
    }

    /// The metrics in the text format of OpenMetrics 1.0. While the store cannot be read, its figures are those of the last
    /// request.
    pub async fn metrics(&self) -> String {
        self.metrics.set_paused_servers(self.outbox.paused_servers());
        let figures = self.store_figures().await;
        self.metrics.set_store_available(figures.is_ok());
        if let Ok((usage, nodes)) = figures {
            self.metrics.set_usage(&usage, now());
            self.metrics.set_nodes(nodes);
        }
        self.metrics.render(&self.tokens(), self.own_dids.refused().len())
    }
}
