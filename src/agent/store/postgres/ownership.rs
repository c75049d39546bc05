//! Who uses the database: one agent, or several nodes.
//!
//! - A session of its own holds an advisory lock for as long as the store is open: exclusively for the only agent, shared by
//!   nodes. Whoever finds the lock taken by others fails with [`StoreError::InUse`]. A node holds a second lock, of its own
//!   number: others see by it that the node has ended (`adoption.rs`).
//! - Locks go with their session, so an agent may lose them without knowing. Therefore each transaction that writes begins with
//!   the agent's row in the table `nodes`, which whoever takes over its work has ended.
//! - All transactions that write follow one another, by an advisory lock that each of them holds until its end. So `expects` and
//!   the limits are compared with what is there, cursors become visible in their order, and no two transactions wait for each
//!   other's rows. A session that leaves a transaction idle is ended by the server, and its lock is free.
//!
//! A pooler in transaction mode gives each transaction another session: the session of the locks is with the server itself.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join, try_join3, try_join4};
use tokio::time::sleep;
use tokio_postgres::Error;

use super::{
    adoption::adopt,
    cursors,
    errors::store_error,
    handover::hand_over,
    locks::{MIGRATION_LOCK, OWNER_LOCK, SCHEMA_NUMBER, TRANSACTION_LOCK, is_node_locked, node_lock},
    log::Entry,
    node::Node,
    options::PostgresOptions,
    pooler,
    readiness::{SHOWN, shown},
    recount::recount,
    schema,
    session::{LEAVES, Parameters, Session, params},
    totals::Totals,
    transaction::Transaction,
};
use crate::agent::store::{error::StoreError, limits::StoreLimits, node::Hint, tables::COPIED, types::Millis};

/// The lease of a node, in SQL. Each transaction renews it.
const LEASE: &str = "CASE WHEN name = '' THEN 'infinity' ELSE clock_timestamp() + interval '15 s' END";

/// How often, and with which pause, the lock is tried: the server needs a moment to notice that a process was killed.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// The sessions of an agent that has joined.
pub(super) struct Owned {
    /// Holds the locks.
    lock: Session,
    /// Writes.
    pub session: Session,
    node: Arc<Node>,
}

impl Owned {
    /// Takes the database or joins its nodes, creates or migrates its tables, and counts what is in it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if others have the lock, and those of [`super::PostgresStore::open`].
    pub async fn take(options: &PostgresOptions, totals: &Totals, node: &Arc<Node>) -> Result<Self, StoreError> {
        let mut tries = 1;
        loop {
            let locked = Locked::take(options, node.is_shared()).await?;
            locked.migrate().await?;
            match locked.join(Some(totals), node).await {
                // A node with this name that was killed, perhaps.
                Err(StoreError::InUse(_)) if tries < TRIES => sleep(PAUSE).await,
                joined => return joined,
            }
            tries += 1;
        }
    }

    /// Whether a session has ended, so that the database must be taken again.
    pub fn is_lost(&self) -> bool {
        self.lock.is_closed() || self.session.is_closed()
    }

    /// Waits until another node has written something, or leaves. Returns whether one leaves.
    pub async fn heard_something(&self) -> bool {
        self.lock.notified().await
    }

    /// Begins a transaction, and hears what other nodes have done. Returns the number of the transaction, with which its outcome
    /// can be asked for later, and the latest `created_time` of a mark that was dropped; or `None` if others have taken over this
    /// agent's work.
    ///
    /// The number is in a row that the transaction writes. PostgreSQL's own id would not do: a server that fails may give the
    /// id of a transaction that was not committed to the next one, and then tells that it was committed.
    pub async fn begin(&self, totals: &Totals) -> Result<Option<(i64, Millis)>, Error> {
        let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE{}", self.session.local_settings());
        let lock = format!("SELECT pg_advisory_xact_lock({TRANSACTION_LOCK}, {SCHEMA_NUMBER})");
        // All are sent at once. What follows the lock has its snapshot after it.
        // Whoever still has its row may renew its lease: nobody else can while another one has the lock. What is selected is as
        // it was before the update.
        let live = format!(
            "UPDATE nodes SET batch = $2, heard = $3, lease = {LEASE} WHERE number = $1 AND ended IS NULL
            RETURNING ARRAY(SELECT number FROM nodes WHERE ended IS NULL ORDER BY number),
                ARRAY(SELECT number FROM nodes WHERE ended IS NULL AND lease > clock_timestamp() ORDER BY number),
                ARRAY(SELECT ready_version FROM nodes WHERE ended IS NULL ORDER BY number),
                coalesce((SELECT value FROM claviger WHERE name = 'dropped'), 0)"
        );
        let (number, batch, heard) = (self.node.number(), self.node.next_batch(), self.node.heard());
        let parameters: Parameters<'_> = params![number, batch, heard];
        // Otherwise the first lock would be taken after what follows it.
        self.session.prepare(&lock).await?;
        let (begun, locked) = (self.session.run(&begin), self.session.first(&lock, &[]));
        let row = match self.node.is_shared() {
            false => try_join3(begun, locked, self.session.first(&live, parameters)).await?.2,
            true => {
                let (.., row, heard) =
                    try_join4(begun, locked, self.session.first(&live, parameters), self.read_log(heard)).await?;
                self.hear(heard, totals);
                row
            }
        };
        let Some(row) = row else { return Ok(None) };
        let (nodes, living, versions): (Vec<i64>, Vec<i64>, Vec<i64>) = (row.get(0), row.get(1), row.get(2));
        if !self.node.knows_ready(&nodes, &versions) {
            self.node.note_ready(shown(&self.session.all(SHOWN, &[]).await?)?);
        }
        self.node.note_nodes(nodes, &living);
        Ok(Some((batch, row.get(3))))
    }

    /// Hears what other nodes have done since, without a transaction.
    pub async fn look(&self, totals: &Totals) -> Result<(), Error> {
        let heard = self.read_log(self.node.heard()).await?;
        self.hear(heard, totals);
        Ok(())
    }

    async fn read_log(&self, after: i64) -> Result<Vec<(i64, i64, String)>, Error> {
        let sql = "SELECT number, node, entry FROM node_log WHERE number > $1 ORDER BY number";
        let rows = self.session.all(sql, params![after]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
    }

    fn hear(&self, entries: Vec<(i64, i64, String)>, totals: &Totals) {
        for (number, node, entry) in entries {
            self.node.has_heard(number);
            if node == self.node.number() {
                continue;
            }
            self.node.has_heard_of(node);
            match serde_json::from_str::<Entry>(&entry) {
                Ok(entry) => {
                    let hints = entry.hints(self.node.number());
                    totals.commit(entry.counts);
                    self.node.tell(&hints);
                }
                // Its counts are missing until this node joins again.
                Err(error) => {
                    tracing::warn!(%error, node, "entry of another node not understood: is its release newer?");
                    self.node.tell(&[Hint::Anything]);
                }
            }
        }
    }

    /// Commits the transaction, and tells the other nodes what it has changed.
    pub async fn commit(&self, entry: &Entry) -> Result<(), Error> {
        if !self.node.is_shared() || entry.is_empty() {
            return self.session.run("COMMIT").await;
        }
        // Otherwise the first note would be sent after the COMMIT.
        self.session.prepare(&note_sql()).await?;
        // Both are sent at once. If the first fails, the COMMIT is a rollback.
        let (noted, committed) = join(note(&self.session, &self.node, entry), self.session.run("COMMIT")).await;
        let noted = noted?;
        committed?;
        self.node.has_heard(noted);
        Ok(())
    }

    /// Whether an earlier transaction of this agent, under the number that it had then, was committed. `None` if the row of
    /// that node is gone: then nobody knows.
    pub async fn was_committed(&self, (number, batch): (i64, i64)) -> Result<Option<bool>, StoreError> {
        let sql = "SELECT batch FROM nodes WHERE number = $1";
        let row = self.session.first(sql, params![number]).await.map_err(store_error)?;
        Ok(row.map(|row| row.get::<_, i64>(0) == batch))
    }

    /// Gives the database, or this node's work, to others at once, rather than when they notice the end of the session.
    pub async fn release(self) {
        let released = async {
            let leave = match self.node.is_shared() {
                true => "UPDATE nodes SET lease = clock_timestamp() WHERE number = $1 AND ended IS NULL",
                false => "UPDATE nodes SET ended = clock_timestamp() WHERE number = $1 AND ended IS NULL",
            };
            self.session.execute(leave, params![self.node.number()]).await?;
            let unlock = format!("SELECT pg_advisory_unlock_all(), pg_notify({CHANNEL}, '{LEAVES}')");
            self.lock.run(&unlock).await
        };
        if let Err(error) = released.await {
            tracing::debug!(%error, "lock of the database not released; it goes with its session");
        }
    }
}

/// The channel of the notifications, an expression in SQL: those of one schema.
const CHANNEL: &str = "'claviger_' || current_schema()::regnamespace::oid::text";

/// The sessions of the one who has the lock, before it has joined. It has looked at nothing yet.
pub(super) struct Locked {
    lock: Session,
    pub session: Session,
}

impl Locked {
    /// Takes the lock.
    pub async fn take(options: &PostgresOptions, is_shared: bool) -> Result<Self, StoreError> {
        let lock = Session::connect_direct(options).await?;
        let session = Session::connect(options).await?;
        pooler::check(&lock, &session, options).await?;
        // No wait for a lock with a connection that is used for nothing else: the server may end it.
        lock.run("SET statement_timeout = 0").await.map_err(store_error)?;
        take_lock(&lock, options, is_shared).await?;
        schema::set_up(&session).await?;
        Ok(Self { lock, session })
    }

    /// Creates or migrates the tables, one agent at a time.
    async fn migrate(&self) -> Result<(), StoreError> {
        let lock = format!("SELECT pg_advisory_lock({MIGRATION_LOCK}, {SCHEMA_NUMBER})");
        self.lock.run(&lock).await.map_err(store_error)?;
        let migrated = match schema::current(&self.session).await {
            Ok(found) => schema::migrate(&self.session, found).await,
            Err(error) => Err(error),
        };
        let unlock = format!("SELECT pg_advisory_unlock({MIGRATION_LOCK}, {SCHEMA_NUMBER})");
        self.lock.run(&unlock).await.map_err(store_error)?;
        migrated
    }

    /// Joins. An agent has `totals`: what is in the store is counted, and the cursors of a restored one begin a new range.
    pub async fn join(self, totals: Option<&Totals>, node: &Arc<Node>) -> Result<Owned, StoreError> {
        let Self { lock, session } = self;
        let before = (node.number(), node.heard());
        if node.is_shared() {
            let row = lock.first(&format!("SELECT {CHANNEL}"), &[]).await.map_err(store_error)?;
            let channel = row.map_or_else(String::new, |row| row.get::<_, String>(0));
            lock.run(&format!("LISTEN {channel}")).await.map_err(store_error)?;
        }
        if let Err(error) = begin(&lock, &session, totals, node).await {
            node.joined(before.0, before.1);
            return Err(error);
        }
        lock.ignore_notifications_of(node.number());
        if totals.is_some() {
            session.find_rows_by_keys().await.map_err(store_error)?;
        }
        Ok(Owned { lock, session, node: node.clone() })
    }
}

async fn take_lock(lock: &Session, options: &PostgresOptions, is_shared: bool) -> Result<(), StoreError> {
    let shared = if is_shared { "_shared" } else { "" };
    let sql = format!("SELECT pg_try_advisory_lock{shared}({OWNER_LOCK}, {SCHEMA_NUMBER})");
    for _ in 0..TRIES {
        let row = lock.first(&sql, &[]).await.map_err(store_error)?;
        if row.is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    Err(StoreError::InUse(options.name().to_owned()))
}

/// Checks that no other agent keeps this one from the database or has the name of this node.
pub(super) async fn check_free(options: &PostgresOptions) -> Result<(), StoreError> {
    // The lock goes with this session.
    let session = Session::connect_direct(options).await?;
    take_lock(&session, options, options.node().is_some()).await?;
    let Some(name) = options.node() else { return Ok(()) };
    let row = session.first("SELECT to_regclass('nodes') IS NOT NULL", &[]).await.map_err(store_error)?;
    match row.is_some_and(|row| row.get(0)) {
        true => check_namesake(&session, name).await,
        false => Ok(()),
    }
}

/// Checks that no living node has this name.
async fn check_namesake(session: &Session, name: &str) -> Result<(), StoreError> {
    let namesake = format!(
        "SELECT number FROM nodes WHERE ended IS NULL AND lease > clock_timestamp() AND name = $1 AND {}",
        is_node_locked("nodes.number")
    );
    match session.first(&namesake, params![name]).await.map_err(store_error)? {
        None => Ok(()),
        Some(row) => Err(StoreError::InUse(format!("as the node {name}, number {}", row.get::<_, i64>(0)))),
    }
}

/// Joins, after the transactions of others have ended.
async fn begin(lock: &Session, session: &Session, totals: Option<&Totals>, node: &Arc<Node>) -> Result<(), StoreError> {
    // Counting a large store may take longer than other statements may.
    let begin = format!(
        "BEGIN{}; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({TRANSACTION_LOCK}, {SCHEMA_NUMBER})",
        session.local_settings()
    );
    session.run(&begin).await.map_err(store_error)?;
    // A release of schema 1 compares this number, and writes nothing after it has grown.
    let take = "UPDATE claviger SET value = value + 1 WHERE name = 'owner'";
    if session.execute(take, &[]).await.map_err(store_error)? == 0 {
        return Err(StoreError::Unusable("has no row `owner` in the table `claviger`".to_owned()));
    }
    let has_joined_before = node.number() != 0;
    let number = match stays(lock, session, node).await.map_err(store_error)? {
        true => node.number(),
        false => enter(lock, session, node).await?,
    };
    let last = session.first("SELECT coalesce(max(number), 0) FROM node_log", &[]).await.map_err(store_error)?;
    node.joined(number, last.map_or(0, |row| row.get(0)));
    let old = "DELETE FROM nodes WHERE ended < clock_timestamp() - interval '1 day'";
    session.execute(old, &[]).await.map_err(store_error)?;
    if let Some(totals) = totals {
        if node.is_shared() {
            if !has_joined_before {
                end_others(session, number).await?;
            }
            take_over(session, totals, node).await?;
        } else {
            session.execute("DELETE FROM node_log", &[]).await.map_err(store_error)?;
        }
        let forget = "DELETE FROM claviger WHERE name = $1";
        session.execute(forget, params![COPIED]).await.map_err(store_error)?;
        cursors::begin_range(session).await?;
        totals.replace(recount(session, node.is_shared()).await.map_err(store_error)?);
        // Nobody could renew a lease while this took its time.
        let renew = format!("UPDATE nodes SET lease = {LEASE} WHERE ended IS NULL");
        session.execute(&renew, &[]).await.map_err(store_error)?;
    }
    session.run("COMMIT").await.map_err(store_error)
}

/// Ends the nodes that have left, so that a new one need not wait for its second beat. A node that lives has its lock, and its
/// lease may be over all the same: something has held up all of them. A node that was away itself, as after a failure of the
/// server, ends none here: the others need a moment too.
async fn end_others(session: &Session, number: i64) -> Result<(), StoreError> {
    let end = format!(
        "UPDATE nodes SET ended = clock_timestamp()
        WHERE ended IS NULL AND number <> $1 AND lease <= clock_timestamp() AND NOT {}",
        is_node_locked("nodes.number")
    );
    session.execute(&end, params![number]).await.map(drop).map_err(store_error)
}

/// Takes over what ended nodes have left, and tells the nodes that there are.
async fn take_over(session: &Session, totals: &Totals, node: &Node) -> Result<(), StoreError> {
    let limits = StoreLimits::default();
    let transaction = Transaction::new(session, totals, &limits, node, 0);
    adopt(&transaction.request()).await.map_err(store_error)?;
    hand_over(&transaction.request()).await.map_err(store_error)?;
    let entry = transaction.changes();
    if !entry.is_empty() {
        note(session, node, &entry).await.map_err(store_error)?;
    }
    Ok(())
}

/// Writes an entry of the log. Returns its number.
async fn note(session: &Session, node: &Node, entry: &Entry) -> Result<i64, Error> {
    let text = serde_json::to_string(entry).unwrap_or_default();
    let row = session.first(&note_sql(), params![node.number(), text]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

fn note_sql() -> String {
    format!(
        "WITH noted AS (INSERT INTO node_log (node, entry) VALUES ($1, $2) RETURNING number)
        SELECT number FROM noted, pg_notify({CHANNEL}, $1::int8::text)"
    )
}

/// Whether this agent, which had joined before, goes on as the same node.
async fn stays(lock: &Session, session: &Session, node: &Node) -> Result<bool, Error> {
    let number = node.number();
    if number == 0 || !has_node_lock(lock, node, number).await? {
        return Ok(false);
    }
    let live =
        format!("UPDATE nodes SET lease = {LEASE}, ready = $2, ready_version = $3 WHERE number = $1 AND ended IS NULL");
    Ok(session.execute(&live, params![number, node.ready(), node.next_batch()]).await? == 1)
}

/// Takes the lock of a node. The only agent needs none.
async fn has_node_lock(lock: &Session, node: &Node, number: i64) -> Result<bool, Error> {
    if !node.is_shared() {
        return Ok(true);
    }
    let sql = format!("SELECT pg_try_advisory_lock({})", node_lock("$1::int8"));
    Ok(lock.first(&sql, params![number]).await?.is_some_and(|row| row.get(0)))
}

/// Enters the table of the nodes with a new number.
async fn enter(lock: &Session, session: &Session, node: &Node) -> Result<i64, StoreError> {
    // What this agent was before it lost its connection or was killed has ended, and so has an agent that had the database for
    // itself. The only agent knows that there is no other.
    let end = format!(
        "UPDATE nodes SET ended = clock_timestamp()
        WHERE ended IS NULL AND (number = $1 OR name = '' OR NOT $2 OR (name = $3 AND NOT {}))",
        is_node_locked("nodes.number")
    );
    let parameters: Parameters<'_> = params![node.number(), node.is_shared(), node.name()];
    session.execute(&end, parameters).await.map_err(store_error)?;
    if let Err(error) = check_namesake(session, node.name()).await {
        let _ = session.run("ROLLBACK").await;
        return Err(error);
    }
    let enter = format!(
        "INSERT INTO nodes (name, release, lease, heard, ready, ready_version)
        SELECT name, $2, {LEASE}, (SELECT coalesce(max(number), 0) FROM node_log), $3, $4
        FROM (SELECT $1::text AS name) AS new RETURNING number"
    );
    let parameters: Parameters<'_> = params![node.name(), env!("CARGO_PKG_VERSION"), node.ready(), node.next_batch()];
    let row = session.first(&enter, parameters).await.map_err(store_error)?;
    let number = row.map_or(0, |row| row.get(0));
    if !has_node_lock(lock, node, number).await.map_err(store_error)? {
        let _ = session.run("ROLLBACK").await;
        return Err(StoreError::Unavailable("the lock of a new node is taken".to_owned()));
    }
    Ok(number)
}
