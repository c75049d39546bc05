//! Backups of a store in use, and their restoration.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use claviger::agent::store::{
    Change, Commit, CommitOutcome, DeliveryQuery, NewEvent, Retention, SqliteOptions, SqliteStore, Store, StoreError,
    backup, restore,
};
use rusqlite::Connection;

use crate::store::{
    SqliteLocation,
    fixtures::{all, commit_of, delivery, large_envelope, new_envelope, now, pending_ids, record, unread_ids},
    open,
};

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Each commit adds a delivery and increments a counter, so the two numbers agree in every state that ever existed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_consistent() {
    let location = SqliteLocation::new();
    let store = Arc::new(open(&location.path(), SqliteOptions::default()));
    for number in 0..300 {
        store.receive(large_envelope(number, 20_000)).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..4_u64)
        .map(|task| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                let mut number = task * 1_000_000;
                while !stop.load(Ordering::Relaxed) {
                    let revision = store.record("connection", "a").await.unwrap().map_or(0, |found| found.revision);
                    let changes = [Change::Deliver(delivery(number)), Change::Put(record("a", revision, ""))];
                    if store.commit(commit_of(changes)).await.unwrap() == CommitOutcome::Committed {
                        number += 1;
                    }
                }
            })
        })
        .collect();
    let mut counts = Vec::new();
    for round in 0..5 {
        let (from, to) = (location.path(), location.0.path().join(format!("backup {round}")));
        let (copy, written) = (to.clone(), store.clone());
        let progress = tokio::task::spawn_blocking(move || {
            let mut progress = Vec::new();
            let step = |done, all| {
                assert!(
                    progress.last().is_none_or(|last| *last < (done, all)),
                    "{progress:?}, {done}: the copy restarts"
                );
                progress.push((done, all));
                // Something is written between two steps.
                let before = written.commits();
                while written.commits() == before {
                    std::thread::yield_now();
                }
            };
            backup(&from, &copy, step).map(|()| progress)
        });
        let progress = progress.await.unwrap().unwrap();
        assert!(progress.len() > 1, "{progress:?}");
        assert!(progress.iter().all(|(_, all)| *all == progress[0].1), "{progress:?}");
        assert!(progress.last().is_some_and(|(done, all)| done == all), "{progress:?}");
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(
            names(location.0.path())
                .iter()
                .all(|name| !name.starts_with(&format!("backup {round}")) || *name == format!("backup {round}"))
        );
        // The backup is a store.
        let copy = open(&to, SqliteOptions::default());
        let count = copy.record("connection", "a").await.unwrap().map_or(0, |found| found.revision);
        assert_eq!(unread_ids(&copy).await.len() as i64, count);
        assert_eq!(pending_ids(&copy).await.len(), 300);
        counts.push(count);
        copy.close().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(counts.is_sorted() && counts.last() > counts.first(), "{counts:?}");
    assert!(unread_ids(&*store).await.len() as i64 >= *counts.last().unwrap());
}

#[tokio::test]
async fn a_backup_replaces_no_file_and_leaves_none_incomplete() {
    let location = SqliteLocation::new();
    let (from, to) = (location.path(), location.0.path().join("backup"));
    let copy = || backup(&from, &to, |_, _| ());
    assert!(matches!(copy(), Err(StoreError::Unavailable(_))), "there is no store");
    let store = open(&from, SqliteOptions::default());
    store.receive(new_envelope(1)).await.unwrap();
    // The file of an interrupted backup does not matter.
    fs::write(location.0.path().join("backup.part"), "half").unwrap();
    copy().unwrap();
    let before = fs::read(&to).unwrap();
    store.receive(new_envelope(2)).await.unwrap();
    let error = copy().unwrap_err().to_string();
    assert!(error.contains("is there already"), "{error}");
    assert!(fs::read(&to).unwrap() == before, "the backup was replaced");
    store.close().await.unwrap();

    // No agent uses the store. Only an integrity check finds this damage.
    let second = location.0.path().join("second");
    backup(&from, &second, |_, _| ()).unwrap();
    OpenOptions::new().write(true).open(&from).unwrap().write_all_at(&[0xa5; 4096], 4096 * 4).unwrap();
    let third = location.0.path().join("third");
    let error = backup(&from, &third, |_, _| ()).unwrap_err();
    assert!(matches!(error, StoreError::Unusable(_)), "{error}");
    let left = ["backup", "second", "store.db", "store.db.lock"].map(str::to_owned);
    assert_eq!(names(location.0.path()), left.into());
}

#[tokio::test]
async fn a_backup_is_restored() {
    let location = SqliteLocation::new();
    let (path, saved) = (location.path(), location.0.path().join("backup"));
    let store = open(&path, SqliteOptions::default());
    store.receive(new_envelope(1)).await.unwrap();
    backup(&path, &saved, |_, _| ()).unwrap();
    store.receive(new_envelope(2)).await.unwrap();

    let error = restore(&saved, &path, true).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    store.close().await.unwrap();
    let error = restore(&saved, &path, false).unwrap_err();
    assert!(matches!(&error, StoreError::Unusable(why) if why.contains("is there already")), "{error}");
    let messages = async |path: &Path| {
        let store = open(path, SqliteOptions::default());
        let count = pending_ids(&store).await.len();
        store.close().await.unwrap();
        count
    };
    assert_eq!(messages(&path).await, 2);
    restore(&saved, &path, true).unwrap();
    assert_eq!(messages(&path).await, 1);
    // To a new path, in a folder that does not exist.
    let new = location.0.path().join("new").join("store.db");
    restore(&saved, &new, false).unwrap();
    assert_eq!(messages(&new).await, 1);
}

/// The log of the replaced database must not be applied to the new one.
#[tokio::test]
async fn a_stale_log_is_removed_with_its_database() {
    let location = SqliteLocation::new();
    let (path, saved) = (location.path(), location.0.path().join("backup"));
    let store = open(&path, SqliteOptions::default());
    store.receive(new_envelope(1)).await.unwrap();
    backup(&path, &saved, |_, _| ()).unwrap();
    for number in 2..50 {
        store.receive(large_envelope(number, 5000)).await.unwrap();
    }
    // The files of a store in use, as a crash leaves them.
    let crashed = location.0.path().join("crashed");
    fs::create_dir(&crashed).unwrap();
    for ending in ["", "-wal", "-shm"] {
        let name = format!("store.db{ending}");
        fs::copy(location.0.path().join(&name), crashed.join(&name)).unwrap();
    }
    let path = crashed.join("store.db");
    assert!(fs::metadata(crashed.join("store.db-wal")).unwrap().len() > 0);
    let restored = async || {
        restore(&saved, &path, true).unwrap();
        assert_eq!(names(&crashed), ["store.db", "store.db.lock"].map(str::to_owned).into());
        let restored = open(&path, SqliteOptions::default());
        assert_eq!(pending_ids(&restored).await.len(), 1);
        restored.close().await.unwrap();
    };
    // A store that is being read is not replaced: at its end, the reader would remove the log of the new database.
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM meta").unwrap();
    let error = restore(&saved, &path, true).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    drop(reader);
    restored().await;

    // A log that SQLite can no longer copy into its database.
    store.delete_expired(now(), &Retention::default(), 1).await.unwrap();
    store.probe_write().await.unwrap();
    fs::copy(location.0.path().join("store.db-wal"), crashed.join("store.db-wal")).unwrap();
    assert!(fs::metadata(crashed.join("store.db-wal")).unwrap().len() > 0);
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0xa5; 4096], 0).unwrap();
    restored().await;
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_bad_backup_is_not_restored() {
    let location = SqliteLocation::new();
    let (path, saved) = (location.path(), location.0.path().join("backup"));
    let store = open(&path, SqliteOptions::default());
    for number in 0..20 {
        store.receive(large_envelope(number, 3000)).await.unwrap();
    }
    backup(&path, &saved, |_, _| ()).unwrap();
    store.close().await.unwrap();
    let before = fs::read(&path).unwrap();
    let good = fs::read(&saved).unwrap();
    let refused = |why: &str| {
        let error = restore(&saved, &path, true).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(fs::read(&path).unwrap() == before, "the store was changed");
        assert!(!names(location.0.path()).contains("store.db.part"));
        fs::write(&saved, &good).unwrap();
    };
    fs::write(&saved, "no database").unwrap();
    refused("is damaged, or is not a database");
    fs::write(&saved, &good[..good.len() / 2]).unwrap();
    refused("damaged");
    OpenOptions::new().write(true).open(&saved).unwrap().write_all_at(&[0xa5; 3000], 4096 * 4).unwrap();
    refused("damaged");
    let alter = |sql: &str| Connection::open(&saved).unwrap().execute_batch(sql).unwrap();
    alter("PRAGMA application_id = 7");
    refused("is another program's database");
    alter("PRAGMA user_version = 6; UPDATE meta SET value = 6 WHERE name = 'readable_from'");
    refused("has schema 6");
    fs::remove_file(&saved).unwrap();
    refused("unable to open");
    restore(&saved, &path, true).unwrap();
    let restored: SqliteStore = open(&path, SqliteOptions::default());
    assert_eq!(restored.pending_envelopes(now(), &[], 100).await.unwrap().len(), 20);
    restored.commit(Commit::default()).await.unwrap();
}

/// Cursors that were given out after the backup are unknown to the restored store, also if it was restored twice.
#[tokio::test]
async fn a_restored_store_gives_out_no_cursor_again() {
    let location = SqliteLocation::new();
    let store = open(&location.path(), SqliteOptions::default());
    store.commit(commit_of([Change::Deliver(delivery(1))])).await.unwrap();
    let copy = location.0.path().join("copy");
    backup(&location.path(), &copy, |_, _| ()).unwrap();
    store.commit(commit_of([Change::Deliver(delivery(2))])).await.unwrap();
    let mut given: Vec<i64> = store.deliveries(all()).await.unwrap().iter().map(|it| it.cursor).collect();
    store.close().await.unwrap();
    for _ in 0..3 {
        restore(&copy, &location.path(), true).unwrap();
        let store = open(&location.path(), SqliteOptions::default());
        store.commit(commit_of([Change::Deliver(delivery(3))])).await.unwrap();
        let cursors: Vec<i64> = store.deliveries(all()).await.unwrap().iter().map(|it| it.cursor).collect();
        assert_eq!(cursors[0], given[0]);
        assert!(!given.contains(&cursors[1]) && cursors[1] > given[1], "{given:?} {cursors:?}");
        for unknown in &given[1..] {
            let asked = store.deliveries(DeliveryQuery { after: *unknown, ..all() }).await;
            assert!(matches!(asked, Err(StoreError::UnknownCursor(_))), "{asked:?}");
        }
        given.push(cursors[1]);
        store.close().await.unwrap();
    }
}

/// Events have cursors of their own, which follow the same rule: also in a store that was restored by a release that does not
/// know events.
#[tokio::test]
async fn a_restored_store_gives_out_no_cursor_of_an_event_again() {
    let location = SqliteLocation::new();
    let event = || commit_of([Change::Event(NewEvent { time: now(), kind: "a".to_owned(), data: "{}".to_owned() })]);
    let store = open(&location.path(), SqliteOptions::default());
    store.commit(event()).await.unwrap();
    let copy = location.0.path().join("copy");
    backup(&location.path(), &copy, |_, _| ()).unwrap();
    store.commit(event()).await.unwrap();
    let cursors = async |store: &SqliteStore| -> Vec<i64> {
        store.events(0, &["a"], 10).await.unwrap().iter().map(|event| event.cursor).collect()
    };
    let mut given = cursors(&store).await;
    store.close().await.unwrap();
    for round in 0..3 {
        restore(&copy, &location.path(), true).unwrap();
        if round == 1 {
            // What an older release does when it opens the store.
            let older = "INSERT INTO cursor_ranges (first) SELECT max(first) + 700000 FROM cursor_ranges;
                UPDATE cursor_ranges SET last = first WHERE first < (SELECT max(first) FROM cursor_ranges);
                DELETE FROM meta WHERE name = 'restored'";
            Connection::open(location.path()).unwrap().execute_batch(older).unwrap();
        }
        let store = open(&location.path(), SqliteOptions::default());
        store.commit(event()).await.unwrap();
        let found = cursors(&store).await;
        assert_eq!(found[0], given[0]);
        assert!(!given.contains(&found[1]) && found[1] > given[1], "{given:?} {found:?}");
        for unknown in &given[1..] {
            let asked = store.events(*unknown, &["a"], 10).await;
            assert!(matches!(asked, Err(StoreError::UnknownCursor(_))), "{asked:?}");
        }
        given.push(found[1]);
        store.close().await.unwrap();
        // It does not begin again at the next start.
        let store = open(&location.path(), SqliteOptions::default());
        store.commit(event()).await.unwrap();
        assert_eq!(cursors(&store).await[2], found[1] + 1);
        store.close().await.unwrap();
    }
}
