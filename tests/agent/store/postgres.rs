//! The suite on PostgreSQL, and tests of that backend: connections and servers that end, other agents, and texts that
//! PostgreSQL does not take as they are.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use claviger::agent::store::{
    Change, Commit, CommitOutcome, Delivery, DeliveryQuery, HandledMessage, OutboxEntry, PostgresOptions,
    PostgresStore, ReceiveOutcome, Store, StoreError, StoreLimits,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep},
};

use crate::{
    postgres_server::{PASSWORD, Server},
    store::{
        fixtures::{
            all, commit_of, delivery, handled_message, new_envelope, now, outgoing, pending_ids, record, unread_ids,
        },
        store_limits,
        suite::{Limits, StoreLocation, commit_ok, open, reopen},
    },
};

crate::suite!(crate::store::postgres::Location::shared);

/// A database of its own.
#[derive(Clone)]
pub struct Location {
    server: &'static Server,
    database: String,
}

impl Location {
    pub fn shared() -> Option<Self> {
        Server::shared().map(Self::of)
    }

    pub fn of(server: &'static Server) -> Self {
        Self { server, database: server.database() }
    }

    pub async fn try_open(&self) -> Result<PostgresStore, StoreError> {
        PostgresStore::open(self.options(), StoreLimits::default()).await
    }

    pub fn options(&self) -> PostgresOptions {
        let tls = claviger::net::client_config(None).expect("a TLS configuration");
        PostgresOptions::from_url(&self.url(), &tls).expect("a URL")
    }

    pub fn url(&self) -> String {
        self.server.url(&self.database)
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    pub fn sql(&self, statements: &str) -> String {
        self.server.sql(&self.database, statements)
    }

    /// Ends the sessions of the stores that a condition on `pg_stat_activity` selects.
    fn end_sessions(&self, condition: &str) -> usize {
        let ended = self.sql(&format!(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
            WHERE application_name = 'claviger' AND datname = current_database() AND {condition}"
        ));
        ended.parse().expect("a number")
    }
}

#[async_trait]
impl StoreLocation for Location {
    async fn open(&self, limits: Limits) -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(self.options(), store_limits(limits)).await.expect("the store opens"))
    }
}

macro_rules! location {
    () => {{
        let Some(server) = Server::shared() else { return };
        Location::of(server)
    }};
}

/// The session that holds the lock of the owner.
const LOCK_SESSION: &str =
    "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1131176310 AND granted)";

#[tokio::test]
async fn a_second_agent_is_refused() {
    let location = location!();
    let first = location.try_open().await.unwrap();
    let refused = location.try_open().await.err();
    assert!(matches!(&refused, Some(StoreError::InUse(name)) if name.contains(&location.database)), "{refused:?}");
    first.probe_write().await.unwrap();
    first.close().await.unwrap();
    location.try_open().await.unwrap().close().await.unwrap();
}

/// An agent that has lost its lock, and the database to another one, writes nothing any more.
#[tokio::test]
async fn an_agent_that_lost_its_lock_writes_nothing() {
    let location = location!();
    let first = location.try_open().await.unwrap();
    first.receive(new_envelope(1)).await.unwrap();
    assert_eq!(location.end_sessions(LOCK_SESSION), 1);
    // The session that writes is still there, and its owner has not noticed.
    let second = location.try_open().await.unwrap();
    for _ in 0..3 {
        let refused = first.receive(new_envelope(2)).await;
        assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("another agent")), "{refused:?}");
    }
    second.receive(new_envelope(3)).await.unwrap();
    assert_eq!(pending_ids(&second).await.len(), 2);
    second.close().await.unwrap();
    // The first one takes it again, and counts what the other one has left.
    sleep(Duration::from_millis(300)).await;
    first.receive(new_envelope(4)).await.unwrap();
    assert_eq!((pending_ids(&first).await.len(), first.usage().await.unwrap().envelopes), (3, 3));
    first.close().await.unwrap();
}

/// Whoever asks notices nothing of a session that was ended between requests.
#[tokio::test]
async fn ended_sessions_are_replaced() {
    let location = location!();
    let store = location.try_open().await.unwrap();
    for round in 0..4 {
        store.receive(new_envelope(round)).await.unwrap();
        assert_eq!(pending_ids(&store).await.len() as u64, round + 1);
        let condition = [LOCK_SESSION, &format!("NOT {LOCK_SESSION}"), "true", "true"][round as usize].to_owned();
        assert!(location.end_sessions(&condition) > 0);
    }
    assert_eq!(store.usage().await.unwrap().envelopes, 4);
    store.close().await.unwrap();
}

/// Commits numbered deliveries one after another until `end`. Returns those that were answered.
pub fn deliver_until(store: &Arc<PostgresStore>, first: u64, end: Instant) -> JoinHandle<Vec<u64>> {
    let store = store.clone();
    tokio::spawn(async move {
        let mut answered = Vec::new();
        for number in first.. {
            let changes =
                commit_of([Change::Deliver(delivery(number)), Change::Put(record(&number.to_string(), 0, ""))]);
            let commit = Commit { handled: Some(handled_message(number)), ..changes };
            loop {
                match store.commit(commit.clone()).await {
                    Ok(CommitOutcome::Committed | CommitOutcome::Duplicate) => break,
                    Err(error) if error.is_retryable() => sleep(Duration::from_millis(20)).await,
                    other => panic!("{other:?}"),
                }
            }
            answered.push(number);
            if Instant::now() > end {
                return answered;
            }
        }
        unreachable!()
    })
}

/// Compares what was answered with what is in the store: everything once, in an order that cursors keep.
pub async fn check_deliveries(store: &PostgresStore, answered: Vec<Vec<u64>>) {
    let numbers: BTreeSet<_> = answered.iter().flatten().copied().collect();
    let wanted: BTreeSet<_> = numbers.iter().map(|number| delivery(*number).id).collect();
    let found = unread_ids(store).await;
    assert_eq!(found.len(), wanted.len(), "a delivery is there twice");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.deliveries, usage.delivery_bytes), (wanted.len() as u64, 20 * wanted.len() as u64));
}

/// A reader of cursors, beside the writers, sees every delivery once. It reads on until nothing has come since the writers ended.
pub fn follow(store: &Arc<PostgresStore>) -> (Arc<AtomicBool>, JoinHandle<usize>) {
    let (store, have_writers_ended) = (store.clone(), Arc::new(AtomicBool::new(false)));
    let is_last = have_writers_ended.clone();
    let reader = tokio::spawn(async move {
        let (mut after, mut seen) = (0, 0);
        loop {
            let is_last = is_last.load(Ordering::Acquire);
            match store.deliveries(DeliveryQuery { after, limit: 7, ..all() }).await {
                Ok(found) if found.is_empty() && is_last => return seen,
                Ok(found) => {
                    seen += found.len();
                    after = found.last().map_or(after, |last| last.cursor);
                }
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    (have_writers_ended, reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_true_while_sessions_are_ended() {
    let location = location!();
    let store = Arc::new(location.try_open().await.unwrap());
    let end = Instant::now() + Duration::from_secs(4);
    let writers: Vec<_> = (0..8).map(|task| deliver_until(&store, task * 1_000_000, end)).collect();
    let (have_writers_ended, reader) = follow(&store);
    let location = Arc::new(location);
    let mut ended = 0;
    while Instant::now() < end {
        let location = location.clone();
        ended += spawn_blocking(move || location.end_sessions("random() < 0.5")).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    assert!(ended > 10, "{ended}");
    let mut answered = Vec::new();
    for writer in writers {
        answered.push(writer.await.unwrap());
    }
    have_writers_ended.store(true, Ordering::Release);
    assert_eq!(reader.await.unwrap(), answered.iter().map(Vec::len).sum::<usize>());
    check_deliveries(&store, answered).await;
    store.close().await.unwrap();
}

/// The server fails as if its machine had, while commits are under way. What was answered is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_loses_nothing_that_was_answered() {
    // A server of its own, since the others are in use.
    let Some(server) = spawn_blocking(Server::start).await.unwrap() else { return };
    let server: &'static Server = Box::leak(Box::new(server));
    let location = spawn_blocking(move || Location::of(server)).await.unwrap();
    let store = Arc::new(location.try_open().await.unwrap());
    // Between commits.
    store.receive(new_envelope(1)).await.unwrap();
    spawn_blocking(move || server.crash()).await.unwrap();
    for call in [store.receive(new_envelope(2)).await.map(drop), store.outbox_entry("a").await.map(drop)] {
        assert!(matches!(call, Err(StoreError::Unavailable(_))), "{call:?}");
    }
    spawn_blocking(move || server.restart()).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    assert!(matches!(store.receive(new_envelope(2)).await.unwrap(), ReceiveOutcome::Stored(_)));
    assert_eq!(pending_ids(&*store).await.len(), 2);
    // During commits.
    let end = Instant::now() + Duration::from_secs(8);
    let writers: Vec<_> = (0..8).map(|task| deliver_until(&store, task * 1_000_000, end)).collect();
    let (have_writers_ended, reader) = follow(&store);
    for _ in 0..3 {
        sleep(Duration::from_millis(500)).await;
        spawn_blocking(move || server.crash()).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        spawn_blocking(move || server.restart()).await.unwrap();
    }
    let mut answered = Vec::new();
    for writer in writers {
        answered.push(writer.await.unwrap());
    }
    have_writers_ended.store(true, Ordering::Release);
    assert_eq!(reader.await.unwrap(), answered.iter().map(Vec::len).sum::<usize>());
    check_deliveries(&store, answered).await;
    store.close().await.unwrap();
}

/// The connection ends after the server got a COMMIT, or just before, and either way without an answer. The store finds out
/// which it was, and makes the changes if they are not made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_commit_is_looked_up() {
    let location = location!();
    let proxy = Proxy::start(location.server);
    let tls = claviger::net::client_config(None).unwrap();
    let url = location.server.url_behind(proxy.folder.path(), &location.database);
    let options = PostgresOptions::from_url(&url, &tls).unwrap();
    let store = PostgresStore::open(options, StoreLimits::default()).await.unwrap();
    proxy.cut(Cut::AfterCommit);
    assert!(matches!(store.receive(new_envelope(1)).await.unwrap(), ReceiveOutcome::Stored(_)));
    assert!(proxy.is_done());
    assert_eq!((pending_ids(&store).await.len(), store.usage().await.unwrap().envelopes), (1, 1));
    proxy.cut(Cut::BeforeCommit);
    assert!(matches!(store.receive(new_envelope(2)).await.unwrap(), ReceiveOutcome::Stored(_)));
    assert!(proxy.is_done());
    assert_eq!((pending_ids(&store).await.len(), store.usage().await.unwrap().envelopes), (2, 2));
    proxy.cut(Cut::AtBegin);
    assert!(matches!(store.receive(new_envelope(3)).await.unwrap(), ReceiveOutcome::Stored(_)));
    assert!(proxy.is_done());
    assert_eq!((pending_ids(&store).await.len(), store.usage().await.unwrap().envelopes), (3, 3));
    store.close().await.unwrap();
}

/// Where a connection is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    BeforeCommit,
    AfterCommit,
    AtBegin,
}

/// A socket that leads to the server's, until a connection is cut.
struct Proxy {
    folder: tempfile::TempDir,
    cut: Arc<Mutex<Option<Cut>>>,
}

impl Proxy {
    fn start(server: &'static Server) -> Self {
        let folder = tempfile::tempdir_in("/tmp").expect("a folder");
        let listener = UnixListener::bind(server.socket(Some(folder.path()))).expect("a socket");
        let cut = Arc::<Mutex<Option<Cut>>>::default();
        let shared = cut.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Self::serve(client, server, shared.clone()));
            }
        });
        Self { folder, cut }
    }

    fn cut(&self, cut: Cut) {
        *self.cut.lock().unwrap() = Some(cut);
    }

    /// Whether the connection was cut.
    fn is_done(&self) -> bool {
        self.cut.lock().unwrap().is_none()
    }

    async fn serve(mut client: UnixStream, server: &Server, cut: Arc<Mutex<Option<Cut>>>) {
        let mut server = UnixStream::connect(server.socket(None)).await.expect("the server");
        let (mut from_client, mut from_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                read = client.read(&mut from_client) => {
                    let Ok(length @ 1..) = read else { return };
                    let sent = &from_client[..length];
                    let has = |word: &[u8]| sent.windows(word.len()).any(|part| part == word);
                    let wanted = *cut.lock().unwrap();
                    let is_cut = match wanted {
                        Some(Cut::BeforeCommit | Cut::AfterCommit) => has(b"COMMIT\0"),
                        Some(Cut::AtBegin) => has(b"BEGIN"),
                        None => false,
                    };
                    if is_cut {
                        *cut.lock().unwrap() = None;
                        if wanted == Some(Cut::AfterCommit) {
                            let _ = server.write_all(sent).await;
                            sleep(Duration::from_millis(300)).await;
                        }
                        return;
                    }
                    if server.write_all(sent).await.is_err() { return }
                }
                read = server.read(&mut from_server) => {
                    let Ok(length @ 1..) = read else { return };
                    if client.write_all(&from_server[..length]).await.is_err() { return }
                }
            }
        }
    }
}

/// Over TCP, the server is proved by its certificate before it gets the password.
#[tokio::test]
async fn the_server_is_proved_by_its_certificate() {
    let location = location!();
    let trusted = claviger::net::client_config(Some(&location.server.certificate())).unwrap();
    let untrusted = claviger::net::client_config(None).unwrap();
    let open = async |host, tls, password: &str| {
        let options = PostgresOptions::from_url(&location.server.url_at(host, &location.database), tls).unwrap();
        PostgresStore::open(options.with_password(password), StoreLimits::default()).await
    };
    let store = open("localhost", &trusted, PASSWORD).await.unwrap();
    store.probe_write().await.unwrap();
    let encrypted = location.sql(
        "SELECT bool_and(ssl), count(*) >= 2 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name = 'claviger' AND datname = current_database()",
    );
    assert_eq!(encrypted, "t|t");
    store.close().await.unwrap();
    for (host, tls, password, reason) in [
        ("localhost", &untrusted, PASSWORD, "certificate"),
        // The certificate is for another name.
        ("127.0.0.1", &trusted, PASSWORD, "certificate"),
        ("localhost", &trusted, "wrong", "password authentication failed"),
    ] {
        let refused = open(host, tls, password).await.err();
        assert!(matches!(&refused, Some(StoreError::Unavailable(why)) if why.contains(reason)), "{host}: {refused:?}");
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let location = location!();
    location.try_open().await.unwrap().close().await.unwrap();
    location.sql("UPDATE claviger SET value = 99 WHERE name = 'schema'");
    // One that only adds.
    location.try_open().await.unwrap().close().await.unwrap();
    location.sql("UPDATE claviger SET value = 98 WHERE name = 'readable_from'");
    let refused = location.try_open().await.err();
    assert!(matches!(refused, Some(StoreError::TooNew { found: 99, known: 3 })), "{refused:?}");
    assert_eq!(location.sql("SELECT value FROM claviger WHERE name = 'schema'"), "99");
}

#[tokio::test]
async fn another_programs_database_is_left_alone() {
    let location = location!();
    location.sql("CREATE TABLE accounts (id INT8)");
    let refused = location.try_open().await.err();
    assert!(matches!(&refused, Some(StoreError::Unusable(why)) if why.contains("another program")), "{refused:?}");
    assert_eq!(location.sql("SELECT count(*) FROM pg_class WHERE relname = 'claviger'"), "0");
    let limits = StoreLimits { max_bytes: Some(1 << 20), ..StoreLimits::default() };
    let refused = PostgresStore::open(location.options(), limits).await.err();
    assert!(matches!(&refused, Some(StoreError::Unusable(why)) if why.contains("limit")), "{refused:?}");
}

/// A restored database gives out no cursor again, and remembers that it may have forgotten marks.
#[tokio::test]
async fn a_restored_database_begins_a_range_of_cursors() {
    let location = location!();
    let store = open(&location).await;
    commit_ok(&*store, commit_of([1, 2].map(|number| Change::Deliver(delivery(number))))).await;
    let before = store.deliveries(all()).await.unwrap()[1].cursor;
    let store = reopen(&location, store).await;
    assert!(store.is_certainly_new(&handled_message(1), None).await.unwrap());
    store.close().await.unwrap();
    // As a server that was restored from its files tells it.
    location.sql("UPDATE claviger SET value = value - 1 WHERE name = 'place_timeline'");
    sleep(Duration::from_millis(1100)).await;
    let store = open(&location).await;
    let after = |after| DeliveryQuery { after, ..all() };
    assert!(store.deliveries(after(before)).await.unwrap().is_empty());
    let between = store.deliveries(after(before + 1)).await;
    assert!(matches!(between, Err(StoreError::UnknownCursor(_))), "{between:?}");
    commit_ok(&*store, commit_of([Change::Deliver(delivery(3))])).await;
    let next = store.deliveries(after(before)).await.unwrap();
    assert!(next.len() == 1 && next[0].cursor > before + 1, "{next:?}");
    assert!(!store.is_certainly_new(&handled_message(1), Some(now())).await.unwrap());
    let store = reopen(&location, store).await;
    assert_eq!(store.deliveries(after(before)).await.unwrap(), next, "once");
    store.close().await.unwrap();
}

/// Peers choose texts: with a NUL, which PostgreSQL stores in no text, and DIDs that are longer than an entry of an index.
#[tokio::test]
async fn texts_of_peers_are_stored_as_they_are() {
    let location = location!();
    let store = open(&location).await;
    // PostgreSQL compresses repetitions.
    let mut state = 7_u64;
    let mut long = String::from("did:peer:2.");
    while long.len() < 20 * 1024 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        long.push_str(&format!("{state:x}"));
    }
    for (number, text) in [(1, "a\0b\u{1}c"), (2, &*long), (3, &format!("{long}z"))] {
        let kind = "profile".to_owned();
        let named = claviger::agent::store::Record { kind, ..record(text, 0, "value") };
        let connection = record(&format!("{text} {text}"), 0, "value");
        let received = Delivery { thread: text.to_owned(), sender: text.to_owned(), ..delivery(number) };
        let sent = OutboxEntry { thread: text.to_owned(), peer: text.to_owned(), ..outgoing(number, text) };
        let handled = HandledMessage { sender: text.to_owned(), ..handled_message(number) };
        let changes = commit_of([
            Change::Put(named.clone()),
            Change::Put(connection.clone()),
            Change::Deliver(received.clone()),
            Change::Send(sent.clone()),
        ]);
        commit_ok(&*store, Commit { handled: Some(handled), ..changes }).await;
        assert_eq!(store.record("profile", text).await.unwrap().unwrap().key, text);
        let found = store.records_with_peer("connection", text, "", 10).await.unwrap();
        assert_eq!(found.into_iter().map(|record| record.key).collect::<Vec<_>>(), [connection.key]);
        let query = DeliveryQuery { sender: Some(text.to_owned()), thread: Some(text.to_owned()), ..all() };
        let found = store.deliveries(query).await.unwrap();
        assert_eq!(found.into_iter().map(|found| Delivery { cursor: 0, ..found }).collect::<Vec<_>>(), [received]);
        assert_eq!(store.outbox_entries(text, &[], &[], 10).await.unwrap(), [sent]);
        assert_eq!(store.thread_entries(text, Default::default(), 10).await.unwrap().len(), 2);
        assert!(store.outbox_peers().await.unwrap().contains(&text.to_owned()));
    }
    let keys = store.records("profile", "", 10).await.unwrap();
    assert!(keys.len() == 3 && keys.is_sorted_by(|one, next| one.key < next.key));
    let store = reopen(&location, store).await;
    assert!(store.outbox_peers().await.unwrap().contains(&long));
    store.close().await.unwrap();
}

/// Requests that wait share a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_requests_share_a_transaction() {
    let location = location!();
    let store = Arc::new(location.try_open().await.unwrap());
    let tasks: Vec<_> = (0..400)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.receive(new_envelope(number)).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert!(matches!(task.await.unwrap(), ReceiveOutcome::Stored(_)));
    }
    assert!(store.commits() < 100, "{}", store.commits());
    assert_eq!(pending_ids(&*store).await.len(), 400);
    store.close().await.unwrap();
}
