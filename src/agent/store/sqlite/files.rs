//! The files of a store: the database, SQLite's own files beside it, and the lock.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::errors::{io_error, store_error_at};
use crate::agent::store::error::StoreError;

/// How long SQLite waits for a lock. A backup holds locks only for moments.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The lock of the process that uses the store. Dropping it unlocks the store.
pub(super) struct StoreLock(File);

impl Drop for StoreLock {
    /// Closing the file is not enough: a child process that is being started also has the file open until its program
    /// begins, and would keep the lock until then.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl StoreLock {
    /// Locks the store, or fails with [`StoreError::InUse`].
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let path = beside(database, ".lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|error| io_error(&path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(database.display().to_string())),
            Err(TryLockError::Error(error)) => Err(io_error(&path, error)),
        }
    }
}

/// The identity of the database file. SQLite goes on writing to a file that was removed or replaced, and what it writes
/// is lost.
pub(super) struct FileIdentity {
    path: PathBuf,
    /// The device and the inode.
    id: (u64, u64),
}

impl FileIdentity {
    /// Returns the identity of the file that is at `path` now.
    pub(super) fn of(path: &Path) -> Result<Self, StoreError> {
        let id = device_and_inode(path).map_err(|error| io_error(path, error))?;
        Ok(Self { path: path.to_owned(), id })
    }

    /// Fails if the file was removed or replaced.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match device_and_inode(&self.path) {
            Ok(id) if id == self.id => Ok(()),
            Ok(_) => Err(StoreError::Unavailable(format!("{}: another file was put there", self.path.display()))),
            Err(error) => Err(io_error(&self.path, error)),
        }
    }
}

fn device_and_inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Returns the path of a file beside the database.
pub(super) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Returns the absolute path of a database. SQLite would read a path that begins with `file:` as a URI. Links are
/// resolved, since SQLite puts the log beside the file that a link leads to.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    path.canonicalize().or_else(|_| std::path::absolute(path)).map_err(|error| io_error(path, error))
}

/// Creates the folder of a file, for this user only, if it does not exist.
pub(super) fn make_folder(file: &Path) -> Result<(), StoreError> {
    let Some(folder) = file.parent() else { return Ok(()) };
    if folder.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.and_then(|()| sync_folder(folder)).map_err(|error| io_error(folder, error))
}

/// Creates an empty file for this user only. SQLite gives its own files beside it the same mode.
pub(super) fn make_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.sync_all()?;
    sync_folder(path)
}

/// Syncs the folder of `path`, so that the creation, the new name or the removal of the file is durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes a file, if it exists.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns the size of the store's files in bytes.
pub(super) fn size(database: &Path) -> u64 {
    let files = [database.to_owned(), beside(database, "-wal"), beside(database, "-shm")];
    files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum()
}

/// Opens the connection that writes, and creates the file if it does not exist. An existing file is not changed.
pub(super) fn open_writer(path: &Path, max_bytes: Option<u64>) -> Result<Connection, StoreError> {
    if let Err(error) = make_file(path)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(io_error(path, error));
    }
    let open = || {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        set_writer_pragmas(&connection, max_bytes)?;
        Ok(connection)
    };
    open().map_err(|error| store_error_at(path, error))
}

/// Switches the database to a write-ahead log.
pub(super) fn use_wal(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let mode = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
    if mode.map_err(|error| store_error_at(path, error))? != "wal" {
        let why = format!("at {} cannot have a write-ahead log: the file system must be a local one", path.display());
        return Err(StoreError::Unusable(why));
    }
    Ok(())
}

/// Opens a connection that reads. The file is opened for writing, since the connection may have to recover the log, and
/// the last connection removes the log.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    open().map_err(|error| store_error_at(path, error))
}

/// Opens a connection. Only one thread at a time uses a connection, so SQLite needs no mutexes.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Otherwise SQLite compiles a statement anew for each value of a parameter that may decide about the plan: each `LIMIT ?`,
    // and each `kind = ?` because some indexes are of one kind.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // The sandbox has no folder for temporary files.
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

/// Sets the pragmas of the connection that writes.
fn set_writer_pragmas(connection: &Connection, max_bytes: Option<u64>) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "full")?;
    // 8 MiB: with the default of 2 MiB, a message that is received reads four or five pages of the indexes again.
    connection.pragma_update(None, "cache_size", -8192)?;
    // Make SQLite overwrite deleted content.
    connection.pragma_update(None, "secure_delete", true)?;
    // In pages: a checkpoint about every 16 MiB, since each checkpoint costs one or two fsyncs. The log's file keeps
    // its size. On a full disk, deletions are written into that space.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 4096, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", 32 << 20, |_| Ok(()))?;
    if let Some(bytes) = max_bytes {
        let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page;
        connection.pragma_update_and_check(None, "max_page_count", pages.clamp(1, 0xffff_fffe), |_| Ok(()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    /// Compiling a statement costs more than executing it.
    #[test]
    fn a_statement_is_not_compiled_again_for_other_parameters() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open_writer(&folder.path().join("store.db"), None).unwrap();
        let tables = "CREATE TABLE records (kind, key); CREATE INDEX some ON records (key) WHERE kind = 'a'";
        connection.execute_batch(tables).unwrap();
        let mut statement = connection.prepare("SELECT 1 FROM records WHERE kind = ?1 AND key = ?2 LIMIT ?3").unwrap();
        for limit in 1..4 {
            assert!(!statement.exists(("a", "key", limit)).unwrap());
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }

    #[test]
    fn dropping_a_lock_unlocks_though_a_child_has_the_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("store.db");
        let lock = StoreLock::take(&database).unwrap();
        assert!(matches!(StoreLock::take(&database), Err(StoreError::InUse(_))));
        let child_file = lock.0.try_clone().unwrap();
        drop(lock);
        StoreLock::take(&database).unwrap();
        drop(child_file);
    }
}
