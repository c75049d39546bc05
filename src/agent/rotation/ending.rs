//! Ends a relationship from our side (v2.1 "Ending a Relationship"), and resumes one.
//!
//! A custodian signs the proof of an end, as of a rotation. Without a proof the relationship ends here alone: the peer is not
//! told, and no key signs.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    current::current_own_did,
    own::{OwnRotations, invalid},
};
use crate::{
    agent::{
        canonical_did::canonical_did,
        clock::now,
        error::AgentError,
        event::EventKind,
        outgoing_message::{OutgoingMessage, new_message},
        protocol::{
            connections::{Connection, EndedBy},
            empty::EMPTY,
        },
        store::types::{Change, Commit},
    },
    encoding::to_base64url,
};

impl OwnRotations {
    /// Ends a relationship: nothing is sent to the peer afterwards, and its messages are ignored. With a `from_prior` that
    /// proves the end, the peer is told by a message without a sender.
    ///
    /// # Errors
    /// [`AgentError::NoConnection`] if there is no such relationship; [`AgentError::Invalid`] if `own_did` is not ours, or
    /// `from_prior` does not prove the end; [`AgentError::Store`] if the store fails.
    pub async fn end_relationship(
        &self,
        own_did: &str,
        peer_did: &str,
        from_prior: Option<&str>,
    ) -> Result<(), AgentError> {
        let document = self.own_dids.document(own_did);
        let document = document.ok_or_else(|| invalid(format!("{own_did} is not one of our DIDs")))?;
        let own_did = document.id();
        if let Some(from_prior) = from_prior {
            let claims = self.verify(from_prior).await?;
            if claims.sub.is_some() || canonical_did(&claims.iss) != canonical_did(own_did) {
                return Err(invalid(format!("the from_prior does not say that {own_did} ends a relationship")));
            }
        }
        let key = Connection::key(own_did, peer_did);
        let (connection, revision) = self.connection(own_did, peer_did).await?;
        let peer = connection.peer_did.clone();
        let is_new = connection.ended.is_none();
        let peer_told = connection.peer_told || from_prior.is_some();
        let ended = Some(connection.ended.unwrap_or_else(now));
        let ended = Connection { ended, ended_by: Some(EndedBy::Us), peer_told, ..connection };
        let mut changes = vec![Change::Keep(peer.clone()), self.store.put_change(&key, &ended, revision, None)?];
        if is_new {
            let data = || json!({ "ours": own_did, "theirs": peer, "by": EndedBy::Us });
            changes.extend(self.store.recorded_events().change(EventKind::ConnectionEnded, data));
        }
        if let Some(from_prior) = from_prior {
            // The message has no `from`, and so is anoncrypted: we no longer have a DID in this relationship.
            let message = new_message(EMPTY, json!({})).to(&peer).from_prior(from_prior).finalize();
            // The same proof is sent once to a peer, however often the request is repeated.
            let id = to_base64url(Sha256::digest(format!("{from_prior} {peer}")));
            if self.store.inner().outbox_entry(&id).await?.is_none() {
                let message = OutgoingMessage::new(message);
                changes.push(self.store.send_change_as(&id, &message, self.message_lifetime, false)?);
            }
        }
        self.commit(Commit { changes, ..Commit::default() }).await
    }

    /// Takes up a relationship again that has ended. Returns it as it was. One that has not ended stays as it is.
    ///
    /// # Errors
    /// [`AgentError::NoConnection`] if there is no such relationship; [`AgentError::Invalid`] if our DID has rotated since;
    /// [`AgentError::Store`] if the store fails.
    pub async fn resume_relationship(&self, own_did: &str, peer_did: &str) -> Result<Connection, AgentError> {
        let own_did = self.own_dids.document(own_did).map_or_else(|| own_did.to_owned(), |it| it.id().to_owned());
        let (connection, revision) = self.connection(&own_did, peer_did).await?;
        if connection.ended.is_none() {
            return Ok(connection);
        }
        let current = current_own_did(&self.store, &own_did).await?;
        if current != own_did {
            let reason = "our DID in the connection has rotated since it ended: begin a new connection from";
            return Err(invalid(format!("{reason} {current}")));
        }
        // The proof of an end has its time in seconds: one of this second was made before.
        let resumed = Some((now() / 1000 + 1) * 1000);
        let open = Connection { ended: None, ended_by: None, peer_told: false, resumed, ..connection.clone() };
        let put = self.store.put_change(&Connection::key(&own_did, peer_did), &open, revision, None)?;
        self.commit(Commit { changes: vec![put], ..Commit::default() }).await?;
        Ok(connection)
    }

    async fn connection(&self, own_did: &str, peer_did: &str) -> Result<(Connection, i64), AgentError> {
        let found = self.store.get::<Connection>(&Connection::key(own_did, peer_did)).await?;
        found.ok_or_else(|| AgentError::NoConnection { own_did: Some(own_did.to_owned()), peer: peer_did.to_owned() })
    }
}
