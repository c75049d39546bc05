//! The transaction of one message: it collects the effects, and reads records for the protocol.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    features::Features,
    problem::HandleError,
    received::Received,
    record::{ReadRecord, RecordReader, RecordType},
};
use crate::{
    agent::{
        clock::{Millis, now},
        event::EventKind,
        store::types::{Expectation, UNREAD},
    },
    didcomm::{Message, MessageBuilder},
};

/// One effect of a handled message.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a message to the first DID of its `to`. With `from`, the message is authcrypted by that DID.
    Send(Box<Message>),
    /// Hand the received message to the application.
    Deliver,
    /// Write a record.
    Put {
        /// The record's kind.
        kind: String,
        /// The record's key.
        key: String,
        /// The record's value.
        value: Value,
        /// The revision that was read; 0 for a new record, and [`UNREAD`] if the record was not read.
        revision: i64,
        /// When the record expires, in milliseconds since 1970; never if `None`.
        expires: Option<Millis>,
        /// Whether the record is about the sender ([`RecordType::ABOUT_SENDER`]).
        about_sender: bool,
    },
    /// Keep everything about the sender, which is not a stranger any more.
    KeepSender,
    /// Tell the application of an event, if its kind is recorded.
    Event {
        /// The kind.
        kind: EventKind,
        /// The data: names and reasons, never content.
        data: Value,
    },
    /// Delete a record.
    Delete {
        /// The record's kind.
        kind: String,
        /// The record's key.
        key: String,
    },
}

impl Effect {
    /// Whether the effect writes or deletes this record.
    fn changes_record(&self, of_kind: &str, of_key: &str) -> bool {
        matches!(self, Self::Put { kind, key, .. } | Self::Delete { kind, key } if kind == of_kind && key == of_key)
    }
}

/// Collects the effects of one message, and reads records for its protocol.
pub struct Transaction<'a> {
    received: &'a Received,
    records: &'a dyn RecordReader,
    features: &'a Features,
    effects: Vec<Effect>,
    /// The records that were read, with their revisions, by kind and key. Several steps ask for the same connection,
    /// and the cache saves reading it from the disk again. The commit compares the revisions, so a conflicting change
    /// is detected.
    cache: HashMap<(String, String), ReadRecord>,
    is_optimistic: bool,
}

impl<'a> Transaction<'a> {
    /// Begins the transaction of a received message, without effects.
    pub fn new(received: &'a Received, records: &'a dyn RecordReader, features: &'a Features) -> Self {
        Self { received, records, features, effects: Vec::new(), cache: HashMap::new(), is_optimistic: false }
    }

    /// Relies on what the agent remembers, and on what is hardly ever otherwise, instead of reading it. If that is wrong, the
    /// commit is a conflict, and the next transaction of the message must read.
    pub(in crate::agent) fn optimistic(self) -> Self {
        Self { is_optimistic: true, ..self }
    }

    /// Returns the features of this agent.
    pub fn features(&self) -> &Features {
        self.features
    }

    /// Replies in the received message's thread with a message of the type `kind`, which may belong to another
    /// protocol. `add_headers` adds headers. Nothing is sent if the received message has no authenticated sender.
    pub fn answer(&mut self, kind: &str, body: Value, add_headers: impl FnOnce(MessageBuilder) -> MessageBuilder) {
        let Some(sender) = &self.received.sender else { return };
        let message = Message::build(Message::new_id(), kind, body)
            .from(&self.received.recipient)
            .to(sender)
            .thid(self.received.message.thread());
        let message = match &self.received.message.pthid {
            Some(pthid) => message.pthid(pthid),
            None => message,
        };
        self.send(add_headers(message).finalize());
    }

    /// Sends a message. Without `from` the message is anoncrypted. A message without `created_time` gets the current
    /// time: the recipient need not remember for ever that it has handled the message.
    pub fn send(&mut self, mut message: Message) {
        message.created_time.get_or_insert_with(|| now().unsigned_abs() / 1000);
        self.effects.push(Effect::Send(Box::new(message)));
    }

    /// Hands the received message to the application.
    pub fn deliver(&mut self) {
        if !self.effects.contains(&Effect::Deliver) {
            self.effects.push(Effect::Deliver);
        }
    }

    /// Returns the messages that this transaction sends, so that headers can be added.
    pub fn outgoing_messages(&mut self) -> impl Iterator<Item = &mut Message> {
        self.effects.iter_mut().filter_map(|effect| match effect {
            Effect::Send(message) => Some(&mut **message),
            _ => None,
        })
    }

    /// Reads a record. Returns the value that this transaction has written, if it has written or deleted the record.
    ///
    /// # Errors
    /// [`HandleError::Retry`] if the store does not answer, or the stored value is not a `T`.
    pub async fn get<T: RecordType>(&mut self, key: &str) -> Result<Option<T>, HandleError> {
        let value = match self.effects.iter().rev().find(|effect| effect.changes_record(T::KIND, key)) {
            Some(Effect::Put { value, .. }) => value,
            Some(_) => return Ok(None),
            None => {
                let name = (T::KIND.to_owned(), key.to_owned());
                if !self.cache.contains_key(&name) {
                    let read = self.records.read(T::KIND, key).await?;
                    self.cache.insert(name.clone(), read);
                }
                let Some(Some((value, _))) = self.cache.get(&name) else { return Ok(None) };
                value
            }
        };
        let damaged = |error| HandleError::Retry(format!("the {} {key}: {error}", T::KIND));
        T::deserialize(value).map(Some).map_err(damaged)
    }

    /// Reads records in one request. Later calls of [`get`](Self::get) return them as they were at this time. There are hardly
    /// ever records at the `rare` places: an [optimistic](Self::optimistic) transaction that recalls the others takes them to be
    /// absent.
    ///
    /// # Errors
    /// [`HandleError::Retry`] if the store does not answer.
    pub(in crate::agent) async fn read_ahead(
        &mut self,
        places: &[(&str, &str)],
        rare: &[(&str, &str)],
    ) -> Result<(), HandleError> {
        let recalled = if self.is_optimistic { self.records.recall(places)? } else { None };
        let all = [places, rare].concat();
        let found = match recalled {
            Some(recalled) => recalled.into_iter().chain(rare.iter().map(|_| None)).collect(),
            None => self.records.read_all(&all).await?,
        };
        for ((kind, key), read) in all.into_iter().zip(found) {
            self.cache.entry((kind.to_owned(), key.to_owned())).or_insert(read);
        }
        Ok(())
    }

    /// Returns the position of an earlier message of the sender in the order of handling: see
    /// [`RecordReader::handled_position`]. `None` if the message was not handled.
    ///
    /// # Errors
    /// [`HandleError::Retry`] if the store does not answer.
    pub async fn handled_position(&self, message: &str) -> Result<Option<i64>, HandleError> {
        let Some(sender) = &self.received.sender else { return Ok(None) };
        Ok(self.records.handled_position(sender, &self.received.recipient, &message.to_ascii_lowercase()).await?)
    }

    /// Whether the received message was handled before, as one from `sender` to `recipient`. An [optimistic](Self::optimistic)
    /// transaction takes it to be new.
    ///
    /// # Errors
    /// [`HandleError::Retry`] if the store does not answer.
    pub(in crate::agent) async fn was_handled(&self, sender: &str, recipient: &str) -> Result<bool, HandleError> {
        if self.is_optimistic {
            return Ok(false);
        }
        let message = self.received.message.id.to_ascii_lowercase();
        Ok(self.records.handled_position(sender, recipient, &message).await?.is_some())
    }

    /// Writes a record. The record expires at `expires`, in milliseconds since 1970, or never if `expires` is `None`.
    ///
    /// Call [`get`](Self::get) first. If the record was changed since then, the message is handled again. A record that
    /// was not read is overwritten, whatever it holds.
    pub fn put<T: RecordType>(&mut self, key: &str, value: &T, expires: Option<Millis>) {
        let read = self.cache.get(&(T::KIND.to_owned(), key.to_owned()));
        let revision = read.map_or(UNREAD, |read| read.as_ref().map_or(0, |(_, revision)| *revision));
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        // The last write of a transaction wins. A deletion before it would change the revision.
        self.effects.retain(|effect| !effect.changes_record(T::KIND, key));
        let (kind, key, about_sender) = (T::KIND.to_owned(), key.to_owned(), T::ABOUT_SENDER);
        self.effects.push(Effect::Put { kind, key, value, revision, expires, about_sender });
    }

    /// Deletes a record.
    pub fn delete<T: RecordType>(&mut self, key: &str) {
        self.effects.retain(|effect| !effect.changes_record(T::KIND, key));
        self.effects.push(Effect::Delete { kind: T::KIND.to_owned(), key: key.to_owned() });
    }

    /// Keeps everything about the sender: it is not a stranger any more.
    pub(in crate::agent) fn keep_sender(&mut self) {
        self.effects.push(Effect::KeepSender);
    }

    /// Tells the application of an event, if its kind is recorded.
    pub(in crate::agent) fn event(&mut self, kind: EventKind, data: Value) {
        self.effects.push(Effect::Event { kind, data });
    }

    /// Takes the effects out, or drops them. What was read stays, since it has decided about them.
    pub(in crate::agent) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Returns what the commit must compare: the records that were read, also if their effects were dropped.
    pub(in crate::agent) fn expects(&self) -> Vec<Expectation> {
        let read = self.cache.iter().map(|((kind, key), read)| {
            let revision = read.as_ref().map_or(0, |(_, revision)| *revision);
            Expectation { kind: kind.clone(), key: key.clone(), revision }
        });
        read.collect()
    }

    /// Ends the transaction and returns its effects.
    pub fn effects(self) -> Vec<Effect> {
        self.effects
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::{Effect, Message, UNREAD};
    use crate::agent::protocol::{
        record::RecordType,
        testing::{ALICE, Harness, from},
    };

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Number(i32);

    impl RecordType for Number {
        const KIND: &'static str = "number";
    }

    /// A record that was not read is overwritten. A message that is sent has the time of its making.
    #[tokio::test]
    async fn effects_are_complete() {
        let harness = Harness::default();
        let received = from(ALICE, "https://example.org/offer/1.0/offer", json!({}));
        let mut tx = harness.begin(&received);
        tx.put("number", &Number(1), None);
        tx.answer("https://example.org/offer/1.0/accept", json!({}), |message| message);
        let timed = Message::build("1", "https://example.org/offer/1.0/accept", json!({})).created_time(7);
        tx.send(timed.finalize());
        let times: Vec<Option<u64>> = tx.outgoing_messages().map(|message| message.created_time).collect();
        assert!(matches!(times[..], [Some(now), Some(7)] if now > 1_700_000_000), "{times:?}");
        assert!(tx.effects().iter().any(|effect| matches!(effect, Effect::Put { revision: UNREAD, .. })));
    }

    #[tokio::test]
    async fn a_transaction_reads_its_own_writes() {
        let harness = Harness::default();
        harness.set("old", &Number(1));
        let received = from(ALICE, "https://example.org/offer/1.0/offer", json!({}));
        let mut tx = harness.begin(&received);
        assert_eq!(tx.get::<Number>("new").await.unwrap(), None);
        tx.put("new", &Number(1), None);
        tx.put("new", &Number(2), None);
        assert_eq!(tx.get("new").await.unwrap(), Some(Number(2)));
        assert_eq!(tx.get("old").await.unwrap(), Some(Number(1)));
        tx.delete::<Number>("old");
        assert_eq!(tx.get::<Number>("old").await.unwrap(), None);
        // A write after the deletion has the revision that was read.
        tx.put("old", &Number(3), None);
        assert_eq!(tx.get("old").await.unwrap(), Some(Number(3)));
        let outcome = harness.commit(tx);
        assert_eq!(outcome.written.len(), 2);
        assert_eq!((harness.record("old"), harness.record("new")), (Some(Number(3)), Some(Number(2))));
    }

    #[tokio::test]
    async fn records_are_read_ahead() {
        let harness = Harness::default();
        harness.set("old", &Number(1));
        let received = from(ALICE, "https://example.org/offer/1.0/offer", json!({}));
        let mut tx = harness.begin(&received);
        tx.read_ahead(&[("number", "new")], &[("number", "old")]).await.unwrap();
        ["old", "new"].iter().for_each(|key| harness.set(key, &Number(2)));
        assert_eq!(tx.get("old").await.unwrap(), Some(Number(1)));
        assert_eq!(tx.get::<Number>("new").await.unwrap(), None);
        // A record that was changed meanwhile is not overwritten.
        tx.put("old", &Number(3), None);
        assert!(matches!(tx.effects()[..], [Effect::Put { revision: 1, .. }]));
    }
}
