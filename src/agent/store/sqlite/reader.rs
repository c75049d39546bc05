//! The threads that read, each with a connection of its own: in a WAL nobody waits for the writer.

use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::fault::fault;
use crate::agent::store::StoreError;

/// Threads that read.
pub(super) const READERS: usize = 2;
/// Questions that may wait for a reader; further ones wait for room.
pub(super) const QUEUE: usize = 256;

/// A question, which answers itself.
pub(super) type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A question that is a closure. It sees one state of the database.
pub(super) fn question<T: Send + 'static>(
    read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, StoreError>>) {
    let (answer, outcome) = oneshot::channel();
    let job = move |connection: &mut Connection| {
        let read = || {
            let transaction = connection.transaction()?;
            let value = read(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        // Nobody may wait for it any more.
        let _ = answer.send(read().map_err(fault));
    };
    (Box::new(job), outcome)
}

/// Reads until nobody can ask any more.
pub(super) fn run(mut connection: Connection, queue: Arc<Mutex<mpsc::Receiver<Job>>>) {
    // The lock is held while waiting, not while reading.
    while let Some(job) = next(&queue) {
        job(&mut connection);
    }
}

fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).blocking_recv()
}
