//! One connection to the server.
//!
//! A direct connection has a session of its own, with its settings and with statements that are prepared once. Through a pooler in
//! transaction mode, each transaction may have another session, which other programs have used and will use. So nothing is kept
//! from one transaction to the next: each begins with the settings, and statements have no name.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use futures_util::future::join3;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};
use tokio_postgres::{AsyncMessage, Client, Connection, Error, NoTls, Row, Statement, types::ToSql};

pub(super) use super::parameter::{Parameter, Parameters, params};
use super::{errors::store_error, options::PostgresOptions};
use crate::agent::store::error::StoreError;

/// What each session sets. A statement that waits for a lock or for the disk fails in the end, and the server does not wait for
/// ever for a client whose machine is gone (the keepalives are ignored on a Unix socket).
const SETTINGS: &str = "SET client_min_messages = 'warning'; SET lock_timeout = '10s'; SET statement_timeout = '60s';
    SET idle_in_transaction_session_timeout = '5s'; SET idle_session_timeout = 0;
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";

/// What each transaction sets through a pooler. The rest is between the pooler and the server.
const LOCAL_SETTINGS: &str = "; SET LOCAL client_min_messages = 'warning'; SET LOCAL lock_timeout = '10s';
    SET LOCAL statement_timeout = '60s'; SET LOCAL idle_in_transaction_session_timeout = '5s'";
/// The same, if the server's default would not make commits durable.
const DURABLE: &str = "; SET LOCAL synchronous_commit = on";
/// The settings of a session that looks for rows by their keys. Of a table that has grown since it was analyzed the server would
/// think that it is read at once, and a prepared statement would go on reading all of it. And it would plan statements anew
/// whenever their arrays are shorter than the ten elements that it expects.
const BY_KEYS: [&str; 4] =
    ["enable_seqscan = off", "enable_hashjoin = off", "enable_mergejoin = off", "plan_cache_mode = force_generic_plan"];

/// A connection. It ends when this value is dropped.
pub(super) struct Session {
    client: Client,
    way: Way,
    notifications: Arc<Notifications>,
}

/// How a connection leads to the server.
enum Way {
    Direct {
        statements: Mutex<HashMap<String, Statement>>,
    },
    Pooled {
        has_transaction: AtomicBool,
        /// Whether transactions ask for durable commits.
        is_durable: AtomicBool,
        /// Whether transactions look for rows by their keys.
        by_keys: AtomicBool,
    },
}

/// The notifications that a session has received for a channel that it listens on.
#[derive(Default)]
struct Notifications {
    arrived: Notify,
    has_leaving: AtomicBool,
    /// The number of this node, whose own notifications are none.
    own: AtomicI64,
}

/// The payload of the notification that a node leaves.
pub(super) const LEAVES: &str = "leaves";

impl Session {
    /// Connects, through the pooler if there is one.
    pub async fn connect(options: &PostgresOptions) -> Result<Self, StoreError> {
        let way = match options.is_pooled() {
            true => Way::Pooled {
                has_transaction: AtomicBool::new(false),
                is_durable: AtomicBool::new(false),
                by_keys: AtomicBool::new(false),
            },
            false => Way::Direct { statements: Mutex::default() },
        };
        Self::open(options, way).await
    }

    /// Connects to the server itself.
    pub async fn connect_direct(options: &PostgresOptions) -> Result<Self, StoreError> {
        let session = Self::open(options.direct(), Way::Direct { statements: Mutex::default() }).await;
        session.map_err(|error| match error {
            StoreError::Unavailable(why) if options.is_pooled() => {
                StoreError::Unavailable(format!("the direct connection to {why}"))
            }
            other => other,
        })
    }

    async fn open(options: &PostgresOptions, way: Way) -> Result<Self, StoreError> {
        let notifications = Arc::<Notifications>::default();
        let failed = |error| match store_error(error) {
            StoreError::Unavailable(why) => StoreError::Unavailable(format!("{}: {why}", options.name())),
            other => other,
        };
        let client = match options.tls() {
            None => {
                let (client, connection) = options.config().connect(NoTls).await.map_err(failed)?;
                tokio::spawn(carry(connection, notifications.clone()));
                client
            }
            Some(tls) => {
                let (client, connection) = options.config().connect(tls.clone()).await.map_err(failed)?;
                tokio::spawn(carry(connection, notifications.clone()));
                client
            }
        };
        if let Way::Direct { .. } = way {
            client.batch_execute(SETTINGS).await.map_err(store_error)?;
        }
        Ok(Self { client, way, notifications })
    }

    /// Ignores the notifications of a node from now on.
    pub fn ignore_notifications_of(&self, node: i64) {
        self.notifications.own.store(node, Ordering::Relaxed);
    }

    /// Waits for a notification. Returns whether a node leaves. A notification that nobody waits for is not lost.
    pub async fn notified(&self) -> bool {
        self.notifications.arrived.notified().await;
        self.notifications.has_leaving.swap(false, Ordering::Relaxed)
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// What follows each BEGIN, in SQL: the settings of a transaction through a pooler. Empty on a direct connection.
    pub fn local_settings(&self) -> String {
        let Way::Pooled { is_durable, by_keys, .. } = &self.way else { return String::new() };
        let durable = if is_durable.load(Ordering::Relaxed) { DURABLE } else { "" };
        let by_keys: &[_] = if by_keys.load(Ordering::Relaxed) { &BY_KEYS } else { &[] };
        let by_keys: String = by_keys.iter().map(|setting| format!("; SET LOCAL {setting}")).collect();
        format!("{LOCAL_SETTINGS}{durable}{by_keys}")
    }

    /// Has the server look for rows by their keys from now on.
    pub async fn find_rows_by_keys(&self) -> Result<(), Error> {
        match &self.way {
            Way::Direct { .. } => self.run(&BY_KEYS.map(|setting| format!("SET {setting}")).join("; ")).await,
            Way::Pooled { by_keys, .. } => {
                by_keys.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Lets the server answer a COMMIT when the transaction is on its disk.
    pub async fn commit_durably(&self) -> Result<(), Error> {
        match &self.way {
            Way::Direct { .. } => self.run("SET synchronous_commit = on").await,
            Way::Pooled { is_durable, .. } => {
                is_durable.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Executes statements without parameters, which are separated by semicolons. Those that begin a transaction begin with BEGIN,
    /// and a COMMIT or a ROLLBACK is alone.
    pub async fn run(&self, sql: &str) -> Result<(), Error> {
        if let Way::Pooled { has_transaction, .. } = &self.way {
            match sql {
                "COMMIT" | "ROLLBACK" => has_transaction.store(false, Ordering::Relaxed),
                _ if sql.starts_with("BEGIN") => has_transaction.store(true, Ordering::Relaxed),
                _ => {}
            }
        }
        self.client.batch_execute(sql).await
    }

    /// Executes a statement. Returns the number of changed rows.
    pub async fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
        match &self.way {
            Way::Direct { statements } => {
                let statement = self.prepared(statements, sql).await?;
                self.client.execute(&statement, &values(parameters)).await
            }
            Way::Pooled { .. } => self.in_transaction(self.client.execute_typed(sql, &typed(parameters))).await,
        }
    }

    /// Reads all rows.
    pub async fn all(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
        match &self.way {
            Way::Direct { statements } => {
                let statement = self.prepared(statements, sql).await?;
                self.client.query(&statement, &values(parameters)).await
            }
            Way::Pooled { .. } => self.in_transaction(self.client.query_typed(sql, &typed(parameters))).await,
        }
    }

    /// Reads the first row, if there is a row.
    pub async fn first(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
        Ok(self.all(sql, parameters).await?.into_iter().next())
    }

    /// Prepares a statement, so that it is sent at once from now on. A statement without a name always is.
    pub async fn prepare(&self, sql: &str) -> Result<(), Error> {
        match &self.way {
            Way::Direct { statements } => self.prepared(statements, sql).await.map(drop),
            Way::Pooled { .. } => Ok(()),
        }
    }

    /// Returns the number of the server's process that serves the session now. The statement has no name.
    pub async fn process(&self) -> Result<i32, Error> {
        let rows = self.client.query_typed("SELECT pg_backend_pid()", &[]).await?;
        rows.first().map_or(Ok(0), |row| row.try_get(0))
    }

    /// Lets a statement without a transaction have one of its own, since the settings go with it. BEGIN, the statement and COMMIT
    /// are sent at once, so they take one round trip.
    async fn in_transaction<T>(&self, statement: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if let Way::Pooled { has_transaction, .. } = &self.way
            && has_transaction.load(Ordering::Relaxed)
        {
            return statement.await;
        }
        let begin = format!("BEGIN{}", self.local_settings());
        // After an error, COMMIT is a rollback.
        let (begin, end) = (self.client.batch_execute(&begin), self.client.batch_execute("COMMIT"));
        let (begun, done, ended) = join3(begin, statement, end).await;
        begun?;
        let done = done?;
        ended.map(|()| done)
    }

    async fn prepared(&self, statements: &Mutex<HashMap<String, Statement>>, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = lock(statements).get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        lock(statements).insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

fn lock(statements: &Mutex<HashMap<String, Statement>>) -> MutexGuard<'_, HashMap<String, Statement>> {
    statements.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn values<'a>(parameters: Parameters<'a>) -> Vec<&'a (dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| parameter.value()).collect()
}

fn typed<'a>(parameters: Parameters<'a>) -> Vec<(&'a (dyn ToSql + Sync), tokio_postgres::types::Type)> {
    parameters.iter().map(|parameter| (parameter.value(), parameter.sql_type())).collect()
}

/// Carries the messages of a connection until it ends. Whoever has a request under way gets the error too.
async fn carry<S, T>(mut connection: Connection<S, T>, notifications: Arc<Notifications>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notification(notification))
                if notification.payload().parse() == Ok(notifications.own.load(Ordering::Relaxed)) => {}
            Ok(AsyncMessage::Notification(notification)) => {
                notifications.has_leaving.fetch_or(notification.payload() == LEAVES, Ordering::Relaxed);
                notifications.arrived.notify_one();
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %store_error(error), "connection to PostgreSQL ended");
                break;
            }
        }
    }
    // Whoever waits learns that the connection is gone.
    notifications.arrived.notify_one();
}

/// Returns a limit as a parameter of a statement.
pub(super) fn limit_parameter(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
