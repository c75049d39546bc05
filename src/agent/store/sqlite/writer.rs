//! The one thread that writes: what waits is done in one transaction, so that many share one fsync.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    fault::fault,
    files::{Lock, PATIENCE, Place},
};
use crate::agent::store::StoreError;

/// Requests of one transaction.
const BATCH: usize = 256;
/// Requests that may wait for the writer; further ones wait for room. A message is up to 1 MB large.
pub(super) const QUEUE: usize = 256;

/// What the writer is asked.
pub(super) enum Job {
    /// To write.
    Write(Box<dyn Request>),
    /// To bring the WAL into the database, and to empty it: what was deleted stands in it until then.
    Checkpoint,
}

/// A request and its way back.
pub(super) trait Request: Send {
    /// Does it, within a savepoint; unless it returns true, that is rolled back.
    fn work(&mut self, connection: &Connection) -> Result<bool, StoreError>;
    /// Answers it, once it is known what became of the transaction.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// Why a request's changes are rolled back.
pub(super) enum Undo<T> {
    /// This is the answer all the same.
    Answer(T),
    /// It failed.
    Error(StoreError),
}

impl<T> From<rusqlite::Error> for Undo<T> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Error(fault(error))
    }
}

/// A request that is a closure.
pub(super) fn request<T: Send + 'static>(
    work: impl FnOnce(&Connection) -> Result<T, Undo<T>> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, StoreError>>) {
    let (answer, outcome) = oneshot::channel();
    (Job::Write(Box::new(Closure { work: Some(work), outcome: None, answer })), outcome)
}

struct Closure<F, T> {
    work: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnOnce(&Connection) -> Result<T, Undo<T>> + Send> Request for Closure<F, T> {
    fn work(&mut self, connection: &Connection) -> Result<bool, StoreError> {
        let Some(work) = self.work.take() else { return Ok(false) };
        let (outcome, keep) = match work(connection) {
            Ok(value) => (Ok(value), Ok(true)),
            Err(Undo::Answer(value)) => (Ok(value), Ok(false)),
            Err(Undo::Error(error)) => (Err(error.clone()), Err(error)),
        };
        self.outcome = Some(outcome);
        keep
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let outcome = match (self.outcome, committed) {
            // Its own error says more than that of the transaction.
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(outcome), Ok(())) => outcome,
            (None, Ok(())) => Err(StoreError::Unavailable("the request was not done".to_owned())),
        };
        // Nobody waits for it any more: it is done all the same.
        let _ = self.answer.send(outcome);
    }
}

/// The writer, with all that it holds until it ends.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) place: Place,
    pub(super) commits: Arc<AtomicU64>,
    pub(super) lock: Lock,
}

impl Writer {
    /// Writes until nobody can ask any more, then lets go of the store.
    pub(super) fn run(self, mut queue: mpsc::Receiver<Job>) {
        let mut requests = Vec::with_capacity(BATCH);
        let mut jobs = Vec::with_capacity(BATCH);
        while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
            let mut empty_log = false;
            for job in jobs.drain(..) {
                match job {
                    Job::Write(request) => requests.push(request),
                    Job::Checkpoint => empty_log = true,
                }
            }
            if empty_log {
                checkpoint(&self.connection, Duration::from_millis(100));
            }
            if !requests.is_empty() {
                let committed = self.write(&mut requests);
                for request in requests.drain(..) {
                    request.answer(committed.clone());
                }
            }
        }
        checkpoint(&self.connection, PATIENCE);
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(%error, "the store was not closed in order; it is complete");
        }
        drop(self.lock);
    }

    /// Makes one transaction of them; after an error nothing of it is there.
    fn write(&self, requests: &mut [Box<dyn Request>]) -> Result<(), StoreError> {
        self.place.check()?;
        transaction(&self.connection, requests).inspect_err(|_| roll_back(&self.connection))?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn transaction(connection: &Connection, requests: &mut [Box<dyn Request>]) -> Result<(), StoreError> {
    let run = |sql| connection.prepare_cached(sql).and_then(|mut statement| statement.execute([])).map_err(fault);
    // One that could not be rolled back then, on a disk that was sick.
    roll_back(connection);
    run("BEGIN IMMEDIATE")?;
    for request in requests {
        run("SAVEPOINT request")?;
        let worked = request.work(connection);
        if connection.is_autocommit() {
            // After some errors, a full disk's among them, SQLite rolls the whole transaction back by itself
            // (lang_transaction.html): the others fail with this one.
            let rolled_back = || StoreError::Unavailable("SQLite rolled the transaction back".to_owned());
            return Err(worked.err().unwrap_or_else(rolled_back));
        }
        if !matches!(worked, Ok(true)) {
            run("ROLLBACK TO request")?;
        }
        run("RELEASE request")?;
    }
    run("COMMIT")?;
    Ok(())
}

/// A COMMIT that fails may leave its transaction open.
fn roll_back(connection: &Connection) {
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::warn!(%error, "the store's transaction is not rolled back yet");
    }
}

/// As far as readers let it; the next one does the rest.
fn checkpoint(connection: &Connection, patience: Duration) {
    let run = || {
        connection.busy_timeout(patience)?;
        let done = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        connection.busy_timeout(PATIENCE)?;
        done
    };
    if let Err(error) = run() {
        tracing::warn!(%error, "the store's log is not brought into its database yet");
    }
}
