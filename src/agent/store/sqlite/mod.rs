//! The store in a file: SQLite with a write-ahead log.
//!
//! One thread writes, and does what waits in one transaction (group commit); nobody is answered before that is on disk.
//! Two threads read, each from a state of its own. One agent at a time uses a store; [`backup`] copies it meanwhile.

mod changes;
mod copy;
mod fault;
mod files;
mod queries;
mod reader;
mod rows;
mod schema;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

pub use copy::{backup, restore};

use self::{
    fault::located,
    files::{Lock, Place},
    writer::{Undo, Writer},
};
use super::{
    Arrival, Commit, Committed, Delivery, DeliveryQuery, Envelope, Millis, Outgoing, Receipt, Record, Retention, Room,
    SendOutcome, Store, StoreError, ThreadEntry, Usage,
};

/// The limits of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// Bytes of envelopes that wait: 1 GiB.
    pub max_envelope_bytes: u64,
    /// Envelopes that wait for one DID of ours: 100,000.
    pub max_envelopes_for: u64,
    /// The bytes of these: 512 MiB.
    pub max_envelope_bytes_for: u64,
    /// Bytes of what the application has not acknowledged; beyond, nothing is taken: 1 GiB.
    pub max_unread_bytes: u64,
    /// What of one sender the application has not acknowledged, in messages: 10,000.
    pub max_unread_from: u64,
    /// The same in bytes: 128 MiB.
    pub max_unread_bytes_from: u64,
    /// Messages that wait to be sent to one peer before it gets no more replies: 1,000.
    pub max_replies_to: u64,
    /// Bytes of the database, without its log; none, the default, for as many as the disk has.
    pub max_bytes: Option<u64>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            max_envelope_bytes: 1 << 30,
            max_envelopes_for: 100_000,
            max_envelope_bytes_for: 512 << 20,
            max_unread_bytes: 1 << 30,
            max_unread_from: 10_000,
            max_unread_bytes_from: 128 << 20,
            max_replies_to: 1000,
            max_bytes: None,
        }
    }
}

/// A store in one file, with SQLite's beside it, for one agent.
///
/// Dropped without [`Store::close`], it does what was asked before on its own threads, and then lets go of the files.
pub struct SqliteStore {
    path: PathBuf,
    options: SqliteOptions,
    commits: Arc<AtomicU64>,
    /// None once it is closed.
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    write: mpsc::Sender<writer::Job>,
    read: mpsc::Sender<reader::Job>,
    writer: JoinHandle<()>,
    readers: Vec<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens a store, or makes it and its folder; blocking. It starts threads, so a sandbox is entered before.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::TooNew`], [`StoreError::Unusable`] for a damaged or foreign file, and those of
    /// the disk.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let path = files::absolute(path)?;
        files::make_folder(&path)?;
        let lock = Lock::take(&path)?;
        let mut connection = files::open_writer(&path, options.max_bytes)?;
        let found = schema::look(&connection).map_err(|error| located(&path, error))?;
        files::use_wal(&connection, &path)?;
        schema::migrate(&mut connection, found)?;
        let readers = (0..reader::READERS).map(|_| files::open_reader(&path)).collect::<Result<Vec<_>, _>>()?;
        let commits = Arc::<AtomicU64>::default();
        let writer = Writer { connection, place: Place::of(&path)?, commits: commits.clone(), lock };
        let threads = Threads::start(writer, readers)?;
        Ok(Self { path, options, commits, threads: Mutex::new(Some(threads)) })
    }

    /// The transactions that were committed since it was opened: far fewer than requests, where many come at once.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Undo<T>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let queue = self.queues(|threads| threads.write.clone())?;
        let (job, outcome) = writer::request(work);
        ask(&queue, job, outcome).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let queue = self.queues(|threads| threads.read.clone())?;
        let (job, outcome) = reader::question(read);
        ask(&queue, job, outcome).await
    }

    fn queues<Q>(&self, queue: impl FnOnce(&Threads) -> Q) -> Result<Q, StoreError> {
        let threads = self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        threads.as_ref().map(queue).ok_or(StoreError::Closed)
    }
}

/// Once it is in the queue it is done, whether or not anybody waits for the answer.
async fn ask<J, T>(
    queue: &mpsc::Sender<J>,
    job: J,
    outcome: oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let ended = || StoreError::Unavailable("its thread has ended".to_owned());
    queue.send(job).await.map_err(|_| ended())?;
    outcome.await.map_err(|_| ended())?
}

impl Threads {
    fn start(writer: Writer, connections: Vec<Connection>) -> Result<Self, StoreError> {
        let (write, requests) = mpsc::channel(writer::QUEUE);
        let (read, questions) = mpsc::channel(reader::QUEUE);
        let questions = Arc::new(Mutex::new(questions));
        let mut readers = Vec::new();
        for connection in connections {
            let questions = questions.clone();
            readers.push(spawn("store reader", move || reader::run(connection, questions))?);
        }
        let writer = spawn("store writer", move || writer.run(requests))?;
        Ok(Self { write, read, writer, readers })
    }

    /// The readers first, so that the writer is the last to let go, and can empty the log.
    fn end(self) -> Result<(), StoreError> {
        let panicked = |_| StoreError::Unavailable("its thread has panicked".to_owned());
        drop(self.read);
        for reader in self.readers {
            reader.join().map_err(panicked)?;
        }
        drop(self.write);
        self.writer.join().map_err(panicked)
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| StoreError::Unavailable(format!("no thread for it: {error}")))
}

#[async_trait]
impl Store for SqliteStore {
    async fn receive(&self, arrival: Arrival) -> Result<Receipt, StoreError> {
        let options = self.options.clone();
        self.write(move |db| changes::receive(db, &arrival, &options)).await
    }

    async fn waiting(&self, now: Millis, except: &[i64], limit: usize) -> Result<Vec<Envelope>, StoreError> {
        let except = except.to_vec();
        self.read(move |db| queries::waiting(db, now, &except, limit)).await
    }

    async fn waiting_for(&self, recipient: &str) -> Result<u64, StoreError> {
        let recipient = recipient.to_owned();
        self.read(move |db| queries::waiting_for(db, &recipient)).await
    }

    async fn room(&self, peer: &str) -> Result<Room, StoreError> {
        let (peer, options) = (peer.to_owned(), self.options.clone());
        self.read(move |db| queries::room(db, &peer, &options)).await
    }

    async fn postpone(&self, envelope: i64, until: Millis, why: &str) -> Result<(), StoreError> {
        let why = why.to_owned();
        self.write(move |db| changes::postpone(db, envelope, until, &why)).await
    }

    async fn commit(&self, turn: Commit) -> Result<Committed, StoreError> {
        self.write(move |db| changes::commit(db, &turn)).await
    }

    async fn handled(&self, sender: &str, recipient: &str, message: &str) -> Result<Option<i64>, StoreError> {
        let mark = changes::mark_of(sender, recipient, message);
        self.read(move |db| queries::handled(db, &mark)).await
    }

    async fn deliveries(&self, query: DeliveryQuery) -> Result<Vec<Delivery>, StoreError> {
        self.read(move |db| queries::deliveries(db, &query)).await
    }

    async fn acknowledge(&self, ids: &[String]) -> Result<usize, StoreError> {
        let ids = ids.to_vec();
        self.write(move |db| changes::acknowledge(db, &ids)).await
    }

    async fn peers(&self) -> Result<Vec<String>, StoreError> {
        self.read(queries::peers).await
    }

    async fn outgoing(&self, peer: &str, except: &[String], limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        let (peer, except) = (peer.to_owned(), except.to_vec());
        self.read(move |db| queries::outgoing(db, &peer, &except, limit)).await
    }

    async fn sending(&self, id: &str) -> Result<Option<Outgoing>, StoreError> {
        let id = id.to_owned();
        self.read(move |db| queries::sending(db, &id)).await
    }

    async fn sent(&self, id: &str, outcome: SendOutcome) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write(move |db| changes::sent(db, &id, &outcome)).await
    }

    async fn thread(&self, thread: &str, limit: usize) -> Result<Vec<ThreadEntry>, StoreError> {
        let thread = thread.to_owned();
        self.read(move |db| queries::thread(db, &thread, limit)).await
    }

    async fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError> {
        let (kind, key) = (kind.to_owned(), key.to_owned());
        self.read(move |db| queries::record(db, &kind, &key)).await
    }

    async fn records(&self, kind: &str, after: &str, limit: usize) -> Result<Vec<Record>, StoreError> {
        let (kind, after) = (kind.to_owned(), after.to_owned());
        self.read(move |db| queries::records(db, &kind, &after, limit)).await
    }

    async fn sweep(&self, now: Millis, retention: &Retention, limit: usize) -> Result<usize, StoreError> {
        let retention = *retention;
        let gone = self.write(move |db| changes::sweep(db, now, &retention, queries::count(limit))).await?;
        // Content that was acknowledged before leaves the disk with it.
        let queue = self.queues(|threads| threads.write.clone())?;
        let _ = queue.send(writer::Job::Checkpoint).await;
        Ok(gone)
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        let path = self.path.clone();
        self.read(move |db| queries::usage(db, &path)).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.write(changes::probe).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        let threads = self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let threads = threads.ok_or(StoreError::Closed)?;
        let ended = tokio::task::spawn_blocking(|| threads.end()).await;
        ended.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }
}
