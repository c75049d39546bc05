//! Nodes that end, sleep, are held up or lose their server.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use claviger::agent::store::{Change, Commit, Hint, PostgresStore, ReceiveOutcome, Store, StoreError, UNREAD};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    postgres_server::Server,
    store::{
        fixtures::{
            commit_of, handled_message, new_envelope, outgoing, pending_ids, process_envelope, record, value_of,
        },
        nodes::{Heard, Shared, until},
        postgres::{Location, check_deliveries, deliver_until, follow},
        suite::commit_ok,
    },
};

macro_rules! shared {
    () => {{
        let Some(location) = Shared::some() else { return };
        location
    }};
}

/// Ends the lease of a node, as if it had slept.
fn end_lease(location: &Shared, name: &str) {
    location.0.sql(&format!("UPDATE nodes SET lease = clock_timestamp() WHERE ended IS NULL AND name = '{name}'"));
}

/// An envelope is worked on where it has arrived, and elsewhere once that node has left, was killed or slept.
#[tokio::test]
async fn the_work_of_a_node_that_ended_is_taken_over() {
    let location = shared!();
    let a = location.node("a").await;
    let b = location.node("b").await;
    let heard = Heard::of(&b);
    a.receive(new_envelope(1)).await.unwrap();
    commit_ok(&*a, commit_of([Change::Send(outgoing(1, "did:example:bob"))])).await;
    assert!(matches!(b.receive(new_envelope(1)).await, Ok(ReceiveOutcome::AlreadyPending(_))));
    assert_eq!((pending_ids(&*a).await.len(), pending_ids(&*b).await.len()), (1, 0));
    a.close().await.unwrap();
    heard.wait_for(&Hint::Pending).await;
    heard.wait_for(&Hint::Outgoing { peer: "did:example:bob".to_owned(), is_here: true }).await;
    assert_eq!(pending_ids(&*b).await.len(), 1);
    assert_eq!(b.outbox_peers().await.unwrap(), ["did:example:bob"]);
    assert_eq!(b.outbox_entries("did:example:bob", &[], &[], 9).await.unwrap().len(), 1);
    // Killed: its session with the lock is gone, and its lease is not over. It lives here, and would take the lock again.
    let c = location.node("c").await;
    b.receive(new_envelope(2)).await.unwrap();
    drop(heard);
    let heard = Heard::of(&c);
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks JOIN nodes ON objid::int8 = number
        WHERE name = 'b' AND locktype = 'advisory' AND objsubid = 1
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let is_taken_over = || async {
        location.0.sql(kill);
        heard.0.lock().unwrap().contains(&Hint::Pending)
    };
    until(is_taken_over, "c takes over").await;
    assert_eq!(pending_ids(&*c).await.len(), 2);
    // It has not noticed that others have taken over, and joins again under another number.
    until(|| async { b.probe_write().await.is_ok() }, "b joins again").await;
    let nodes = c.nodes().await.unwrap();
    assert!(nodes.len() == 2 && nodes[0].is_this && nodes[1].name == "b", "{nodes:?}");
    assert!(pending_ids(&*b).await.is_empty());
    b.close().await.unwrap();
    c.close().await.unwrap();
}

/// A node that slept beyond its lease, and wakes while another one has its work, changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_slept_changes_nothing() {
    let location = shared!();
    let a = location.node("a").await;
    let b = location.node("b").await;
    let ReceiveOutcome::Stored(id) = a.receive(new_envelope(1)).await.unwrap() else { panic!("known") };
    let heard = Heard::of(&b);
    // It lives here, and would renew its lease.
    let is_taken_over = || async {
        end_lease(&location, "a");
        heard.0.lock().unwrap().contains(&Hint::Pending)
    };
    until(is_taken_over, "b takes over").await;
    assert_eq!(pending_ids(&*b).await, [id]);
    // What it wants to change when it wakes is refused, unless it has found out at a beat of its own just before.
    let is_refused = || async {
        location.0.sql("UPDATE nodes SET ended = clock_timestamp() WHERE ended IS NULL AND name = 'a'");
        let woken = a.commit(commit_of([Change::Put(record("slept", UNREAD, ""))])).await;
        let Err(StoreError::Unavailable(why)) = woken else { return false };
        assert!(why.contains("silent"), "{why}");
        true
    };
    let forget = || async {
        commit_ok(&*b, commit_of([Change::Delete { kind: "connection".to_owned(), key: "slept".to_owned() }])).await;
    };
    until(
        || async {
            forget().await;
            is_refused().await
        },
        "the commit of a node that slept is refused",
    )
    .await;
    assert_eq!(value_of(&*b, "slept").await, None);
    until(|| async { a.probe_write().await.is_ok() }, "a joins again").await;
    assert!(pending_ids(&*a).await.is_empty());
    assert_eq!(b.nodes().await.unwrap().len(), 2);
    commit_ok(&*b, Commit { handled: Some(handled_message(1)), ..process_envelope(id) }).await;
    a.close().await.unwrap();
    b.close().await.unwrap();
}

/// The server stops at once and comes again: no commit is lost or made twice, and the nodes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_go_on_after_a_crash_of_the_server() {
    let Some(server) = spawn_blocking(Server::start).await.unwrap() else { return };
    let server: &'static Server = Box::leak(Box::new(server));
    let location = Shared(spawn_blocking(move || Location::of(server)).await.unwrap());
    let nodes = [location.node("a").await, location.node("b").await, location.node("c").await];
    let end = Instant::now() + Duration::from_secs(4);
    let writers: Vec<_> = (0..).zip(&nodes).map(|(task, store)| deliver_until(store, task * 1_000_000, end)).collect();
    let (have_writers_ended, reader) = follow(&nodes[0]);
    sleep(Duration::from_secs(1)).await;
    let again = move || {
        server.crash();
        server.restart();
    };
    spawn_blocking(again).await.unwrap();
    let mut answered = Vec::new();
    for writer in writers {
        answered.push(writer.await.unwrap());
    }
    have_writers_ended.store(true, Ordering::Release);
    assert_eq!(reader.await.unwrap(), answered.iter().map(Vec::len).sum::<usize>());
    for store in &nodes {
        until(|| async { store.probe_write().await.is_ok() }, "the node goes on").await;
        check_deliveries(store, answered.clone()).await;
        store.close().await.unwrap();
    }
}

/// A lease that is over does not tell who has ended if all were held up, or the server was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_ends_none_that_lives() {
    let location = shared!();
    let a = location.node("a").await;
    let before = a.nodes().await.unwrap();
    for _ in 0..3 {
        end_lease(&location, "a");
        location.node("b").await.close().await.unwrap();
    }
    assert_eq!(a.nodes().await.unwrap()[0], before[0]);
    // The server was away for long. Either of them may be the first one that is back.
    let b = location.node("b").await;
    let before = b.nodes().await.unwrap();
    location.0.sql(
        "UPDATE nodes SET lease = clock_timestamp() WHERE ended IS NULL;
        SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    );
    for store in [&a, &b] {
        until(|| async { store.probe_write().await.is_ok() }, "the node goes on").await;
    }
    assert_eq!(b.nodes().await.unwrap(), before);
    a.close().await.unwrap();
    b.close().await.unwrap();
}

/// Somebody else holds the lock of the transactions for longer than a lease: that ends no node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_held_for_long_ends_no_node() {
    let location = Arc::new(shared!());
    let nodes = [location.node("a").await, location.node("b").await];
    let numbers = async |store: &PostgresStore| -> Vec<i64> {
        store.nodes().await.unwrap().into_iter().map(|node| node.number).collect()
    };
    let before = numbers(&nodes[0]).await;
    let holding = location.clone();
    let held = spawn_blocking(move || {
        holding.0.sql(
            "BEGIN; SELECT pg_advisory_xact_lock(1131176311, (current_schema()::regnamespace::oid::int8 & 2147483647)::int4);
            SELECT pg_sleep(17); COMMIT",
        )
    });
    sleep(Duration::from_secs(1)).await;
    // It waits, and is told in the end that the store cannot be used now.
    let refused = nodes[0].receive(new_envelope(1)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    held.await.unwrap();
    sleep(Duration::from_secs(5)).await;
    for store in &nodes {
        until(|| async { store.probe_write().await.is_ok() }, "the node goes on").await;
        assert_eq!(numbers(store).await, before);
    }
    for store in nodes {
        store.close().await.unwrap();
    }
}
