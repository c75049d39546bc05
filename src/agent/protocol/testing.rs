//! Helpers for the unit tests of protocols: records in memory, and messages from peers.

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use serde_json::Value;

use super::{
    features::Features,
    handler::Protocol,
    problem::HandleError,
    received::Received,
    record::{RecordReader, RecordType},
    transaction::{Effect, Transaction},
};
use crate::{
    agent::{clock::Millis, event::EventKind, store::error::StoreError},
    didcomm::{Message, MessageBuilder, Provenance},
};

pub const OWN_DID: &str = "did:example:ours";
pub const ALICE: &str = "did:example:alice";
pub const BOB: &str = "did:example:bob";
pub const NOW: Millis = 1_700_000_000_000;

/// Runs protocols on records in memory.
#[derive(Default)]
pub struct Harness {
    pub features: Features,
    pub records: Mutex<HashMap<(String, String), (Value, i64)>>,
    /// The messages that were handled, in order: the sender and the message id.
    pub handled: Vec<(String, String)>,
}

/// What a transaction did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub sent: Vec<Message>,
    pub delivered: bool,
    /// The kinds of the records that were written.
    pub written: Vec<String>,
    /// Whether everything about the sender is kept.
    pub kept: bool,
    pub events: Vec<(EventKind, Value)>,
}

/// A message from an authenticated peer to [`OWN_DID`].
pub fn from(peer: &str, kind: &str, body: Value) -> Received {
    from_with(peer, kind, body, |message| message)
}

/// A message like that of [`from`], changed by `more`.
pub fn from_with(peer: &str, kind: &str, body: Value, more: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Received {
    let message = Message::build(Message::new_id(), kind, body).from(peer).to(OWN_DID);
    let provenance = Provenance { encrypted: true, authenticated: true, ..Default::default() };
    Received {
        message: more(message).finalize(),
        provenance,
        recipient: OWN_DID.to_owned(),
        sender: Some(peer.to_owned()),
        time: NOW,
    }
}

/// A message to [`OWN_DID`] without an authenticated sender.
pub fn anonymous(kind: &str, body: Value) -> Received {
    let mut received = from(ALICE, kind, body);
    received.sender = None;
    received.provenance.authenticated = false;
    received
}

impl Harness {
    pub fn begin<'a>(&'a self, received: &'a Received) -> Transaction<'a> {
        Transaction::new(received, self, &self.features)
    }

    /// Hands a message to a protocol, and commits.
    pub async fn handle(&self, protocol: &dyn Protocol, received: &Received) -> Result<Outcome, HandleError> {
        let mut tx = self.begin(received);
        protocol.handle(received, &mut tx).await?;
        Ok(self.commit(tx))
    }

    /// The code of the problem that a protocol has with a message.
    pub async fn problem(&self, protocol: &dyn Protocol, received: &Received) -> String {
        match self.handle(protocol, received).await {
            Err(HandleError::Problem(problem)) => problem.code,
            other => panic!("no problem: {other:?}"),
        }
    }

    /// Applies the effects of a transaction, as the store does.
    pub fn commit(&self, tx: Transaction<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        for effect in tx.effects() {
            match effect {
                Effect::Send(message) => outcome.sent.push(*message),
                Effect::Deliver => outcome.delivered = true,
                Effect::Put { kind, key, value, revision, .. } => {
                    outcome.written.push(kind.clone());
                    let mut records = self.records.lock().unwrap();
                    let entry = records.entry((kind, key)).or_insert((Value::Null, 0));
                    assert_eq!(entry.1, revision, "the record was not read before it was written");
                    *entry = (value, revision + 1);
                }
                Effect::KeepSender => outcome.kept = true,
                Effect::Event { kind, data } => outcome.events.push((kind, data)),
                Effect::Delete { kind, key } => drop(self.records.lock().unwrap().remove(&(kind, key))),
            }
        }
        outcome
    }

    pub fn record<T: RecordType>(&self, key: &str) -> Option<T> {
        let records = self.records.lock().unwrap();
        let (value, _) = records.get(&(T::KIND.to_owned(), key.to_owned()))?;
        Some(serde_json::from_value(value.clone()).unwrap())
    }

    pub fn set<T: RecordType>(&self, key: &str, value: &T) {
        let value = serde_json::to_value(value).unwrap();
        let mut records = self.records.lock().unwrap();
        let entry = records.entry((T::KIND.to_owned(), key.to_owned())).or_insert((Value::Null, 0));
        *entry = (value, entry.1 + 1);
    }

    pub fn count<T: RecordType>(&self) -> usize {
        self.records.lock().unwrap().keys().filter(|(kind, _)| kind == T::KIND).count()
    }
}

#[async_trait]
impl RecordReader for Harness {
    async fn read(&self, kind: &str, key: &str) -> Result<Option<(Value, i64)>, StoreError> {
        Ok(self.records.lock().unwrap().get(&(kind.to_owned(), key.to_owned())).cloned())
    }

    async fn handled_position(&self, sender: &str, _: &str, message: &str) -> Result<Option<i64>, StoreError> {
        let position = self.handled.iter().position(|(from, id)| from == sender && id == message);
        Ok(position.map(|position| position as i64))
    }
}
