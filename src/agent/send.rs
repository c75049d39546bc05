//! Puts the application's messages into the outbox.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    agent::Agent,
    caller_id::check_id,
    canonical_did::canonical_did,
    error::AgentError,
    outgoing_message::OutgoingMessage,
    protocol::{
        RecordType,
        text::{TOO_LONG_NAME, has_too_long_name},
    },
    store::{
        StoreError,
        types::{Change, CommitOutcome},
    },
};
use crate::{
    did::{did_of, short_name_beginning},
    didcomm::Message,
    encoding::to_base64url,
};

/// How many times a commit is tried if a record is changed meanwhile.
const MAX_ATTEMPTS: usize = 10;

/// A message that the application has sent under an id of its own, by that id.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SentRequest {
    /// The SHA-256 of the content, in base64url.
    content: String,
}

impl RecordType for SentRequest {
    const KIND: &'static str = "sent-request";
}

impl SentRequest {
    /// Of everything but `created_time`, which differs if the application makes the same message again. Both forms of a
    /// did:peer:4 are one recipient: who answers a message again may have nothing but the short form by then.
    pub fn of(outgoing: &OutgoingMessage) -> Result<Self, AgentError> {
        let invalid = |error: serde_json::Error| AgentError::Invalid(error.to_string());
        let mut value = serde_json::to_value(outgoing).map_err(invalid)?;
        if let Some(message) = value.get_mut("message").and_then(Value::as_object_mut) {
            message.remove("created_time");
            for to in message.get_mut("to").and_then(Value::as_array_mut).into_iter().flatten() {
                *to = to.as_str().map(canonical_did).unwrap_or_default().into();
            }
        }
        value.sort_all_objects();
        let content = serde_json::to_vec(&value).map_err(invalid)?;
        Ok(Self { content: to_base64url(Sha256::digest(content)) })
    }
}

impl Agent {
    /// Puts a message into the outbox. The message is stored when this returns, and is sent soon after. Returns the id
    /// of the outbox entry.
    ///
    /// A message without `from`, unless it is [anonymous](OutgoingMessage::anonymous), is from our DID in the connection with
    /// the recipient; from the newest of our DIDs if there is no connection.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if the message cannot be sent; [`AgentError::NoEndpoint`] if the recipient has neither an endpoint
    /// nor a connection with us; [`AgentError::NoDid`] if the message has no `from`, and we have no DID; [`AgentError::Store`] if
    /// it cannot be stored.
    pub async fn send(&self, outgoing: &OutgoingMessage) -> Result<String, AgentError> {
        let outgoing = &*self.with_sender(outgoing).await?;
        let own_did = self.check_outgoing(outgoing)?;
        self.check_recipient(outgoing, own_did.as_deref()).await?;
        for _ in 0..MAX_ATTEMPTS {
            let id = Message::new_id();
            if self.put_into_outbox(&id, outgoing, own_did.as_deref(), None).await? {
                return Ok(id);
            }
        }
        Err(changed_again_and_again())
    }

    /// Like [`Agent::send`], and can be repeated: a message with the same id and the same content is put into the outbox
    /// once, however often this is called. So a caller that got no answer, or has lost it, calls again. The id of the
    /// message becomes the id of the outbox entry, and is known at least as long as the entry. The content is all but
    /// `created_time`, and the sender only if the caller names it.
    ///
    /// # Errors
    /// [`AgentError::IdTaken`] if another message was sent under this id; [`AgentError::Invalid`] if the message cannot
    /// be sent, or its id is not 1 to 64 lower-case letters, digits, hyphens, full stops, underscores and tildes; the other
    /// errors of [`Agent::send`].
    pub async fn send_once(&self, outgoing: &OutgoingMessage) -> Result<String, AgentError> {
        let id = &outgoing.message.id;
        check_id(id)?;
        let request = SentRequest::of(outgoing)?;
        for _ in 0..MAX_ATTEMPTS {
            if self.was_sent(id, &request).await? {
                return Ok(id.clone());
            }
            let outgoing = &*self.with_sender(outgoing).await?;
            let own_did = self.check_outgoing(outgoing)?;
            self.check_recipient(outgoing, own_did.as_deref()).await?;
            // A repetition at the same time conflicts.
            if self.put_into_outbox(id, outgoing, own_did.as_deref(), Some(&request)).await? {
                return Ok(id.clone());
            }
        }
        Err(changed_again_and_again())
    }

    /// Whether the same request was made before.
    ///
    /// # Errors
    /// [`AgentError::IdTaken`] if another message was sent under this id; [`AgentError::Store`] if the store fails.
    pub(super) async fn was_sent(&self, id: &str, request: &SentRequest) -> Result<bool, AgentError> {
        let taken = || Err(AgentError::IdTaken(id.to_owned()));
        match self.store.get::<SentRequest>(id).await? {
            Some((sent, _)) if sent == *request => Ok(true),
            Some(_) => taken(),
            // An entry of a message whose id the agent has chosen.
            None if self.outbox_entry(id).await?.is_some() => taken(),
            None => Ok(false),
        }
    }

    /// Checks that a message can be sent. Returns our DID that sends, unless the message is anonymous.
    pub(super) fn check_outgoing(&self, outgoing: &OutgoingMessage) -> Result<Option<String>, AgentError> {
        let invalid = |reason: &str| Err(AgentError::Invalid(reason.to_owned()));
        let message = &outgoing.message;
        if let Some(to) = message.to.iter().flatten().find(|to| did_of(to) != Some(to)) {
            let hint = match did_of(to) {
                Some(_) => ", but a DID URL. Name the DID alone, without path, query and fragment",
                None if short_name_beginning(to).is_some() => ": it is the short name of one. Name the whole DID",
                None => "",
            };
            return invalid(&format!("{to:?} is not a DID{hint}"));
        }
        message.check_sendable().map_err(|error| AgentError::Invalid(error.to_string()))?;
        // Agents such as this one do not handle it.
        if has_too_long_name(message) {
            return invalid(&format!("the message cannot be sent: {TOO_LONG_NAME}"));
        }
        if message.to.as_ref().is_none_or(|to| to.len() != 1) {
            return invalid("a message must have one recipient: send it to each recipient separately");
        }
        if let Some(peer) = message.to.iter().flatten().find(|peer| self.blocked.contains(peer)) {
            return Err(AgentError::Blocked(peer.clone()));
        }
        if message.from.is_none() && (outgoing.sign || outgoing.protect_sender) {
            return invalid("an anonymous message cannot be signed, and has no sender to protect");
        }
        let Some(from) = &message.from else { return Ok(None) };
        match self.own_dids.find_did(from) {
            Some(own_did) => Ok(Some(own_did)),
            None => invalid(&format!("{from} is not one of our DIDs")),
        }
    }

    /// Puts a checked message into the outbox, with the record of the request. Returns false if a record was changed
    /// meanwhile.
    async fn put_into_outbox(
        &self,
        id: &str,
        outgoing: &OutgoingMessage,
        own_did: Option<&str>,
        request: Option<&SentRequest>,
    ) -> Result<bool, AgentError> {
        let mut changes = self.peer_changes(outgoing, own_did).await?;
        changes.extend(self.message_changes(id, outgoing, request)?);
        Ok(self.store.commit_changes(changes).await? == CommitOutcome::Committed)
    }

    /// Returns the changes that make the peer of a message known. None for most messages.
    pub(super) async fn peer_changes(
        &self,
        outgoing: &OutgoingMessage,
        own_did: Option<&str>,
    ) -> Result<Vec<Change>, AgentError> {
        let Some(own_did) = own_did else { return Ok(Vec::new()) };
        let peer = outgoing.message.to.as_ref().and_then(|to| to.first()).cloned().unwrap_or_default();
        self.known_peers.changes(own_did, &peer).await
    }

    /// Returns the changes that put a message into the outbox, with the record of the request.
    pub(super) fn message_changes(
        &self,
        id: &str,
        outgoing: &OutgoingMessage,
        request: Option<&SentRequest>,
    ) -> Result<Vec<Change>, AgentError> {
        let send = self.store.send_change_as(id, outgoing, self.options.outbox.message_lifetime, true)?;
        let mut changes = Vec::new();
        if let (Some(request), Change::Send(entry)) = (request, &send) {
            let expires = entry.expires.saturating_add(self.retention.borrow().history);
            changes.push(self.store.put_change(id, request, 0, Some(expires))?);
        }
        changes.push(send);
        Ok(changes)
    }
}

pub(super) fn changed_again_and_again() -> AgentError {
    AgentError::Store(StoreError::Unavailable("the connection is changed again and again".to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::did::{
        Document,
        peer::{Peer4, create_4},
    };

    #[test]
    fn the_time_and_the_order_of_members_are_no_content() {
        let digest = |body: &str, created: u64, sign: bool| {
            let body = serde_json::from_str(body).unwrap();
            let message = Message::build("an-id".to_owned(), "https://example.org/a/1.0/b", body);
            let message = message.to("did:example:a").created_time(created).finalize();
            SentRequest::of(&OutgoingMessage { sign, ..OutgoingMessage::new(message) }).unwrap()
        };
        let first = digest(r#"{"a": 1, "b": {"c": 2, "d": 3}}"#, 1, false);
        assert_eq!(first, digest(r#"{"b": {"d": 3, "c": 2}, "a": 1}"#, 2, false));
        assert_ne!(first, digest(r#"{"a": 1, "b": {"c": 2, "d": 4}}"#, 1, false));
        assert_ne!(first, digest(r#"{"a": 1, "b": {"c": 2, "d": 3}}"#, 1, true));
        assert_eq!(json!(first)["content"].as_str().unwrap().len(), 43);
    }

    #[test]
    fn both_forms_of_a_peer_4_are_one_recipient() {
        let Peer4 { long, short } = create_4(&Document::builder().input()).unwrap();
        let to = |did: &str| {
            let message =
                Message::build("an-id".to_owned(), "https://example.org/a/1.0/b", json!({})).to(did).finalize();
            SentRequest::of(&OutgoingMessage::new(message)).unwrap()
        };
        assert_eq!(to(long.id()), to(short.id()));
        assert_ne!(to(short.id()), to("did:example:a"));
    }
}
