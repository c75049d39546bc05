//! What a protocol wants done.

use std::collections::HashMap;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Fault, Features, Received};
use crate::{
    agent::store::{Millis, StoreError},
    didcomm::{Message, MessageBuilder},
};

/// Reads what was remembered, and opens it.
#[async_trait]
pub trait Records: Send + Sync {
    /// A record's value and its revision.
    ///
    /// # Errors
    /// Those of the store.
    async fn read(&self, kind: &str, key: &str) -> Result<Option<(Value, i64)>, StoreError>;

    /// Whether a message of this sender was handled before, by its id in lower case, and if so its place in the order in
    /// which they came: for the acknowledgement of earlier messages. Where that is not known, none was.
    ///
    /// # Errors
    /// Those of the store.
    async fn handled(&self, _ours: &str, _theirs: &str, _message: &str) -> Result<Option<i64>, StoreError> {
        Ok(None)
    }
}

/// One thing that is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// To be sent to the first DID of its `to`; with `from`, encrypted and authenticated by it.
    Send(Box<Message>),
    /// The received message is for the application.
    Deliver,
    /// To be remembered.
    Put {
        /// What it is.
        kind: String,
        /// Its name.
        key: String,
        /// What is remembered.
        value: Value,
        /// The revision that was read; 0 for none.
        revision: i64,
        /// Until when; for ever if none.
        expires: Option<Millis>,
    },
    /// To be forgotten.
    Delete {
        /// What it is.
        kind: String,
        /// Its name.
        key: String,
    },
}

impl Effect {
    /// Whether it writes or deletes this record.
    fn is_about(&self, about: &str, name: &str) -> bool {
        matches!(self, Self::Put { kind, key, .. } | Self::Delete { kind, key } if kind == about && key == name)
    }
}

/// What a protocol wants done, once it has handled its message; and what it may look at meanwhile.
pub struct Turn<'a> {
    received: &'a Received,
    records: &'a dyn Records,
    features: &'a Features,
    effects: Vec<Effect>,
    /// What was read, with its revision, by kind and key: several steps ask for the connection of a message, and each
    /// question is one to the disk. What is changed meanwhile is seen by its revision when the turn is committed.
    seen: HashMap<(String, String), Option<(Value, i64)>>,
}

impl<'a> Turn<'a> {
    /// A turn in which nothing is to be done yet.
    pub fn new(received: &'a Received, records: &'a dyn Records, features: &'a Features) -> Self {
        Self { received, records, features, effects: Vec::new(), seen: HashMap::new() }
    }

    /// What this agent can do.
    pub fn features(&self) -> &Features {
        self.features
    }

    /// Replies in the received message's thread and protocol: `name` is the reply's, as `ping-response`. Without a proved
    /// sender there is nobody to reply to, and nothing is sent.
    pub fn reply(&mut self, name: &str, body: Value) {
        self.reply_with(name, body, |message| message);
    }

    /// The same, with more headers.
    pub fn reply_with(&mut self, name: &str, body: Value, more: impl FnOnce(MessageBuilder) -> MessageBuilder) {
        let kind = &self.received.message.type_;
        let base = kind.rsplit_once('/').map_or(kind.as_str(), |(base, _)| base);
        self.answer(&format!("{base}/{name}"), body, more);
    }

    /// Replies in the received message's thread with a message of any type.
    pub fn answer(&mut self, kind: &str, body: Value, more: impl FnOnce(MessageBuilder) -> MessageBuilder) {
        let Some(theirs) = &self.received.theirs else { return };
        let message = Message::build(Message::new_id(), kind, body)
            .from(&self.received.ours)
            .to(theirs)
            .thid(self.received.message.thread());
        let message = match &self.received.message.pthid {
            Some(pthid) => message.pthid(pthid),
            None => message,
        };
        self.send(more(message).finalize());
    }

    /// Sends a message. Without `from` it is anonymous.
    pub fn send(&mut self, message: Message) {
        self.effects.push(Effect::Send(Box::new(message)));
    }

    /// Hands the received message to the application.
    pub fn deliver(&mut self) {
        if !self.effects.contains(&Effect::Deliver) {
            self.effects.push(Effect::Deliver);
        }
    }

    /// The messages that are to be sent, to be given more headers.
    pub fn sends(&mut self) -> impl Iterator<Item = &mut Message> {
        self.effects.iter_mut().filter_map(|effect| match effect {
            Effect::Send(message) => Some(&mut **message),
            _ => None,
        })
    }

    /// What is remembered under a name; what this turn itself wrote there counts already.
    ///
    /// # Errors
    /// [`Fault::Later`] if the store does not answer, or what stands there is of another form.
    pub async fn get<T: DeserializeOwned>(&mut self, kind: &str, key: &str) -> Result<Option<T>, Fault> {
        let value = match self.effects.iter().rev().find(|effect| effect.is_about(kind, key)) {
            Some(Effect::Put { value, .. }) => value.clone(),
            Some(_) => return Ok(None),
            None => {
                let name = (kind.to_owned(), key.to_owned());
                if !self.seen.contains_key(&name) {
                    let read = self.records.read(kind, key).await?;
                    self.seen.insert(name.clone(), read);
                }
                let Some(Some((value, _))) = self.seen.get(&name) else { return Ok(None) };
                value.clone()
            }
        };
        serde_json::from_value(value).map(Some).map_err(|error| Fault::Later(format!("the {kind} {key}: {error}")))
    }

    /// Whether a message of the sender was handled before: see [`Records::handled`].
    ///
    /// # Errors
    /// [`Fault::Later`] if the store does not answer.
    pub async fn handled(&self, message: &str) -> Result<Option<i64>, Fault> {
        let Some(theirs) = &self.received.theirs else { return Ok(None) };
        Ok(self.records.handled(&self.received.ours, theirs, &message.to_ascii_lowercase()).await?)
    }

    /// Remembers something. If it was changed by someone else since [`Turn::get`], the message is handled again; what was not
    /// read must not be there.
    pub fn put(&mut self, kind: &str, key: &str, value: &impl Serialize, expires: Option<Millis>) {
        let seen = self.seen.get(&(kind.to_owned(), key.to_owned()));
        let revision = seen.and_then(Option::as_ref).map_or(0, |(_, revision)| *revision);
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        // Of two in one turn the later stands; a deletion before it would change the revision.
        self.effects.retain(|effect| !effect.is_about(kind, key));
        self.effects.push(Effect::Put { kind: kind.to_owned(), key: key.to_owned(), value, revision, expires });
    }

    /// Forgets something.
    pub fn delete(&mut self, kind: &str, key: &str) {
        self.effects.retain(|effect| !effect.is_about(kind, key));
        self.effects.push(Effect::Delete { kind: kind.to_owned(), key: key.to_owned() });
    }

    /// What is to be done.
    pub fn effects(self) -> Vec<Effect> {
        self.effects
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::agent::protocol::testing::{ALICE, World, from};

    #[tokio::test]
    async fn a_turn_sees_what_it_wrote_itself() {
        let world = World::default();
        world.set("kind", "old", &1);
        let received = from(ALICE, "https://example.org/offer/1.0/offer", json!({}));
        let mut turn = world.turn(&received);
        assert_eq!(turn.get::<i32>("kind", "new").await.unwrap(), None);
        turn.put("kind", "new", &1, None);
        turn.put("kind", "new", &2, None);
        assert_eq!(turn.get::<i32>("kind", "new").await.unwrap(), Some(2));
        assert_eq!(turn.get::<i32>("kind", "old").await.unwrap(), Some(1));
        turn.delete("kind", "old");
        assert_eq!(turn.get::<i32>("kind", "old").await.unwrap(), None);
        // Written after all, by the revision that was read.
        turn.put("kind", "old", &3, None);
        assert_eq!(turn.get::<i32>("kind", "old").await.unwrap(), Some(3));
        let outcome = world.commit(turn);
        assert_eq!(outcome.written.len(), 2);
        assert_eq!((world.record("kind", "old"), world.record("kind", "new")), (Some(3), Some(2)));
    }
}
