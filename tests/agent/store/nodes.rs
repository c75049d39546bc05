//! The suite on a store that nodes share, and tests of several nodes: who works on what, what they hear of one another, limits and
//! cursors that all of them see alike.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use claviger::agent::store::{
    Attribution, Change, Commit, CommitOutcome, Expectation, Hint, NewEvent, PostgresStore, ReceiveOutcome,
    SendOutcome, Store, StoreError, StoreLimits, UNREAD,
};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep},
};

use crate::store::{
    fixtures::{
        commit_of, delivery, handled_message, new_envelope, now, outgoing, pending_ids, record, revision_of, value_of,
    },
    pooler,
    postgres::{Location, check_deliveries, deliver_until, follow},
    store_limits,
    suite::{Limits, StoreLocation, commit_ok},
};

mod suite {
    crate::suite!(crate::store::nodes::Shared::some);
}

/// A database that nodes share.
pub struct Shared(pub Location);

impl Shared {
    pub fn some() -> Option<Self> {
        Location::shared().map(Self)
    }

    async fn try_open(&self, name: &str) -> Result<Arc<PostgresStore>, StoreError> {
        let options = self.0.options().as_node(name)?;
        PostgresStore::open(options, StoreLimits::default()).await.map(Arc::new)
    }

    pub async fn node(&self, name: &str) -> Arc<PostgresStore> {
        self.try_open(name).await.expect("the node joins")
    }
}

#[async_trait]
impl StoreLocation for Shared {
    async fn open(&self, limits: Limits) -> Arc<dyn Store> {
        let options = self.0.options().as_node("a").expect("a name");
        Arc::new(PostgresStore::open(options, store_limits(limits)).await.expect("the store opens"))
    }
}

macro_rules! shared {
    () => {{
        let Some(location) = Shared::some() else { return };
        location
    }};
}

/// What a node has heard.
#[derive(Clone, Default)]
pub struct Heard(pub Arc<Mutex<Vec<Hint>>>);

impl Heard {
    pub fn of(store: &PostgresStore) -> Self {
        let heard = Self::default();
        let hints = heard.0.clone();
        store.listen(Box::new(move |new| hints.lock().unwrap().extend_from_slice(new)));
        heard
    }

    pub async fn wait_for(&self, hint: &Hint) {
        until(|| std::future::ready(self.0.lock().unwrap().contains(hint)), &format!("{hint:?}")).await;
    }

    fn take(&self) -> Vec<Hint> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Waits until something is so.
pub async fn until<F: Future<Output = bool>>(is_so: impl Fn() -> F, what: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(Instant::now() < end, "{what} does not come about");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn nodes_have_names_and_share_the_database_with_no_other() {
    let location = shared!();
    let a = location.node("a").await;
    let b = location.node("b").await;
    let refused = location.try_open("a").await.err();
    assert!(matches!(&refused, Some(StoreError::InUse(why)) if why.contains("node a")), "{refused:?}");
    let refused = location.0.try_open().await.err();
    assert!(matches!(refused, Some(StoreError::InUse(_))), "an agent that wants it for itself: {refused:?}");
    for wrong in ["", "A", "a b", &"a".repeat(33)] {
        assert!(location.0.options().as_node(wrong).is_err(), "{wrong:?}");
    }
    let nodes = b.nodes().await.unwrap();
    let found: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), node.is_this, node.leads)).collect();
    assert_eq!(found, [("a", false, true), ("b", true, false)]);
    assert!(nodes[0].number < nodes[1].number && nodes[0].since <= nodes[1].since);
    assert_eq!(nodes[0].version, env!("CARGO_PKG_VERSION"));
    for store in [a, b] {
        store.close().await.unwrap();
    }
    let alone = location.0.try_open().await.unwrap();
    assert!(alone.nodes().await.unwrap().is_empty() && *alone.leads().borrow());
    let refused = location.try_open("a").await.err();
    assert!(matches!(refused, Some(StoreError::InUse(_))), "{refused:?}");
    alone.close().await.unwrap();
}

/// All waiting messages for a peer are sent by one node.
#[tokio::test]
async fn one_node_sends_to_a_peer() {
    let location = shared!();
    let a = location.node("a").await;
    let b = location.node("b").await;
    let heard = Heard::of(&a);
    let peer = "did:example:bob";
    commit_ok(&*a, commit_of([Change::Send(outgoing(1, peer))])).await;
    commit_ok(&*b, commit_of([Change::Send(outgoing(2, peer)), Change::Send(outgoing(3, "did:example:eve"))])).await;
    heard.wait_for(&Hint::Outgoing { peer: peer.to_owned(), is_here: true }).await;
    heard.wait_for(&Hint::Outgoing { peer: "did:example:eve".to_owned(), is_here: false }).await;
    let waiting = |store: Arc<PostgresStore>| async move {
        let entries = store.outbox_entries(peer, &[], &[], 9).await.unwrap();
        entries.into_iter().map(|entry| entry.id).collect::<Vec<_>>()
    };
    assert_eq!(waiting(a.clone()).await, ["outgoing 1", "outgoing 2"]);
    assert!(waiting(b.clone()).await.is_empty());
    assert_eq!(
        (a.outbox_peers().await.unwrap(), b.outbox_peers().await.unwrap()),
        (vec![peer.to_owned()], vec!["did:example:eve".to_owned()])
    );
    assert!(b.waits_elsewhere(peer) && !a.waits_elsewhere(peer) && a.waits_elsewhere("did:example:eve"));
    // The peer can be reached at the other node.
    b.claim_outgoing(peer).await.unwrap();
    assert_eq!((waiting(a.clone()).await.len(), waiting(b.clone()).await.len()), (0, 2));
    until(|| std::future::ready(a.waits_elsewhere(peer)), "a hears of the claim").await;
    commit_ok(&*a, commit_of([Change::Send(outgoing(4, peer))])).await;
    assert_eq!(waiting(b.clone()).await, ["outgoing 1", "outgoing 2", "outgoing 4"]);
    // Whoever has sent the last one leaves the peer to any of them.
    for id in ["outgoing 1", "outgoing 2", "outgoing 4"] {
        b.record_send_outcome(id, SendOutcome::Sent(now()), None).await.unwrap();
    }
    commit_ok(&*a, commit_of([Change::Send(outgoing(5, peer))])).await;
    assert_eq!((waiting(a.clone()).await.len(), waiting(b.clone()).await.len()), (1, 0));
    // Cancelled and expired messages count for the node that would have sent them.
    b.cancel_outgoing("outgoing 5", now()).await.unwrap();
    a.expire_outgoing(now() * 2, 9, |_| None).await.unwrap();
    for store in [&a, &b] {
        store.probe_write().await.unwrap();
        assert!(store.outbox_peers().await.unwrap().is_empty());
        assert!(!store.waits_elsewhere(peer) && !store.waits_elsewhere("did:example:eve"));
    }
    a.close().await.unwrap();
    b.close().await.unwrap();
}

/// The hint comes before this node has begun a transaction since the other one has joined.
#[tokio::test]
async fn messages_at_a_node_that_has_just_joined_wait_elsewhere() {
    let location = shared!();
    let a = location.node("a").await;
    let peer = "did:example:bob";
    let (store, heard) = (Arc::downgrade(&a), Arc::<Mutex<Vec<bool>>>::default());
    let waits = heard.clone();
    a.listen(Box::new(move |hints| {
        let hint = Hint::Outgoing { peer: peer.to_owned(), is_here: false };
        if hints.contains(&hint) {
            waits.lock().unwrap().push(store.upgrade().is_some_and(|store| store.waits_elsewhere(peer)));
        }
    }));
    let b = location.node("b").await;
    commit_ok(&*b, commit_of([Change::Send(outgoing(1, peer))])).await;
    until(|| std::future::ready(!heard.lock().unwrap().is_empty()), "the hint").await;
    assert_eq!(*heard.lock().unwrap(), [true]);
    a.claim_outgoing(peer).await.unwrap();
    assert_eq!(a.outbox_entries(peer, &[], &[], 9).await.unwrap().len(), 1);
    a.close().await.unwrap();
    b.close().await.unwrap();
}

#[tokio::test]
async fn nodes_hear_of_one_another() {
    let location = shared!();
    let a = location.node("a").await;
    let b = location.node("b").await;
    let (at_a, at_b) = (Heard::of(&a), Heard::of(&b));
    let event = NewEvent { time: now(), kind: "message.sent".to_owned(), data: "{}".to_owned() };
    commit_ok(
        &*a,
        commit_of([Change::Deliver(delivery(1)), Change::Put(record("x", UNREAD, "1")), Change::Event(event)]),
    )
    .await;
    at_b.wait_for(&Hint::Delivered { id: "delivery 1".to_owned() }).await;
    at_b.wait_for(&Hint::Recorded).await;
    at_b.wait_for(&Hint::Changed { kind: "connection".to_owned() }).await;
    at_b.take();
    commit_ok(&*b, commit_of([Change::Delete { kind: "connection".to_owned(), key: "x".to_owned() }])).await;
    at_a.wait_for(&Hint::Changed { kind: "connection".to_owned() }).await;
    assert_eq!((at_a.take().len(), at_b.take().len()), (1, 0), "nobody hears of what it has done itself");
    a.close().await.unwrap();
    b.close().await.unwrap();
}

/// What the nodes count is what a new node counts in the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_those_of_all_nodes_together() {
    let location = shared!();
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        let limits = StoreLimits { max_envelopes_for: 50, ..StoreLimits::default() };
        let options = location.0.options().as_node(name).unwrap();
        nodes.push(Arc::new(PostgresStore::open(options, limits).await.unwrap()));
    }
    let mut work = JoinSet::new();
    for number in 0..90 {
        let store = nodes[number as usize % 3].clone();
        work.spawn(async move {
            let attribution = Attribution::Resolvable { connection: None };
            let stored =
                store.receive(claviger::agent::store::NewEnvelope { attribution, ..new_envelope(number) }).await;
            commit_ok(&*store, commit_of([Change::Send(outgoing(number, &format!("did:example:{}", number % 4)))]))
                .await;
            commit_ok(&*store, commit_of([Change::Deliver(delivery(number))])).await;
            matches!(stored, Ok(ReceiveOutcome::Stored(_)))
        });
    }
    let stored = work.join_all().await.into_iter().filter(|is_stored| *is_stored).count();
    // The share of strangers in 50.
    let share = 50 * StoreLimits::default().strangers_percent as usize / 100;
    assert_eq!(stored, share, "no more than one node alone takes");
    let last = location.node("d").await;
    let counted = last.usage().await.unwrap();
    for store in &nodes {
        store.probe_write().await.unwrap();
        let usage = store.usage().await.unwrap();
        assert_eq!(
            (usage.envelopes, usage.deliveries, usage.outgoing, usage.delivery_bytes, usage.envelope_bytes),
            (counted.envelopes, 90, 90, counted.delivery_bytes, counted.envelope_bytes)
        );
        for peer in 0..4 {
            let peer = format!("did:example:{peer}");
            let senders = nodes.iter().filter(|node| !node.waits_elsewhere(&peer)).count();
            assert_eq!(senders, 1, "{peer}");
        }
    }
    for store in nodes.into_iter().chain([last]) {
        store.close().await.unwrap();
    }
}

/// Three nodes deliver at once, a foreign transaction is held open, and a reader that remembers the highest cursor skips nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_skips_no_delivery_of_any_node() {
    let location = Arc::new(shared!());
    let nodes = [location.node("a").await, location.node("b").await, location.node("c").await];
    let end = Instant::now() + Duration::from_secs(3);
    let writers: Vec<_> = (0..).zip(&nodes).map(|(task, store)| deliver_until(store, task * 1_000_000, end)).collect();
    let open = location.clone();
    let held_open = spawn_blocking(move || {
        open.0.sql("BEGIN; SELECT txid_current(); SELECT count(*) FROM deliveries; SELECT pg_sleep(2); COMMIT")
    });
    let (have_writers_ended, reader) = follow(&nodes[0]);
    let mut answered = Vec::new();
    for writer in writers {
        answered.push(writer.await.unwrap());
    }
    held_open.await.unwrap();
    have_writers_ended.store(true, Ordering::Release);
    assert!(answered.iter().all(|of_node| of_node.len() > 10), "each node has written");
    assert_eq!(reader.await.unwrap(), answered.iter().map(Vec::len).sum::<usize>());
    for store in &nodes {
        store.probe_write().await.unwrap();
        check_deliveries(store, answered.clone()).await;
        store.close().await.unwrap();
    }
}

/// Of commits on several nodes with one expectation, one is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expectations_hold_over_all_nodes() {
    let location = shared!();
    let nodes = [location.node("a").await, location.node("b").await, location.node("c").await];
    for round in 0..20 {
        let revision = revision_of(&*nodes[0], "x").await;
        let mut work = JoinSet::new();
        for (number, store) in nodes.iter().enumerate() {
            let store = store.clone();
            work.spawn(async move {
                let expects = vec![Expectation { kind: "connection".to_owned(), key: "x".to_owned(), revision }];
                let changes = vec![Change::Put(record("x", UNREAD, &format!("{round} {number}")))];
                let outcome = store.commit(Commit { expects, changes, ..Commit::default() }).await.unwrap();
                (outcome, format!("{round} {number}"))
            });
        }
        let outcomes = work.join_all().await;
        let made: Vec<_> = outcomes.iter().filter(|(outcome, _)| *outcome == CommitOutcome::Committed).collect();
        assert_eq!(made.len(), 1, "{outcomes:?}");
        assert_eq!(value_of(&*nodes[1], "x").await.as_ref(), Some(&made[0].1));
    }
    // A message that comes to several nodes at once is handled once.
    let mut work = JoinSet::new();
    for store in &nodes {
        let store = store.clone();
        work.spawn(async move {
            let commit = Commit { handled: Some(handled_message(1)), ..commit_of([]) };
            store.commit(commit).await.unwrap()
        });
    }
    let handled = work.join_all().await;
    assert_eq!(handled.iter().filter(|outcome| **outcome == CommitOutcome::Committed).count(), 1, "{handled:?}");
    for store in nodes {
        store.close().await.unwrap();
    }
}

/// One node leads, and another one once it has ended.
#[tokio::test]
async fn one_node_leads() {
    let location = shared!();
    let a = location.node("a").await;
    let b = location.node("b").await;
    let leads = |store: &PostgresStore| *store.leads().borrow();
    until(|| std::future::ready(leads(&a)), "a leads").await;
    assert!(!leads(&b));
    a.close().await.unwrap();
    until(|| std::future::ready(leads(&b)), "b leads").await;
    let a = location.node("a").await;
    a.probe_write().await.unwrap();
    assert!(!leads(&a) && leads(&b));
    a.close().await.unwrap();
    b.close().await.unwrap();
}

/// Nodes behind a pooler hear of one another on their direct connections.
#[tokio::test]
async fn nodes_may_have_a_pooler() {
    let Some(location) = pooler::Location::shared() else { return };
    let open = async |name: &str| {
        let options = location.options().as_node(name).unwrap();
        Arc::new(PostgresStore::open(options, StoreLimits::default()).await.expect("the node joins"))
    };
    let (a, b) = (open("a").await, open("b").await);
    let heard = Heard::of(&b);
    commit_ok(&*a, commit_of([Change::Deliver(delivery(1)), Change::Send(outgoing(1, "did:example:bob"))])).await;
    a.receive(new_envelope(1)).await.unwrap();
    heard.wait_for(&Hint::Delivered { id: "delivery 1".to_owned() }).await;
    assert!(b.waits_elsewhere("did:example:bob"));
    a.close().await.unwrap();
    heard.wait_for(&Hint::Pending).await;
    assert_eq!((pending_ids(&*b).await.len(), b.outbox_peers().await.unwrap().len()), (1, 1));
    b.close().await.unwrap();
}
