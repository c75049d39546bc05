//! The threads that read. Each has a connection of its own: with a write-ahead log no reader waits for the writer.

use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{errors::store_error, statement::execute};
use crate::agent::store::error::StoreError;

/// The number of threads that read.
pub(super) const READER_COUNT: usize = 2;
/// How many requests the queue of the readers holds. Further callers wait for room in the queue.
pub(super) const QUEUE_LENGTH: usize = 256;

/// A request to read, which sends its own answer.
pub(super) type Job = Box<dyn FnOnce(&Connection) + Send>;

/// Makes a request from a closure, and the channel that yields the result. The closure sees one state of the database.
pub(super) fn request<T: Send + 'static>(
    read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, StoreError>>) {
    let (answer, outcome) = oneshot::channel();
    let job = move |connection: &Connection| {
        // The caller may have stopped waiting.
        let _ = answer.send(transaction(connection, read).map_err(store_error));
    };
    (Box::new(job), outcome)
}

/// Reads in one transaction, with statements that are compiled once.
fn transaction<T>(
    connection: &Connection,
    read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    execute(connection, "BEGIN", [])?;
    let value = read(connection);
    // After some errors SQLite has ended the transaction by itself.
    if !connection.is_autocommit()
        && let Err(error) = execute(connection, "COMMIT", [])
    {
        let _ = execute(connection, "ROLLBACK", []);
        return value.and(Err(error));
    }
    value
}

/// Serves requests until the queue is closed.
pub(super) fn run(connection: Connection, queue: Arc<Mutex<mpsc::Receiver<Job>>>) {
    // The lock of the queue is held while waiting for a job, not while reading.
    while let Some(job) = next(&queue) {
        job(&connection);
    }
}

fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).blocking_recv()
}
