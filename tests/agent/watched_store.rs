//! A store that counts the calls of each method, and in which another process writes at a chosen moment.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use claviger::agent::store::{
    Commit, CommitOutcome, Delivery, DeliveryQuery, EventOfExpired, ExpiredEnvelope, HandledMessage, Millis,
    NewEnvelope, NewEvent, OutboxEntry, OutboxPosition, OutboxQuery, PeerQuota, PendingEnvelope, Postponement,
    ReceiveOutcome, Record, Retention, SendOutcome, Store, StoreError, StoredEvent, ThreadEntry, ThreadPosition, Usage,
};

/// The calls by method, in the order of their names.
pub type Calls = BTreeMap<&'static str, u64>;

pub struct WatchedStore {
    inner: Arc<dyn Store>,
    calls: Mutex<Calls>,
    /// What another process commits, each before one commit of a handled message.
    elsewhere: Mutex<VecDeque<Commit>>,
}

impl WatchedStore {
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, calls: Mutex::default(), elsewhere: Mutex::default() })
    }

    /// The store without the watch: what is done here is not counted, and the agent does not know of it.
    pub fn unwatched(&self) -> &dyn Store {
        &*self.inner
    }

    /// Has another process commit this immediately before the next commit of a handled message.
    pub fn commit_elsewhere(&self, commit: Commit) {
        self.elsewhere.lock().unwrap().push_back(commit);
    }

    /// Returns the calls since the last time, without those that the agent makes from time to time.
    pub fn take_calls(&self) -> Calls {
        let mut calls = std::mem::take(&mut *self.calls.lock().unwrap());
        for regular in ["delete_expired", "expire_envelopes", "expire_outgoing", "outbox_peers", "pending_envelopes"] {
            calls.remove(regular);
        }
        calls
    }

    fn count(&self, method: &'static str) {
        *self.calls.lock().unwrap().entry(method).or_default() += 1;
    }
}

macro_rules! watch {
    ($($method:ident($($name:ident: $type:ty),*) -> $result:ty;)*) => {
        #[async_trait]
        impl Store for WatchedStore {
            $(async fn $method(&self, $($name: $type),*) -> Result<$result, StoreError> {
                self.count(stringify!($method));
                self.inner.$method($($name),*).await
            })*

            async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError> {
                self.count("commit");
                let elsewhere = commit.handled.as_ref().and_then(|_| self.elsewhere.lock().unwrap().pop_front());
                if let Some(elsewhere) = elsewhere {
                    assert_eq!(self.inner.commit(elsewhere).await?, CommitOutcome::Committed);
                }
                self.inner.commit(commit).await
            }
        }
    };
}

watch! {
    receive(envelope: NewEnvelope) -> ReceiveOutcome;
    known_digests(limit: usize) -> Vec<u64>;
    pending_envelopes(now: Millis, except: &[i64], limit: usize) -> Vec<PendingEnvelope>;
    pending_count(recipient: &str) -> u64;
    peer_quota(peer: &str, is_stranger: bool) -> PeerQuota;
    postpone(envelope: i64, postponement: Postponement) -> ();
    make_due(max_attempts: u32) -> ();
    expire_envelopes(arrived: Millis, limit: usize) -> Vec<ExpiredEnvelope>;
    handled_position(sender: &str, recipient: &str, message: &str) -> Option<i64>;
    is_certainly_new(message: &HandledMessage, created: Option<Millis>) -> bool;
    deliveries(query: DeliveryQuery) -> Vec<Delivery>;
    deliveries_by_id(beginning: &str, limit: usize) -> Vec<Delivery>;
    acknowledge(ids: &[String]) -> usize;
    outbox_peers() -> Vec<String>;
    outbox_entries(peer: &str, except_senders: &[String], except: &[String], limit: usize) -> Vec<OutboxEntry>;
    outbox_entry(id: &str) -> Option<OutboxEntry>;
    outbox(query: OutboxQuery) -> Vec<(OutboxPosition, OutboxEntry)>;
    cancel_outgoing(id: &str, time: Millis) -> bool;
    record_send_outcome(id: &str, outcome: SendOutcome, event: Option<NewEvent>) -> ();
    expire_outgoing(now: Millis, limit: usize, event: EventOfExpired) -> Vec<OutboxEntry>;
    events(after: i64, kinds: &[&str], limit: usize) -> Vec<StoredEvent>;
    thread_entries(thread: &str, after: ThreadPosition, limit: usize) -> Vec<(ThreadPosition, ThreadEntry)>;
    record(kind: &str, key: &str) -> Option<Record>;
    records_at(places: &[(&str, &str)]) -> Vec<Option<Record>>;
    records(kind: &str, after: &str, limit: usize) -> Vec<Record>;
    records_with_peer(kind: &'static str, peer: &str, after: &str, limit: usize) -> Vec<Record>;
    known_connections(limit: usize) -> Vec<String>;
    delete_expired(now: Millis, retention: &Retention, limit: usize) -> usize;
    usage() -> Usage;
    probe_write() -> ();
    close() -> ();
}
