//! The store with encryption: callers read and write plaintext, and the store holds ciphertext.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    canonical_did::canonical_did,
    clock::{Millis, now, seconds_to_millis},
    committer::{CommitListener, Committer},
    outgoing_message::OutgoingMessage,
    protocol::{Effect, ReadRecord, Received, RecordReader, RecordType, connections::Connection},
    record_cache::RecordCache,
    recorded_events::RecordedEvents,
    store::{
        Store,
        error::StoreError,
        types::{Change, Commit, CommitOutcome, Delivery, OutboxEntry, Record, SendState},
    },
    store_key::StoreKey,
};
use crate::{
    didcomm::{Message, Provenance},
    keys::PublicKey,
};

/// A store, and the key that its content is sealed under. A token unwraps the key.
pub struct SealedStore {
    inner: Arc<dyn Store>,
    pub(super) key: watch::Sender<Option<StoreKey>>,
    committer: Arc<Committer>,
    pub(super) records: Arc<RecordCache>,
    recorded_events: RecordedEvents,
    /// The keys of other nodes, each of which has a token of its own.
    pub(super) trusted: Vec<PublicKey>,
}

/// The content of a delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryContent {
    /// The message.
    pub message: Message,
    /// How the message was protected: [`Provenance`] as JSON.
    pub provenance: Value,
}

/// The content of a delivery, as it is sealed: a [`DeliveryContent`] without a copy of the message, which may be large.
#[derive(Serialize)]
struct ReceivedContent<'a> {
    message: &'a Message,
    provenance: &'a Provenance,
}

impl SealedStore {
    /// Wraps a store. The result is sealed until [`SealedStore::unlock`].
    pub fn new(inner: Arc<dyn Store>, on_commit: CommitListener) -> Self {
        let (key, recorded_events) = (watch::Sender::new(None), RecordedEvents::default());
        let records = Arc::<RecordCache>::default();
        let committer = Arc::new(Committer::new(inner.clone(), on_commit, records.clone()));
        Self { inner, key, committer, records, recorded_events, trusted: Vec::new() }
    }

    /// Shares the store's key with these key agreement keys, which tokens of other nodes hold, and accepts it from them.
    pub fn trust(self, trusted: Vec<PublicKey>) -> Self {
        Self { trusted, ..self }
    }

    /// The kinds of events that are recorded: none at first.
    pub fn recorded_events(&self) -> &RecordedEvents {
        &self.recorded_events
    }

    /// A store with a key that no token has unwrapped.
    #[cfg(test)]
    pub fn with_new_key(inner: Arc<dyn Store>) -> Self {
        Self { key: watch::Sender::new(Some(StoreKey::generate())), ..Self::new(inner, Box::new(|_| {})) }
    }

    /// Returns the underlying store, which holds ciphertext.
    pub fn inner(&self) -> &Arc<dyn Store> {
        &self.inner
    }

    /// Whether a token has unwrapped the store's key.
    pub fn is_unlocked(&self) -> bool {
        self.key.borrow().is_some()
    }

    /// Returns once the store's key is unwrapped.
    pub async fn unlocked(&self) {
        // The sender lives as long as self, so this does not fail.
        let _ = self.key.subscribe().wait_for(Option::is_some).await;
    }

    /// Commits, and tells the listener what was committed ([`Committer::commit`]).
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError> {
        self.committer.commit(commit).await
    }

    /// Tells the listener about changes that were made without [`SealedStore::commit`].
    pub fn tell(&self, changes: &[Change]) {
        self.committer.tell(changes);
    }

    /// Commits changes that belong together.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn commit_changes(&self, changes: Vec<Change>) -> Result<CommitOutcome, StoreError> {
        self.commit(Commit { changes, ..Commit::default() }).await
    }

    /// Converts the effects of a handled message to changes of the store, with sealed content. `message_lifetime` is
    /// how long the agent tries to send replies, in milliseconds.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the store is sealed.
    pub fn changes(
        &self,
        received: &Received,
        effects: Vec<Effect>,
        message_lifetime: Millis,
    ) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::with_capacity(effects.len());
        for effect in effects {
            changes.push(match effect {
                Effect::Send(message) => self.send_change(&OutgoingMessage::new(*message), message_lifetime)?,
                Effect::Deliver => self.deliver_change(received)?,
                Effect::Put { kind, key, value, revision, expires, about_sender } => {
                    let value = self.seal(&place(&kind, &key), &value)?;
                    let record = Record { kind, key, revision, value, expires };
                    if about_sender { Change::Remember(record) } else { Change::Put(record) }
                }
                Effect::KeepSender => Change::Keep(received.sender.clone().unwrap_or_default()),
                Effect::Delete { kind, key } => Change::Delete { kind, key },
                Effect::Event { kind, data } => match self.recorded_events.change(kind, || data) {
                    Some(event) => event,
                    None => continue,
                },
            });
        }
        Ok(changes)
    }

    /// Returns the change that puts an automatic message into the outbox. The agent tries to send the message until
    /// `lifetime` milliseconds have passed, or until it expires.
    ///
    /// # Errors
    /// The errors of [`SealedStore::changes`].
    pub fn send_change(&self, outgoing: &OutgoingMessage, lifetime: Millis) -> Result<Change, StoreError> {
        self.send_change_as(&Message::new_id(), outgoing, lifetime, false)
    }

    /// Like [`SealedStore::send_change`], with this outbox id. `by_application` says whether the application knows the id, and
    /// so wants to hear what becomes of the message.
    ///
    /// # Errors
    /// The errors of [`SealedStore::changes`].
    pub fn send_change_as(
        &self,
        id: &str,
        outgoing: &OutgoingMessage,
        lifetime: Millis,
        by_application: bool,
    ) -> Result<Change, StoreError> {
        let message = &outgoing.message;
        let created = now();
        let give_up_at = created.saturating_add(lifetime);
        let expires = message.expires_time.map_or(give_up_at, |seconds| seconds_to_millis(seconds).min(give_up_at));
        let peer = message.to.as_ref().and_then(|to| to.first()).map(|did| canonical_did(did).into_owned());
        let entry = OutboxEntry {
            message: message.id.clone(),
            thread: message.thread().to_owned(),
            kind: message.type_.clone(),
            sender: message.from.clone().unwrap_or_default(),
            peer: peer.unwrap_or_default(),
            created,
            expires,
            state: SendState::Waiting,
            tries: 0,
            time: created,
            problem: None,
            to_stranger: false,
            by_application,
            sealed: Some(self.seal(&place("outgoing", id), outgoing)?),
            id: id.to_owned(),
        };
        Ok(Change::Send(entry))
    }

    fn deliver_change(&self, received: &Received) -> Result<Change, StoreError> {
        let id = Message::new_id();
        let content = ReceivedContent { message: &received.message, provenance: &received.provenance };
        Ok(Change::Deliver(Delivery {
            cursor: 0,
            message: received.message.id.clone(),
            thread: received.message.thread().to_owned(),
            kind: received.message.type_.clone(),
            sender: received.sender.clone().unwrap_or_default(),
            recipient: received.recipient.clone(),
            received: received.time,
            sealed: Some(self.seal(&place("delivery", &id), &content)?),
            id,
        }))
    }

    /// Returns the message of an outbox entry.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the store is sealed; [`StoreError::Unusable`] if the content is damaged, or
    /// was deleted because the message was sent.
    pub fn outgoing_message(&self, entry: &OutboxEntry) -> Result<OutgoingMessage, StoreError> {
        self.open(&place("outgoing", &entry.id), entry.sealed.as_deref().unwrap_or_default())
    }

    /// Returns the content of a delivery, or `None` after its acknowledgement.
    ///
    /// # Errors
    /// The errors of [`SealedStore::outgoing_message`].
    pub fn content(&self, delivery: &Delivery) -> Result<Option<DeliveryContent>, StoreError> {
        let sealed = delivery.sealed.as_deref();
        sealed.map(|sealed| self.open(&place("delivery", &delivery.id), sealed)).transpose()
    }

    /// Returns a record and its revision.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the store is sealed; [`StoreError::Unusable`] if the record is damaged;
    /// another [`StoreError`] if the store fails.
    pub async fn get<T: RecordType>(&self, key: &str) -> Result<Option<(T, i64)>, StoreError> {
        self.open_record(T::KIND, key, self.inner.record(T::KIND, key).await?.as_ref())
    }

    /// Returns a record of each of three types, as they were at one moment: now, or within `max_age` if they are remembered.
    /// This costs less than three calls of [`SealedStore::get`].
    ///
    /// # Errors
    /// The errors of [`SealedStore::get`].
    pub async fn get_together<A: RecordType, B: RecordType, C: RecordType>(
        &self,
        [a, b, c]: [&str; 3],
        max_age: Duration,
    ) -> Result<(Option<A>, Option<B>, Option<C>), StoreError> {
        let places = [(A::KIND, a), (B::KIND, b), (C::KIND, c)];
        let read = match self.recall_within(&places, max_age)? {
            Some(remembered) => remembered,
            None => self.read_all(&places).await?,
        };
        let mut read = read.into_iter();
        Ok((typed(read.next())?, typed(read.next())?, typed(read.next())?))
    }

    /// Returns records as they were read within `max_age`. `None` if one of them is not remembered.
    fn recall_within(&self, places: &[(&str, &str)], max_age: Duration) -> Result<Option<Vec<ReadRecord>>, StoreError> {
        let Some(found) = self.records.find(places, max_age) else { return Ok(None) };
        let opened = places.iter().zip(&found).map(|((kind, key), it)| self.open_record(kind, key, it.as_deref()));
        opened.collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn open_record<T: DeserializeOwned>(
        &self,
        kind: &str,
        key: &str,
        record: Option<&Record>,
    ) -> Result<Option<(T, i64)>, StoreError> {
        record.map(|record| Ok((self.open(&place(kind, key), &record.value)?, record.revision))).transpose()
    }

    /// Returns the revision of a record, or 0 if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn revision<T: RecordType>(&self, key: &str) -> Result<i64, StoreError> {
        Ok(self.inner.record(T::KIND, key).await?.map_or(0, |record| record.revision))
    }

    /// Returns at most `limit` records with keys after `after`, each with its key, in the order of the keys.
    ///
    /// # Errors
    /// The errors of [`SealedStore::get`].
    pub async fn list<T: RecordType>(&self, after: &str, limit: usize) -> Result<Vec<(String, T)>, StoreError> {
        self.open_all(self.inner.records(T::KIND, after, limit).await?)
    }

    /// Returns at most `limit` connections with a peer, or rotations of a peer, with keys after `after`, each with its key, in
    /// the order of the keys. See [`Store::records_with_peer`].
    ///
    /// # Errors
    /// The errors of [`SealedStore::get`].
    pub async fn list_with_peer<T: RecordType>(
        &self,
        peer: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, T)>, StoreError> {
        self.open_all(self.inner.records_with_peer(T::KIND, peer, after, limit).await?)
    }

    fn open_all<T: RecordType>(&self, records: Vec<Record>) -> Result<Vec<(String, T)>, StoreError> {
        records.into_iter().map(|it| Ok((it.key.clone(), self.open(&place(T::KIND, &it.key), &it.value)?))).collect()
    }

    /// Writes a record if its revision is still `revision`; 0 stands for a new record. Returns whether it was written.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the store is sealed; another [`StoreError`] if the store fails.
    pub async fn put<T: RecordType>(&self, key: &str, value: &T, revision: i64) -> Result<bool, StoreError> {
        let put = self.put_change(key, value, revision, None)?;
        Ok(self.commit_changes(vec![put]).await? == CommitOutcome::Committed)
    }

    /// Returns the change that writes a record if its revision is still `revision`.
    ///
    /// # Errors
    /// The errors of [`SealedStore::changes`].
    pub fn put_change<T: RecordType>(
        &self,
        key: &str,
        value: &T,
        revision: i64,
        expires: Option<Millis>,
    ) -> Result<Change, StoreError> {
        let value = self.seal(&place(T::KIND, key), value)?;
        Ok(Change::Put(Record { kind: T::KIND.to_owned(), key: key.to_owned(), revision, value, expires }))
    }

    /// Deletes a record, if it exists.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn delete<T: RecordType>(&self, key: &str) -> Result<(), StoreError> {
        self.commit_changes(vec![Self::delete_change::<T>(key)]).await.map(drop)
    }

    /// Returns the change that deletes a record, if it exists.
    pub fn delete_change<T: RecordType>(key: &str) -> Change {
        Change::Delete { kind: T::KIND.to_owned(), key: key.to_owned() }
    }

    /// Returns a record key that stands for a text and hides it from who reads the disk.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the store is sealed.
    pub fn hidden_key(&self, kind: &str, text: &str) -> Result<String, StoreError> {
        Ok(self.key()?.hidden_name(kind, text))
    }

    fn key(&self) -> Result<StoreKey, StoreError> {
        let key = self.key.borrow().clone();
        key.ok_or_else(|| StoreError::Unavailable("it is sealed until a token that can open it is ready".to_owned()))
    }

    fn seal(&self, place: &str, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        let plain = serde_json::to_vec(value)
            .map_err(|error| StoreError::Unusable(format!("cannot hold a value that is not JSON: {error}")))?;
        let plain = zeroize::Zeroizing::new(plain);
        Ok(self.key()?.seal(place, &plain))
    }

    fn open<T: DeserializeOwned>(&self, place: &str, sealed: &[u8]) -> Result<T, StoreError> {
        let damaged = |error: String| StoreError::Unusable(format!("contains a damaged {place}: {error}"));
        let plain = self.key()?.open(place, sealed).map_err(|error| damaged(error.to_string()))?;
        serde_json::from_slice(&plain).map_err(|error| damaged(error.to_string()))
    }
}

#[async_trait]
impl RecordReader for SealedStore {
    async fn handled_position(&self, sender: &str, recipient: &str, message: &str) -> Result<Option<i64>, StoreError> {
        self.inner.handled_position(sender, recipient, message).await
    }

    async fn read(&self, kind: &str, key: &str) -> Result<ReadRecord, StoreError> {
        self.open_record(kind, key, self.inner.record(kind, key).await?.as_ref())
    }

    async fn read_all(&self, places: &[(&str, &str)]) -> Result<Vec<ReadRecord>, StoreError> {
        let before = self.records.before_read();
        let found = self.inner.records_at(places).await?;
        let opened = places.iter().zip(&found).map(|((kind, key), it)| self.open_record(kind, key, it.as_ref()));
        let opened: Vec<ReadRecord> = opened.collect::<Result<_, _>>()?;
        let is_with_known_peer = |((kind, _), read): (&(&str, &str), &ReadRecord)| {
            *kind == Connection::KIND && read.as_ref().is_some_and(|(value, _)| Connection::is_with_known_peer(value))
        };
        let of_known_peer = places.iter().zip(&opened).any(is_with_known_peer);
        self.records.remember(places, found, before, of_known_peer);
        Ok(opened)
    }

    fn recall(&self, places: &[(&str, &str)]) -> Result<Option<Vec<ReadRecord>>, StoreError> {
        let new = self.records.are_new(places).then(|| vec![None; places.len()]);
        new.map_or_else(|| self.recall_within(places, Duration::MAX), |new| Ok(Some(new)))
    }
}

/// Returns a record as its type.
fn typed<T: RecordType>(read: Option<ReadRecord>) -> Result<Option<T>, StoreError> {
    let damaged = |error| StoreError::Unusable(format!("contains a damaged {}: {error}", T::KIND));
    read.flatten().map(|(value, _)| serde_json::from_value(value).map_err(damaged)).transpose()
}

/// Returns the name of the place that a sealed value is bound to. The encryption authenticates the name as AAD.
fn place(kind: &str, key: &str) -> String {
    format!("{kind}:{key}")
}
