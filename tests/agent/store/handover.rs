//! Nodes that hand over to one another what their tokens cannot do.

use std::sync::Arc;

use claviger::agent::store::{
    Change, Commit, CommitOutcome, Hint, NewEnvelope, OutboxEntry, PostgresStore, ReceiveOutcome, Store, ready_hash,
};

use crate::store::{
    fixtures::{commit_of, handled_message, new_envelope, now, outgoing, pending_ids, postponement, process_envelope},
    nodes::{Heard, Shared, until},
    suite::commit_ok,
};

const PEER: &str = "did:example:bob";
/// Hashes of keys: of two of our keys, and of the DID that has them.
const K1: i64 = 1;
const K2: i64 = -2;

macro_rules! two_nodes {
    () => {{
        let Some(location) = Shared::some() else { return };
        let (a, b) = (location.node("a").await, location.node("b").await);
        (location, a, b)
    }};
}

/// The sender of the fixtures' messages.
fn us() -> i64 {
    ready_hash("did:example:us")
}

fn for_keys(number: u64, keys: &[i64]) -> NewEnvelope {
    NewEnvelope { keys: keys.to_vec(), ..new_envelope(number) }
}

async fn pending(store: &PostgresStore) -> usize {
    pending_ids(store).await.len()
}

async fn to_send(store: &PostgresStore) -> usize {
    store.outbox_entries(PEER, &[], &[], 9).await.unwrap().len()
}

async fn until_leads(store: &Arc<PostgresStore>) {
    until(|| std::future::ready(*store.leads().borrow()), "the node leads").await;
}

async fn names_of_leading(store: &PostgresStore) -> Vec<String> {
    let nodes = store.nodes().await.unwrap().into_iter();
    nodes.filter(|node| node.leads).map(|node| node.name).collect()
}

/// The token of node a is away, and comes back. Whatever waits is done by the node whose token is ready.
#[tokio::test]
async fn what_waits_goes_to_the_node_whose_token_is_ready() {
    let (_location, a, b) = two_nodes!();
    let heard = Heard::of(&b);
    for store in [&a, &b] {
        store.show_ready(&[K1, us()]).await.unwrap();
    }
    until_leads(&a).await;
    let mut ids = Vec::new();
    for number in 1..=3 {
        match a.receive(for_keys(number, &[K1])).await.unwrap() {
            ReceiveOutcome::Stored(id) => ids.push(id),
            other => panic!("{other:?}"),
        }
        commit_ok(&*a, commit_of([Change::Send(outgoing(number, PEER))])).await;
    }
    a.postpone(ids[0], postponement(now() + 3_600_000, "no token")).await.unwrap();
    assert_eq!((pending(&a).await, to_send(&a).await, pending(&b).await, to_send(&b).await), (2, 3, 0, 0));

    a.show_ready(&[]).await.unwrap();
    assert_eq!((pending(&a).await, to_send(&a).await), (0, 0));
    // What was postponed is due now.
    assert_eq!((pending(&b).await, to_send(&b).await), (3, 3));
    heard.wait_for(&Hint::Pending).await;
    heard.wait_for(&Hint::Outgoing { peer: PEER.to_owned(), is_here: true }).await;
    assert_eq!((a.outbox_peers().await.unwrap().len(), b.outbox_peers().await.unwrap().len()), (0, 1));
    assert!(a.waits_elsewhere(PEER) && !b.waits_elsewhere(PEER));
    until_leads(&b).await;
    assert!(!*a.leads().borrow());
    for store in [&a, &b] {
        assert_eq!(names_of_leading(store).await, ["b"]);
    }
    // What is new goes to b at once.
    assert!(matches!(a.receive(for_keys(4, &[K1])).await, Ok(ReceiveOutcome::HandedOver(_))));
    assert!(matches!(a.receive(for_keys(4, &[K1])).await, Ok(ReceiveOutcome::AlreadyPending(_))));
    commit_ok(&*a, commit_of([Change::Send(outgoing(4, "did:example:eve"))])).await;
    heard.wait_for(&Hint::Outgoing { peer: "did:example:eve".to_owned(), is_here: true }).await;
    assert_eq!((pending(&b).await, b.outbox_peers().await.unwrap().len()), (4, 2));

    // A worker of a had an envelope in its hands. It is handled once.
    let handled = || Commit { handled: Some(handled_message(2)), ..process_envelope(ids[1]) };
    commit_ok(&*b, handled()).await;
    assert_eq!(a.commit(handled()).await.unwrap(), CommitOutcome::Duplicate);

    // The token is back. What b has stays there, and a leads again.
    a.show_ready(&[K1, us()]).await.unwrap();
    until_leads(&a).await;
    assert_eq!((pending(&a).await, to_send(&a).await, pending(&b).await, to_send(&b).await), (0, 0, 3, 3));
    assert!(matches!(a.receive(for_keys(5, &[K1])).await, Ok(ReceiveOutcome::Stored(_))));
    for store in [a, b] {
        store.close().await.unwrap();
    }
}

/// Each node has a token with a key of its own.
#[tokio::test]
async fn an_envelope_goes_to_a_node_that_has_its_key() {
    let (_location, a, b) = two_nodes!();
    let heard = Heard::of(&a);
    b.show_ready(&[K2, us()]).await.unwrap();
    // No node has the key: it waits where it has come in.
    assert!(matches!(b.receive(for_keys(1, &[K1])).await, Ok(ReceiveOutcome::Stored(_))));
    assert_eq!((pending(&a).await, pending(&b).await), (0, 1));
    a.show_ready(&[K1, us()]).await.unwrap();
    assert_eq!((pending(&a).await, pending(&b).await), (1, 0));
    for (store, keys, is_stored) in
        [(&b, &[K1][..], false), (&b, &[K1, K2], true), (&a, &[K2], false), (&a, &[K1, K2], true), (&a, &[9], true)]
    {
        let number = 10 + pending(&a).await + pending(&b).await;
        let outcome = store.receive(for_keys(number as u64, keys)).await.unwrap();
        assert_eq!(matches!(outcome, ReceiveOutcome::Stored(_)), is_stored, "{keys:?}");
    }
    heard.wait_for(&Hint::Pending).await;
    assert_eq!((pending(&a).await, pending(&b).await), (4, 2));
    // b loses its token, and a cannot open what is for b's key alone.
    b.show_ready(&[]).await.unwrap();
    assert_eq!((pending(&a).await, pending(&b).await), (5, 1));
    b.show_ready(&[K2, us()]).await.unwrap();
    assert_eq!((pending(&a).await, pending(&b).await), (5, 1));
    // a ends: b adopts all, and opens what it can.
    a.close().await.unwrap();
    until(|| async { pending(&b).await == 6 }, "b has all").await;
    b.close().await.unwrap();
}

/// What a node has taken over from one that ended goes on to a node that can do it.
#[tokio::test]
async fn a_node_without_a_token_adopts_for_the_others() {
    let (location, a, b) = two_nodes!();
    let c = location.node("c").await;
    let heard = Heard::of(&c);
    for store in [&a, &c] {
        store.show_ready(&[K1, us()]).await.unwrap();
    }
    a.receive(for_keys(1, &[K1])).await.unwrap();
    a.receive(new_envelope(2)).await.unwrap();
    commit_ok(&*a, commit_of([Change::Send(outgoing(1, PEER))])).await;
    a.close().await.unwrap();
    heard.wait_for(&Hint::Pending).await;
    until(|| async { pending(&c).await == 2 && to_send(&c).await == 1 }, "c has all").await;
    assert_eq!((pending(&b).await, to_send(&b).await), (0, 0));
    for store in [b, c] {
        store.close().await.unwrap();
    }
}

/// Messages of two DIDs of ours wait for one peer, and each node has a key of one of them. They go to the other node once the
/// first has sent what it can, so they do not go to and fro.
#[tokio::test]
async fn messages_for_a_peer_stay_while_some_can_be_sent() {
    let (_location, a, b) = two_nodes!();
    let other = ready_hash("did:example:other");
    a.show_ready(&[K1, us()]).await.unwrap();
    b.show_ready(&[K2, other]).await.unwrap();
    let of_other = |number| {
        let mut entry = outgoing(number, PEER);
        entry.sender = "did:example:other".to_owned();
        entry
    };
    commit_ok(&*a, commit_of([Change::Send(outgoing(1, PEER)), Change::Send(of_other(2))])).await;
    commit_ok(&*a, commit_of([Change::Send(of_other(3))])).await;
    a.show_ready(&[K1, 7, us()]).await.unwrap();
    assert_eq!((to_send(&a).await, to_send(&b).await), (3, 0));
    a.cancel_outgoing("outgoing 1", now()).await.unwrap();
    a.show_ready(&[K1, us()]).await.unwrap();
    assert_eq!((to_send(&a).await, to_send(&b).await), (0, 2));
    // For another peer, a message of the other DID is b's from the beginning.
    let mut entry = of_other(4);
    entry.peer = "did:example:eve".to_owned();
    commit_ok(&*a, commit_of([Change::Send(entry)])).await;
    assert_eq!(b.outbox_entries("did:example:eve", &[], &[], 9).await.unwrap().len(), 1);
    for store in [a, b] {
        store.close().await.unwrap();
    }
}

/// A node of the release before shows nothing. It keeps what it has, and leads if it is the oldest.
#[tokio::test]
async fn a_node_of_the_release_before_is_left_to_itself() {
    let (location, a, b) = two_nodes!();
    a.receive(for_keys(1, &[K1])).await.unwrap();
    location.0.sql("UPDATE nodes SET ready = NULL, ready_version = 0 WHERE name = 'a'");
    b.show_ready(&[K1, us()]).await.unwrap();
    b.probe_write().await.unwrap();
    assert_eq!((pending(&a).await, pending(&b).await), (1, 0));
    assert!(!*b.leads().borrow());
    assert_eq!(names_of_leading(&b).await, ["a"]);
    // One that lost its connection and joins again shows what it has shown.
    b.close().await.unwrap();
    a.close().await.unwrap();
}

/// What a node shows survives a loss of its connection.
#[tokio::test]
async fn a_node_that_joins_again_shows_the_same() {
    let (location, a, b) = two_nodes!();
    b.show_ready(&[K2]).await.unwrap();
    let end = "UPDATE nodes SET lease = clock_timestamp(), ended = clock_timestamp() WHERE name = 'b'";
    location.0.sql(end);
    until(|| async { b.probe_write().await.is_ok() }, "b joins again").await;
    assert_eq!(location.0.sql("SELECT ready FROM nodes WHERE name = 'b' AND ended IS NULL"), "{-2}");
    assert!(matches!(a.receive(for_keys(1, &[K2])).await, Ok(ReceiveOutcome::HandedOver(_))));
    for store in [a, b] {
        store.close().await.unwrap();
    }
}

/// A message joins others of its peer, whose node cannot send it. Once these are sent, it goes to a node that can; and no node
/// claims what it cannot send.
#[tokio::test]
async fn what_is_left_behind_goes_to_a_node_that_can_send_it() {
    let (_location, a, b) = two_nodes!();
    let other = "did:example:other";
    a.show_ready(&[K1, us()]).await.unwrap();
    b.show_ready(&[K2, ready_hash(other)]).await.unwrap();
    commit_ok(&*b, commit_of([Change::Send(OutboxEntry { sender: other.to_owned(), ..outgoing(1, PEER) })])).await;
    commit_ok(&*a, commit_of([Change::Send(outgoing(2, PEER))])).await;
    assert_eq!((to_send(&a).await, to_send(&b).await), (0, 2));
    b.cancel_outgoing(&outgoing(1, PEER).id, now()).await.unwrap();
    until(async || to_send(&a).await == 1, "the message is handed over").await;
    b.claim_outgoing(PEER).await.unwrap();
    assert_eq!((to_send(&a).await, to_send(&b).await), (1, 0));
    a.close().await.unwrap();
    b.close().await.unwrap();
}
