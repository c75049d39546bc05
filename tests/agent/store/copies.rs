//! Copies of whole stores between SQLite and PostgreSQL.

use std::{
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    time::Duration,
};

use claviger::agent::store::{
    Change, CopiedTable, CopyReport, DeliveryQuery, PostgresStore, ReceiveOutcome, SqliteStore, Store, StoreError,
    StoreLimits, StoreLocation, check, copy,
};
use rusqlite::Connection;
use tokio::time::timeout;

use crate::{
    postgres_server::Server,
    store::{
        content::{STRANGE, low_limits, make, open_low},
        fixtures::{all, commit_of, delivery, new_envelope, now, pending_ids, record, revision_of},
        postgres::Location,
        suite::commit_ok,
    },
};

macro_rules! server {
    () => {{
        let Some(server) = Server::shared() else { return };
        server
    }};
}

fn sqlite(path: &Path) -> StoreLocation {
    StoreLocation::Sqlite(path.to_owned())
}

fn postgres(location: &Location) -> StoreLocation {
    StoreLocation::Postgres(Box::new(location.options()))
}

async fn copied(from: &StoreLocation, to: &StoreLocation) -> CopyReport {
    copy(from, to, |_| ()).await.unwrap_or_else(|error| panic!("{from} to {to}: {error}"))
}

async fn assert_whole(store: &StoreLocation) {
    let report = check(store, |_, _| ()).await.unwrap();
    assert_eq!(report.findings, [], "{store}");
    assert!(report.tables.iter().all(|(_, rows)| *rows > 0), "{:?}", report.tables);
}

/// Compares all tables of two databases of SQLite, those of sums, cursors and sequences too.
fn assert_same_tables(one: &Path, other: &Path) {
    let db = Connection::open(one).unwrap();
    db.execute("ATTACH ?1 AS other", [other.to_str().unwrap()]).unwrap();
    let list = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name <> 'meta'";
    let names: Vec<String> =
        db.prepare(list).unwrap().query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        for (left, right) in [("main", "other"), ("other", "main")] {
            let differ =
                format!("SELECT count(*) FROM (SELECT * FROM {left}.{name} EXCEPT SELECT * FROM {right}.{name})");
            assert_eq!(db.query_row(&differ, [], |row| row.get::<_, i64>(0)), Ok(0), "{name} of {left}");
        }
    }
}

/// A store that an agent cannot open, since it is an unfinished copy.
fn assert_unfinished(opened: Option<StoreError>) {
    assert!(matches!(&opened, Some(StoreError::Unusable(why)) if why.contains("unfinished copy")), "{opened:?}");
}

#[tokio::test]
async fn a_store_comes_back_from_postgresql_as_it_was() {
    let location = Location::of(server!());
    let folder = tempfile::tempdir().unwrap();
    let (source, back) = (make(folder.path()).await, folder.path().join("back.db"));
    assert_whole(&sqlite(&source)).await;
    let there = copied(&sqlite(&source), &postgres(&location)).await;
    assert_eq!(there.found, 0);
    assert!(there.tables.iter().all(|table| table.rows > 0), "{there:?}");
    assert_whole(&postgres(&location)).await;
    let here = copied(&postgres(&location), &sqlite(&back)).await;
    assert_eq!(there, here);
    assert_whole(&sqlite(&back)).await;
    assert_same_tables(&source, &back);
    // Between two of the same backend.
    let (second, third) = (Location::of(server!()), folder.path().join("third.db"));
    assert_eq!(copied(&postgres(&location), &postgres(&second)).await, here);
    assert_eq!(copied(&sqlite(&back), &sqlite(&third)).await, here);
    assert_same_tables(&source, &third);
}

/// What an application and the agent find in a store, without what depends on the time.
async fn visible(store: &dyn Store) -> impl PartialEq + std::fmt::Debug + use<> {
    let records = store.records("connection", "", usize::MAX).await.unwrap();
    let strange = store.records(STRANGE, "", usize::MAX).await.unwrap();
    let mut peers = store.outbox_peers().await.unwrap();
    peers.sort_unstable();
    let outbox = store.outbox(claviger::agent::store::OutboxQuery { limit: usize::MAX, ..Default::default() });
    let events = store.events(0, &["a", "sent", "kind 0", "kind 1", "kind 2"], usize::MAX).await.unwrap();
    let usage = claviger::agent::store::Usage { bytes: 0, stranger_record_bytes: 0, ..store.usage().await.unwrap() };
    let envelopes = store.pending_envelopes(now() + 1_000_000_000, &[], usize::MAX).await.unwrap();
    (store.deliveries(all()).await.unwrap(), records, strange, peers, outbox.await.unwrap(), events, usage, envelopes)
}

/// An application goes on from its cursor, and no number is given again.
#[tokio::test]
async fn applications_go_on_with_a_copy() {
    let location = Location::of(server!());
    let folder = tempfile::tempdir().unwrap();
    let source = make(folder.path()).await;
    let before = open_low(&source);
    let seen = visible(&before).await;
    let given: Vec<i64> = before.deliveries(all()).await.unwrap().iter().map(|it| it.cursor).collect();
    let events: Vec<_> = before.events(0, &["a", "kind 1"], 9999).await.unwrap().iter().map(|it| it.cursor).collect();
    let last_envelope = pending_ids(&before).await.pop().unwrap();
    before.close().await.unwrap();
    copied(&sqlite(&source), &postgres(&location)).await;

    let after = PostgresStore::open(location.options(), low_limits()).await.unwrap();
    assert_eq!(visible(&after).await, seen);
    let go_on = async |store: &dyn Store| {
        for cursor in &given {
            store.deliveries(DeliveryQuery { after: *cursor, limit: 1, ..all() }).await.unwrap();
        }
        for cursor in &events {
            store.events(*cursor, &["a"], 1).await.unwrap();
        }
        commit_ok(store, commit_of([Change::Deliver(delivery(77_777))])).await;
        let new = store.deliveries(DeliveryQuery { after: *given.last().unwrap(), ..all() }).await.unwrap();
        assert_eq!(new.len(), 1, "one message follows the last cursor");
        new[0].cursor
    };
    let next = go_on(&after).await;
    assert_eq!(next, given.last().unwrap() + 1);
    let received = after.receive(new_envelope(99_999)).await.unwrap();
    assert!(matches!(received, ReceiveOutcome::Stored(id) if id > last_envelope), "{received:?}");
    after.close().await.unwrap();
    // The marks and the digests are there: nothing is handled twice.
    let back = folder.path().join("back.db");
    copied(&postgres(&location), &sqlite(&back)).await;
    let back = open_low(&back);
    assert_eq!(back.receive(new_envelope(1)).await.unwrap(), ReceiveOutcome::AlreadyProcessed);
    assert_eq!(back.deliveries(DeliveryQuery { after: next, ..all() }).await.unwrap(), []);
    back.close().await.unwrap();

    // An agent on the source gives out none of the cursors that the copy gives out, and knows its own.
    let left = open_low(&source);
    let cursor = go_on(&left).await;
    assert!(cursor > next + 1000, "{cursor} {next}");
    let unknown = left.deliveries(DeliveryQuery { after: next, ..all() }).await;
    assert!(matches!(unknown, Err(StoreError::UnknownCursor(_))), "{unknown:?}");
    left.close().await.unwrap();
    // The same of a source in PostgreSQL.
    let left = PostgresStore::open(location.options(), low_limits()).await.unwrap();
    commit_ok(&left, commit_of([Change::Deliver(delivery(88_888))])).await;
    let new = left.deliveries(DeliveryQuery { after: next, ..all() }).await.unwrap();
    assert!(new.len() == 1 && new[0].cursor > next + 1000, "{new:?}");
    left.close().await.unwrap();
}

fn random(below: u64) -> u64 {
    RandomState::new().hash_one(0) % below
}

/// Copies with interruptions at random points. `open` opens the target as an agent does, if the target exists. Returns what was
/// copied, and how often the copy was interrupted.
async fn copy_with_interruptions(
    from: &StoreLocation,
    to: &StoreLocation,
    open: impl AsyncFn() -> Option<Result<(), StoreError>>,
) -> (Vec<CopiedTable>, u64) {
    let complete = async |attempt| {
        let folder = tempfile::tempdir().unwrap();
        (copied(to, &sqlite(&folder.path().join("again.db"))).await.tables, attempt)
    };
    for attempt in 0.. {
        let copying = copy(from, to, |_| ());
        let longest = Duration::from_micros(1000 + random(20_000 + attempt * 8000));
        match timeout(longest, copying).await {
            Ok(Ok(report)) => return (report.tables, attempt),
            // What the interrupted attempt had begun is still being done.
            Ok(Err(StoreError::InUse(_))) => {}
            // It was completed after all: the interruption came while it removed its mark.
            Ok(Err(StoreError::Unusable(why))) if attempt > 0 && why.contains("is not empty") => {
                return complete(attempt).await;
            }
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => match open().await {
                None | Some(Err(StoreError::InUse(_))) => {}
                Some(Err(StoreError::Unusable(why))) if why.contains("unfinished copy") => {}
                Some(Err(error)) => panic!("{error}"),
                // The copy was interrupted after its end.
                Some(Ok(())) => return complete(attempt).await,
            },
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_copy_goes_on() {
    let location = Location::of(server!());
    let folder = tempfile::tempdir().unwrap();
    let (source, back) = (make(folder.path()).await, folder.path().join("back.db"));
    let whole = copied(&sqlite(&source), &sqlite(&folder.path().join("whole.db"))).await.tables;
    // An agent would create a store where there is none.
    let in_postgres = async || match location.sql("SELECT to_regclass('claviger') IS NOT NULL").as_str() {
        "t" => Some(match PostgresStore::open(location.options(), low_limits()).await {
            Ok(store) => store.close().await,
            Err(error) => Err(error),
        }),
        _ => None,
    };
    let (tables, interruptions) = copy_with_interruptions(&sqlite(&source), &postgres(&location), in_postgres).await;
    assert_eq!(tables, whole);
    let has_tables =
        |path: &Path| Connection::open(path).is_ok_and(|db| db.query_row("SELECT 1 FROM meta", [], |_| Ok(())).is_ok());
    let in_sqlite = async || match back.exists() && has_tables(&back) {
        true => Some(match SqliteStore::open(&back, low_limits()) {
            Ok(store) => store.close().await,
            Err(error) => Err(error),
        }),
        false => None,
    };
    let (tables, more) = copy_with_interruptions(&postgres(&location), &sqlite(&back), in_sqlite).await;
    assert_eq!(tables, whole);
    assert!(interruptions > 3 && more > 3, "{interruptions} and {more} interruptions");
    assert_whole(&postgres(&location)).await;
    assert_whole(&sqlite(&back)).await;
    // Whenever it was interrupted, all cursors are known.
    let store = open_low(&back);
    for given in store.deliveries(all()).await.unwrap() {
        store.deliveries(DeliveryQuery { after: given.cursor, limit: 1, ..all() }).await.unwrap();
    }
    store.close().await.unwrap();
}

/// Copies until this many steps are done.
async fn copy_some(from: &StoreLocation, to: &StoreLocation, steps: usize) {
    let (mut done, stop) = (0, tokio::sync::Notify::new());
    let copying = copy(from, to, |_| {
        done += 1;
        if done == steps {
            stop.notify_one();
        }
    });
    tokio::select! {
        biased;
        () = stop.notified() => {}
        result = copying => panic!("the copy ended before step {steps}: {result:?}"),
    }
}

/// Tries again while what an interrupted copy had begun is still being done.
async fn copy_later(from: &StoreLocation, to: &StoreLocation) -> Result<CopyReport, StoreError> {
    for _ in 0..100 {
        match copy(from, to, |_| ()).await {
            Err(StoreError::InUse(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            done => return done,
        }
    }
    panic!("the store is still in use");
}

#[tokio::test]
async fn a_changed_byte_is_found() {
    let location = Location::of(server!());
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (make(folder.path()).await, folder.path().join("target.db"));
    let refused = async |to: &StoreLocation| {
        let error = copy_later(&sqlite(&source), to).await.unwrap_err();
        let why = "has other values in the table deliveries than its copy";
        assert!(matches!(&error, StoreError::Unusable(text) if text.starts_with(why)), "{error}");
    };
    // After so many steps, deliveries are there.
    copy_some(&sqlite(&source), &postgres(&location), 12).await;
    let change = "WITH one AS (SELECT min(cursor) AS cursor FROM deliveries WHERE sealed IS NOT NULL)
        UPDATE deliveries SET sealed = set_byte(sealed, 3, get_byte(sealed, 3) # 1) FROM one
        WHERE deliveries.cursor = one.cursor RETURNING 1";
    assert_eq!(location.sql(change), "1");
    refused(&postgres(&location)).await;
    // Again: the copy stays unfinished.
    refused(&postgres(&location)).await;
    assert_unfinished(PostgresStore::open(location.options(), StoreLimits::default()).await.err());

    copy_some(&sqlite(&source), &sqlite(&target), 12).await;
    // The lock is free when what the copy had begun is done.
    let change = "UPDATE deliveries SET message = message || 'x' WHERE cursor = (SELECT min(cursor) FROM deliveries)";
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(Connection::open(&target).unwrap().execute(change, []), Ok(1));
    refused(&sqlite(&target)).await;
    assert_unfinished(SqliteStore::open(&target, StoreLimits::default()).err());
    // Neither is a backup made of it, nor is it a source.
    let backup = claviger::agent::store::backup(&target, &folder.path().join("backup"), |_, _| ()).err();
    assert_unfinished(backup);
    assert_unfinished(copy(&sqlite(&target), &sqlite(&folder.path().join("other.db")), |_| ()).await.err());
    assert_unfinished(check(&sqlite(&target), |_, _| ()).await.err());
}

#[tokio::test]
async fn a_store_with_an_agent_is_not_copied() {
    let location = Location::of(server!());
    let folder = tempfile::tempdir().unwrap();
    let source = make(folder.path()).await;
    let in_use = async |from: &StoreLocation, to: &StoreLocation| {
        let error = copy(from, to, |_| ()).await.unwrap_err();
        assert!(matches!(error, StoreError::InUse(_)), "{error}");
    };
    let agent = open_low(&source);
    in_use(&sqlite(&source), &postgres(&location)).await;
    agent.close().await.unwrap();
    // Neither side can be opened while it is copied.
    let (mut steps, path) = (0, source.clone());
    let refuse = |_| {
        steps += 1;
        let refused = SqliteStore::open(&path, low_limits()).err();
        assert!(matches!(refused, Some(StoreError::InUse(_))), "{refused:?}");
    };
    copy(&sqlite(&source), &postgres(&location), refuse).await.unwrap();
    assert!(steps > 20, "{steps}");
    let agent = PostgresStore::open(location.options(), low_limits()).await.unwrap();
    in_use(&postgres(&location), &sqlite(&folder.path().join("new.db"))).await;
    in_use(&sqlite(&source), &postgres(&location)).await;
    // A check needs no lock.
    assert_whole(&postgres(&location)).await;
    agent.close().await.unwrap();
}

#[tokio::test]
async fn a_copy_is_mixed_with_nothing() {
    let location = Location::of(server!());
    let folder = tempfile::tempdir().unwrap();
    let source = make(folder.path()).await;
    let (other, target) = (folder.path().join("other.db"), folder.path().join("target.db"));
    let refused = async |from: &StoreLocation, to: &StoreLocation, why: &str| {
        let error = copy_later(from, to).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    };
    let agent = open_low(&other);
    commit_ok(&agent, commit_of([Change::Deliver(delivery(1))])).await;
    agent.close().await.unwrap();
    refused(&sqlite(&source), &sqlite(&other), "is not empty: name a file that does not exist").await;
    refused(&sqlite(&source), &sqlite(&source), "cannot be copied to itself").await;
    refused(&sqlite(&folder.path().join("none.db")), &postgres(&location), "does not exist").await;
    // An unfinished copy of another store.
    copy_some(&sqlite(&source), &sqlite(&target), 12).await;
    refused(&sqlite(&other), &sqlite(&target), "is an unfinished copy of another store").await;
    copy_some(&sqlite(&source), &postgres(&location), 12).await;
    refused(&sqlite(&other), &postgres(&location), "is an unfinished copy of another store").await;
    // An agent has used the source since.
    let agent = open_low(&source);
    agent.acknowledge(&["many 3".to_owned()]).await.unwrap();
    agent.close().await.unwrap();
    for to in [&sqlite(&target), &postgres(&location)] {
        refused(&sqlite(&source), to, "before an agent used it again").await;
    }
    // Another program's databases.
    let foreign: PathBuf = folder.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
    refused(&sqlite(&source), &sqlite(&foreign), "is another program's database").await;
    let foreign = Location::of(server!());
    foreign.sql("SET ROLE agent; CREATE SCHEMA s; CREATE TABLE public.a (b int)");
    refused(&sqlite(&source), &postgres(&foreign), "is another program's database").await;
    refused(&postgres(&Location::of(server!())), &sqlite(&folder.path().join("new.db")), "is empty").await;
}

/// A record that was deleted before the copy and is made anew after it has another revision: whoever read it before must see
/// that it has changed.
#[tokio::test]
async fn a_copy_uses_no_revision_again() {
    let location = Location::of(server!());
    let folder = tempfile::tempdir().unwrap();
    let (first, back) = (folder.path().join("first.db"), folder.path().join("back.db"));
    let store = SqliteStore::open(&first, StoreLimits::default()).unwrap();
    let mut revisions = vec![make_and_delete(&store).await];
    store.close().await.unwrap();
    copied(&sqlite(&first), &postgres(&location)).await;
    let store = location.try_open().await.unwrap();
    revisions.push(make_and_delete(&store).await);
    store.close().await.unwrap();
    copied(&postgres(&location), &sqlite(&back)).await;
    let store = SqliteStore::open(&back, StoreLimits::default()).unwrap();
    revisions.push(make_and_delete(&store).await);
    store.close().await.unwrap();
    assert!(revisions.is_sorted_by(|one, next| one < next), "{revisions:?}");
}

/// Makes a record, changes it a few times and deletes it. Returns its last revision.
async fn make_and_delete(store: &dyn Store) -> i64 {
    let mut revision = 0;
    for _ in 0..3 {
        commit_ok(store, commit_of([Change::Put(record("a", revision, "value"))])).await;
        revision = revision_of(store, "a").await;
    }
    let delete = Change::Delete { kind: "connection".to_owned(), key: "a".to_owned() };
    commit_ok(store, commit_of([delete])).await;
    revision
}
