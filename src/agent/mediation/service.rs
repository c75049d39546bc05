//! The service that adds, lists and removes the mediators of this agent.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{
    channel::Transport,
    error::MediationError,
    mediator::{Mediator, MediatorState, MediatorStatus},
    options::MediationOptions,
    parts::MediationParts,
    request::{Grant, request_mediation},
    session::Session,
    versions::{CoordinationVersion, PickupVersion},
};
use crate::{
    agent::{
        canonical_did::canonical_did,
        clock::now,
        leading::Leading,
        rotation::current::{current_own_did, current_peer_did},
        store::{CommitOutcome, StoreError},
    },
    did::is_did,
};

/// The most mediators of one agent.
pub const MAX_MEDIATORS: usize = 100;
/// The most messages in one delivery.
pub const MAX_DELIVERY: usize = 10;
/// How many times a commit is attempted if its record changes meanwhile.
pub const MAX_COMMIT_ATTEMPTS: usize = 10;

/// The mediators of an agent, and the conversations with them.
pub struct Mediation {
    pub(super) parts: MediationParts,
    pub(super) options: MediationOptions,
    states: Mutex<HashMap<String, (MediatorState, Option<String>)>>,
    /// Guards keylist updates to a mediator. Held until the mediator's answer is committed, so that the record and the
    /// mediator agree.
    pub(super) keylist_update: tokio::sync::Mutex<()>,
    /// Counts the changes of our documents and of the list of mediators.
    pub(super) changes: watch::Sender<u64>,
}

impl Mediation {
    /// Makes the mediation of an agent. Messages are fetched only while [`Mediation::run`] runs.
    pub(in crate::agent) fn new(parts: MediationParts, options: MediationOptions) -> Self {
        Self {
            parts,
            options,
            states: Mutex::default(),
            keylist_update: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Records that our documents have changed: mediators may need a keylist update.
    pub fn notify_changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Asks the mediator with this DID to mediate for `own_did`, and stores the mediator. A mediator that is in use
    /// already is asked again, since its answer may have changed. At `MAX_MEDIATORS` mediators the call is refused for a
    /// new one.
    ///
    /// # Errors
    /// If the request is invalid, no token is ready, the store fails, or the mediator cannot be reached, refuses, or
    /// cannot be used. Nothing is stored then.
    pub async fn add(&self, did: &str, own_did: &str) -> Result<Mediator, MediationError> {
        if !is_did(did) {
            return Err(MediationError::InvalidRequest(format!("{did:?} is not a DID")));
        }
        let store = &self.parts.store;
        let Some(document) = self.parts.own_dids.document(&current_own_did(store, own_did).await?) else {
            return Err(MediationError::InvalidRequest(format!("{own_did} is not one of our DIDs")));
        };
        let known = self.find(did).await?;
        if known.is_none() && store.list::<Mediator>("", MAX_MEDIATORS).await?.len() >= MAX_MEDIATORS {
            return Err(MediationError::InvalidRequest(format!("there are {MAX_MEDIATORS} mediators already")));
        }
        if document.is_about(did) {
            return Err(MediationError::InvalidRequest("a DID of ours cannot be our mediator".to_owned()));
        }
        let mut granted = None;
        if let Some(known) = known
            && current_own_did(store, &known.own_did).await? == document.id()
        {
            granted = Some(known);
        }
        let mediator_did = current_peer_did(store, document.id(), did).await?;
        let asked = self.ask_for_mediation(&mediator_did, document.id(), granted.as_ref()).await?;
        if asked.routing_dids.is_empty() {
            return Err(MediationError::Unusable("it grants mediation and names no routing DID".to_owned()));
        }
        let mediator = Mediator {
            did: did.to_owned(),
            own_did: document.id().to_owned(),
            coordination: asked.coordination,
            pickup: asked.pickup,
            routing_dids: asked.routing_dids,
            since: now(),
            registered: Vec::new(),
        };
        self.save(&mediator).await?;
        self.notify_changed();
        Ok(mediator)
    }

    /// Asks a mediator for mediation: over a WebSocket if it has one, else over HTTP. If the WebSocket stays silent, HTTP is
    /// tried too.
    async fn ask_for_mediation(
        &self,
        mediator_did: &str,
        own_did: &str,
        granted: Option<&Mediator>,
    ) -> Result<Grant, MediationError> {
        let ask_over = async |transport| {
            let versions = (CoordinationVersion::V3, PickupVersion::V3);
            let mut session =
                Session::open(&self.parts, mediator_did, own_did, transport, versions, &self.options).await?;
            let asked = request_mediation(&mut session, granted).await;
            let was_websocket = session.is_websocket();
            session.close().await;
            Ok::<_, MediationError>((asked, was_websocket))
        };
        match ask_over(self.transport()).await? {
            (Err(error @ MediationError::Unreachable(_)), true) => match ask_over(Transport::Http).await {
                Ok((asked @ (Ok(_) | Err(MediationError::Denied(_))), _)) => asked,
                _ => Err(error),
            },
            (asked, _) => asked,
        }
    }

    /// The transport that the settings prefer.
    pub(super) fn transport(&self) -> Transport {
        if self.options.websocket { Transport::PreferWebSocket } else { Transport::Http }
    }

    /// Stores the mediator, and a connection with it, so that the mediator is told when our DID rotates.
    async fn save(&self, mediator: &Mediator) -> Result<(), MediationError> {
        let store = &self.parts.store;
        let key = &*Mediator::key(&mediator.did);
        for _ in 0..MAX_COMMIT_ATTEMPTS {
            let revision = store.revision::<Mediator>(key).await?;
            let mut changes = vec![store.put_change(key, mediator, revision, None)?];
            changes.extend(self.parts.known_peers.changes(&mediator.own_did, &mediator.did).await?);
            if store.commit_changes(changes).await? == CommitOutcome::Committed {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("the mediator's record is changed concurrently".to_owned()).into())
    }

    /// Stops using a mediator. The agent fetches the mediator's queue, and then asks the mediator to accept no more
    /// messages for our DIDs.
    ///
    /// # Errors
    /// If the agent does not use this mediator, the mediator cannot be told, or the store fails. With `force`, a
    /// mediator that cannot be told is removed all the same.
    pub async fn remove(&self, did: &str, force: bool) -> Result<Mediator, MediationError> {
        let _guard = self.keylist_update.lock().await;
        let mediator = self.find(did).await?.ok_or_else(|| MediationError::Unknown(did.to_owned()))?;
        let unregistered = async {
            let mut session = self.open_session(&mediator, Transport::PreferHttp).await?;
            session.fetch_all(MAX_DELIVERY).await?;
            if !mediator.registered.is_empty() {
                session.update_keylist(&[], &mediator.registered).await?;
            }
            let last = session.fetch_all(MAX_DELIVERY).await?;
            if let Some(reason) = last.reason {
                tracing::warn!(messages = last.held, reason, mediator = did, "messages stay with the mediator");
            }
            session.close().await;
            Ok::<_, MediationError>(())
        };
        if let Err(error) = unregistered.await {
            if !force {
                return Err(error);
            }
            tracing::warn!(%error, mediator = did, "mediator removed without telling it");
        }
        self.parts.store.delete::<Mediator>(&Mediator::key(&mediator.did)).await?;
        self.notify_changed();
        Ok(mediator)
    }

    /// The mediators, each with its state.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn list(&self) -> Result<Vec<MediatorStatus>, StoreError> {
        let all = self.parts.store.list::<Mediator>("", MAX_MEDIATORS).await?;
        let leads = Leading::of(&**self.parts.store.inner()).is_now();
        let each = all.into_iter().map(|(key, mediator)| {
            let known = self.states().get(&key).cloned();
            let unknown = || if leads { MediatorState::default() } else { MediatorState::OtherNode };
            let (state, problem) = known.unwrap_or_else(|| (unknown(), None));
            let wanted = self.parts.own_dids.routed_through(&mediator.routing_dids);
            let registered: HashSet<&String> = mediator.registered.iter().collect();
            let unregistered = wanted.into_iter().filter(|name| !registered.contains(name)).collect();
            MediatorStatus { mediator, state, problem, unregistered }
        });
        Ok(each.collect())
    }

    /// Returns the record of the mediator with this DID, or `None` if the agent does not use it.
    pub(super) async fn find(&self, did: &str) -> Result<Option<Mediator>, StoreError> {
        Ok(self.parts.store.get::<Mediator>(&Mediator::key(did)).await?.map(|(mediator, _)| mediator))
    }

    /// Opens a session with a mediator. Both DIDs may have rotated since the mediator was added. The outbox tells a
    /// mediator of our rotation, as it tells every peer.
    pub(super) async fn open_session(
        &self,
        mediator: &Mediator,
        transport: Transport,
    ) -> Result<Session<'_>, MediationError> {
        let own_did = current_own_did(&self.parts.store, &mediator.own_did).await?;
        let mediator_did = current_peer_did(&self.parts.store, &own_did, &mediator.did).await?;
        let versions = (mediator.coordination, mediator.pickup);
        let mut session =
            Session::open(&self.parts, &mediator_did, &own_did, transport, versions, &self.options).await?;
        session.exchange.routing_dids.clone_from(&mediator.routing_dids);
        Ok(session)
    }

    /// Records the state of the conversation with a mediator, and what the mediator lacks.
    pub(super) fn set_state(&self, did: &str, state: MediatorState, problem: Option<String>) {
        self.states().insert(canonical_did(did).into_owned(), (state, problem));
    }

    /// Forgets the state of a mediator that was removed. `key` is the key of its record.
    pub(super) fn clear_state(&self, key: &str) {
        self.states().remove(key);
    }

    fn states(&self) -> MutexGuard<'_, HashMap<String, (MediatorState, Option<String>)>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
