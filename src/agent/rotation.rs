//! Our own changes: a DID that moves to another, a relationship that ends (DIDComm v2.1 "DID Rotation", "Ending a
//! Relationship").
//!
//! What proves them is signed elsewhere, by a custodian with the old DID's key: an agent that was taken over cannot move a DID.
//! Here it is looked at, remembered for each peer, and attached to what is sent until the peer has written to the new DID.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Agent, Intent, NotSent,
    clock::now,
    ours::canonical,
    protocol::{
        Records,
        connections::{CONNECTION, Connection},
        empty::EMPTY,
    },
    store::{Change, Committed, Millis, StoreError},
};
use crate::{
    did::{Document, ResolveError, Resolver},
    didcomm::FromPrior,
};

/// The kind of the records of our DIDs that have moved, by the old DID.
pub const ROTATED: &str = "rotated";

/// That a DID of ours has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// The new DID.
    pub to: String,
    /// When.
    pub time: Millis,
    /// Until when the old one is still read.
    pub until: Millis,
}

/// What came of a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The peers that are told.
    pub peers: Vec<String>,
    /// Until when the old DID is still read.
    pub until: Millis,
}

/// Connections that are moved in one commit.
const PAGE: usize = 500;

impl Agent {
    /// Moves a DID of ours to another one of ours: every peer is told with an empty message from the new DID, and what is sent
    /// from the old one goes out from the new. The old DID is read for `overlap` more milliseconds.
    ///
    /// # Errors
    /// If `from_prior` does not say that, or is not signed by the old DID; or if it cannot be kept. What was moved before an
    /// error stays moved, and the same may be asked again.
    pub async fn rotate(&self, from: &str, to: &str, from_prior: &str, overlap: Millis) -> Result<Moved, NotSent> {
        let wrong = |said: String| NotSent::Message(said);
        let (Some(old), Some(new)) = (self.ours.document(from), self.ours.document(to)) else {
            return Err(wrong("both DIDs have to be ours, and their documents in the state folder".to_owned()));
        };
        let (from, to) = (old.id().to_owned(), new.id().to_owned());
        let claims = self.claims(from_prior).await?;
        let says = |did: &str, claim: Option<&str>| claim.is_some_and(|claim| canonical(claim) == canonical(did));
        if from == to || !says(&from, Some(&claims.iss)) || !says(&to, claims.sub.as_deref()) {
            return Err(wrong(format!("the from_prior does not say that {from} moves to {to}")));
        }
        let until = now().saturating_add(overlap);
        let rotated = Rotated { to: to.clone(), time: now(), until };
        let revision = self.books.read(ROTATED, &from).await?.map_or(0, |(_, revision)| revision);
        if !self.books.put(ROTATED, &from, revision, &rotated).await? {
            return Err(NotSent::Store(StoreError::Unavailable("another rotation is under way".to_owned())));
        }
        let mut peers = Vec::new();
        let mut after = format!("{from} ");
        loop {
            let page = self.books.list::<Connection>(CONNECTION, &after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after.clone_from(last);
            let done = page.iter().any(|(_, connection)| connection.ours != from);
            for (_, connection) in page.into_iter().filter(|(_, it)| it.ours == from && it.ended.is_none()) {
                peers.push(connection.theirs.clone());
                self.move_connection(connection, &to, from_prior).await?;
            }
            if done {
                break;
            }
        }
        // The overlap may be none.
        self.retire().await;
        Ok(Moved { peers, until })
    }

    /// Lets go of a DID of ours that has moved, and whose overlap is over: its keys may be deleted from their tokens then. What
    /// is sealed in the store is opened by the keys of the others from now on.
    ///
    /// # Errors
    /// If it has not moved, is still read, or messages for it wait; or if no other key of ours is ready to open the store.
    pub async fn give_up(&self, did: &str) -> Result<(), NotSent> {
        let wrong = |said: String| NotSent::Message(said);
        let document = self.ours.document(did).ok_or_else(|| wrong(format!("{did} is none of our DIDs")))?;
        let did = document.id();
        let rotated = self.books.read(ROTATED, did).await?.and_then(|(value, _)| serde_json::from_value(value).ok());
        let Some(Rotated { until, .. }) = rotated else {
            return Err(wrong(format!("{did} has not moved to another DID")));
        };
        let left = until.saturating_sub(now());
        if left > 0 {
            return Err(wrong(format!("{did} is read for {} hours more", left / (60 * 60 * 1000) + 1)));
        }
        self.retire().await;
        let waiting = self.books.store().waiting_for(did).await?;
        if waiting > 0 {
            return Err(wrong(format!("messages to {did} wait to be opened: {waiting}")));
        }
        let gone = self.ours.only_of(did);
        self.books.unlock_without(&self.ours, &gone).await.map_err(|said| NotSent::Store(StoreError::Unavailable(said)))
    }

    /// One peer: the connection goes on under the new DID, and a message tells of it.
    async fn move_connection(&self, old: Connection, to: &str, from_prior: &str) -> Result<(), NotSent> {
        let key = Connection::key(to, &old.theirs);
        let (known, revision) = match self.books.read(CONNECTION, &key).await? {
            Some((value, revision)) => (serde_json::from_value::<Connection>(value).ok(), revision),
            None => (None, 0),
        };
        // Done before: a rotation that was interrupted is asked for again.
        if known.is_some_and(|known| known.from_prior.as_deref() == Some(from_prior)) {
            return Ok(());
        }
        let theirs = old.theirs.clone();
        let moved = Connection { ours: to.to_owned(), from_prior: Some(from_prior.to_owned()), ..old };
        let put = self.books.remember(CONNECTION.to_owned(), key, &moved, revision, None)?;
        let message = Self::message(EMPTY, json!({})).from(to).to(&theirs).finalize();
        let (_, send) = self.books.outgoing(&intent(message), self.options.outbox.life)?;
        self.commit_or_busy(vec![put, send]).await
    }

    /// Ends a relationship: the peer is told in a message that has no sender, and nothing is sent to it from then on.
    ///
    /// # Errors
    /// If there is no such relationship, `from_prior` does not say that it ends, or it cannot be kept.
    pub async fn end(&self, ours: &str, theirs: &str, from_prior: &str) -> Result<(), NotSent> {
        let wrong = |said: String| NotSent::Message(said);
        let document = self.ours.document(ours).ok_or_else(|| wrong(format!("{ours} is none of our DIDs")))?;
        let ours = document.id().to_owned();
        let claims = self.claims(from_prior).await?;
        if claims.sub.is_some() || canonical(&claims.iss) != canonical(&ours) {
            return Err(wrong(format!("the from_prior does not say that {ours} ends a relationship")));
        }
        let key = Connection::key(&ours, theirs);
        let Some((value, revision)) = self.books.read(CONNECTION, &key).await? else {
            return Err(wrong(format!("there is no relationship of {ours} with {theirs}")));
        };
        let connection: Connection =
            serde_json::from_value(value).map_err(|error| wrong(format!("the connection is damaged: {error}")))?;
        let theirs = connection.theirs.clone();
        let ended = Connection { ended: Some(now()), ..connection };
        let put = self.books.remember(CONNECTION.to_owned(), key, &ended, revision, None)?;
        // Without `from`, and so anonymous: there is no DID of ours any more in this relationship.
        let message = Self::message(EMPTY, json!({})).to(&theirs).from_prior(from_prior).finalize();
        let (_, send) = self.books.outgoing(&intent(message), self.options.outbox.life)?;
        self.commit_or_busy(vec![put, send]).await
    }

    /// What a proof of ours says, verified by our document as it is now: a resolver may still know the one before a change.
    async fn claims(&self, from_prior: &str) -> Result<FromPrior, NotSent> {
        let verified = FromPrior::unpack(from_prior, &OursFirst(self)).await;
        verified.map(|(claims, _)| claims).map_err(|error| NotSent::Message(error.to_string()))
    }

    async fn commit_or_busy(&self, changes: Vec<Change>) -> Result<(), NotSent> {
        match self.commit(changes).await? {
            Committed::Done => Ok(()),
            _ => Err(NotSent::Store(StoreError::Unavailable("the connection was changed meanwhile".to_owned()))),
        }
    }
}

struct OursFirst<'a>(&'a Agent);

#[async_trait]
impl Resolver for OursFirst<'_> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        match self.0.ours.document(did) {
            Some(document) => Ok(Arc::new(document)),
            None => self.0.resolver.resolve(did).await,
        }
    }
}

fn intent(message: crate::didcomm::Message) -> Intent {
    Intent { message, sign: false, protect_sender: false }
}
