//! The transaction that a batch of write requests shares, as each request sees it.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio_postgres::{Error, Row};

use super::{
    errors::is_lost,
    gather::{Add, Gathered},
    log::Entry,
    node::Node,
    session::{Parameters, Session},
    totals::{Count, Counter, Counts, Totals},
};
use crate::agent::store::{error::StoreError, limits::StoreLimits, types::Millis};

/// A transaction.
pub(super) struct Transaction<'s> {
    session: &'s Session,
    totals: &'s Totals,
    limits: &'s StoreLimits,
    node: &'s Node,
    /// The latest `created_time` of a mark that was dropped before.
    dropped: Millis,
    gathered: Gathered,
    /// What the transaction has changed.
    changes: Mutex<Entry>,
    /// The strangers that it has written something about.
    strangers: Mutex<HashSet<String>>,
    /// Whether a statement has failed. PostgreSQL then refuses all others, and would make a rollback of a COMMIT.
    failed: AtomicBool,
    lost: AtomicBool,
}

impl<'s> Transaction<'s> {
    /// A transaction. `dropped` is the latest `created_time` of a mark that was dropped before.
    pub fn new(
        session: &'s Session,
        totals: &'s Totals,
        limits: &'s StoreLimits,
        node: &'s Node,
        dropped: Millis,
    ) -> Self {
        Self {
            session,
            totals,
            limits,
            node,
            dropped,
            gathered: Gathered::default(),
            changes: Mutex::default(),
            strangers: Mutex::default(),
            failed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        }
    }

    /// The transaction for one request.
    pub fn request(&self) -> Db<'_> {
        Db { transaction: self, changed: AtomicBool::new(false), added: AtomicU64::new(0) }
    }

    /// Carries out requests. Returns `None` if a statement has failed before they were done.
    pub async fn serve<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.gathered.serve(self.session, work, |error| self.note_failure(error), || self.has_failed()).await
    }

    /// Returns why a statement has failed whose answer no request waited for.
    pub fn unheard_failure(&self) -> Option<StoreError> {
        self.gathered.unheard_failure()
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
        done.inspect_err(|error| self.note_failure(error))
    }

    fn note_failure(&self, error: &Error) {
        self.failed.store(true, Ordering::Relaxed);
        self.lost.fetch_or(is_lost(error), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Entry> {
        self.changes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The transaction for one request. Requests of one batch may run at the same time: their statements then take turns.
pub(super) struct Db<'t> {
    transaction: &'t Transaction<'t>,
    changed: AtomicBool,
    /// The round in which this request has last added to a statement without waiting.
    added: AtomicU64,
}

impl Db<'_> {
    pub fn limits(&self) -> &StoreLimits {
        self.transaction.limits
    }

    /// Asks for a statement together with other requests. Its parameters are arrays, to which `fill` adds elements, and it returns
    /// the place in them first. Returns the rows for these elements, each with their number.
    pub async fn ask(&self, sql: &'static str, fill: impl FnOnce(&mut Add<'_>)) -> Result<Vec<(usize, Row)>, Error> {
        self.settle().await;
        self.transaction.gathered.ask(sql, fill).await
    }

    /// Asks for a statement that returns one row for one element of each array, or none.
    pub async fn ask_one(&self, sql: &'static str, elements: Parameters<'_>) -> Result<Option<Row>, Error> {
        Ok(self.ask(sql, |add| add(elements)).await?.pop().map(|(_, row)| row))
    }

    /// Changes rows by a statement together with other requests, and waits for nothing. If it fails, the request does.
    pub fn write(&self, sql: &'static str, elements: Parameters<'_>) {
        self.note_change(true);
        self.added.store(self.transaction.gathered.add(sql, elements), Ordering::Relaxed);
    }

    /// Waits until what this request has written is in the database, so that it sees its own changes.
    async fn settle(&self) {
        self.transaction.gathered.executed(self.added.load(Ordering::Relaxed)).await;
    }

    /// The latest `created_time` of a mark that was dropped before this transaction.
    pub fn dropped(&self) -> Millis {
        self.transaction.dropped
    }

    /// Notes that something was written about a stranger.
    pub fn note_stranger(&self, did: &str) {
        self.strangers().insert(did.to_owned());
    }

    /// Whether this transaction has written something about a stranger.
    pub fn has_stranger(&self, did: &str) -> bool {
        self.strangers().contains(did)
    }

    fn strangers(&self) -> MutexGuard<'_, HashSet<String>> {
        self.transaction.strangers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Reads all rows.
    pub async fn all(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
        self.settle().await;
        self.transaction.note(self.transaction.session.all(sql, parameters).await)
    }

    /// Reads the first row, if there is a row.
    pub async fn first(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
        self.settle().await;
        self.transaction.note(self.transaction.session.first(sql, parameters).await)
    }

    /// Changes rows. Returns their number.
    pub async fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
        self.settle().await;
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
