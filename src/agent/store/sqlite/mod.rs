//! The store in SQLite, with a write-ahead log.
//!
//! One thread writes. This thread runs all waiting requests in one transaction (group commit), and answers them after
//! the transaction is on disk. Two threads read, each from a consistent state. One agent at a time uses a store;
//! [`backup`] can copy the store at the same time.

mod backup;
mod changes;
mod check;
mod cursors;
mod envelopes;
mod errors;
mod events;
mod files;
mod options;
mod queries;
mod reader;
mod rows;
mod schema;
mod statement;
mod strangers;
mod tables;
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

pub use backup::{backup, restore};
pub use options::SqliteOptions;
pub(super) use tables::SqliteTables;

use self::{
    errors::{store_error, with_path},
    files::{FileIdentity, StoreLock},
    writer::{Rollback, Writer},
};
use super::{
    backend::Store,
    digests::handled_mark,
    error::StoreError,
    event::{NewEvent, StoredEvent},
    types::{
        Commit, CommitOutcome, Delivery, DeliveryQuery, EventOfExpired, ExpiredEnvelope, HandledMessage, Millis,
        NewEnvelope, OutboxEntry, OutboxPosition, OutboxQuery, PeerQuota, PendingEnvelope, Postponement,
        ReceiveOutcome, Record, Retention, SendOutcome, ThreadEntry, ThreadPosition, Usage,
    },
};

/// A store in one SQLite database, for one agent.
///
/// If it is dropped without [`Store::close`], its threads complete the waiting requests and then release the files.
pub struct SqliteStore {
    path: PathBuf,
    options: SqliteOptions,
    commits: Arc<AtomicU64>,
    /// `None` after the store was closed.
    threads: Mutex<Option<Threads>>,
}

/// The threads of the store, and the queues of their requests.
struct Threads {
    write: mpsc::Sender<writer::Job>,
    read: mpsc::Sender<reader::Job>,
    writer: JoinHandle<()>,
    readers: Vec<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens a store, and creates it with its folder if it does not exist. The call blocks, and starts threads, so the
    /// process must enter its sandbox before the call.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another agent uses the store; [`StoreError::TooNew`] for a newer schema;
    /// [`StoreError::Unusable`] for a damaged file, or a file of another program; [`StoreError::Full`] or
    /// [`StoreError::Unavailable`] if the disk fails.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let path = files::absolute(path)?;
        files::make_folder(&path)?;
        let lock = StoreLock::take(&path)?;
        let mut connection = files::open_writer(&path, options.max_bytes)?;
        let found = schema::current(&connection).map_err(|error| with_path(&path, error))?;
        files::use_wal(&connection, &path)?;
        schema::migrate(&mut connection, found)?;
        cursors::begin_range(&mut connection, found == 0)?;
        strangers::recount(&connection).map_err(store_error)?;
        let readers = (0..reader::READER_COUNT).map(|_| files::open_reader(&path)).collect::<Result<Vec<_>, _>>()?;
        let commits = Arc::<AtomicU64>::default();
        let writer = Writer { connection, file: FileIdentity::of(&path)?, commits: commits.clone(), lock };
        let threads = Threads::start(writer, readers)?;
        Ok(Self { path, options, commits, threads: Mutex::new(Some(threads)) })
    }

    /// Returns how many transactions were committed since the store was opened. Under load, transactions are far fewer
    /// than requests.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> Result<T, Rollback<T>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let queue = self.with_threads(|threads| threads.write.clone())?;
        let (job, outcome) = writer::request(work);
        submit(&queue, job, outcome).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let queue = self.with_threads(|threads| threads.read.clone())?;
        let (job, outcome) = reader::request(read);
        submit(&queue, job, outcome).await
    }

    fn with_threads<Q>(&self, queue: impl FnOnce(&Threads) -> Q) -> Result<Q, StoreError> {
        let threads = self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        threads.as_ref().map(queue).ok_or(StoreError::Closed)
    }
}

/// Queues a job, and waits for its answer. A queued job is done even if the caller stops waiting.
async fn submit<J, T>(
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
        let (write, writes) = mpsc::channel(writer::QUEUE_LENGTH);
        let (read, reads) = mpsc::channel(reader::QUEUE_LENGTH);
        let reads = Arc::new(Mutex::new(reads));
        let mut readers = Vec::new();
        for connection in connections {
            let reads = reads.clone();
            readers.push(spawn("store reader", move || reader::run(connection, reads))?);
        }
        let writer = spawn("store writer", move || writer.run(writes))?;
        Ok(Self { write, read, writer, readers })
    }

    /// Ends the readers first: the writer then has the last connection, and can empty the log.
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
    thread.map_err(|error| StoreError::Unavailable(format!("its thread cannot be started: {error}")))
}

#[async_trait]
impl Store for SqliteStore {
    async fn receive(&self, envelope: NewEnvelope) -> Result<ReceiveOutcome, StoreError> {
        let options = self.options.clone();
        self.write(move |db| envelopes::receive(db, &envelope, &options)).await
    }

    async fn known_digests(&self, limit: usize) -> Result<Vec<u64>, StoreError> {
        self.read(move |db| envelopes::known_digests(db, statement::limit_parameter(limit))).await
    }

    async fn pending_envelopes(
        &self,
        now: Millis,
        except: &[i64],
        limit: usize,
    ) -> Result<Vec<PendingEnvelope>, StoreError> {
        let except = except.to_vec();
        self.read(move |db| queries::pending_envelopes(db, now, &except, limit)).await
    }

    async fn pending_count(&self, recipient: &str) -> Result<u64, StoreError> {
        let recipient = recipient.to_owned();
        self.read(move |db| queries::pending_count(db, &recipient)).await
    }

    async fn peer_quota(&self, peer: &str, is_stranger: bool) -> Result<PeerQuota, StoreError> {
        let (peer, options) = (peer.to_owned(), self.options.clone());
        self.read(move |db| queries::peer_quota(db, &peer, is_stranger, &options)).await
    }

    async fn postpone(&self, envelope: i64, postponement: Postponement) -> Result<(), StoreError> {
        self.write(move |db| envelopes::postpone(db, envelope, &postponement)).await
    }

    async fn make_due(&self, max_attempts: u32) -> Result<(), StoreError> {
        self.write(move |db| envelopes::make_due(db, max_attempts)).await
    }

    async fn expire_envelopes(&self, arrived: Millis, limit: usize) -> Result<Vec<ExpiredEnvelope>, StoreError> {
        self.write(move |db| envelopes::expire_envelopes(db, arrived, statement::limit_parameter(limit))).await
    }

    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError> {
        let options = self.options.clone();
        self.write(move |db| changes::commit(db, &commit, &options)).await
    }

    async fn handled_position(&self, sender: &str, recipient: &str, message: &str) -> Result<Option<i64>, StoreError> {
        let mark = handled_mark(sender, recipient, message);
        self.read(move |db| queries::handled_position(db, &mark)).await
    }

    async fn is_certainly_new(&self, message: &HandledMessage, created: Option<Millis>) -> Result<bool, StoreError> {
        let mark = handled_mark(&message.sender, &message.recipient, &message.message);
        self.read(move |db| {
            Ok(queries::handled_position(db, &mark)?.is_none() && strangers::is_after_lost_marks(db, created)?)
        })
        .await
    }

    async fn deliveries(&self, query: DeliveryQuery) -> Result<Vec<Delivery>, StoreError> {
        let after = query.after;
        self.read(move |db| queries::deliveries(db, &query)).await?.ok_or(StoreError::UnknownCursor(after))
    }

    async fn deliveries_by_id(&self, beginning: &str, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        let beginning = beginning.to_owned();
        self.read(move |db| queries::deliveries_by_id(db, &beginning, limit)).await
    }

    async fn acknowledge(&self, ids: &[String]) -> Result<usize, StoreError> {
        let ids = ids.to_vec();
        self.write(move |db| changes::acknowledge(db, &ids)).await
    }

    async fn outbox_peers(&self) -> Result<Vec<String>, StoreError> {
        self.read(queries::outbox_peers).await
    }

    async fn outbox_entries(
        &self,
        peer: &str,
        except_senders: &[String],
        except: &[String],
        limit: usize,
    ) -> Result<Vec<OutboxEntry>, StoreError> {
        let (peer, senders, except) = (peer.to_owned(), except_senders.to_vec(), except.to_vec());
        self.read(move |db| queries::outbox_entries(db, &peer, &senders, &except, limit)).await
    }

    async fn outbox_entry(&self, id: &str) -> Result<Option<OutboxEntry>, StoreError> {
        let id = id.to_owned();
        self.read(move |db| queries::outbox_entry(db, &id)).await
    }

    async fn outbox(&self, query: OutboxQuery) -> Result<Vec<(OutboxPosition, OutboxEntry)>, StoreError> {
        self.read(move |db| queries::outbox(db, &query)).await
    }

    async fn cancel_outgoing(&self, id: &str, time: Millis) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.write(move |db| changes::cancel_outgoing(db, &id, time)).await
    }

    async fn record_send_outcome(
        &self,
        id: &str,
        outcome: SendOutcome,
        event: Option<NewEvent>,
    ) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write(move |db| changes::record_send_outcome(db, &id, &outcome, event.as_ref())).await
    }

    async fn expire_outgoing(
        &self,
        now: Millis,
        limit: usize,
        event: EventOfExpired,
    ) -> Result<Vec<OutboxEntry>, StoreError> {
        self.write(move |db| changes::expire_outgoing(db, now, statement::limit_parameter(limit), event)).await
    }

    async fn events(&self, after: i64, kinds: &[&str], limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let kinds: Vec<_> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let events = self.read(move |db| events::events(db, after, &kinds, limit)).await?;
        events.ok_or(StoreError::UnknownCursor(after))
    }

    async fn thread_entries(
        &self,
        thread: &str,
        after: ThreadPosition,
        limit: usize,
    ) -> Result<Vec<(ThreadPosition, ThreadEntry)>, StoreError> {
        let thread = thread.to_owned();
        self.read(move |db| queries::thread_entries(db, &thread, after, limit)).await
    }

    async fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError> {
        let (kind, key) = (kind.to_owned(), key.to_owned());
        self.read(move |db| queries::record(db, &kind, &key)).await
    }

    async fn records_at(&self, places: &[(&str, &str)]) -> Result<Vec<Option<Record>>, StoreError> {
        let places: Vec<_> = places.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect();
        self.read(move |db| places.iter().map(|(kind, key)| queries::record(db, kind, key)).collect()).await
    }

    async fn records(&self, kind: &str, after: &str, limit: usize) -> Result<Vec<Record>, StoreError> {
        let (kind, after) = (kind.to_owned(), after.to_owned());
        self.read(move |db| queries::records(db, &kind, &after, limit)).await
    }

    async fn records_with_peer(
        &self,
        kind: &'static str,
        peer: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let (peer, after) = (peer.to_owned(), after.to_owned());
        self.read(move |db| queries::records_with_peer(db, kind, &peer, &after, limit)).await
    }

    async fn known_connections(&self, limit: usize) -> Result<Vec<String>, StoreError> {
        self.read(move |db| strangers::known_connections(db, limit)).await
    }

    async fn delete_expired(&self, now: Millis, retention: &Retention, limit: usize) -> Result<usize, StoreError> {
        let (retention, limits) = (*retention, self.options.clone());
        let limit = statement::limit_parameter(limit);
        let deleted = self.write(move |db| changes::delete_expired(db, now, &retention, limit, &limits)).await?;
        // The checkpoint empties the log, and so removes the content of earlier acknowledged deliveries from the disk.
        let queue = self.with_threads(|threads| threads.write.clone())?;
        let _ = queue.send(writer::Job::Checkpoint).await;
        Ok(deleted)
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        let path = self.path.clone();
        self.read(move |db| queries::usage(db, &path)).await
    }

    async fn probe_write(&self) -> Result<(), StoreError> {
        self.write(changes::probe_write).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        let threads = self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let threads = threads.ok_or(StoreError::Closed)?;
        let ended = tokio::task::spawn_blocking(|| threads.end()).await;
        ended.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }
}
