//! The SQLite backend: group commit, its files, damaged and foreign databases, and migrations.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use claviger::agent::store::{
    Change, PeerQuota, ReceiveOutcome, Record, Retention, SendOutcome, SqliteOptions, SqliteStore, Store, StoreError,
};
use rusqlite::{Connection, params, types::Value};

use crate::store::{
    SqliteLocation,
    fixtures::{
        all, commit_of, delivery, large_envelope, new_envelope, now, outgoing, pending_ids, record, unread_ids,
    },
    open,
};

fn refused(path: &Path) -> StoreError {
    match SqliteStore::open(path, SqliteOptions::default()) {
        Ok(_) => panic!("the store opens"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn concurrent_requests_share_commits() {
    let location = SqliteLocation::new();
    let store = Arc::new(open(&location.path(), SqliteOptions::default()));
    let before = store.commits();
    store.probe_write().await.unwrap();
    store.probe_write().await.unwrap();
    assert_eq!(store.commits() - before, 2, "one after the other");
    let before = store.commits();
    // Another connection holds the write lock, so the writer waits.
    let other = Connection::open(location.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let tasks: Vec<_> = (0..1000)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.receive(new_envelope(number)).await })
        })
        .collect();
    // All requests are queued: this runtime has one thread.
    tokio::task::yield_now().await;
    other.execute_batch("ROLLBACK").unwrap();
    for task in tasks {
        assert!(matches!(task.await.unwrap(), Ok(ReceiveOutcome::Stored(_))));
    }
    let commits = store.commits() - before;
    assert!((4..100).contains(&commits), "{commits} commits for 1000 messages, of which 256 fit in one");
}

#[tokio::test]
async fn a_failed_request_does_not_affect_the_others() {
    let location = SqliteLocation::new();
    let store = Arc::new(open(&location.path(), SqliteOptions { max_envelope_bytes: 1000, ..Default::default() }));
    store.commit(commit_of([Change::Deliver(delivery(7))])).await.unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                match number % 4 {
                    // The first commit is too large. The second has an id that exists, which only SQLite finds.
                    0 => assert!(matches!(store.receive(large_envelope(number, 2000)).await, Err(StoreError::Full(_)))),
                    1 => {
                        let twice = commit_of([Change::Put(record("a", 0, "")), Change::Deliver(delivery(7))]);
                        let failed = store.commit(twice).await;
                        assert!(
                            matches!(&failed, Err(error @ StoreError::Unusable(_)) if !error.is_retryable()),
                            "{failed:?}"
                        );
                    }
                    2 => assert!(store.probe_write().await.is_ok()),
                    _ => assert!(store.commit(commit_of([Change::Deliver(delivery(number + 1000))])).await.is_ok()),
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(unread_ids(&*store).await.len(), 1 + 50);
    assert_eq!(store.record("connection", "a").await.unwrap(), None);
}

#[tokio::test]
async fn readers_do_not_wait_for_the_writer() {
    let location = SqliteLocation::new();
    let store = open(&location.path(), SqliteOptions::default());
    store.commit(commit_of([Change::Deliver(delivery(1))])).await.unwrap();
    // Another process holds the write lock: the writer waits, the readers do not.
    let other = Connection::open(location.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let write = store.commit(commit_of([Change::Deliver(delivery(2))]));
    tokio::pin!(write);
    tokio::select! {
        biased;
        written = &mut write => panic!("{written:?}"),
        read = store.deliveries(all()) => assert_eq!(read.unwrap().len(), 1),
    }
    other.execute_batch("ROLLBACK").unwrap();
    write.await.unwrap();
    assert_eq!(store.deliveries(all()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn only_one_agent_at_a_time_uses_a_store() {
    let location = SqliteLocation::new();
    let store = open(&location.path(), SqliteOptions::default());
    let error = refused(&location.path());
    assert!(matches!(&error, StoreError::InUse(path) if path.ends_with("store.db")), "{error}");
    assert!(!error.is_retryable());
    store.probe_write().await.unwrap();
    store.close().await.unwrap();
    open(&location.path(), SqliteOptions::default()).close().await.unwrap();
    // A closed store is one file. The lock file stays.
    let mut names: Vec<_> = fs::read_dir(location.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["store.db", "store.db.lock"]);
}

/// A write to a file that no longer has its path would be lost, so the store refuses it.
#[tokio::test]
async fn a_store_whose_file_was_moved_refuses_writes() {
    let location = SqliteLocation::new();
    let store = open(&location.path(), SqliteOptions::default());
    let away = location.0.path().join("away");
    fs::rename(location.path(), &away).unwrap();
    let refused = store.receive(new_envelope(1)).await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("store.db")), "{refused:?}");
    fs::write(location.path(), "another").unwrap();
    let refused = store.probe_write().await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("another file")), "{refused:?}");
    fs::rename(&away, location.path()).unwrap();
    assert!(matches!(store.receive(new_envelope(1)).await, Ok(ReceiveOutcome::Stored(_))));
}

#[tokio::test]
async fn a_link_leads_to_the_same_store() {
    let location = SqliteLocation::new();
    let link = location.0.path().join("link");
    std::os::unix::fs::symlink("store.db", &link).unwrap();
    let store = open(&location.path(), SqliteOptions::default());
    store.receive(new_envelope(1)).await.unwrap();
    assert!(matches!(refused(&link), StoreError::InUse(_)));
    store.close().await.unwrap();
    let store = open(&link, SqliteOptions::default());
    assert_eq!(pending_ids(&store).await.len(), 1);
}

#[tokio::test]
async fn files_are_private_to_the_user() {
    let location = SqliteLocation::new();
    let path = location.0.path().join("new").join("folder").join("store.db");
    let store = open(&path, SqliteOptions::default());
    store.probe_write().await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for ending in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&path.with_file_name(format!("store.db{ending}"))), 0o600, "{ending}");
    }
}

#[tokio::test]
async fn a_path_that_looks_like_a_uri_is_a_path() {
    let location = SqliteLocation::new();
    let path = location.0.path().join("file:store.db?mode=memory");
    let store = open(&path, SqliteOptions::default());
    store.receive(new_envelope(1)).await.unwrap();
    store.close().await.unwrap();
    assert!(path.exists());
    assert_eq!(pending_ids(&open(&path, SqliteOptions::default())).await.len(), 1);
}

/// A store that is dropped without being closed completes its requests.
#[tokio::test]
async fn a_dropped_store_releases_its_files() {
    let location = SqliteLocation::new();
    let store = open(&location.path(), SqliteOptions::default());
    store.receive(new_envelope(1)).await.unwrap();
    drop(store);
    let store = loop {
        match SqliteStore::open(&location.path(), SqliteOptions::default()) {
            Ok(store) => break store,
            Err(StoreError::InUse(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(pending_ids(&store).await.len(), 1);
}

#[tokio::test]
async fn deleted_content_is_not_on_the_disk() {
    let location = SqliteLocation::new();
    let store = open(&location.path(), SqliteOptions::default());
    let needle = b"the ciphertext of a secret ".repeat(400);
    let holds = || {
        let files = fs::read_dir(location.0.path()).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
        files.map(|file| file.windows(27).filter(|part| *part == &needle[..27]).count()).sum::<usize>()
    };
    let mut envelope = new_envelope(1);
    envelope.packed = needle.clone();
    let ReceiveOutcome::Stored(id) = store.receive(envelope).await.unwrap() else { panic!("a new envelope") };
    let mut came = commit_of([1, 2].map(|number| {
        let mut delivery = delivery(number);
        delivery.sealed = Some(needle.clone());
        Change::Deliver(delivery)
    }));
    let mut sending = outgoing(1, "did:example:them");
    sending.sealed = Some(needle.clone());
    came.changes.push(Change::Send(sending));
    came.changes.push(Change::Put(Record { value: needle.clone(), ..record("a", 0, "") }));
    came.envelope = Some(id);
    store.commit(came).await.unwrap();
    assert!(holds() >= 4 * 390, "{}", holds());

    store.acknowledge(&[delivery(1).id, delivery(2).id]).await.unwrap();
    store.record_send_outcome("outgoing 1", SendOutcome::Sent(now()), None).await.unwrap();
    let gone = Change::Delete { kind: "connection".to_owned(), key: "a".to_owned() };
    store.commit(commit_of([gone])).await.unwrap();
    store.delete_expired(now(), &Retention::default(), 100).await.unwrap();
    // The checkpoint is made after the answer to delete_expired and before the answer to this request.
    store.probe_write().await.unwrap();
    assert_eq!(holds(), 0);
}

#[tokio::test]
async fn a_damaged_file_is_unusable() {
    let damage = async |at: u64, bytes: usize| {
        let location = SqliteLocation::new();
        let store = open(&location.path(), SqliteOptions::default());
        for number in 0..50 {
            store.receive(large_envelope(number, 3000)).await.unwrap();
        }
        store.close().await.unwrap();
        let file = OpenOptions::new().write(true).open(location.path()).unwrap();
        file.write_all_at(&vec![0xa5; bytes], at).unwrap();
        let error = match SqliteStore::open(&location.path(), SqliteOptions::default()) {
            Err(error) => error,
            Ok(store) => store.pending_envelopes(now(), &[], 100).await.expect_err("the damaged content is read"),
        };
        assert!(matches!(&error, StoreError::Unusable(_)) && !error.is_retryable(), "{error}");
        error.to_string()
    };
    let error = damage(0, 100).await;
    assert!(error.starts_with("the store is damaged, or is not a database: ") && error.contains("store.db"), "{error}");
    damage(100, 4000).await;
    damage(4096, 200_000).await;
}

#[tokio::test]
async fn a_foreign_database_is_not_changed() {
    let location = SqliteLocation::new();
    let other = Connection::open(location.path()).unwrap();
    other.execute_batch("CREATE TABLE meta (name TEXT); PRAGMA user_version = 1").unwrap();
    drop(other);
    let before = fs::read(location.path()).unwrap();
    let error = refused(&location.path());
    assert!(error.to_string().contains("is another program's database"), "{error}");
    assert!(fs::read(location.path()).unwrap() == before, "the database was changed");
    fs::write(location.path(), "Dear diary,".repeat(500)).unwrap();
    assert!(matches!(refused(&location.path()), StoreError::Unusable(_)));
    let folder = location.0.path().join("folder");
    fs::create_dir(&folder).unwrap();
    assert!(matches!(refused(&folder), StoreError::Unavailable(_)));
}

/// Creates a database of an older schema.
fn older_database(path: &Path, schema: usize) -> Connection {
    let migrations = [
        include_str!("../../../src/agent/store/sqlite/schema/1.sql"),
        include_str!("../../../src/agent/store/sqlite/schema/2.sql"),
        include_str!("../../../src/agent/store/sqlite/schema/3.sql"),
    ];
    let database = Connection::open(path).unwrap();
    migrations[..schema].iter().for_each(|migration| database.execute_batch(migration).unwrap());
    database.pragma_update(None, "application_id", 0x436c_6176).unwrap();
    database.pragma_update(None, "user_version", schema as i64).unwrap();
    database
}

/// Content that was stored by a release without quotas counts towards the quotas.
#[tokio::test]
async fn an_older_schema_is_migrated() {
    let location = SqliteLocation::new();
    let older = older_database(&location.path(), 1);
    let deliver = |id: &str, sender: &str, acknowledged: Option<i64>| {
        let sealed = acknowledged.is_none().then_some([7_u8; 50]);
        let insert = "INSERT INTO deliveries
            (id, message, thread, kind, sender, recipient, received, acknowledged, sealed)
            VALUES (?1, ?1, 't', 'k', ?2, 'did:example:us', 5, ?3, ?4)";
        older.execute(insert, params![id, sender, acknowledged, sealed]).unwrap();
    };
    let send = |id: &str, state: i64| {
        let insert = "INSERT INTO outgoing
            (id, message, thread, kind, sender, peer, created, expires, state, tries, time)
            VALUES (?1, ?1, 't', 'k', 'did:example:us', 'did:example:a', 5, 9, ?2, 0, 5)";
        older.execute(insert, params![id, state]).unwrap();
    };
    deliver("1", "did:example:a", None);
    deliver("2", "did:example:a", Some(6));
    deliver("3", "did:example:a", None);
    deliver("4", "", None);
    [("1", 0), ("2", 1), ("3", 0)].into_iter().for_each(|(id, state)| send(id, state));
    let keep = |digest: u8| {
        let insert =
            "INSERT INTO envelopes (digest, recipient, received, packed) VALUES (?1, 'did:example:us', ?2, ?3)";
        older.execute(insert, params![[digest; 32], now(), [b'x'; 50]]).unwrap();
    };
    [1, 2].into_iter().for_each(keep);
    let few = |unread, bytes, replies| SqliteOptions {
        max_unread_from: unread,
        max_unread_bytes_from: bytes,
        max_replies_to: replies,
        ..SqliteOptions::default()
    };
    for (options, may_deliver, may_reply) in
        [(few(2, 200, 2), false, false), (few(3, 100, 3), false, true), (few(3, 101, 3), true, true)]
    {
        let store = open(&location.path(), options);
        assert_eq!(store.peer_quota("did:example:a", false).await.unwrap(), PeerQuota { may_deliver, may_reply });
        let usage = store.usage().await.unwrap();
        assert_eq!((usage.deliveries, usage.delivery_bytes, usage.outgoing), (3, 150, 2));
        store.close().await.unwrap();
    }
    // The older release goes on writing to the new schema. The triggers count its content.
    deliver("5", "", None);
    keep(3);
    older.execute("UPDATE deliveries SET acknowledged = 7, sealed = NULL WHERE id = '1'", []).unwrap();
    drop(older);
    let store = open(&location.path(), few(2, 200, 2));
    assert_eq!(
        store.peer_quota("did:example:a", false).await.unwrap(),
        PeerQuota { may_deliver: true, may_reply: false }
    );
    assert_eq!(store.peer_quota("", false).await.unwrap(), PeerQuota { may_deliver: false, may_reply: true });
    assert!(store.pending_envelopes(now(), &[], 10).await.unwrap().iter().all(|envelope| envelope.quota_checked));
    store.close().await.unwrap();
    let store = open(&location.path(), SqliteOptions { max_envelope_bytes_for: 160, ..SqliteOptions::default() });
    assert!(matches!(store.receive(large_envelope(1, 11)).await, Err(StoreError::Full(_))));
    assert!(matches!(store.receive(large_envelope(2, 10)).await, Ok(ReceiveOutcome::Stored(_))));
}

/// The records of a release of schema 3 stay as they are, and that release can go on with the new schema.
#[tokio::test]
async fn the_records_of_schema_3_are_migrated() {
    let location = SqliteLocation::new();
    let older = older_database(&location.path(), 3);
    // The statements of that release.
    let remember = |kind: &str, key: &str, peer: Option<&str>, seen: Option<i64>| {
        let write = "INSERT INTO records (kind, key, revision, expires, value, peer, seen)
            VALUES (?1, ?2, 1, ?3, x'0102030405', ?4, ?5)
            ON CONFLICT (kind, key) DO UPDATE SET revision = excluded.revision, expires = excluded.expires,
                value = excluded.value, seen = iif(peer IS NULL, NULL, max(seen, excluded.seen))";
        let expires = (kind == "ended").then_some(now() + 1_000_000);
        older.execute(write, params![kind, key, expires, peer, seen]).unwrap();
    };
    let [stranger, second] = ["did:example:stranger", "did:example:second"];
    remember("connection", "did:example:us did:example:known", None, None);
    remember("ended", "expires", None, None);
    for (peer, seen) in [(stranger, now() - 3000), (second, now() - 1000)] {
        remember("connection", &format!("did:example:us {peer}"), Some(peer), Some(seen));
        remember("profile", peer, Some(peer), Some(seen));
    }
    let contents = || -> Vec<Vec<Value>> {
        let sql = "SELECT kind, key, revision, expires, value, peer, seen FROM records ORDER BY kind, key";
        let mut statement = older.prepare(sql).unwrap();
        let read = |row: &rusqlite::Row<'_>| (0..7).map(|column| row.get(column)).collect();
        statement.query_map([], read).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let before = contents();
    let records_of_strangers = async |store: &SqliteStore| {
        let mut found = Vec::new();
        for peer in [stranger, second] {
            let profile = store.record("profile", peer).await.unwrap();
            let connections = store.records_with_peer("connection", peer, "", 10).await.unwrap();
            assert_eq!(profile.is_some(), connections.len() == 1);
            found.extend(profile.map(|_| peer));
        }
        found
    };

    let store = open(&location.path(), SqliteOptions::default());
    assert_eq!(contents(), before);
    assert_eq!(records_of_strangers(&store).await, [stranger, second]);
    assert_eq!(store.known_connections(10).await.unwrap(), ["did:example:us did:example:known"]);
    let bytes = store.usage().await.unwrap().stranger_record_bytes;
    assert!(bytes > 800, "{bytes}");
    store.close().await.unwrap();

    // The older release goes on: it writes, reads the connections with known peers, forgets and keeps.
    remember("connection", "did:example:us did:example:third", Some("did:example:third"), Some(now()));
    remember("profile", stranger, Some(stranger), Some(now()));
    let known = "SELECT count(*) FROM records INDEXED BY records_known WHERE kind = 'connection' AND peer IS NULL";
    let count = || older.query_row(known, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 1);
    let forget = "DELETE FROM records WHERE (kind, key) IN (
        SELECT kind, key FROM records WHERE seen <= ?1 AND peer NOT IN (SELECT peer FROM left_by) LIMIT 10)";
    assert_eq!(older.execute(forget, [now() - 2000]).unwrap(), 1, "the profile was seen later");
    older.execute("DELETE FROM records WHERE peer = ?1", [stranger]).unwrap();
    older.execute("UPDATE records SET peer = NULL, seen = NULL WHERE peer = 'did:example:third'", []).unwrap();
    assert_eq!(count(), 2);
    drop(older);
    let store = open(&location.path(), SqliteOptions::default());
    assert_eq!(records_of_strangers(&store).await, [second]);
    assert_eq!(store.records_with_peer("connection", "did:example:third", "", 10).await.unwrap().len(), 1);
    // The triggers have counted, also the records of each stranger alike.
    let bytes_of_one = (bytes - (stranger.len() - second.len()) as u64 * 4) / 2;
    assert_eq!(store.usage().await.unwrap().stranger_record_bytes, bytes_of_one);
}

/// Two releases use one database, one after the other.
#[tokio::test]
async fn a_later_schema_that_only_adds_is_accepted() {
    let location = SqliteLocation::new();
    let store = open(&location.path(), SqliteOptions::default());
    let ReceiveOutcome::Stored(id) = store.receive(new_envelope(1)).await.unwrap() else { panic!("a new envelope") };
    store.close().await.unwrap();
    let later = Connection::open(location.path()).unwrap();
    let migration = "BEGIN;
        ALTER TABLE envelopes ADD COLUMN priority INTEGER NOT NULL DEFAULT 5;
        ALTER TABLE records ADD COLUMN note TEXT;
        CREATE TABLE later (a INTEGER) STRICT;
        PRAGMA user_version = 6;
        COMMIT";
    later.execute_batch(migration).unwrap();
    drop(later);
    let store = open(&location.path(), SqliteOptions::default());
    let ReceiveOutcome::Stored(second) = store.receive(new_envelope(2)).await.unwrap() else {
        panic!("a new envelope")
    };
    store.commit(commit_of([Change::Put(record("a", 0, "value")), Change::Deliver(delivery(1))])).await.unwrap();
    assert_eq!(pending_ids(&store).await, [id, second]);
    assert_eq!(store.record("connection", "a").await.unwrap(), Some(record("a", 1, "value")));
    store.close().await.unwrap();
    let later = Connection::open(location.path()).unwrap();
    let version: i64 = later.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 6, "the later schema stays");

    later.execute("UPDATE meta SET value = 6 WHERE name = 'readable_from'", []).unwrap();
    drop(later);
    let error = refused(&location.path());
    assert!(matches!(error, StoreError::TooNew { found: 6, known: 5 }), "{error}");
}
