//! Who uses the database: one agent at a time.
//!
//! - A session of its own holds an advisory lock for as long as the store is open. A second agent that finds the lock taken
//!   fails with [`StoreError::InUse`].
//! - The lock goes with its session, so an owner may lose it without knowing. Therefore each transaction that writes compares
//!   the number in the row `owner`, which the next owner has increased, and holds a second advisory lock until its end. The next
//!   owner increases the number under the same lock, taken exclusively: it waits until the last transaction of the former owner
//!   has ended, and no later one passes.
//!
//! A pooler in transaction mode gives each transaction another session, and loses the lock: connect to the server itself.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    cursors,
    errors::store_error,
    options::PostgresOptions,
    recount::recount,
    schema,
    session::{Parameters, Session, params},
    totals::Totals,
};
use crate::agent::store::{error::StoreError, tables::COPIED};

/// The first of the two numbers of the advisory locks: "Clav" in ASCII, and the number after it. The second number is the
/// PostgreSQL schema that the tables are in.
const OWNER_LOCK: i32 = 0x436c_6176;
const TRANSACTION_LOCK: i32 = 0x436c_6177;
/// The second number of the locks, in SQL.
const SCHEMA_NUMBER: &str = "(current_schema()::regnamespace::oid::int8 & 2147483647)::int4";

/// The number of a transaction is that of its owner, and its place among the owner's transactions in this many bits.
const BATCH_BITS: u32 = 40;

/// How often, and with which pause, the lock is tried: the server needs a moment to notice that a process was killed.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// The sessions of the owner.
pub(super) struct Owned {
    /// Holds the lock.
    lock: Session,
    /// Writes.
    pub session: Session,
    /// The number in the row `owner`.
    number: i64,
    /// How many transactions were begun.
    batches: AtomicI64,
}

impl Owned {
    /// Takes the database, creates or migrates its tables, and counts what is in it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another agent has the lock, and those of [`super::PostgresStore::open`].
    pub async fn take(options: &PostgresOptions, totals: &Totals) -> Result<Self, StoreError> {
        let locked = Locked::take(options).await?;
        let found = schema::current(&locked.session).await?;
        schema::migrate(&locked.session, found).await?;
        locked.own(Some(totals)).await
    }

    /// Whether a session has ended, so that the database must be taken again.
    pub fn is_lost(&self) -> bool {
        self.lock.is_closed() || self.session.is_closed()
    }

    /// Begins a transaction. Returns its number, with which its outcome can be asked for later, or `None` if another agent has
    /// taken the database.
    ///
    /// The number is in a row that the transaction writes. PostgreSQL's own id would not do: a server that fails may give the
    /// id of a transaction that was not committed to the next one, and then tells that it was committed.
    pub async fn begin(&self) -> Result<Option<i64>, tokio_postgres::Error> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
            SELECT pg_advisory_xact_lock_shared({TRANSACTION_LOCK}, {SCHEMA_NUMBER})"
        );
        // Both are sent at once. The second statement has its snapshot after the lock.
        let note = "UPDATE claviger SET value = $2 WHERE name = 'batch'
            AND (SELECT value FROM claviger WHERE name = 'owner') = $1";
        let batch = (self.number << BATCH_BITS) + self.batches.fetch_add(1, Ordering::Relaxed) + 1;
        let parameters: Parameters<'_> = params![self.number, batch];
        let note = self.session.execute(note, parameters);
        let (_, noted) = futures_util::future::try_join(self.session.run(&begin), note).await?;
        Ok((noted == 1).then_some(batch))
    }

    /// Whether the transaction with this number, of an earlier owner, was committed. `None` if another agent has written since:
    /// then nobody knows.
    pub async fn was_committed(&self, batch: i64) -> Result<Option<bool>, StoreError> {
        let sql = "SELECT value FROM claviger WHERE name = 'batch'";
        let row = self.session.first(sql, &[]).await.map_err(store_error)?;
        let last = row.map_or(0, |row| row.get::<_, i64>(0));
        Ok(match last == batch {
            false if last >> BATCH_BITS > batch >> BATCH_BITS => None,
            is_last => Some(is_last),
        })
    }

    /// Gives the database to the next agent at once, rather than when the server notices the end of the session.
    pub async fn release(self) {
        let unlock = format!("SELECT pg_advisory_unlock({OWNER_LOCK}, {SCHEMA_NUMBER})");
        if let Err(error) = self.lock.run(&unlock).await {
            tracing::debug!(%error, "lock of the database not released; it goes with its session");
        }
    }
}

/// The sessions of the one who has the lock, before it owns the database. It has looked at nothing yet.
pub(super) struct Locked {
    lock: Session,
    pub session: Session,
}

impl Locked {
    /// Takes the lock.
    pub async fn take(options: &PostgresOptions) -> Result<Self, StoreError> {
        let lock = Session::connect(options).await?;
        // No wait for a lock with a connection that is used for nothing else: the server may end it.
        lock.run("SET statement_timeout = 0").await.map_err(store_error)?;
        take_lock(&lock, options).await?;
        let session = Session::connect(options).await?;
        schema::set_up(&session).await?;
        Ok(Self { lock, session })
    }

    /// Becomes the owner of a store. An agent has `totals`: what is in the store is counted, and the cursors of a restored one
    /// begin a new range.
    pub async fn own(self, totals: Option<&Totals>) -> Result<Owned, StoreError> {
        let Self { lock, session } = self;
        let number = begin(&session, totals).await?;
        Ok(Owned { lock, session, number, batches: AtomicI64::new(0) })
    }
}

async fn take_lock(lock: &Session, options: &PostgresOptions) -> Result<(), StoreError> {
    let sql = format!("SELECT pg_try_advisory_lock({OWNER_LOCK}, {SCHEMA_NUMBER})");
    for _ in 0..TRIES {
        let row = lock.first(&sql, &[]).await.map_err(store_error)?;
        if row.is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    Err(StoreError::InUse(options.name().to_owned()))
}

/// Becomes the owner, after all transactions of the former owner have ended.
async fn begin(session: &Session, totals: Option<&Totals>) -> Result<i64, StoreError> {
    // Counting a large store may take longer than other statements may.
    let begin = format!(
        "BEGIN; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({TRANSACTION_LOCK}, {SCHEMA_NUMBER})"
    );
    session.run(&begin).await.map_err(store_error)?;
    let take = "UPDATE claviger SET value = value + 1 WHERE name = 'owner' RETURNING value";
    let Some(row) = session.first(take, &[]).await.map_err(store_error)? else {
        return Err(StoreError::Unusable("has no row `owner` in the table `claviger`".to_owned()));
    };
    if let Some(totals) = totals {
        let forget = "DELETE FROM claviger WHERE name = $1";
        session.execute(forget, params![COPIED]).await.map_err(store_error)?;
        cursors::begin_range(session).await?;
        totals.replace(recount(session).await.map_err(store_error)?);
    }
    session.run("COMMIT").await.map_err(store_error)?;
    Ok(row.get(0))
}
