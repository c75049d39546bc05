//! Dead letters: letters that a webhook has set aside, so that those behind them go on.
//!
//! A message with a dead letter stays unacknowledged in the inbox, which has its content. A dead letter of an event has
//! the event's content.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::letter::KeptLetter;
use crate::agent::{
    agent::Agent,
    clock::Millis,
    protocol::RecordType,
    store::{Delivery, StoreError, UNREAD},
};
use serde::{Deserialize, Serialize};

/// A letter that a webhook has set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::agent::api) struct DeadLetter {
    /// The name of the webhook.
    pub webhook: String,
    /// The letter.
    pub letter: KeptLetter,
    /// How often it was posted.
    pub attempts: u32,
    /// The HTTP status of the last answer; none if there was no answer.
    pub status: Option<u16>,
    /// Why the last attempt failed.
    pub problem: String,
    /// When the first attempt failed.
    pub since: Millis,
    /// When the last attempt failed.
    pub time: Millis,
    /// Whether a stranger has written the message.
    #[serde(default)]
    pub of_stranger: bool,
}

impl RecordType for DeadLetter {
    const KIND: &'static str = "dead-letter";
}

impl DeadLetter {
    /// The id in the API: the name of the webhook, a colon, and the id of the letter.
    pub fn id(&self) -> String {
        id(&self.webhook, self.letter.id())
    }
}

fn id(webhook: &str, letter: &str) -> String {
    format!("{webhook}:{letter}")
}

/// All dead letters. Their ids are in memory, so that a webhook skips them without reading the store.
pub(in crate::agent::api) struct DeadLetters {
    agent: Arc<Agent>,
    /// The letters, by the name of their webhook. `None` until they are read.
    ids: Mutex<Option<BTreeMap<String, Ids>>>,
    /// Held while they are read.
    reading: tokio::sync::Mutex<()>,
}

/// The ids of letters, and whether each is a message of a stranger.
type Ids = BTreeMap<String, bool>;

/// How many records are read at once.
const PAGE_SIZE: usize = 1000;

impl DeadLetters {
    pub fn new(agent: Arc<Agent>) -> Self {
        Self { agent, ids: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// Reads the ids, unless that was done before.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the store is sealed; another [`StoreError`] if the store fails.
    pub async fn load(&self) -> Result<(), StoreError> {
        let _reading = self.reading.lock().await;
        if self.lock().is_none() {
            let ids = self.read_ids().await?;
            for (webhook, ids) in &ids {
                self.agent.metrics.set_dead_letters(webhook, ids.len());
            }
            *self.lock() = Some(ids);
        }
        Ok(())
    }

    /// Forgets the ids, because another node sets letters aside from now on.
    pub fn forget(&self) {
        *self.lock() = None;
    }

    async fn read_ids(&self) -> Result<BTreeMap<String, Ids>, StoreError> {
        let mut ids = BTreeMap::<String, Ids>::new();
        let mut after = String::new();
        loop {
            let page = self.agent.store.list::<DeadLetter>(&after, PAGE_SIZE).await?;
            let Some((last, _)) = page.last() else { return Ok(ids) };
            after.clone_from(last);
            for (_, dead) in page {
                ids.entry(dead.webhook).or_default().insert(dead.letter.id().to_owned(), dead.of_stranger);
            }
        }
    }

    /// Whether a webhook has set this letter aside.
    pub fn contains(&self, webhook: &str, letter: &str) -> bool {
        self.read(|ids| ids.get(webhook).is_some_and(|of_webhook| of_webhook.contains_key(letter)))
    }

    /// The number of dead letters of a webhook.
    pub fn count(&self, webhook: &str) -> usize {
        self.read(|ids| ids.get(webhook).map_or(0, Ids::len))
    }

    /// The same without messages of strangers: these are bounded by what strangers may leave in the inbox.
    pub fn count_of_known(&self, webhook: &str) -> usize {
        self.read(|ids| ids.get(webhook).into_iter().flatten().filter(|(_, of_stranger)| !**of_stranger).count())
    }

    /// The ids of the letters that a webhook has set aside.
    pub fn of(&self, webhook: &str) -> Vec<String> {
        self.read(|ids| ids.get(webhook).into_iter().flat_map(Ids::keys).cloned().collect())
    }

    /// Sets a letter aside.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn add(&self, dead: &DeadLetter) -> Result<(), StoreError> {
        self.load().await?;
        self.agent.store.put(&dead.id(), dead, UNREAD).await?;
        self.change(&dead.webhook, |ids| ids.insert(dead.letter.id().to_owned(), dead.of_stranger));
        Ok(())
    }

    /// Records another failed attempt, if the dead letter still exists.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn record_failure(&self, id: &str, failed: impl Fn(&mut DeadLetter)) -> Result<(), StoreError> {
        let Some((mut dead, revision)) = self.agent.store.get::<DeadLetter>(id).await? else { return Ok(()) };
        failed(&mut dead);
        // If the record was deleted meanwhile, the revision does not fit.
        self.agent.store.put(id, &dead, revision).await.map(drop)
    }

    /// Returns a dead letter by its id.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn get(&self, id: &str) -> Result<Option<DeadLetter>, StoreError> {
        Ok(self.agent.store.get::<DeadLetter>(id).await?.map(|(dead, _)| dead))
    }

    /// Returns at most `limit` dead letters with ids after `after`, of one webhook or of all, in the order of their ids.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn list(&self, webhook: Option<&str>, after: &str, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        // All ids of a webhook begin with its name and a colon.
        let first = webhook.map(|name| id(name, "")).unwrap_or_default();
        let found = self.agent.store.list::<DeadLetter>(after.max(&first), limit).await?;
        let all = found.into_iter().map(|(_, dead)| dead);
        Ok(all.take_while(|dead| webhook.is_none_or(|name| dead.webhook == name)).collect())
    }

    /// Deletes a dead letter, if it exists.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn remove(&self, webhook: &str, letter: &str) -> Result<(), StoreError> {
        self.load().await?;
        self.agent.store.delete::<DeadLetter>(&id(webhook, letter)).await?;
        self.change(webhook, |ids| ids.remove(letter));
        Ok(())
    }

    /// Deletes the dead letters of acknowledged messages. Without dead letters, the store is not read.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn remove_messages(&self, messages: &[String]) -> Result<(), StoreError> {
        let found: Vec<(String, String)> = self.read(|ids| {
            let of_webhook = |(webhook, ids): (&String, &Ids)| {
                let dead = messages.iter().filter(|message| ids.contains_key(*message));
                dead.map(|message| (webhook.clone(), message.clone())).collect::<Vec<_>>()
            };
            ids.iter().flat_map(of_webhook).collect()
        });
        for (webhook, letter) in found {
            self.remove(&webhook, &letter).await?;
        }
        Ok(())
    }

    /// Deletes the dead letters of a webhook whose messages were acknowledged or deleted meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn remove_finished(&self, webhook: &str) -> Result<(), StoreError> {
        for letter in self.of(webhook) {
            if self.message(&letter).await?.is_some() {
                continue;
            }
            let dead = self.get(&id(webhook, &letter)).await?;
            if dead.is_some_and(|dead| matches!(dead.letter, KeptLetter::Message { .. })) {
                self.remove(webhook, &letter).await?;
            }
        }
        Ok(())
    }

    /// Returns an unacknowledged message of the inbox.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn message(&self, id: &str) -> Result<Option<Delivery>, StoreError> {
        let found = self.agent.store().deliveries_by_id(id, 1).await?.pop();
        Ok(found.filter(|delivery| delivery.id == id && delivery.sealed.is_some()))
    }

    fn read<T: Default>(&self, read: impl FnOnce(&BTreeMap<String, Ids>) -> T) -> T {
        self.lock().as_ref().map(read).unwrap_or_default()
    }

    fn change(&self, webhook: &str, change: impl FnOnce(&mut Ids) -> Option<bool>) {
        let mut ids = self.lock();
        let Some(ids) = ids.as_mut() else { return };
        let of_webhook = ids.entry(webhook.to_owned()).or_default();
        change(of_webhook);
        self.agent.metrics.set_dead_letters(webhook, of_webhook.len());
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<String, Ids>>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
