//! The transaction that a batch of write requests shares, as each request sees it.

use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use tokio_postgres::{Error, Row};

use super::{
    errors::is_lost,
    log::Entry,
    node::Node,
    session::{Parameters, Session},
    totals::{Count, Counter, Counts, Totals},
};
use crate::agent::store::limits::StoreLimits;

/// A transaction.
pub(super) struct Transaction<'s> {
    session: &'s Session,
    totals: &'s Totals,
    limits: &'s StoreLimits,
    node: &'s Node,
    /// What the transaction has changed.
    changes: Mutex<Entry>,
    /// Whether a statement has failed. PostgreSQL then refuses all others, and would make a rollback of a COMMIT.
    failed: AtomicBool,
    lost: AtomicBool,
}

impl<'s> Transaction<'s> {
    pub fn new(session: &'s Session, totals: &'s Totals, limits: &'s StoreLimits, node: &'s Node) -> Self {
        let (failed, lost) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { session, totals, limits, node, changes: Mutex::default(), failed, lost }
    }

    /// The transaction for one request.
    pub fn request(&self) -> Db<'_> {
        Db { transaction: self, changed: AtomicBool::new(false) }
    }

    /// Executes statements of the transaction itself.
    pub async fn run(&self, sql: &str) -> Result<(), Error> {
        self.note(self.session.run(sql).await)
    }

    /// Whether a statement has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether the connection is gone.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Returns what has changed so far.
    pub fn changes(&self) -> Entry {
        self.lock().clone()
    }

    /// Forgets what has changed after a savepoint that was rolled back.
    pub fn roll_back_to(&self, changes: Entry) {
        *self.lock() = changes;
        self.failed.store(false, Ordering::Relaxed);
    }

    fn note<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        done.inspect_err(|error| {
            self.failed.store(true, Ordering::Relaxed);
            if is_lost(error) {
                self.lost.store(true, Ordering::Relaxed);
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Entry> {
        self.changes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The transaction for one request. Requests of one batch may run at the same time: their statements then take turns.
pub(super) struct Db<'t> {
    transaction: &'t Transaction<'t>,
    changed: AtomicBool,
}

impl Db<'_> {
    pub fn limits(&self) -> &StoreLimits {
        self.transaction.limits
    }

    /// Reads all rows.
    pub async fn all(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
        self.transaction.note(self.transaction.session.all(sql, parameters).await)
    }

    /// Reads the first row, if there is a row.
    pub async fn first(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
        self.transaction.note(self.transaction.session.first(sql, parameters).await)
    }

    /// Changes rows. Returns their number.
    pub async fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
        let rows = self.transaction.note(self.transaction.session.execute(sql, parameters).await)?;
        self.note_change(rows > 0);
        Ok(rows)
    }

    /// Changes rows, and reads what the statement tells of them. A statement that tells something has changed something.
    pub async fn change(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
        let rows = self.all(sql, parameters).await?;
        self.note_change(!rows.is_empty());
        Ok(rows)
    }

    /// Whether the request has changed something.
    pub fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Returns a count as this transaction sees it.
    pub fn count(&self, counter: &Counter) -> Count {
        self.transaction.totals.get(counter).plus(self.transaction.lock().counts.get(counter))
    }

    /// Notes changes of the totals, which count from the commit on. The request makes the changes in the database too.
    pub fn add(&self, note: impl FnOnce(&mut Counts)) {
        self.note_change(true);
        note(&mut self.transaction.lock().counts);
    }

    /// This agent among the nodes.
    pub fn node(&self) -> &Node {
        self.transaction.node
    }

    /// Notes something for other nodes, if there can be any.
    pub fn tell(&self, note: impl FnOnce(&mut Entry)) {
        if self.transaction.node.is_shared() {
            note(&mut self.transaction.lock());
        }
    }

    /// Notes that the request has changed something, or has not.
    pub fn note_change(&self, is_changed: bool) {
        self.changed.fetch_or(is_changed, Ordering::Relaxed);
    }
}
