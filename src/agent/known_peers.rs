//! Peers to whom the application has written. They are no strangers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quick_cache::sync::Cache;

use super::{
    canonical_did::canonical_did,
    clock::now,
    error::AgentError,
    event::EventKind,
    protocol::{
        connections::Connection,
        peer_document::{PeerDocument, is_long_form_of},
    },
    rotation::current::{current_own_did, current_peer_did},
    sealed_store::SealedStore,
    store::{Change, Delivery, StoreError},
};

/// How many connections are remembered as known, so that the store is not asked for each message.
const REMEMBERED: usize = 10_000;

/// Tells known peers from strangers when the application writes to them.
pub struct KnownPeers {
    store: Arc<SealedStore>,
    /// The keys of connections that are known to be kept, and whether the peer's long form is kept too.
    recent: Cache<String, bool>,
    /// How often everything was forgotten.
    forgotten: AtomicU64,
}

impl KnownPeers {
    pub fn new(store: Arc<SealedStore>) -> Self {
        Self { store, recent: Cache::new(REMEMBERED), forgotten: AtomicU64::new(0) }
    }

    /// Whether a message from one of our DIDs to this name of a peer was sent lately, and the connection has not ended.
    pub fn is_remembered(&self, own_did: &str, peer_did: &str) -> bool {
        self.recent.get(&Connection::key(own_did, peer_did)).is_some()
    }

    /// Returns the changes that make a peer known, to commit with a message that one of our DIDs sends to it. Returns
    /// no changes if the peer is known.
    ///
    /// # Errors
    /// [`AgentError::ConnectionEnded`] if the relationship has ended; [`AgentError::Store`] if the store fails or is sealed.
    pub async fn changes(&self, own_did: &str, peer_did: &str) -> Result<Vec<Change>, AgentError> {
        let name = Connection::key(own_did, peer_did);
        // The application may name the long form later than the short form.
        let names_long_form = canonical_did(peer_did).len() != peer_did.len();
        if self.recent.get(&name).is_some_and(|has_long_form| has_long_form || !names_long_form) {
            return Ok(Vec::new());
        }
        let forgotten = self.forgotten.load(Ordering::SeqCst);
        let own_did = current_own_did(&self.store, own_did).await?;
        let peer = current_peer_did(&self.store, &own_did, &canonical_did(peer_did)).await?;
        let key = Connection::key(&own_did, &peer);
        let (old, revision) = self.store.get::<Connection>(&key).await?.unzip();
        if let Some(old) = &old {
            old.check_open()?;
        }
        let mut changes = Vec::new();
        let mut new = old.clone().unwrap_or_else(|| Connection::begun_by_us(&own_did, &peer, now()));
        let is_made = new.become_known(now());
        if !new.long_form_kept && is_long_form_of(peer_did, &peer) {
            changes.extend(self.keep_long_form(peer_did).await?);
            new.long_form_kept = true;
        }
        if old.as_ref() == Some(&new) {
            // Nothing has to be kept any more. The next messages need not ask the store.
            self.recent.insert(name.clone(), new.long_form_kept);
            if self.forgotten.load(Ordering::SeqCst) != forgotten {
                // The connection may have ended since it was read.
                self.recent.remove(&name);
            }
            return Ok(changes);
        }
        if is_made {
            changes.extend(self.store.recorded_events().change(EventKind::ConnectionMade, || new.made_data()));
        }
        // To another DID of ours the peer may have written as a stranger.
        changes.push(Change::Keep(canonical_did(&peer).into_owned()));
        changes.push(self.store.put_change(&key, &new, revision.unwrap_or(0), None)?);
        Ok(changes)
    }

    /// Whether the sender of a message is a stranger by now, or is not authenticated.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails or is sealed.
    pub async fn is_of_stranger(&self, message: &Delivery) -> Result<bool, StoreError> {
        if message.sender.is_empty() {
            return Ok(true);
        }
        let own_did = current_own_did(&self.store, &message.recipient).await?;
        let peer = current_peer_did(&self.store, &own_did, &canonical_did(&message.sender)).await?;
        let connection = self.store.get::<Connection>(&Connection::key(&own_did, &peer)).await?;
        Ok(connection.is_none_or(|(connection, _)| connection.stranger))
    }

    /// Forgets what is remembered without the store, after connections were ended or deleted.
    pub fn forget(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.recent.clear();
    }

    /// Returns the change that keeps the long form of a did:peer:4, if it is not kept yet.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails or is sealed.
    pub async fn keep_long_form(&self, did: &str) -> Result<Option<Change>, StoreError> {
        let short = &*canonical_did(did);
        if !is_long_form_of(did, short) || self.store.get::<PeerDocument>(short).await?.is_some() {
            return Ok(None);
        }
        self.store.put_change(short, &PeerDocument { long: did.to_owned() }, 0, None).map(Some)
    }
}
