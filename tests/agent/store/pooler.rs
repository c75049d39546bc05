//! The suite on PostgreSQL behind pgbouncer in transaction mode, and tests of what such a pooler does: it gives a session to
//! others after each transaction, and it ends.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use claviger::agent::store::{PostgresOptions, PostgresStore, ReceiveOutcome, Store, StoreError, StoreLimits};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    pooler::{Pooler, SESSIONS},
    postgres_server::Server,
    store::{
        fixtures::{new_envelope, pending_ids},
        postgres::{Location as Direct, check_deliveries, deliver_until, follow},
        store_limits,
        suite::{Limits, StoreLocation},
    },
};

crate::suite!(crate::store::pooler::Location::shared);

/// A database of its own, behind a pooler.
pub struct Location {
    direct: Direct,
    pooler: &'static Pooler,
}

impl Location {
    pub fn shared() -> Option<Self> {
        let pooler = Pooler::shared()?;
        Some(Self { direct: Direct::shared()?, pooler })
    }

    /// With only the URL of the pooler.
    fn only_pooled(&self) -> PostgresOptions {
        let tls = claviger::net::client_config(None).expect("a TLS configuration");
        PostgresOptions::from_url(&self.pooler.url(self.direct.database()), &tls).expect("a URL")
    }

    pub fn options(&self) -> PostgresOptions {
        let tls = claviger::net::client_config(None).expect("a TLS configuration");
        self.only_pooled().with_direct_url(&self.direct.url(), &tls).expect("a URL")
    }

    async fn try_open(&self) -> Result<PostgresStore, StoreError> {
        PostgresStore::open(self.options(), StoreLimits::default()).await
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
        let Some(location) = Location::shared() else { return };
        location
    }};
}

/// A pooler and a server that no other test uses, and a database.
async fn own_location() -> Option<(&'static Server, Location)> {
    let start = || {
        let server: &'static Server = Box::leak(Box::new(Server::start()?));
        let pooler = Box::leak(Box::new(Pooler::start(server)?));
        Some((server, Location { direct: Direct::of(server), pooler }))
    };
    spawn_blocking(start).await.unwrap()
}

/// The sessions of the store are those of the pooler, fewer than the store's connections, and leave no setting behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_shared_and_left_as_they_were() {
    let location = location!();
    let store = Arc::new(location.try_open().await.unwrap());
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                store.receive(new_envelope(number)).await.unwrap();
                store.record("connection", &number.to_string()).await.unwrap();
                store.thread_entries("thread", Default::default(), 1).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(pending_ids(&*store).await.len(), 200);
    let sessions = location.direct.sql(
        "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'claviger' AND datname = current_database()",
    );
    let sessions: usize = sessions.parse().unwrap();
    assert!((2..=SESSIONS + 1).contains(&sessions), "{sessions}: the pooler's, and one that holds the lock");
    // What another program finds in the session that it gets.
    let settings = "SELECT string_agg(current_setting(name), ' '), (SELECT count(*) FROM pg_prepared_statements)
        FROM unnest('{lock_timeout,statement_timeout,idle_in_transaction_session_timeout,synchronous_commit}'::text[])
            AS name";
    assert_eq!(
        Server::shared().unwrap().sql_at(&location.pooler.url(location.direct.database()), settings),
        "0 0 0 off|0"
    );
    store.close().await.unwrap();
}

/// Settings hold in each transaction: a statement that waits for a lock fails in the end. A batch is tried once more.
#[tokio::test]
async fn a_locked_table_delays_reads_for_a_while() {
    let location = location!();
    let store = location.try_open().await.unwrap();
    store.receive(new_envelope(1)).await.unwrap();
    let direct = location.direct.clone();
    let lock = spawn_blocking(move || direct.sql("BEGIN; LOCK TABLE envelopes; SELECT pg_sleep(12); COMMIT"));
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    let (read, written) = tokio::join!(store.known_digests(1), store.receive(new_envelope(2)));
    assert!(matches!(&read, Err(StoreError::Unavailable(why)) if why.contains("lock timeout")), "{read:?}");
    assert!(start.elapsed() > Duration::from_secs(9));
    assert!(matches!(written, Ok(ReceiveOutcome::Stored(_))), "{written:?}");
    lock.await.unwrap();
    assert_eq!(pending_ids(&store).await.len(), 2);
    store.close().await.unwrap();
}

/// Of the lock, a pooler would take away what it has given. The lock is held on the direct connection, by whoever has the store
/// through the pooler or without it.
#[tokio::test]
async fn a_second_agent_is_refused_behind_a_pooler() {
    let location = location!();
    let first = location.try_open().await.unwrap();
    for refused in [location.try_open().await.err(), location.direct.try_open().await.err()] {
        assert!(matches!(refused, Some(StoreError::InUse(_))), "{refused:?}");
    }
    first.probe_write().await.unwrap();
    first.close().await.unwrap();
    let second = location.direct.try_open().await.unwrap();
    assert!(matches!(location.try_open().await.err(), Some(StoreError::InUse(_))));
    second.close().await.unwrap();
}

/// Without a direct connection, the lock would be lost without a word.
#[tokio::test]
async fn a_pooler_alone_is_refused() {
    let location = location!();
    for _ in 0..5 {
        let opened = PostgresStore::open(location.only_pooled(), StoreLimits::default()).await.err();
        let checked = PostgresStore::try_connect(&location.only_pooled()).await.err();
        for refused in [opened, checked] {
            assert!(matches!(&refused, Some(StoreError::Unusable(why)) if why.contains("listen_url")), "{refused:?}");
        }
    }
    // Nothing was made, and no lock is left in the pooler's sessions.
    assert_eq!(location.direct.sql("SELECT count(*) FROM pg_class WHERE relname = 'claviger'"), "0");
    let locks = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
        WHERE locktype = 'advisory' AND datname = current_database()";
    assert_eq!(location.direct.sql(locks), "0");
}

/// A lock in another database would keep nobody away.
#[tokio::test]
async fn both_connections_lead_to_one_database() {
    let location = location!();
    let other = Direct::shared().unwrap();
    let tls = claviger::net::client_config(None).unwrap();
    let options = location.only_pooled().with_direct_url(&other.url(), &tls).unwrap();
    let opened = PostgresStore::open(options.clone(), StoreLimits::default()).await.err();
    for refused in [opened, PostgresStore::try_connect(&options).await.err()] {
        assert!(
            matches!(&refused, Some(StoreError::Unavailable(why)) if why.contains("not the same database")),
            "{refused:?}"
        );
    }
    PostgresStore::try_connect(&location.options()).await.unwrap();
    let missing = location.only_pooled().with_direct_url("postgres://agent@127.0.0.1:1/x", &tls).unwrap();
    let refused = PostgresStore::try_connect(&missing).await.err();
    assert!(
        matches!(&refused, Some(StoreError::Unavailable(why)) if why.contains("direct connection to x at 127.0.0.1:1: ")),
        "{refused:?}"
    );
}

/// The pooler is killed and started again, then the server behind it, while commits are under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_true_while_the_pooler_and_the_server_end() {
    let Some((server, location)) = own_location().await else { return };
    let pooler = location.pooler;
    let store = Arc::new(location.try_open().await.unwrap());
    // Between commits.
    store.receive(new_envelope(1)).await.unwrap();
    spawn_blocking(|| pooler.stop()).await.unwrap();
    for call in [store.receive(new_envelope(2)).await.map(drop), store.outbox_entry("a").await.map(drop)] {
        assert!(matches!(call, Err(StoreError::Unavailable(_))), "{call:?}");
    }
    spawn_blocking(|| pooler.restart()).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    assert!(matches!(store.receive(new_envelope(2)).await.unwrap(), ReceiveOutcome::Stored(_)));
    assert_eq!(pending_ids(&*store).await.len(), 2);
    // During commits.
    let end = Instant::now() + Duration::from_secs(8);
    let writers: Vec<_> = (0..8).map(|task| deliver_until(&store, task * 1_000_000, end)).collect();
    let (have_writers_ended, reader) = follow(&store);
    for _ in 0..2 {
        sleep(Duration::from_millis(700)).await;
        spawn_blocking(|| pooler.stop()).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        spawn_blocking(|| pooler.restart()).await.unwrap();
        sleep(Duration::from_millis(700)).await;
        spawn_blocking(move || server.crash()).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        spawn_blocking(move || server.restart()).await.unwrap();
    }
    let mut answered = Vec::new();
    for writer in writers {
        answered.push(writer.await.unwrap());
    }
    have_writers_ended.store(true, std::sync::atomic::Ordering::Release);
    assert_eq!(reader.await.unwrap(), answered.iter().map(Vec::len).sum::<usize>());
    check_deliveries(&store, answered).await;
    store.close().await.unwrap();
}
