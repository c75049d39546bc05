//! The store's files: the database, SQLite's own beside it, and the lock.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::fault::{fault_at, io_fault};
use crate::agent::store::StoreError;

/// A backup holds SQLite's locks for moments.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Says that this process uses the store, until it is dropped.
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Closing the file is not enough: a child that is just being started has it too until its program begins, and would
    /// hold the lock for so long.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Lock {
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let path = beside(database, ".lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|error| io_fault(&path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(database.display().to_string())),
            Err(TryLockError::Error(error)) => Err(io_fault(&path, error)),
        }
    }
}

/// A file, to be known again: SQLite goes on writing to one that was removed or replaced, and nobody would ever read it.
pub(super) struct Place {
    path: PathBuf,
    file: (u64, u64),
}

impl Place {
    pub(super) fn of(path: &Path) -> Result<Self, StoreError> {
        let file = identity(path).map_err(|error| io_fault(path, error))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Whether the file is still there.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match identity(&self.path) {
            Ok(file) if file == self.file => Ok(()),
            Ok(_) => Err(StoreError::Unavailable(format!("{}: another file was put there", self.path.display()))),
            Err(error) => Err(io_fault(&self.path, error)),
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// The file of SQLite that stands beside a database.
pub(super) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The database's path as SQLite takes it: literally, since one that begins with `file:` would be read as a URI, and
/// without a link at its end, since the log stands beside the file that it leads to.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    path.canonicalize().or_else(|_| std::path::absolute(path)).map_err(|error| io_fault(path, error))
}

/// Makes the folder of a file, if it is not there, for this user alone.
pub(super) fn make_folder(file: &Path) -> Result<(), StoreError> {
    let Some(folder) = file.parent() else { return Ok(()) };
    if folder.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.and_then(|()| sync_folder(folder)).map_err(|error| io_fault(folder, error))
}

/// Makes an empty file for this user alone; SQLite gives those that it makes beside it the same mode.
pub(super) fn make_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.sync_all()?;
    sync_folder(path)
}

/// After it, the names in the folder of `path` are on disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The bytes of the store's files.
pub(super) fn size(database: &Path) -> u64 {
    let files = [database.to_owned(), beside(database, "-wal"), beside(database, "-shm")];
    files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum()
}

/// The connection that writes, to a file that is made if it is not there. The file is not changed yet.
pub(super) fn open_writer(path: &Path, max_bytes: Option<u64>) -> Result<Connection, StoreError> {
    if let Err(error) = make_file(path)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(io_fault(path, error));
    }
    let open = || {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        prepare(&connection, max_bytes)?;
        Ok(connection)
    };
    open().map_err(|error| fault_at(path, error))
}

/// Gives the database its write-ahead log.
pub(super) fn use_wal(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let mode = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
    if mode.map_err(|error| fault_at(path, error))? != "wal" {
        let why = format!("at {} cannot have a write-ahead log: the file system must be a local one", path.display());
        return Err(StoreError::Unusable(why));
    }
    Ok(())
}

/// One that reads. It is opened for writing, since it may have to recover the log, and the last one puts the log away.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    open().map_err(|error| fault_at(path, error))
}

/// Each connection is one thread's at a time, so SQLite's mutexes are left out.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(64);
    // The sandbox has no folder for temporary files.
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

fn prepare(connection: &Connection, max_bytes: Option<u64>) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "full")?;
    // What is deleted is overwritten.
    connection.pragma_update(None, "secure_delete", true)?;
    // Pages of the log before it is brought into the database: some 16 MiB, as each time is another fsync or two. Its file
    // stays as large, since on a full disk that is the room in which something can still be deleted.
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
    use super::*;

    #[test]
    fn a_lock_is_given_back_though_a_child_has_its_file_still() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("store.db");
        let lock = Lock::take(&database).unwrap();
        assert!(matches!(Lock::take(&database), Err(StoreError::InUse(_))));
        let childs = lock.0.try_clone().unwrap();
        drop(lock);
        Lock::take(&database).unwrap();
        drop(childs);
    }
}
