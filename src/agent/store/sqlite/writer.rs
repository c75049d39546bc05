//! The one thread that writes. All waiting requests share one transaction and one fsync (group commit).

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
    errors::store_error,
    files::{BUSY_TIMEOUT, FileIdentity, StoreLock},
};
use crate::agent::store::error::StoreError;

/// The most requests that share one transaction.
const BATCH: usize = 256;
/// How many requests the queue of the writer holds. Further callers wait for room. A request may hold 1 MB.
pub(super) const QUEUE_LENGTH: usize = 256;

/// A job of the writer.
pub(super) enum Job {
    /// Run a request in the next transaction.
    Write(Box<dyn WriteRequest>),
    /// Copy the write-ahead log into the database, and empty the log. Until then, the log contains deleted content.
    Checkpoint,
}

/// A request to write, which sends its own answer.
pub(super) trait WriteRequest: Send {
    /// Makes the changes. Returns whether to keep them; otherwise they are rolled back. Is called again if changes that were to
    /// be kept had to be rolled back with those of another request.
    fn work(&mut self, connection: &Connection) -> Result<bool, StoreError>;
    /// Sends the answer, after the transaction was committed or has failed.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// Why a request's changes are rolled back.
pub(super) enum Rollback<T> {
    /// The request made no change, and is answered with this value.
    Answer(T),
    /// The request failed.
    Error(StoreError),
}

/// The answer to a request, or why its changes are rolled back.
pub(super) type Outcome<T> = Result<T, Rollback<T>>;

impl<T> From<rusqlite::Error> for Rollback<T> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Error(store_error(error))
    }
}

/// Makes a request from a closure, and the channel that yields the result.
pub(super) fn request<T: Send + 'static>(
    work: impl Fn(&Connection) -> Result<T, Rollback<T>> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, StoreError>>) {
    let (answer, outcome) = oneshot::channel();
    (Job::Write(Box::new(ClosureRequest { work, outcome: None, answer })), outcome)
}

/// A request that a closure carries out.
struct ClosureRequest<F, T> {
    work: F,
    outcome: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: Fn(&Connection) -> Result<T, Rollback<T>> + Send> WriteRequest for ClosureRequest<F, T> {
    fn work(&mut self, connection: &Connection) -> Result<bool, StoreError> {
        let (outcome, keep) = match (self.work)(connection) {
            Ok(value) => (Ok(value), Ok(true)),
            Err(Rollback::Answer(value)) => (Ok(value), Ok(false)),
            Err(Rollback::Error(error)) => (Err(error.clone()), Err(error)),
        };
        self.outcome = Some(outcome);
        keep
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let outcome = match (self.outcome, committed) {
            // The request's own error is more specific than that of the transaction.
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(outcome), Ok(())) => outcome,
            (None, Ok(())) => Err(StoreError::Unavailable("the request was not executed".to_owned())),
        };
        // The caller may have stopped waiting. The change is made all the same.
        let _ = self.answer.send(outcome);
    }
}

/// The writer, and the resources that it holds until it ends.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) file: FileIdentity,
    pub(super) commits: Arc<AtomicU64>,
    pub(super) lock: StoreLock,
}

impl Writer {
    /// Serves jobs until the queue is closed. Then empties the log, and unlocks the store.
    pub(super) fn run(self, mut queue: mpsc::Receiver<Job>) {
        let mut requests = Vec::with_capacity(BATCH);
        let mut jobs = Vec::with_capacity(BATCH);
        let mut is_disk_full = false;
        while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
            let mut is_checkpoint_requested = false;
            for job in jobs.drain(..) {
                match job {
                    Job::Write(request) => requests.push(request),
                    Job::Checkpoint => is_checkpoint_requested = true,
                }
            }
            // The log may have taken the last space of the disk. It is emptied before it takes what has become free.
            if is_checkpoint_requested || is_disk_full {
                checkpoint(&self.connection, Duration::from_millis(100));
            }
            if !requests.is_empty() {
                let committed = self.write(&mut requests);
                is_disk_full = matches!(committed, Err(StoreError::Full(_)));
                for request in requests.drain(..) {
                    request.answer(committed.clone());
                }
            }
        }
        checkpoint(&self.connection, BUSY_TIMEOUT);
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(%error, "store not closed cleanly; no data is lost");
        }
        drop(self.lock);
    }

    /// Runs the requests in one transaction. After an error, none of the changes of these requests is made.
    fn write(&self, requests: &mut [Box<dyn WriteRequest>]) -> Result<(), StoreError> {
        self.file.check()?;
        transaction(&self.connection, requests).inspect_err(|_| roll_back(&self.connection))?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Runs the requests in one transaction. A request whose changes are to be rolled back is rare, and the savepoints for it cost a
/// twelfth of the writer's time. So the requests run without savepoints first.
fn transaction(connection: &Connection, requests: &mut [Box<dyn WriteRequest>]) -> Result<(), StoreError> {
    if !attempt(connection, requests, false)? {
        attempt(connection, requests, true)?;
    }
    Ok(())
}

/// Runs the requests in one transaction. Returns false if that needs savepoints; then nothing is committed.
fn attempt(
    connection: &Connection,
    requests: &mut [Box<dyn WriteRequest>],
    with_savepoints: bool,
) -> Result<bool, StoreError> {
    let run = |sql| connection.prepare_cached(sql).and_then(|mut statement| statement.execute([])).map_err(store_error);
    // An earlier transaction may still be open: it cannot be rolled back while the disk fails.
    roll_back(connection);
    run("BEGIN IMMEDIATE")?;
    for request in requests {
        let changes = connection.total_changes();
        if with_savepoints {
            run("SAVEPOINT request")?;
        }
        let worked = request.work(connection);
        if connection.is_autocommit() {
            // After some errors, such as a full disk, SQLite rolls the whole transaction back by itself
            // (lang_transaction.html). Then all requests fail.
            let rolled_back = || StoreError::Unavailable("SQLite rolled the transaction back".to_owned());
            return Err(worked.err().unwrap_or_else(rolled_back));
        }
        let keep = matches!(worked, Ok(true));
        if with_savepoints {
            if !keep {
                run("ROLLBACK TO request")?;
            }
            run("RELEASE request")?;
        } else if !keep && connection.total_changes() != changes {
            roll_back(connection);
            return Ok(false);
        }
    }
    run("COMMIT")?;
    Ok(true)
}

/// Rolls an open transaction back. A failed COMMIT may leave its transaction open.
fn roll_back(connection: &Connection) {
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::warn!(%error, "transaction not rolled back yet");
    }
}

/// Makes a checkpoint, as far as the readers allow. The next checkpoint completes it.
fn checkpoint(connection: &Connection, busy_timeout: Duration) {
    let run = || {
        connection.busy_timeout(busy_timeout)?;
        let done = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        connection.busy_timeout(BUSY_TIMEOUT)?;
        done
    };
    match run().map_err(store_error) {
        Ok(()) => {}
        // Whoever wanted to write is told.
        Err(StoreError::Full(reason)) => tracing::debug!(reason, "write-ahead log not emptied yet"),
        Err(error) => tracing::warn!(%error, "write-ahead log not emptied yet"),
    }
}
