//! Connections (DIDComm v2.1 "Connections"): the relationships of our DIDs with peers.

use serde::{Deserialize, Serialize};

use super::{
    problem::HandleError, received::Received, record::RecordType, text::truncate_to, transaction::Transaction,
};
use crate::agent::{canonical_did::canonical_did, clock::Millis};

/// How many languages of a peer are remembered.
const MAX_LANGS: usize = 16;
/// The longest language tag that is remembered, in bytes (RFC 5646 section 4.4.1).
const MAX_LANG: usize = 35;

/// The relationship of one of our DIDs with one DID of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Our DID.
    #[serde(rename = "ours")]
    pub own_did: String,
    /// The peer's DID, in the short form for a did:peer:4.
    #[serde(rename = "theirs")]
    pub peer_did: String,
    /// When the connection began, in milliseconds since 1970.
    pub since: Millis,
    /// The record key of the invitation that began the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
    /// Our name for the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The languages that the peer reads, best first: a default for later threads (v2.1 "accept-lang header").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_lang: Option<Vec<String>>,
    /// When the relationship ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Millis>,
    /// The peer's earlier DIDs, oldest first.
    #[serde(rename = "previous", default, skip_serializing_if = "Vec::is_empty")]
    pub previous_dids: Vec<String>,
    /// The proof of our own DID rotation: a JWT that goes with each message until the peer has written to the new DID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_prior: Option<String>,
}

impl RecordType for Connection {
    const KIND: &'static str = "connection";
}

impl Connection {
    /// Makes a connection that begins at `since`.
    pub fn new(own_did: &str, peer_did: &str, since: Millis) -> Self {
        Self {
            own_did: own_did.to_owned(),
            peer_did: canonical_did(peer_did).to_owned(),
            since,
            invitation: None,
            label: None,
            accept_lang: None,
            ended: None,
            previous_dids: Vec::new(),
            from_prior: None,
        }
    }

    /// Returns the key of a connection's record.
    pub fn key(own_did: &str, peer_did: &str) -> String {
        format!("{}{}", Self::key_prefix(own_did), canonical_did(peer_did))
    }

    /// Returns the prefix of the keys of all connections of one of our DIDs.
    pub fn key_prefix(own_did: &str) -> String {
        format!("{own_did} ")
    }

    /// Returns the peer's DID in a connection's key.
    pub fn peer_did_of_key(key: &str) -> Option<&str> {
        Some(key.split_once(' ')?.1)
    }

    /// Writes the connection's record.
    pub(in crate::agent) fn put(&self, tx: &mut Transaction<'_>) {
        tx.put(&Self::key(&self.own_did, &self.peer_did), self, None);
    }
}

/// Returns the connection of a message's sender with the DID that the message was sent to.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub async fn find_connection(received: &Received, tx: &mut Transaction<'_>) -> Result<Option<Connection>, HandleError> {
    let Some(sender) = &received.sender else { return Ok(None) };
    tx.get(&Connection::key(&received.recipient, sender)).await
}

/// Creates the connection at the first message of a sender, and updates it from the message's headers. Writes nothing
/// if nothing has changed.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub async fn update_connection(received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
    let Some(sender) = &received.sender else { return Ok(()) };
    let old = find_connection(received, tx).await?;
    let mut new = old.clone().unwrap_or_else(|| Connection::new(&received.recipient, sender, received.time));
    if let Some(langs) = &received.message.accept_lang {
        let langs = langs.iter().take(MAX_LANGS).map(|lang| truncate_to(lang, MAX_LANG).to_owned());
        new.accept_lang = Some(langs.collect());
    }
    // "The from_prior attribute MUST be included in messages sent until the party rotating receives a message sent to
    // the new DID": this is such a message.
    new.from_prior = None;
    if old.as_ref() != Some(&new) {
        new.put(tx);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::{
        empty::EMPTY,
        testing::{ALICE, Harness, NOW, OWN_DID, Outcome, anonymous, from, from_with},
    };

    fn connection_with(harness: &Harness, peer: &str) -> Option<Connection> {
        harness.record(&Connection::key(OWN_DID, peer))
    }

    async fn receive(harness: &Harness, received: &Received) -> Outcome {
        let mut tx = harness.begin(received);
        update_connection(received, &mut tx).await.unwrap();
        harness.commit(tx)
    }

    #[tokio::test]
    async fn a_connection_is_created_once() {
        let harness = Harness::default();
        assert_eq!(receive(&harness, &from(ALICE, EMPTY, json!({}))).await.written, [Connection::KIND]);
        assert_eq!(connection_with(&harness, ALICE), Some(Connection::new(OWN_DID, ALICE, NOW)));
        assert!(receive(&harness, &from(ALICE, EMPTY, json!({}))).await.written.is_empty());
        assert!(receive(&harness, &anonymous(EMPTY, json!({}))).await.written.is_empty());
    }

    #[tokio::test]
    async fn languages_are_updated() {
        let harness = Harness::default();
        let speaking = |langs: &[&str]| {
            let langs = langs.iter().map(|&lang| lang.to_owned()).collect();
            from_with(ALICE, EMPTY, json!({}), |message| message.accept_lang(langs))
        };
        receive(&harness, &speaking(&["fr", "en"])).await;
        assert!(receive(&harness, &speaking(&["fr", "en"])).await.written.is_empty());
        assert!(receive(&harness, &from(ALICE, EMPTY, json!({}))).await.written.is_empty());
        assert_eq!(receive(&harness, &speaking(&["de"])).await.written.len(), 1);
        assert_eq!(connection_with(&harness, ALICE).unwrap().accept_lang, Some(vec!["de".to_owned()]));
        let long = "x".repeat(1000);
        receive(&harness, &speaking(&vec![long.as_str(); 1000])).await;
        assert_eq!(connection_with(&harness, ALICE).unwrap().accept_lang, Some(vec!["x".repeat(MAX_LANG); MAX_LANGS]));
    }

    #[tokio::test]
    async fn the_own_from_prior_is_dropped_once_the_peer_answers() {
        let harness = Harness::default();
        let rotated = Connection { from_prior: Some("jwt".into()), ..Connection::new(OWN_DID, ALICE, 1) };
        harness.set(&Connection::key(OWN_DID, ALICE), &rotated);
        receive(&harness, &from(ALICE, EMPTY, json!({}))).await;
        assert_eq!(connection_with(&harness, ALICE), Some(Connection::new(OWN_DID, ALICE, 1)));
    }
}
