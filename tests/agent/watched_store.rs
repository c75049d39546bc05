//! A store that counts the calls of each method, and in which another process writes at a chosen moment. It may also play the
//! store of two nodes, of which the other one has no agent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use claviger::agent::store::{
    Commit, CommitOutcome, Delivery, DeliveryQuery, EventOfExpired, ExpiredEnvelope, HandledMessage, Hint,
    HintListener, Millis, NewEnvelope, NewEvent, OutboxEntry, OutboxPosition, OutboxQuery, PeerQuota, PendingEnvelope,
    Postponement, ReceiveOutcome, Record, Retention, SendOutcome, Store, StoreError, StoreNode, StoredEvent,
    ThreadEntry, ThreadPosition, Usage,
};
use tokio::sync::{Barrier, watch};

/// The calls by method, in the order of their names.
pub type Calls = BTreeMap<&'static str, u64>;

pub struct WatchedStore {
    inner: Arc<dyn Store>,
    calls: Mutex<Calls>,
    /// What another process commits, each before one commit of a handled message.
    elsewhere: Mutex<VecDeque<Commit>>,
    /// Holds up the next read of the outbox that finds nothing.
    empty_read: Mutex<Option<Arc<Barrier>>>,
    /// Whether the store refuses to record what became of messages.
    refuses_outcomes: AtomicBool,
    nodes: Option<Nodes>,
}

/// What the store knows of its two nodes.
struct Nodes {
    /// Whether the agent's node leads.
    leads: watch::Sender<bool>,
    listeners: Mutex<Vec<HintListener>>,
    /// The peers whose messages the other node sends.
    of_other: Arc<Mutex<BTreeSet<String>>>,
    /// Whether the agent's node knows of these peers.
    is_known: AtomicBool,
    /// How long a claim takes.
    claim_delay: Mutex<Duration>,
}

impl WatchedStore {
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self::of(inner, None))
    }

    /// A store of two nodes. That of the agent leads or not.
    pub fn with_nodes(inner: Arc<dyn Store>, leads: bool) -> Arc<Self> {
        let nodes = Some(Nodes {
            leads: watch::Sender::new(leads),
            listeners: Mutex::default(),
            of_other: Arc::default(),
            is_known: AtomicBool::new(true),
            claim_delay: Mutex::default(),
        });
        Arc::new(Self::of(inner, nodes))
    }

    fn of(inner: Arc<dyn Store>, nodes: Option<Nodes>) -> Self {
        let (calls, elsewhere, empty_read) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { inner, calls, elsewhere, empty_read, refuses_outcomes: AtomicBool::new(false), nodes }
    }

    /// Has the store refuse to record what became of messages, as a damaged one does; or no longer.
    pub fn refuse_outcomes(&self, refuses: bool) {
        self.refuses_outcomes.store(refuses, Ordering::SeqCst);
    }

    /// Holds up the next read of the outbox that finds nothing. Wait once until it has read, and once more to let it go on.
    pub fn hold_empty_read(&self) -> Arc<Barrier> {
        let barrier = Arc::new(Barrier::new(2));
        *self.empty_read.lock().unwrap() = Some(barrier.clone());
        barrier
    }

    /// Tells the agent what the other node has done.
    pub fn hint(&self, hints: &[Hint]) {
        self.nodes().listeners.lock().unwrap().iter().for_each(|listener| listener(hints));
    }

    /// Has the agent's node lead, or the other one.
    pub fn lead(&self, leads: bool) {
        self.nodes().leads.send_replace(leads);
    }

    /// Has the other node send the messages that wait for a peer; or no longer.
    pub fn send_elsewhere(&self, peer: &str, elsewhere: bool) {
        let mut of_other = self.nodes().of_other.lock().unwrap();
        if elsewhere {
            of_other.insert(peer.to_owned())
        } else {
            of_other.remove(peer)
        };
    }

    /// Has the agent's node know for which peers messages wait at the other node, or not.
    pub fn know_of_other(&self, is_known: bool) {
        self.nodes().is_known.store(is_known, Ordering::SeqCst);
    }

    /// Sets how long a claim takes. It is carried out although nobody waits for it.
    pub fn delay_claims(&self, delay: Duration) {
        *self.nodes().claim_delay.lock().unwrap() = delay;
    }

    fn is_of_other(&self, peer: &str) -> bool {
        self.nodes.as_ref().is_some_and(|nodes| nodes.of_other.lock().unwrap().contains(peer))
    }

    /// How often a method was called since the last [`take_calls`](Self::take_calls).
    pub fn calls_of(&self, method: &str) -> u64 {
        self.calls.lock().unwrap().get(method).copied().unwrap_or_default()
    }

    fn nodes(&self) -> &Nodes {
        self.nodes.as_ref().expect("a store of two nodes")
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

            async fn record_send_outcome(
                &self,
                id: &str,
                outcome: SendOutcome,
                event: Option<NewEvent>,
            ) -> Result<(), StoreError> {
                self.count("record_send_outcome");
                match self.refuses_outcomes.load(Ordering::SeqCst) {
                    true => Err(StoreError::Unusable("refuses the request: a test".to_owned())),
                    false => self.inner.record_send_outcome(id, outcome, event).await,
                }
            }

            async fn outbox_peers(&self) -> Result<Vec<String>, StoreError> {
                self.count("outbox_peers");
                let mut peers = self.inner.outbox_peers().await?;
                peers.retain(|peer| !self.is_of_other(peer));
                Ok(peers)
            }

            async fn outbox_entries(
                &self,
                peer: &str,
                except_senders: &[String],
                except: &[String],
                limit: usize,
            ) -> Result<Vec<OutboxEntry>, StoreError> {
                self.count("outbox_entries");
                let found = match self.is_of_other(peer) {
                    true => Vec::new(),
                    false => self.inner.outbox_entries(peer, except_senders, except, limit).await?,
                };
                let held = self.empty_read.lock().unwrap().take_if(|_| found.is_empty());
                if let Some(barrier) = held {
                    barrier.wait().await;
                    barrier.wait().await;
                }
                Ok(found)
            }

            fn listen(&self, listener: HintListener) {
                if let Some(nodes) = &self.nodes {
                    nodes.listeners.lock().unwrap().push(listener);
                }
            }

            async fn nodes(&self) -> Result<Vec<StoreNode>, StoreError> {
                let Some(nodes) = &self.nodes else { return Ok(Vec::new()) };
                let leads = *nodes.leads.borrow();
                let node = |number, name: &str, is_this, leads| {
                    let (name, version) = (name.to_owned(), "1.2.3".to_owned());
                    StoreNode { number, name, version, since: 1000 * number, is_this, leads }
                };
                Ok(vec![node(1, "other", false, !leads), node(2, "ours", true, leads)])
            }

            fn leads(&self) -> watch::Receiver<bool> {
                self.nodes.as_ref().map_or_else(|| self.inner.leads(), |nodes| nodes.leads.subscribe())
            }

            fn waits_elsewhere(&self, peer: &str) -> bool {
                self.is_of_other(peer) && self.nodes().is_known.load(Ordering::SeqCst)
            }

            async fn claim_outgoing(&self, peer: &str) -> Result<(), StoreError> {
                self.count("claim_outgoing");
                let Some(nodes) = &self.nodes else { return Ok(()) };
                let (of_other, peer) = (nodes.of_other.clone(), peer.to_owned());
                let delay = *nodes.claim_delay.lock().unwrap();
                let claim = tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    of_other.lock().unwrap().remove(&peer);
                });
                claim.await.map_err(|error| StoreError::Unavailable(error.to_string()))
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
    outbox_entry(id: &str) -> Option<OutboxEntry>;
    outbox(query: OutboxQuery) -> Vec<(OutboxPosition, OutboxEntry)>;
    cancel_outgoing(id: &str, time: Millis) -> bool;
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
