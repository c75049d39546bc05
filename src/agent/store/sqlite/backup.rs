//! Backup and restore. A backup can be made while an agent uses the store.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, ErrorCode, OpenFlags,
    backup::{Backup, StepResult},
    ffi,
};

use super::{
    cursors,
    errors::{io_error, store_error, store_error_at, with_path},
    files::{self, StoreLock, beside},
    schema,
};
use crate::agent::store::error::StoreError;

/// How many pages are copied between two reports of the progress.
const PAGES_PER_STEP: i32 = 1024;

/// Copies the state of a store at one moment to a new file. An agent may use the store meanwhile. `progress` gets the
/// number of copied pages and the number of all pages. The copy gets its name only after it is complete and checked.
///
/// # Errors
/// [`StoreError::Unusable`] if `to` exists, or a file is damaged or no store; [`StoreError::Full`] or
/// [`StoreError::Unavailable`] if the disk fails.
pub fn backup(from: &Path, to: &Path, progress: impl FnMut(u64, u64)) -> Result<(), StoreError> {
    let (from, to) = (files::absolute(from)?, files::absolute(to)?);
    if fs::symlink_metadata(&to).is_ok() {
        return Err(exists("is not copied", &to));
    }
    let copy = IncompleteCopy::create(beside(&to, ".part"))?;
    copy_checked(&from, &copy.path, progress)?;
    // Unlike a rename, a link replaces no file that appeared meanwhile. Some file systems have no links.
    match fs::hard_link(&copy.path, &to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists("is not copied", &to)),
        Err(_) => fs::rename(&copy.path, &to).map_err(|error| io_error(&to, error))?,
    }
    drop(copy);
    files::sync_folder(&to).map_err(|error| io_error(&to, error))
}

/// Restores a backup to a path. Cursors that the agent gave out after the backup are unknown to the restored store. An
/// existing store is replaced, and lost, only if `replace` is set.
///
/// # Errors
/// [`StoreError::InUse`] if an agent uses the store; [`StoreError::Unusable`] if a store exists and `replace` is not
/// set, or the backup is damaged or no store; [`StoreError::TooNew`] for a newer schema; [`StoreError::Unavailable`] if
/// another process reads the store to be replaced, or the disk fails; [`StoreError::Full`] if the disk is full.
pub fn restore(backup: &Path, to: &Path, replace: bool) -> Result<(), StoreError> {
    let (backup, to) = (files::absolute(backup)?, files::absolute(to)?);
    files::make_folder(&to)?;
    let _lock = StoreLock::take(&to)?;
    if !replace && fs::symlink_metadata(&to).is_ok() {
        return Err(exists("is not restored", &to));
    }
    let copy = IncompleteCopy::create(beside(&to, ".part"))?;
    copy_checked(&backup, &copy.path, |_, _| ())?;
    cursors::mark_restored(&copy.path)?;
    File::open(&copy.path).and_then(|file| file.sync_all()).map_err(|error| io_error(&copy.path, error))?;
    prepare_replacement(&to)?;
    let replaced = || {
        // Remove the old log: SQLite would apply it to the new database.
        for ending in ["-wal", "-shm", "-journal"] {
            files::remove(&beside(&to, ending))?;
        }
        files::sync_folder(&to)?;
        fs::rename(&copy.path, &to)?;
        files::sync_folder(&to)
    };
    replaced().map_err(|error: io::Error| io_error(&to, error))
}

/// Empties the log of a database that is to be replaced, so that the database is complete if the process stops before
/// the replacement. A damaged database does not need that, so other errors are ignored. A database that is being read,
/// by a backup for instance, must not be replaced: the last reader of the old file would remove the new database's log,
/// which has the same name.
fn prepare_replacement(database: &Path) -> Result<(), StoreError> {
    let emptied = files::connect(database, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|old| old.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(())));
    match emptied {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
            Err(store_error_at(database, error))
        }
        _ => Ok(()),
    }
}

/// Copies the current state of `from` to the empty file `to`, without a log, and checks the copy.
fn copy_checked(from: &Path, to: &Path, progress: impl FnMut(u64, u64)) -> Result<(), StoreError> {
    let source = files::open_reader(from)?;
    // The read transaction lasts until the copy ends. Otherwise SQLite restarts the copy whenever another process
    // writes (sqlite3_backup_step).
    source.execute_batch("BEGIN").map_err(store_error)?;
    schema::check(&source).map_err(|error| with_path(from, error))?;
    let mut target =
        files::connect(to, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|error| store_error_at(to, error))?;
    let copied = copy(&source, &mut target, progress).and_then(|()| {
        target.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
        target.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))
    });
    let checked = copied.map_err(|error| store_error_at(from, error))?;
    if checked != "ok" {
        return Err(StoreError::Unusable(format!("{} is damaged: {checked}", from.display())));
    }
    target.close().map_err(|(_, error)| store_error_at(to, error))?;
    File::open(to).and_then(|file| file.sync_all()).map_err(|error| io_error(to, error))
}

fn copy(source: &Connection, target: &mut Connection, mut progress: impl FnMut(u64, u64)) -> rusqlite::Result<()> {
    // An incomplete copy is discarded, so it needs no journal.
    target.pragma_update_and_check(None, "journal_mode", "off", |_| Ok(()))?;
    target.pragma_update(None, "synchronous", "off")?;
    let backup = Backup::new(source, target)?;
    loop {
        let step = backup.step(PAGES_PER_STEP)?;
        let pages = backup.progress();
        let number = |pages: i32| u64::try_from(pages).unwrap_or(0);
        progress(number(pages.pagecount - pages.remaining), number(pages.pagecount));
        match step {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            // Another process has opened the target.
            _ => return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)),
        }
    }
}

fn exists(what_not: &str, path: &Path) -> StoreError {
    StoreError::Unusable(format!("{what_not}: {} is there already", path.display()))
}

/// An incomplete copy. Dropping it removes the file, unless the file was renamed.
struct IncompleteCopy {
    path: PathBuf,
}

impl IncompleteCopy {
    fn create(path: PathBuf) -> Result<Self, StoreError> {
        // An interrupted copy may have left its file.
        files::remove(&path).and_then(|()| files::make_file(&path)).map_err(|error| io_error(&path, error))?;
        Ok(Self { path })
    }
}

impl Drop for IncompleteCopy {
    fn drop(&mut self) {
        // After a rename the file does not exist.
        let _ = files::remove(&self.path);
    }
}
