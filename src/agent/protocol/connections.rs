//! Connections (DIDComm v2.1 "Connections"): the relationships of our DIDs with peers.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    peer_document::{self, PeerDocument},
    problem::HandleError,
    received::Received,
    record::RecordType,
    text::truncate_to,
    transaction::Transaction,
};
use crate::agent::{
    canonical_did::canonical_did, clock::Millis, error::AgentError, event::EventKind, store::types::CONNECTION_KIND,
};

/// How many earlier DIDs of a peer are remembered.
pub(in crate::agent) const MAX_PREVIOUS: usize = 16;
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
    /// Whether the peer is a stranger: it has written, and neither the application nor the operator has begun or
    /// accepted anything with it. What a stranger leaves here is forgotten after a while.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stranger: bool,
    /// Since when the peer is not a stranger, in milliseconds since 1970. `None` in connections of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_since: Option<Millis>,
    /// Whether our side has begun the connection, and the peer has not written yet. False in connections of older releases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unanswered: bool,
    /// Whether the long form of the peer's did:peer:4 is kept ([`PeerDocument`]).
    #[serde(default, skip_serializing_if = "is_false")]
    pub long_form_kept: bool,
    /// When the relationship ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Millis>,
    /// Who ended the relationship. `None` in records of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<EndedBy>,
    /// Whether the peer was told that we have ended the relationship. Its agent then ignores our DID, also after we have
    /// resumed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub peer_told: bool,
    /// When the relationship was resumed. An older proof of its end does not end it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Millis>,
    /// The peer's earlier DIDs, oldest first.
    #[serde(rename = "previous", default, skip_serializing_if = "Vec::is_empty")]
    pub previous_dids: Vec<String>,
    /// Our DID in this relationship before the last rotation.
    #[serde(rename = "previous_ours", default, skip_serializing_if = "Option::is_none")]
    pub previous_own_did: Option<String>,
    /// The proof of our own DID rotation: a JWT that goes with each message until the peer has written to the new DID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_prior: Option<String>,
}

/// Who ended a relationship.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndedBy {
    /// Our side.
    Us,
    /// The peer.
    Peer,
}

impl RecordType for Connection {
    const KIND: &'static str = CONNECTION_KIND;
    const ABOUT_SENDER: bool = true;
}

impl Connection {
    /// Makes a connection that begins at `since`, with a peer that is not a stranger.
    pub fn new(own_did: &str, peer_did: &str, since: Millis) -> Self {
        Self {
            own_did: own_did.to_owned(),
            peer_did: canonical_did(peer_did).into_owned(),
            since,
            invitation: None,
            label: None,
            accept_lang: None,
            stranger: false,
            known_since: Some(since),
            unanswered: false,
            long_form_kept: false,
            ended: None,
            ended_by: None,
            peer_told: false,
            resumed: None,
            previous_dids: Vec::new(),
            previous_own_did: None,
            from_prior: None,
        }
    }

    /// Makes a connection that our side begins.
    pub(in crate::agent) fn begun_by_us(own_did: &str, peer_did: &str, since: Millis) -> Self {
        Self { unanswered: true, ..Self::new(own_did, peer_did, since) }
    }

    /// Whether this value of a connection's record says that the peer is not a stranger.
    pub(in crate::agent) fn is_with_known_peer(value: &Value) -> bool {
        value.get("stranger").is_none_or(|stranger| *stranger == Value::Bool(false))
    }

    /// The data of the event that the connection is made.
    pub(in crate::agent) fn made_data(&self) -> Value {
        json!({ "ours": self.own_did, "theirs": self.peer_did, "invitation": self.invitation })
    }

    /// The connection as an application sees it: without the proof of our own rotation, and what only the agent needs.
    pub(in crate::agent) fn without_proofs(self) -> Self {
        Self { from_prior: None, long_form_kept: false, known_since: None, unanswered: false, ..self }
    }

    /// Checks that the relationship has not ended.
    ///
    /// # Errors
    /// [`AgentError::ConnectionEnded`].
    pub(in crate::agent) fn check_open(&self) -> Result<(), AgentError> {
        match self.ended {
            None => Ok(()),
            Some(_) => Err(AgentError::ConnectionEnded {
                own_did: self.own_did.clone(),
                peer: self.peer_did.clone(),
                by_peer: self.ended_by == Some(EndedBy::Peer),
                peer_told: self.peer_told,
            }),
        }
    }

    /// Makes the peer known, at `time`. Returns whether the connection is made by that: the peer was a stranger, which has
    /// written.
    pub(in crate::agent) fn become_known(&mut self, time: Millis) -> bool {
        let was_stranger = self.stranger;
        if was_stranger {
            self.stranger = false;
            self.known_since = Some(time);
        }
        was_stranger
    }

    /// Moves the connection from one DID of the peer to another. Returns the keys of the rotations that are no longer followed,
    /// because the peer has rotated often since: each of them leaves a record.
    pub(in crate::agent) fn rotate_peer(&mut self, old: &str, new: &str) -> Vec<String> {
        self.peer_did = canonical_did(new).into_owned();
        self.previous_dids.push(canonical_did(old).into_owned());
        // The new DID has another document.
        self.long_form_kept = false;
        let surplus = self.previous_dids.len().saturating_sub(MAX_PREVIOUS);
        self.previous_dids.drain(..surplus).map(|did| Self::key(&self.own_did, &did)).collect()
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
    let mut new = old.clone().unwrap_or_else(|| Connection {
        stranger: true,
        ..Connection::new(&received.recipient, sender, received.time)
    });
    if !new.long_form_kept
        && let Some(long) = peer_document::long_form_of(received)
    {
        if tx.get::<PeerDocument>(sender).await?.is_none() {
            tx.put(sender, &PeerDocument { long }, None);
        }
        new.long_form_kept = true;
        // To another DID of ours the peer may have written as a stranger.
        if !new.stranger {
            tx.keep_sender();
        }
    }
    if let Some(langs) = &received.message.accept_lang {
        let langs = langs.iter().take(MAX_LANGS).map(|lang| truncate_to(lang, MAX_LANG).to_owned());
        new.accept_lang = Some(langs.collect());
    }
    // "The from_prior attribute MUST be included in messages sent until the party rotating receives a message sent to
    // the new DID": this is such a message.
    new.from_prior = None;
    if new.unanswered {
        new.unanswered = false;
        tx.event(EventKind::ConnectionMade, new.made_data());
    }
    if old.as_ref() != Some(&new) {
        new.put(tx);
    }
    Ok(())
}

/// Whether the sender of a message is a stranger after this transaction, or is not authenticated. Reads nothing that
/// [`update_connection`] has not read.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub async fn is_stranger(received: &Received, tx: &mut Transaction<'_>) -> Result<bool, HandleError> {
    Ok(find_connection(received, tx).await?.is_none_or(|connection| connection.stranger))
}

/// Returns the `created_time` of a message that its sender made as a stranger, if the sender is known now.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub(in crate::agent) async fn created_by_stranger(
    received: &Received,
    tx: &mut Transaction<'_>,
) -> Result<Option<Millis>, HandleError> {
    let connection = find_connection(received, tx).await?.filter(|connection| !connection.stranger);
    let known_since = connection.and_then(|connection| connection.known_since);
    Ok(received.created().filter(|created| known_since.is_some_and(|since| *created < since)))
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        agent::protocol::{
            empty::EMPTY,
            testing::{ALICE, BOB, Harness, NOW, OWN_DID, Outcome, anonymous, from, from_with},
        },
        did::{
            Document, Relationship,
            peer::{Peer4, create_4},
        },
        keys::PublicKey,
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
        let stranger = Connection { stranger: true, ..Connection::new(OWN_DID, ALICE, NOW) };
        assert_eq!(connection_with(&harness, ALICE), Some(stranger));
        assert!(receive(&harness, &from(ALICE, EMPTY, json!({}))).await.written.is_empty());
        assert!(receive(&harness, &anonymous(EMPTY, json!({}))).await.written.is_empty());
    }

    /// A connection that our side begins is made by the peer's first message. That of a stranger is made by our side.
    #[tokio::test]
    async fn a_connection_is_made_once() {
        let harness = Harness::default();
        harness.set(&Connection::key(OWN_DID, ALICE), &Connection::begun_by_us(OWN_DID, ALICE, 7));
        let made = json!({ "ours": OWN_DID, "theirs": ALICE, "invitation": null });
        let hello = from(ALICE, EMPTY, json!({}));
        assert_eq!(receive(&harness, &hello).await.events, [(EventKind::ConnectionMade, made)]);
        assert_eq!(connection_with(&harness, ALICE), Some(Connection::new(OWN_DID, ALICE, 7)));
        assert!(receive(&harness, &hello).await.events.is_empty());

        assert!(receive(&harness, &from(BOB, EMPTY, json!({}))).await.events.is_empty());
        let mut connection = connection_with(&harness, BOB).unwrap();
        assert!(connection.become_known(NOW) && !connection.become_known(NOW));
        assert!(!Connection::begun_by_us(OWN_DID, BOB, NOW).become_known(NOW));
    }

    /// The long form of a did:peer:4 is kept at the first message that has it.
    #[tokio::test]
    async fn a_long_form_is_kept_once() {
        let harness = Harness::default();
        let key = PublicKey::from_multikey("z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc").unwrap();
        let input = Document::builder().method("key-1", &key, &[Relationship::KeyAgreement]).input();
        let Peer4 { long, short } = create_4(&input).unwrap();
        let message = |from: &str| {
            let mut received = from_with(from, EMPTY, json!({}), |message| message);
            received.sender = Some(short.id().to_owned());
            received
        };
        assert_eq!(receive(&harness, &message(short.id())).await.written, [Connection::KIND]);
        assert_eq!(receive(&harness, &message(long.id())).await.written, [PeerDocument::KIND, Connection::KIND]);
        assert!(receive(&harness, &message(long.id())).await.written.is_empty());
        assert_eq!(harness.record(short.id()), Some(PeerDocument { long: long.id().to_owned() }));
        // The peer is known, and its long form was remembered when it wrote as a stranger to another DID of ours.
        harness.set(&Connection::key(OWN_DID, short.id()), &Connection::new(OWN_DID, short.id(), NOW));
        let outcome = receive(&harness, &message(long.id())).await;
        assert!(outcome.kept && outcome.written == [Connection::KIND], "{outcome:?}");
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
