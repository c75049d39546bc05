//! The thread that writes, and commits what has gathered.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{StoreError, failed};

/// Requests that wait, and requests of one transaction, at most.
const QUEUE: usize = 1024;
const BATCH: usize = 256;

/// The way to the writing thread.
pub struct Writer {
    queue: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    counts: Arc<(AtomicU64, AtomicU64)>,
}

/// One request: what it does, and then the answer.
trait Job: Send {
    /// Whether what it did is to stand.
    fn run(&mut self, connection: &Connection) -> bool;
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// What a request came to; with none in it, what it did is undone.
type Outcome<T> = rusqlite::Result<Option<T>>;

struct Request<T, W> {
    work: Option<W>,
    result: Option<Result<Option<T>, StoreError>>,
    answer: oneshot::Sender<Result<Option<T>, StoreError>>,
}

impl<T, W> Job for Request<T, W>
where
    T: Send,
    W: FnOnce(&Connection) -> Outcome<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(work) = self.work.take() else { return false };
        let result = work(connection).map_err(failed);
        let stands = matches!(result, Ok(Some(_)));
        self.result = Some(result);
        stands
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let own = self.result.unwrap_or(Err(StoreError::Closed));
        // Its own failure says more than that of the transaction.
        let answer = own.and_then(|result| committed.map(|()| result));
        // Who asked may have gone; it is done all the same.
        let _ = self.answer.send(answer);
    }
}

impl Writer {
    pub fn start(connection: Connection) -> Result<Self, StoreError> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let counting = counts.clone();
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || work(connection, jobs, &counting));
        let thread = thread.map_err(|error| StoreError::Unavailable(format!("it has no thread: {error}")))?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)), counts })
    }

    /// Does some work, and returns when it is on the disk.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = self.try_write(move |connection| work(connection).map(Some)).await?;
        done.ok_or(StoreError::Closed)
    }

    /// The same for work that may turn out not to be done: then nothing of it is.
    pub async fn try_write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let job = Box::new(Request { work: Some(work), result: None, answer });
        queue.send(job).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    pub fn counts(&self) -> (u64, u64) {
        (self.counts.0.load(Ordering::Relaxed), self.counts.1.load(Ordering::Relaxed))
    }

    pub fn is_closed(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Lets the thread end once it has done what it was asked.
    pub async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn work(connection: Connection, mut jobs: mpsc::Receiver<Box<dyn Job>>, counts: &(AtomicU64, AtomicU64)) {
    while let Some(first) = jobs.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match jobs.try_recv() {
                Ok(job) => batch.push(job),
                Err(_) => break,
            }
        }
        let committed = transact(&connection, &mut batch);
        counts.0.fetch_add(1, Ordering::Relaxed);
        counts.1.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for job in batch {
            job.answer(committed.clone());
        }
    }
    // What the log holds goes into the database, so that it is one file for whoever copies it.
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        tracing::debug!(%error, "the store's log stays beside it");
    }
}

/// One transaction for all; each request in a savepoint of its own, so that one that fails does not undo another.
fn transact(connection: &Connection, batch: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    let done = batch.iter_mut().try_for_each(|job| {
        connection.prepare_cached("SAVEPOINT request")?.execute([])?;
        if !job.run(connection) {
            // A full disk may have undone the whole transaction already: then this fails.
            connection.prepare_cached("ROLLBACK TO request")?.execute([])?;
        }
        connection.prepare_cached("RELEASE request")?.execute([]).map(drop)
    });
    let committed = done.and_then(|()| connection.execute_batch("COMMIT"));
    if committed.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    committed.map_err(|error| match failed(error) {
        // "no such savepoint": what undid it was told to the request that met it.
        StoreError::Unavailable(_) if connection.is_autocommit() => {
            StoreError::Full("the transaction was undone".to_owned())
        }
        other => other,
    })
}
