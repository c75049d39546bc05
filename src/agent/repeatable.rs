//! Requests other than messages that the application may repeat, by an id of its own: the first answer is kept, and a repetition
//! gets it again. For messages see [`Agent::send_once`](super::Agent::send_once).

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    caller_id::check_id,
    clock::{Millis, now},
    error::AgentError,
    protocol::RecordType,
    sealed_store::SealedStore,
    store::{StoreError, types::Change},
};
use crate::encoding::to_base64url;

/// A request that the application has made under an id of its own.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AnsweredRequest {
    /// The SHA-256 of the request, in base64url.
    content: String,
    /// What the agent needs to answer again.
    answer: Value,
}

impl RecordType for AnsweredRequest {
    const KIND: &'static str = "answered-request";
}

/// A request that can be repeated.
pub(super) struct Repeatable<'a> {
    store: &'a SealedStore,
    id: &'a str,
    key: String,
    content: String,
    /// How long the answer is kept, in milliseconds.
    lifetime: Millis,
}

impl<'a> Repeatable<'a> {
    /// Makes a request of the kind `operation`. Each kind has ids of its own.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if the id is malformed.
    pub fn new(
        store: &'a SealedStore,
        operation: &str,
        id: &'a str,
        request: &impl Serialize,
        lifetime: Millis,
    ) -> Result<Self, AgentError> {
        check_id(id)?;
        let request = serde_json::to_vec(request).map_err(|error| AgentError::Invalid(error.to_string()))?;
        let content = to_base64url(Sha256::digest(request));
        Ok(Self { store, id, key: format!("{operation} {id}"), content, lifetime })
    }

    /// The answer to the same request, if it was made before.
    ///
    /// # Errors
    /// [`AgentError::IdTaken`] if another request was made under this id; [`AgentError::Store`] if the store fails.
    pub async fn answer<T: DeserializeOwned>(&self) -> Result<Option<T>, AgentError> {
        let Some((before, _)) = self.store.get::<AnsweredRequest>(&self.key).await? else { return Ok(None) };
        if before.content != self.content {
            return Err(AgentError::IdTaken(self.id.to_owned()));
        }
        let damaged = |error| StoreError::Unusable(format!("contains a damaged {}: {error}", AnsweredRequest::KIND));
        Ok(Some(serde_json::from_value(before.answer).map_err(damaged)?))
    }

    /// Returns the change that keeps the answer. It conflicts if the request was answered meanwhile.
    ///
    /// # Errors
    /// [`AgentError::Store`] while the store is sealed.
    pub fn change(&self, answer: &impl Serialize) -> Result<Change, AgentError> {
        let answer = serde_json::to_value(answer).map_err(|error| AgentError::Invalid(error.to_string()))?;
        let answered = AnsweredRequest { content: self.content.clone(), answer };
        Ok(self.store.put_change(&self.key, &answered, 0, Some(now().saturating_add(self.lifetime)))?)
    }
}
