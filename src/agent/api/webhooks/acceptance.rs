//! Which webhooks have accepted a message. The message is acknowledged once each webhook that wants it has accepted it.
//!
//! A webhook goes through the inbox in its order, so its *position* says which messages are behind it: accepted, not
//! wanted, or set aside as dead letters. The position is written only when a message is accepted that another webhook still wants:
//! otherwise the acknowledgement says enough.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::dead_letters::DeadLetters;
use crate::agent::{
    agent::Agent,
    api::webhook::{Webhook, WebhookOptions},
    clock::Millis,
    protocol::RecordType,
    store::{Delivery, DeliveryQuery, StoreError, UNREAD},
};

/// Where a webhook is, as the store keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The cursor of the last message that is behind the webhook.
    pub messages: i64,
    /// The types that the webhook wanted. With other types it goes through the inbox again.
    pub types: Vec<String>,
    /// The cursor of the last event that is behind the webhook.
    #[serde(default)]
    pub events: i64,
    /// The kinds of events that the webhook wanted, each with a cursor: it gets those after. A kind that it did not want before
    /// begins with the events that happen then.
    #[serde(default)]
    pub kinds: BTreeMap<String, i64>,
    /// The letter that the webhook could not deliver yet, and when the first attempt failed.
    pub failing: Option<(String, Millis)>,
}

impl RecordType for Position {
    const KIND: &'static str = "webhook";
}

/// The positions of the webhooks.
pub(super) struct Acceptance {
    agent: Arc<Agent>,
    dead: Arc<DeadLetters>,
    webhooks: Mutex<BTreeMap<String, Entry>>,
}

struct Entry {
    options: WebhookOptions,
    position: Position,
    /// Whether the position is read from the store. Before that it says nothing.
    is_loaded: bool,
    /// Held while the position is written, so that no older one overwrites it.
    writing: Arc<tokio::sync::Mutex<()>>,
}

/// How many messages are read at once after a start, and the most bytes of them.
const PAGE_SIZE: usize = 100;
const PAGE_BYTES: usize = 1 << 20;

impl Acceptance {
    /// The positions of these webhooks, of which nothing is known yet.
    pub fn new<'a>(agent: Arc<Agent>, dead: Arc<DeadLetters>, webhooks: impl IntoIterator<Item = &'a Webhook>) -> Self {
        let entry = |webhook: &Webhook| {
            let options = webhook.options().clone();
            let position = Position { types: options.types.clone(), ..Position::default() };
            (options.name.clone(), Entry { options, position, is_loaded: false, writing: Arc::default() })
        };
        Self { agent, dead, webhooks: Mutex::new(webhooks.into_iter().map(entry).collect()) }
    }

    /// Reads the position of a webhook. Acknowledges the messages behind it that no other webhook wants any more.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn load(&self, webhook: &str) -> Result<Position, StoreError> {
        let mut position = self.agent.store.get::<Position>(webhook).await?.map(|(it, _)| it).unwrap_or_default();
        if let Some(entry) = self.lock().get_mut(webhook) {
            if entry.options.types != position.types {
                position.messages = 0;
                position.types.clone_from(&entry.options.types);
            }
            (entry.position, entry.is_loaded) = (position.clone(), true);
        }
        let mut after = 0;
        while after < position.messages {
            let query = DeliveryQuery { after, limit: PAGE_SIZE, max_bytes: Some(PAGE_BYTES), ..Default::default() };
            let found = self.agent.store().deliveries(query).await?;
            let Some(last) = found.last() else { break };
            after = last.cursor;
            let behind = found.iter().filter(|it| it.cursor <= position.messages && self.is_behind(webhook, it));
            let done: Vec<String> =
                behind.filter(|it| !self.others_want(webhook, it)).map(|it| it.id.clone()).collect();
            if !done.is_empty() {
                self.finish(&done).await?;
            }
        }
        Ok(position)
    }

    /// Records that a webhook has accepted the next message in its order.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn accepted(&self, webhook: &str, message: &Delivery) -> Result<(), StoreError> {
        // Whichever of two webhooks comes second sees that the other has accepted the message.
        self.pass(webhook, message);
        self.acknowledge(webhook, message).await
    }

    /// Acknowledges a message that a webhook does not want any more, unless another webhook wants it.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn acknowledge(&self, webhook: &str, message: &Delivery) -> Result<(), StoreError> {
        match self.others_want(webhook, message) {
            true => self.write(webhook).await,
            false => self.finish(std::slice::from_ref(&message.id)).await,
        }
    }

    /// Acknowledges messages. A webhook that the configuration does not have any more may have dead letters of them.
    async fn finish(&self, messages: &[String]) -> Result<(), StoreError> {
        self.agent.acknowledge(messages).await?;
        self.dead.remove_messages(messages).await
    }

    /// Records that a message, and all before it, are behind a webhook. This is not written yet.
    pub fn pass(&self, webhook: &str, message: &Delivery) {
        if let Some(entry) = self.lock().get_mut(webhook) {
            entry.position.messages = entry.position.messages.max(message.cursor);
        }
    }

    /// Records that an event, and all before it, are behind a webhook. This is not written yet.
    pub fn pass_event(&self, webhook: &str, cursor: i64) {
        if let Some(entry) = self.lock().get_mut(webhook) {
            entry.position.events = entry.position.events.max(cursor);
        }
    }

    /// Writes which kinds of events a webhook wants, each with the cursor after which it wants them.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn record_kinds(&self, webhook: &str, kinds: &BTreeMap<String, i64>) -> Result<(), StoreError> {
        if let Some(entry) = self.lock().get_mut(webhook) {
            entry.position.kinds.clone_from(kinds);
        }
        self.write(webhook).await
    }

    /// Writes which letter a webhook could not deliver yet, and since when, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn record_failing(&self, webhook: &str, failing: Option<(&str, Millis)>) -> Result<(), StoreError> {
        if let Some(entry) = self.lock().get_mut(webhook) {
            entry.position.failing = failing.map(|(letter, since)| (letter.to_owned(), since));
        }
        self.write(webhook).await
    }

    /// Writes the position of a webhook.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn write(&self, webhook: &str) -> Result<(), StoreError> {
        let Some(writing) = self.lock().get(webhook).map(|entry| entry.writing.clone()) else { return Ok(()) };
        let _writing = writing.lock().await;
        let position = self.lock().get(webhook).filter(|entry| entry.is_loaded).map(|entry| entry.position.clone());
        match position {
            Some(position) => self.agent.store.put(webhook, &position, UNREAD).await.map(drop),
            None => Ok(()),
        }
    }

    /// Whether a webhook has accepted a message before its position.
    fn is_behind(&self, webhook: &str, message: &Delivery) -> bool {
        let wanted = self.lock().get(webhook).is_some_and(|entry| entry.options.wants_message(&message.kind));
        wanted && !self.dead.contains(webhook, &message.id)
    }

    /// Whether another webhook wants a message and has not accepted it.
    fn others_want(&self, webhook: &str, message: &Delivery) -> bool {
        self.lock().iter().filter(|(name, _)| *name != webhook).any(|(name, entry)| {
            let is_ahead = || entry.position.messages < message.cursor || self.dead.contains(name, &message.id);
            entry.options.wants_message(&message.kind) && is_ahead()
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.webhooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
