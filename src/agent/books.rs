//! The store with its seal: what protocols, inbox and outbox write and read, in the clear on this side only.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    clock::now,
    ours::{Ours, canonical},
    protocol::{Effect, Received, Records},
    seal::{StoreKey, WrappedKey},
    store::{Change, Commit, Committed, Delivery, Millis, Outgoing, Record, SendState, Store, StoreError},
};
use crate::{
    didcomm::{Message, Provenance},
    keys::PublicKey,
};

/// The kind and the key of the one record that is not sealed.
const STORE_KEY: (&str, &str) = ("store-key", "1");

/// The store and the key of its seal, which a token opens.
pub struct Books {
    store: Arc<dyn Store>,
    key: watch::Sender<Option<StoreKey>>,
}

/// What is to be sent, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// The message.
    pub message: Message,
    /// Whether it is signed, so that others can be shown who wrote it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sign: bool,
    /// Whether who carries it must not learn who sent it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub protect_sender: bool,
}

/// What the application is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    /// The message.
    pub message: Message,
    /// How it was protected ([`Provenance`]).
    pub provenance: Value,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Books {
    /// Those of a store; sealed until [`Books::unlock`].
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, key: watch::Sender::new(None) }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Whether a token has opened the seal.
    pub fn is_unlocked(&self) -> bool {
        self.key.borrow().is_some()
    }

    /// Returns once the seal is open.
    pub async fn unlocked(&self) {
        // The sender lives as long as self, so this does not fail.
        let _ = self.key.subscribe().wait_for(Option::is_some).await;
    }

    /// Has a token open the seal; a store without one gets it now. Wrapped anew if our keys are others than it was wrapped for.
    ///
    /// # Errors
    /// In words for the log: the token does not do it now, or holds none of the keys.
    pub async fn unlock(&self, ours: &Ours) -> Result<(), String> {
        self.unlock_without(ours, &[]).await
    }

    /// The same; but from now on the seal is opened by none of these keys of ours, which go.
    ///
    /// # Errors
    /// As [`unlock`](Self::unlock); also if no other key is ready.
    pub async fn unlock_without(&self, ours: &Ours, gone: &[PublicKey]) -> Result<(), String> {
        let secrets = ours.secrets();
        let record = self.store.record(STORE_KEY.0, STORE_KEY.1).await.map_err(|error| error.to_string())?;
        let old = match &record {
            None => WrappedKey::default(),
            Some(record) => {
                serde_json::from_slice(&record.value).map_err(|error| format!("the store's key is damaged: {error}"))?
            }
        };
        let open = self.key.borrow().clone();
        let key = match (open, &record) {
            (Some(key), _) => key,
            (None, None) => StoreKey::generate(),
            (None, Some(_)) => old.open(secrets).await.map_err(|error| {
                let keys: Vec<String> = old.keys().iter().map(PublicKey::to_string).collect();
                format!("the store's key, wrapped for {}, is not opened: {error}", keys.join(", "))
            })?,
        };
        let mut wrapped = old.clone();
        gone.iter().for_each(|key| wrapped.remove(key));
        for new in ours.ready_agreement_keys().iter().filter(|new| !gone.contains(new) && !old.keys().contains(new)) {
            // One token that does not, as for want of a touch, keeps the others from nothing.
            if let Err(error) = wrapped.add(&key, new, secrets).await {
                tracing::info!(%error, key = %new, "the store's key is not wrapped for a key of ours yet");
            }
        }
        // A wrapping for a token that is lost would open nothing when these are gone.
        let ready = ours.ready_agreement_keys();
        if !gone.is_empty() && !wrapped.keys().iter().any(|key| ready.contains(key)) {
            return Err("no other key agreement key of ours is ready to open the store".to_owned());
        }
        if wrapped.keys().is_empty() {
            return Err("no token is ready that holds a key agreement key of ours".to_owned());
        }
        if wrapped != old {
            let value = serde_json::to_vec(&wrapped).map_err(|error| error.to_string())?;
            let (kind, name) = (STORE_KEY.0.to_owned(), STORE_KEY.1.to_owned());
            let revision = record.map_or(0, |record| record.revision);
            let record = Record { kind, key: name, revision, value, expires: None };
            let commit = Commit { changes: vec![Change::Put(record)], ..Commit::default() };
            match self.store.commit(commit).await.map_err(|error| error.to_string())? {
                Committed::Done => {}
                _ => return Err("the store's key was changed meanwhile".to_owned()),
            }
        }
        self.key.send_replace(Some(key));
        Ok(())
    }

    fn key(&self) -> Result<StoreKey, StoreError> {
        let key = self.key.borrow().clone();
        key.ok_or_else(|| StoreError::Unavailable("it is sealed until a token is ready".to_owned()))
    }

    fn seal(&self, place: &str, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        let plain = serde_json::to_vec(value).map_err(|error| StoreError::Unusable(format!("takes JSON: {error}")))?;
        let plain = zeroize::Zeroizing::new(plain);
        Ok(self.key()?.seal(place, &plain))
    }

    fn open<T: DeserializeOwned>(&self, place: &str, sealed: &[u8]) -> Result<T, StoreError> {
        let damaged = |error: String| StoreError::Unusable(format!("has a damaged {place}: {error}"));
        let plain = self.key()?.open(place, sealed).map_err(|error| damaged(error.to_string()))?;
        serde_json::from_slice(&plain).map_err(|error| damaged(error.to_string()))
    }

    /// What effects come to in the store.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the seal is closed.
    pub fn changes(&self, received: &Received, effects: Vec<Effect>, life: Millis) -> Result<Vec<Change>, StoreError> {
        let each = effects.into_iter().map(|effect| match effect {
            Effect::Send(message) => {
                let intent = Intent { message: *message, sign: false, protect_sender: false };
                self.outgoing(&intent, life).map(|(_, change)| change)
            }
            Effect::Deliver => self.delivery(received),
            Effect::Put { kind, key, value, revision, expires } => self.remember(kind, key, &value, revision, expires),
            Effect::Delete { kind, key } => Ok(Change::Delete { kind, key }),
        });
        each.collect()
    }

    /// Something that is to be remembered.
    ///
    /// # Errors
    /// As [`Books::changes`].
    pub fn remember(
        &self,
        kind: String,
        key: String,
        value: &impl Serialize,
        revision: i64,
        expires: Option<Millis>,
    ) -> Result<Change, StoreError> {
        let value = self.seal(&place(&kind, &key), value)?;
        Ok(Change::Put(Record { kind, key, revision, value, expires }))
    }

    /// A message for the outbox, which is given up after `life` or when it expires; and its id there.
    ///
    /// # Errors
    /// As [`Books::changes`].
    pub fn outgoing(&self, intent: &Intent, life: Millis) -> Result<(String, Change), StoreError> {
        let message = &intent.message;
        let id = Message::new_id();
        let created = now();
        let lives_until = created.saturating_add(life);
        let expires =
            message.expires_time.map_or(lives_until, |seconds| super::clock::of_seconds(seconds).min(lives_until));
        let peer = message.to.as_ref().and_then(|to| to.first()).map_or("", |did| canonical(did));
        let outgoing = Outgoing {
            message: message.id.clone(),
            thread: message.thread().to_owned(),
            kind: message.type_.clone(),
            sender: message.from.clone().unwrap_or_default(),
            peer: peer.to_owned(),
            created,
            expires,
            state: SendState::Waiting,
            tries: 0,
            time: created,
            problem: None,
            sealed: Some(self.seal(&place("outgoing", &id), intent)?),
            id: id.clone(),
        };
        Ok((id, Change::Send(outgoing)))
    }

    fn delivery(&self, received: &Received) -> Result<Change, StoreError> {
        let id = Message::new_id();
        let content = Content {
            message: received.message.clone(),
            provenance: serde_json::to_value::<&Provenance>(&received.provenance).unwrap_or_default(),
        };
        Ok(Change::Deliver(Delivery {
            cursor: 0,
            message: received.message.id.clone(),
            thread: received.message.thread().to_owned(),
            kind: received.message.type_.clone(),
            sender: received.theirs.clone().unwrap_or_default(),
            recipient: received.ours.clone(),
            received: received.time,
            sealed: Some(self.seal(&place("delivery", &id), &content)?),
            id,
        }))
    }

    /// What is to be sent.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the seal is closed; [`StoreError::Unusable`] if it is damaged or was sent.
    pub fn intent(&self, outgoing: &Outgoing) -> Result<Intent, StoreError> {
        self.open(&place("outgoing", &outgoing.id), outgoing.sealed.as_deref().unwrap_or_default())
    }

    /// What a delivery holds; none once it is acknowledged.
    ///
    /// # Errors
    /// As [`Books::intent`].
    pub fn content(&self, delivery: &Delivery) -> Result<Option<Content>, StoreError> {
        let sealed = delivery.sealed.as_deref();
        sealed.map(|sealed| self.open(&place("delivery", &delivery.id), sealed)).transpose()
    }

    /// What is remembered of a kind, after a key.
    ///
    /// # Errors
    /// Those of the store, and as [`Books::intent`].
    pub async fn list<T: DeserializeOwned>(
        &self,
        kind: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let records = self.store.records(kind, after, limit).await?;
        let opened = records.into_iter().map(|it| Ok((it.key.clone(), self.open(&place(kind, &it.key), &it.value)?)));
        opened.collect()
    }

    /// Remembers one thing, if its revision is still that one; false if it is not.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put(&self, kind: &str, key: &str, revision: i64, value: &impl Serialize) -> Result<bool, StoreError> {
        let put = self.remember(kind.to_owned(), key.to_owned(), value, revision, None)?;
        let commit = Commit { changes: vec![put], ..Commit::default() };
        Ok(self.store.commit(commit).await? == Committed::Done)
    }
}

#[async_trait]
impl Records for Books {
    async fn handled(&self, ours: &str, theirs: &str, message: &str) -> Result<Option<i64>, StoreError> {
        self.store.handled(theirs, ours, message).await
    }

    async fn read(&self, kind: &str, key: &str) -> Result<Option<(Value, i64)>, StoreError> {
        let record = self.store.record(kind, key).await?;
        record.map(|record| Ok((self.open(&place(kind, key), &record.value)?, record.revision))).transpose()
    }
}

/// What a sealed value is bound to.
fn place(kind: &str, key: &str) -> String {
    format!("{kind}:{key}")
}
