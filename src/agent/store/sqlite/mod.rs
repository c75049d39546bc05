//! The store on SQLite: one file, nothing beside it.
//!
//! One thread writes. What is asked of it while it commits waits, and is committed together (group commit): so each answer
//! stands on an fsync, and an fsync serves many. Readers have connections of their own, and see what was committed.

mod read;
mod schema;
mod write;
mod writer;

pub mod backup;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::Semaphore;

use super::{
    Arrival, Commit, Committed, Delivery, DeliveryQuery, Envelope, Millis, Outgoing, Receipt, Record, Retention,
    SendOutcome, Store, StoreError, ThreadEntry, Usage,
};
use writer::Writer;

/// What a store on SQLite takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqliteOptions {
    /// Bytes of envelopes that wait, at most: 1 GiB.
    pub max_envelope_bytes: u64,
    /// Envelopes that wait for one DID of ours, at most: 100,000.
    pub max_envelopes_for: u64,
    /// Pages that the database may have, of 4096 bytes; as many as the disk takes if none.
    pub max_pages: Option<u32>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { max_envelope_bytes: 1 << 30, max_envelopes_for: 100_000, max_pages: None }
    }
}

/// A [`Store`] in a file.
pub struct SqliteStore {
    path: PathBuf,
    options: SqliteOptions,
    writer: Writer,
    readers: Mutex<Vec<Connection>>,
    reading: Semaphore,
    /// Held as long as the store is open.
    _lock: File,
}

/// Reads at once, at most.
const READERS: usize = 4;
/// How long another's lock is waited for: that of a backup or a checkpoint.
const BUSY: Duration = Duration::from_secs(10);

impl SqliteStore {
    /// Opens a store, or makes one; its schema is brought up to date. The folder must be there.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another agent has it, [`StoreError::TooNew`] if a later release has changed it beyond what
    /// this one understands, [`StoreError::Unusable`] if it is damaged or is no store.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        schema::prepare(&mut connection)?;
        if let Some(pages) = options.max_pages {
            connection.pragma_update(None, "max_page_count", pages).map_err(failed)?;
        }
        let writer = Writer::start(connection)?;
        Ok(Self {
            path: path.to_owned(),
            options,
            writer,
            readers: Mutex::default(),
            reading: Semaphore::new(READERS),
            _lock: lock,
        })
    }

    /// How many transactions were committed, and how many requests they served.
    pub fn commits(&self) -> (u64, u64) {
        self.writer.counts()
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.writer.is_closed() {
            return Err(StoreError::Closed);
        }
        let _permit = self.reading.acquire().await.map_err(|_| StoreError::Closed)?;
        let free = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let path = self.path.clone();
        let task = tokio::task::spawn_blocking(move || {
            let connection = match free {
                Some(connection) => connection,
                None => connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
            };
            let result = work(&connection).map_err(failed);
            Ok((connection, result))
        });
        let (connection, result) = task.await.map_err(|error| StoreError::Unavailable(error.to_string()))??;
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }
}

/// A connection as all of them are.
fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    // A commit is on the disk when it returns (promise 1); and what was deleted is overwritten.
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    connection.pragma_update(None, "secure_delete", "ON").map_err(failed)?;
    // The journal of a statement, which it may need within a savepoint, is a file elsewhere otherwise: the sandbox has none.
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// One agent at a time. Backups read beside it: they do not take this lock.
fn lock(path: &Path) -> Result<File, StoreError> {
    let beside = path.with_extension("lock");
    let unusable =
        |error: std::io::Error| StoreError::Unusable(format!("{} cannot be opened: {error}", beside.display()));
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&beside).map_err(unusable)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse(path.display().to_string())),
        Err(error) => Err(unusable(error.into())),
    }
}

/// What SQLite says, as whom it concerns.
fn failed(error: rusqlite::Error) -> StoreError {
    let said = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(said),
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Unusable(format!("is damaged: {said}")),
        Some(ErrorCode::NotADatabase) => StoreError::Unusable(format!("is no database: {said}")),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
            StoreError::Unusable(format!("refuses: {said}"))
        }
        _ => StoreError::Unavailable(said),
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn receive(&self, arrival: Arrival) -> Result<Receipt, StoreError> {
        let options = self.options;
        self.writer.write(move |connection| write::receive(connection, &arrival, &options)).await?
    }

    async fn waiting(&self, now: Millis, except: &[i64], limit: usize) -> Result<Vec<Envelope>, StoreError> {
        let except = except.to_vec();
        self.read(move |connection| read::waiting(connection, now, &except, limit)).await
    }

    async fn postpone(&self, envelope: i64, until: Millis, why: &str) -> Result<(), StoreError> {
        let why = why.to_owned();
        self.writer.write(move |connection| write::postpone(connection, envelope, until, &why)).await
    }

    async fn commit(&self, turn: Commit) -> Result<Committed, StoreError> {
        let committed = self.writer.try_write(move |connection| write::commit(connection, &turn)).await?;
        Ok(committed.unwrap_or(Committed::Conflict))
    }

    async fn handled(&self, sender: &str, recipient: &str, message: &str) -> Result<Option<i64>, StoreError> {
        let (sender, recipient, message) = (sender.to_owned(), recipient.to_owned(), message.to_owned());
        self.read(move |connection| read::handled(connection, &sender, &recipient, &message)).await
    }

    async fn deliveries(&self, query: DeliveryQuery) -> Result<Vec<Delivery>, StoreError> {
        self.read(move |connection| read::deliveries(connection, &query)).await
    }

    async fn acknowledge(&self, ids: &[String]) -> Result<usize, StoreError> {
        let ids = ids.to_vec();
        self.writer.write(move |connection| write::acknowledge(connection, &ids)).await
    }

    async fn peers(&self) -> Result<Vec<String>, StoreError> {
        self.read(read::peers).await
    }

    async fn outgoing(&self, peer: &str, except: &[String], limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        let (peer, except) = (peer.to_owned(), except.to_vec());
        self.read(move |connection| read::outgoing(connection, &peer, &except, limit)).await
    }

    async fn sending(&self, id: &str) -> Result<Option<Outgoing>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| read::sending(connection, &id)).await
    }

    async fn sent(&self, id: &str, outcome: SendOutcome) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.writer.write(move |connection| write::sent(connection, &id, &outcome)).await
    }

    async fn thread(&self, thread: &str, limit: usize) -> Result<Vec<ThreadEntry>, StoreError> {
        let thread = thread.to_owned();
        self.read(move |connection| read::thread(connection, &thread, limit)).await
    }

    async fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError> {
        let (kind, key) = (kind.to_owned(), key.to_owned());
        self.read(move |connection| read::record(connection, &kind, &key)).await
    }

    async fn records(&self, kind: &str, after: &str, limit: usize) -> Result<Vec<Record>, StoreError> {
        let (kind, after) = (kind.to_owned(), after.to_owned());
        self.read(move |connection| read::records(connection, &kind, &after, limit)).await
    }

    async fn sweep(&self, now: Millis, retention: &Retention, limit: usize) -> Result<usize, StoreError> {
        let retention = *retention;
        self.writer.write(move |connection| write::sweep(connection, now, &retention, limit)).await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        let path = self.path.clone();
        let usage = self.read(read::usage).await?;
        let sizes = ["", "-wal"].map(|suffix| {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            fs::metadata(name).map_or(0, |metadata| metadata.len())
        });
        Ok(Usage { bytes: sizes.iter().sum(), ..usage })
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.writer.write(write::probe).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.writer.close().await;
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }
}
