//! Puts the application's messages into the outbox.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    agent::Agent,
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
use crate::didcomm::Message;

/// How many times a commit is tried if a record is changed meanwhile.
const MAX_ATTEMPTS: usize = 10;
/// The most characters of an id that the application gives a message.
const MAX_ID_CHARS: usize = 64;

/// A message that the application has sent under an id of its own, by that id.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SentRequest {
    /// The SHA-256 of the content, in base64url.
    content: String,
}

impl RecordType for SentRequest {
    const KIND: &'static str = "sent-request";
}

impl SentRequest {
    /// Of everything but `created_time`, which differs if the application makes the same message again.
    fn of(outgoing: &OutgoingMessage) -> Result<Self, AgentError> {
        let invalid = |error: serde_json::Error| AgentError::Invalid(error.to_string());
        let mut value = serde_json::to_value(outgoing).map_err(invalid)?;
        if let Some(message) = value.get_mut("message").and_then(Value::as_object_mut) {
            message.remove("created_time");
        }
        value.sort_all_objects();
        let content = serde_json::to_vec(&value).map_err(invalid)?;
        Ok(Self { content: URL_SAFE_NO_PAD.encode(Sha256::digest(content)) })
    }
}

impl Agent {
    /// Puts a message into the outbox. The message is stored when this returns, and is sent soon after. Returns the id
    /// of the outbox entry.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if the message cannot be sent; [`AgentError::Store`] if it cannot be stored.
    pub async fn send(&self, outgoing: &OutgoingMessage) -> Result<String, AgentError> {
        let own_did = self.check_outgoing(outgoing)?;
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
    /// `created_time`.
    ///
    /// # Errors
    /// [`AgentError::IdTaken`] if another message was sent under this id; [`AgentError::Invalid`] if the message cannot
    /// be sent, or its id is not 1 to 64 lower-case letters, digits, hyphens, full stops, underscores and tildes;
    /// [`AgentError::Store`] if it cannot be stored.
    pub async fn send_once(&self, outgoing: &OutgoingMessage) -> Result<String, AgentError> {
        let id = &outgoing.message.id;
        check_id(id)?;
        let request = SentRequest::of(outgoing)?;
        for _ in 0..MAX_ATTEMPTS {
            match self.store.get::<SentRequest>(id).await? {
                Some((sent, _)) if sent == request => return Ok(id.clone()),
                Some(_) => return Err(AgentError::IdTaken(id.clone())),
                None => {}
            }
            // An entry of a message whose id the agent has chosen.
            if self.outbox_entry(id).await?.is_some() {
                return Err(AgentError::IdTaken(id.clone()));
            }
            let own_did = self.check_outgoing(outgoing)?;
            // A repetition at the same time conflicts.
            if self.put_into_outbox(id, outgoing, own_did.as_deref(), Some(&request)).await? {
                return Ok(id.clone());
            }
        }
        Err(changed_again_and_again())
    }

    /// Checks that a message can be sent. Returns our DID that sends, unless the message is anonymous.
    fn check_outgoing(&self, outgoing: &OutgoingMessage) -> Result<Option<String>, AgentError> {
        let invalid = |reason: &str| Err(AgentError::Invalid(reason.to_owned()));
        let message = &outgoing.message;
        message.pack_plaintext().map_err(|error| AgentError::Invalid(error.to_string()))?;
        // Agents such as this one do not handle it.
        if has_too_long_name(message) {
            return invalid(&format!("the message cannot be sent: {TOO_LONG_NAME}"));
        }
        if message.to.as_ref().is_none_or(|to| to.len() != 1) {
            return invalid("a message must have one recipient: send it to each recipient separately");
        }
        if message.from.is_none() && (outgoing.sign || outgoing.protect_sender) {
            return invalid("an anonymous message cannot be signed, and has no sender to protect");
        }
        let Some(from) = &message.from else { return Ok(None) };
        match self.own_dids.document(from) {
            Some(document) => Ok(Some(document.id().to_owned())),
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
        let send = self.store.send_change_as(id, outgoing, self.options.outbox.message_lifetime)?;
        let mut changes = Vec::new();
        if let (Some(request), Change::Send(entry)) = (request, &send) {
            let expires = entry.expires.saturating_add(self.retention.borrow().history);
            changes.push(self.store.put_change(id, request, 0, Some(expires))?);
        }
        if let Some(own_did) = own_did {
            let peer = outgoing.message.to.as_ref().and_then(|to| to.first()).cloned().unwrap_or_default();
            changes.extend(self.known_peers.changes(own_did, &peer).await?);
        }
        changes.push(send);
        Ok(self.store.commit_changes(changes).await? == CommitOutcome::Committed)
    }
}

/// Checks an id that the application gives a message. Peers compare ids without case, so capitals are refused.
fn check_id(id: &str) -> Result<(), AgentError> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._~".contains(&byte);
    match (1..=MAX_ID_CHARS).contains(&id.len()) && id.bytes().all(is_allowed) {
        true => Ok(()),
        false => Err(AgentError::Invalid(format!(
            "the id must be 1 to {MAX_ID_CHARS} characters: lower-case letters, digits, and -._~"
        ))),
    }
}

fn changed_again_and_again() -> AgentError {
    AgentError::Store(StoreError::Unavailable("the connection is changed again and again".to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_time_and_the_order_of_members_are_no_content() {
        let digest = |body: &str, created: u64, sign: bool| {
            let body = serde_json::from_str(body).unwrap();
            let message = Message::build("an-id".to_owned(), "https://example.org/a/1.0/b", body);
            let message = message.to("did:example:a").created_time(created).finalize();
            SentRequest::of(&OutgoingMessage { message, sign, protect_sender: false }).unwrap()
        };
        let first = digest(r#"{"a": 1, "b": {"c": 2, "d": 3}}"#, 1, false);
        assert_eq!(first, digest(r#"{"b": {"d": 3, "c": 2}, "a": 1}"#, 2, false));
        assert_ne!(first, digest(r#"{"a": 1, "b": {"c": 2, "d": 4}}"#, 1, false));
        assert_ne!(first, digest(r#"{"a": 1, "b": {"c": 2, "d": 3}}"#, 1, true));
        assert_eq!(json!(first)["content"].as_str().unwrap().len(), 43);
    }

    #[test]
    fn ids() {
        for valid in ["a", "order-4711.v_2~", &"0".repeat(64)] {
            assert!(check_id(valid).is_ok(), "{valid}");
        }
        for invalid in ["", "A", "a b", "ä", "a/b", &"0".repeat(65)] {
            assert!(check_id(invalid).is_err(), "{invalid}");
        }
    }
}
