//! Nodes that are updated one after another: a database of the release before, and one that a later release migrates under load.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use claviger::agent::store::{Change, Commit, CommitOutcome, PostgresStore, Store, StoreLimits};
use tokio::{task::JoinSet, time::sleep};

use crate::store::{
    fixtures::{all, commit_of, delivery, handled_message, new_envelope, outgoing, pending_ids, unread_ids},
    postgres::Location,
    suite::commit_ok,
};

/// The first schema, as released.
const SCHEMA_1: &str = include_str!("../../../src/agent/store/postgres/schema/1.sql");

/// What an agent of the first schema leaves: an envelope, and a message to send.
const LEFT: &str = "INSERT INTO envelopes (digest, recipient, received, packed, charged, unresolved)
        VALUES ('\\x01', 'did:example:us', 1, '\\x7b7d', true, false);
    INSERT INTO outgoing (id, message, thread, kind, sender, peer, created, expires, state, tries, time, to_stranger,
            by_application, sealed)
        VALUES ('left', 'm', 't', 'k', 'did:example:us', 'did:example:bob', 1, 9000000000000, 0, 0, 1, false, true, '\\x00')";

async fn node(location: &Location, name: &str) -> Arc<PostgresStore> {
    let options = location.options().as_node(name).unwrap();
    Arc::new(PostgresStore::open(options, StoreLimits::default()).await.expect("the node joins"))
}

#[tokio::test]
async fn nodes_take_over_a_database_of_the_release_before() {
    let Some(location) = Location::shared() else { return };
    let note = "INSERT INTO claviger (name, value) VALUES ('schema', 1)";
    location.sql(&format!("SET ROLE agent; {SCHEMA_1}; {note}; {LEFT}"));
    let a = node(&location, "a").await;
    assert_eq!(location.sql("SELECT value FROM claviger WHERE name = 'schema'"), "3");
    assert_eq!(pending_ids(&*a).await.len(), 1);
    assert_eq!(a.outbox_entries("did:example:bob", &[], &[], 9).await.unwrap().len(), 1);
    a.close().await.unwrap();
    // The release before may use the database again, alone: it knows nothing of nodes.
    assert_eq!(location.sql("SELECT value FROM claviger WHERE name = 'readable_from'"), "1");
    location.sql(&format!("SET ROLE agent; {}", LEFT.replace("\\x01", "\\x02").replace("'left'", "'left too'")));
    let b = node(&location, "b").await;
    assert_eq!(pending_ids(&*b).await.len(), 2);
    assert_eq!(b.outbox_entries("did:example:bob", &[], &[], 9).await.unwrap().len(), 2);
    b.close().await.unwrap();
    let alone = location.try_open().await.unwrap();
    assert_eq!((pending_ids(&alone).await.len(), alone.outbox_peers().await.unwrap().len()), (2, 1));
    alone.close().await.unwrap();
}

/// A later release adds a column and an index while nodes write. Each of them is then stopped and started, as with an update.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_release_migrates_under_load() {
    let Some(location) = Location::shared() else { return };
    let location = Arc::new(location);
    let end = Instant::now() + Duration::from_secs(4);
    let mut writers = JoinSet::new();
    for (start, name) in (0..).zip(["a", "b", "c"]) {
        let location = location.clone();
        let update = Duration::from_millis(1500 + start * 600);
        writers.spawn(async move {
            let begun = Instant::now();
            let mut store = node(&location, name).await;
            let (mut is_updated, mut answered, mut number) = (false, Vec::new(), start);
            while Instant::now() < end || !is_updated {
                let delivered =
                    commit_of([Change::Deliver(delivery(number)), Change::Send(outgoing(number, "did:example:bob"))]);
                let commit = Commit { handled: Some(handled_message(number)), ..delivered };
                assert_eq!(store.commit(commit).await.unwrap(), CommitOutcome::Committed);
                store.receive(new_envelope(number)).await.unwrap();
                answered.push(format!("delivery {number}"));
                number += 3;
                if !is_updated && begun.elapsed() > update {
                    store.close().await.unwrap();
                    store = node(&location, name).await;
                    is_updated = true;
                }
            }
            store.close().await.unwrap();
            answered
        });
    }
    sleep(Duration::from_secs(1)).await;
    let migrating = location.clone();
    let migrate = move || {
        // As `schema.rs` migrates, with a lock that keeps nodes from writing.
        let lock =
            "SELECT pg_advisory_xact_lock(1131176311, (current_schema()::regnamespace::oid::int8 & 2147483647)::int4)";
        migrating.sql(&format!(
            "BEGIN; {lock}; ALTER TABLE deliveries ADD COLUMN later INT8; ALTER TABLE envelopes ADD COLUMN later INT8;
            CREATE INDEX outgoing_later ON outgoing (time); UPDATE claviger SET value = 4 WHERE name = 'schema'; COMMIT"
        ));
    };
    tokio::task::spawn_blocking(migrate).await.unwrap();
    let mut answered: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    let last = node(&location, "d").await;
    let mut found = unread_ids(&*last).await;
    answered.sort();
    found.sort();
    assert_eq!(found, answered);
    let count = answered.len();
    assert_eq!(last.deliveries(all()).await.unwrap().len(), count);
    assert_eq!(last.outbox_entries("did:example:bob", &[], &[], usize::MAX).await.unwrap().len(), count);
    assert_eq!(pending_ids(&*last).await.len(), count);
    commit_ok(&*last, commit_of([])).await;
    last.close().await.unwrap();
}
