//! Our own rotations: one of our DIDs rotates to another.
//!
//! A custodian signs the proof with the old DID's key outside the agent. So an attacker who controls the agent cannot
//! rotate its DIDs. The agent verifies the proof, remembers it for each peer, and attaches it to every message until
//! the peer has written to the new DID.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    agent::{
        blocked_peers::BlockedPeers,
        canonical_did::canonical_did,
        clock::{Millis, now},
        error::AgentError,
        event::EventKind,
        outgoing_message::{OutgoingMessage, new_message},
        own_dids::OwnDids,
        protocol::{RecordType, connections::Connection, empty::EMPTY},
        sealed_store::SealedStore,
        store::{
            error::StoreError,
            types::{Change, Commit, CommitOutcome, OWN_ROTATION_KIND, Stranger},
        },
    },
    did::{Document, ResolveError, Resolver},
    didcomm::FromPrior,
};

/// The record that one of our DIDs has rotated. Its key is the old DID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRotation {
    /// The new DID.
    pub to: String,
    /// When the DID rotated, in milliseconds since 1970.
    pub time: Millis,
    /// The time until which messages to the old DID are read, in milliseconds since 1970.
    pub until: Millis,
}

impl RecordType for OwnRotation {
    const KIND: &'static str = OWN_ROTATION_KIND;
}

/// The result of a rotation of one of our DIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationOutcome {
    /// The DIDs of the peers that are told.
    pub peers: Vec<String>,
    /// The time until which messages to the old DID are read, in milliseconds since 1970.
    pub until: Millis,
}

/// How many records are read from the store at once.
const PAGE_SIZE: usize = 500;
const HOUR: Millis = 60 * 60 * 1000;

/// Rotates our DIDs.
pub(in crate::agent) struct OwnRotations {
    pub store: Arc<SealedStore>,
    pub own_dids: Arc<OwnDids>,
    pub resolver: Arc<dyn Resolver>,
    pub blocked: Arc<BlockedPeers>,
    /// How long the agent tries to send a message to a peer, in milliseconds.
    pub message_lifetime: Millis,
    /// Called when the set of retired DIDs has changed.
    pub on_retired: Box<dyn Fn() + Send + Sync>,
}

impl OwnRotations {
    /// Rotates one of our DIDs to another. Every peer gets an empty message from the new DID. Messages that are sent
    /// from the old DID go out from the new DID. Messages to the old DID are read for `overlap` more milliseconds.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if a DID is not ours, or `from_prior` does not prove the rotation or is not signed by
    /// the old DID; [`AgentError::Store`] if the store fails. Connections that were moved before an error stay moved,
    /// and the call can be repeated.
    pub async fn rotate(
        &self,
        from: &str,
        to: &str,
        from_prior: &str,
        overlap: Millis,
    ) -> Result<RotationOutcome, AgentError> {
        let (Some(old), Some(new)) = (self.own_dids.document(from), self.own_dids.document(to)) else {
            return Err(invalid("both DIDs must be ours, with their documents in the state folder"));
        };
        let (from, to) = (old.id().to_owned(), new.id().to_owned());
        let claims = self.verify(from_prior).await?;
        let is_same =
            |did: &str, claim: Option<&str>| claim.is_some_and(|claim| canonical_did(claim) == canonical_did(did));
        if from == to || !is_same(&from, Some(&claims.iss)) || !is_same(&to, claims.sub.as_deref()) {
            return Err(invalid(format!("the from_prior does not say that {from} rotates to {to}")));
        }
        if let Some((OwnRotation { to: later, .. }, _)) = self.store.get::<OwnRotation>(&to).await? {
            let reason = "peers ignore messages from it (v2.1 \"DID Rotation\")";
            return Err(invalid(format!("{to} has rotated to {later} before: {reason}")));
        }
        let until = now().saturating_add(overlap);
        let rotation = OwnRotation { to: to.clone(), time: now(), until };
        let (before, revision) = self.store.get::<OwnRotation>(&from).await?.unzip();
        let mut changes = vec![self.store.put_change(&from, &rotation, revision.unwrap_or(0), None)?];
        // The call may be repeated, to complete it or to change the overlap.
        if before.is_none_or(|before| before.to != to) {
            let data = || json!({ "from": from, "to": to, "until": until });
            changes.extend(self.store.recorded_events().change(EventKind::DidRotated, data));
        }
        if self.store.commit_changes(changes).await? != CommitOutcome::Committed {
            return Err(AgentError::Store(StoreError::Unavailable("another rotation is under way".to_owned())));
        }
        let peers = self.move_connections(&from, &to, from_prior).await?;
        // The overlap may be zero.
        self.retire_expired().await;
        Ok(RotationOutcome { peers, until })
    }

    /// Moves every connection of `from` that has not ended to `to`. Returns the peers.
    async fn move_connections(&self, from: &str, to: &str, from_prior: &str) -> Result<Vec<String>, AgentError> {
        let mut peers = Vec::new();
        let mut after = Connection::key_prefix(from);
        loop {
            let page = self.store.list::<Connection>(&after, PAGE_SIZE).await?;
            let Some((last, _)) = page.last() else { break };
            after.clone_from(last);
            let is_last_page = page.iter().any(|(_, connection)| connection.own_did != from);
            for (_, connection) in page.into_iter().filter(|(_, it)| it.own_did == from && it.ended.is_none()) {
                if !self.blocked.contains(&connection.peer_did) {
                    peers.push(connection.peer_did.clone());
                }
                self.move_connection(connection, to, from_prior).await?;
            }
            if is_last_page {
                break;
            }
        }
        Ok(peers)
    }

    /// Moves one connection to the new DID, and sends the peer a message with the proof.
    async fn move_connection(&self, old: Connection, to: &str, from_prior: &str) -> Result<(), AgentError> {
        let key = Connection::key(to, &old.peer_did);
        let existing = self.store.get::<Connection>(&key).await?;
        // The connection was moved before, by an interrupted rotation that is now repeated.
        if existing.as_ref().is_some_and(|(existing, _)| existing.from_prior.as_deref() == Some(from_prior)) {
            return Ok(());
        }
        let revision = existing.map_or(0, |(_, revision)| revision);
        let peer = old.peer_did.clone();
        let previous_own_did = Some(old.own_did.clone());
        let moved =
            Connection { own_did: to.to_owned(), from_prior: Some(from_prior.to_owned()), previous_own_did, ..old };
        // A stranger stays one.
        let did = canonical_did(&peer).into_owned();
        let stranger = moved.stranger.then_some(Stranger { did, created: None });
        let put = match self.store.put_change(&key, &moved, revision, None)? {
            Change::Put(record) => Change::Remember(record),
            other => other,
        };
        let mut changes = vec![put];
        // A blocked peer learns of the rotation by the next message, after it is unblocked.
        if !self.blocked.contains(&peer) {
            let message = new_message(EMPTY, json!({})).from(to).to(&peer).finalize();
            changes.push(self.store.send_change(&OutgoingMessage::new(message), self.message_lifetime)?);
        }
        self.commit(Commit { changes, stranger, ..Commit::default() }).await
    }

    /// Gives up a DID of ours that has rotated and whose overlap is over. Afterwards the DID's keys may be deleted from
    /// their tokens: the store's key is no longer wrapped for them.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if the DID has not rotated, its overlap is not over, or messages to it wait to be
    /// opened; [`AgentError::Store`] if no other key of ours is ready to open the store, or the store fails.
    pub async fn give_up(&self, did: &str) -> Result<(), AgentError> {
        let document = self.own_dids.document(did).ok_or_else(|| invalid(format!("{did} is not one of our DIDs")))?;
        let did = document.id();
        let Some((OwnRotation { until, .. }, _)) = self.store.get::<OwnRotation>(did).await? else {
            return Err(invalid(format!("{did} has not rotated to another DID")));
        };
        let left = until.saturating_sub(now());
        if left > 0 {
            return Err(invalid(format!("messages to {did} are read for {} more hours", left / HOUR + 1)));
        }
        self.retire_expired().await;
        let pending = self.store.inner().pending_count(did).await?;
        if pending > 0 {
            return Err(invalid(format!("{pending} messages to {did} wait to be opened")));
        }
        let keys = self.own_dids.keys_of_only(did);
        let unlocked = self.store.unlock_excluding(&self.own_dids, &keys).await;
        unlocked.map_err(|reason| AgentError::Store(StoreError::Unavailable(reason)))
    }

    /// Stops reading messages to DIDs that have rotated and whose overlap is over.
    pub async fn retire_expired(&self) {
        match self.expired().await {
            Ok(expired) => {
                if self.own_dids.retire(expired) {
                    (self.on_retired)();
                }
            }
            // The store is probably still sealed. The caller tries again.
            Err(error) => tracing::debug!(%error, "retired DIDs not read yet"),
        }
    }

    /// Returns the DIDs that have rotated and whose overlap is over.
    async fn expired(&self) -> Result<HashSet<String>, StoreError> {
        let (mut expired, mut after) = (HashSet::new(), String::new());
        loop {
            let page = self.store.list::<OwnRotation>(&after, PAGE_SIZE).await?;
            let is_last_page = page.len() < PAGE_SIZE;
            if let Some((last, _)) = page.last() {
                after.clone_from(last);
            }
            expired.extend(page.into_iter().filter(|(_, rotation)| rotation.until <= now()).map(|(did, _)| did));
            if is_last_page {
                return Ok(expired);
            }
        }
    }

    /// Verifies a `from_prior`. The documents of our DIDs are taken from this agent: a resolver may have cached an
    /// older version.
    pub(super) async fn verify(&self, from_prior: &str) -> Result<FromPrior, AgentError> {
        let verified = FromPrior::unpack(from_prior, &OwnDocumentsFirst(self)).await;
        verified.map(|(claims, _)| claims).map_err(|error| invalid(error.to_string()))
    }

    pub(super) async fn commit(&self, commit: Commit) -> Result<(), AgentError> {
        match self.store.commit(commit).await? {
            CommitOutcome::Committed => Ok(()),
            _ => Err(AgentError::Store(StoreError::Unavailable("the connection was changed meanwhile".to_owned()))),
        }
    }
}

pub(super) fn invalid(reason: impl Into<String>) -> AgentError {
    AgentError::Invalid(reason.into())
}

/// Resolves our DIDs from their own documents, and all others by the resolver.
struct OwnDocumentsFirst<'a>(&'a OwnRotations);

#[async_trait]
impl Resolver for OwnDocumentsFirst<'_> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        match self.0.own_dids.document(did) {
            Some(document) => Ok(Arc::new(document)),
            None => self.0.resolver.resolve(did).await,
        }
    }
}
