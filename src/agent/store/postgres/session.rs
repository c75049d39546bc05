//! One connection to the server, with statements that are prepared once.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};
use tokio_postgres::{AsyncMessage, Client, Connection, Error, NoTls, Row, Statement, types::ToSql};

use super::{errors::store_error, options::PostgresOptions};
use crate::agent::store::error::StoreError;

/// The parameters of a statement.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Lists the parameters of a statement.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$(&$value as &(dyn tokio_postgres::types::ToSql + Sync)),*] };
}
pub(super) use params;

/// What each session sets. A statement that waits for a lock or for the disk fails in the end, and the server does not wait for
/// ever for a client whose machine is gone (the keepalives are ignored on a Unix socket).
const SETTINGS: &str = "SET client_min_messages = 'warning'; SET lock_timeout = '15s'; SET statement_timeout = '60s';
    SET idle_in_transaction_session_timeout = '5s'; SET idle_session_timeout = 0;
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";

/// A session of the server. It ends when this value is dropped.
pub(super) struct Session {
    client: Client,
    statements: Mutex<HashMap<String, Statement>>,
    notifications: Arc<Notifications>,
}

/// The notifications that a session has received for a channel that it listens on.
#[derive(Default)]
struct Notifications {
    arrived: Notify,
    has_leaving: AtomicBool,
}

/// The payload of the notification that a node leaves.
pub(super) const LEAVES: &str = "leaves";

impl Session {
    /// Connects and sets up a session.
    pub async fn connect(options: &PostgresOptions) -> Result<Self, StoreError> {
        let notifications = Arc::<Notifications>::default();
        let client = match options.tls() {
            None => {
                let (client, connection) = options.config().connect(NoTls).await.map_err(store_error)?;
                tokio::spawn(carry(connection, notifications.clone()));
                client
            }
            Some(tls) => {
                let (client, connection) = options.config().connect(tls.clone()).await.map_err(store_error)?;
                tokio::spawn(carry(connection, notifications.clone()));
                client
            }
        };
        client.batch_execute(SETTINGS).await.map_err(store_error)?;
        Ok(Self { client, statements: Mutex::default(), notifications })
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

    /// Executes statements without parameters, which are separated by semicolons.
    pub async fn run(&self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await
    }

    /// Executes a statement. Returns the number of changed rows.
    pub async fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
        let statement = self.prepared(sql).await?;
        self.client.execute(&statement, parameters).await
    }

    /// Reads all rows.
    pub async fn all(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
        let statement = self.prepared(sql).await?;
        self.client.query(&statement, parameters).await
    }

    /// Reads the first row, if there is a row.
    pub async fn first(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
        Ok(self.all(sql, parameters).await?.into_iter().next())
    }

    /// Prepares a statement, so that it is sent at once from now on.
    pub async fn prepare(&self, sql: &str) -> Result<(), Error> {
        self.prepared(sql).await.map(drop)
    }

    async fn prepared(&self, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = self.lock().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.lock().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Statement>> {
        self.statements.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Carries the messages of a connection until it ends. Whoever has a request under way gets the error too.
async fn carry<S, T>(mut connection: Connection<S, T>, notifications: Arc<Notifications>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
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
