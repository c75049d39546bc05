//! Copies of a store: a backup, which may be made while an agent uses it, and the way back.

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
    fault::{fault, fault_at, io_fault, located},
    files::{self, Lock, beside},
    schema,
};
use crate::agent::store::StoreError;

/// Pages between two words about the progress.
const STEP: i32 = 1024;

/// Copies a store as it is at one moment to a file that is not there yet; an agent may use it meanwhile. `progress` is
/// told how many pages are done, and of how many. The copy is complete and checked before it bears its name.
///
/// # Errors
/// [`StoreError::Unusable`] if `to` exists, or if either of the two is damaged or no store; those of the disk.
pub fn backup(from: &Path, to: &Path, progress: impl FnMut(u64, u64)) -> Result<(), StoreError> {
    let (from, to) = (files::absolute(from)?, files::absolute(to)?);
    if fs::symlink_metadata(&to).is_ok() {
        return Err(exists("is not copied", &to));
    }
    let copy = Unfinished::make(beside(&to, ".part"))?;
    copy_checked(&from, &copy.path, progress)?;
    // Unlike a rename, it replaces nothing that has come meanwhile. Some file systems have no links.
    match fs::hard_link(&copy.path, &to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists("is not copied", &to)),
        Err(_) => fs::rename(&copy.path, &to).map_err(|error| io_fault(&to, error))?,
    }
    drop(copy);
    files::sync_folder(&to).map_err(|error| io_fault(&to, error))
}

/// Puts a backup where a store is to be. A store that is there is lost, and only replaced if `replace` says so.
///
/// # Errors
/// [`StoreError::InUse`] if an agent uses the store, [`StoreError::Unusable`] if there is one that is not to be replaced
/// or if the backup is damaged or no store, [`StoreError::TooNew`], [`StoreError::Unavailable`] if somebody reads the store
/// that is to be replaced; those of the disk.
pub fn restore(backup: &Path, to: &Path, replace: bool) -> Result<(), StoreError> {
    let (backup, to) = (files::absolute(backup)?, files::absolute(to)?);
    files::make_folder(&to)?;
    let _lock = Lock::take(&to)?;
    if !replace && fs::symlink_metadata(&to).is_ok() {
        return Err(exists("is not restored", &to));
    }
    let copy = Unfinished::make(beside(&to, ".part"))?;
    copy_checked(&backup, &copy.path, |_, _| ())?;
    retire(&to)?;
    let replaced = || {
        // SQLite would take the log of a damaged database for the new one's.
        for ending in ["-wal", "-shm", "-journal"] {
            files::remove(&beside(&to, ending))?;
        }
        files::sync_folder(&to)?;
        fs::rename(&copy.path, &to)?;
        files::sync_folder(&to)
    };
    replaced().map_err(|error: io::Error| io_fault(&to, error))
}

/// Brings the log of a database that is to be replaced into it, so that it is whole if we are stopped before it is. One
/// that is damaged need not be. One that is being read, by a backup for instance, must not be replaced: the last reader
/// of the old file would take away the new one's log, which has the same name.
fn retire(database: &Path) -> Result<(), StoreError> {
    let retired = files::connect(database, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|old| old.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(())));
    match retired {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Err(fault_at(database, error)),
        _ => Ok(()),
    }
}

/// Fills the empty file `to` with what `from` is now, in one file without a log, and checks it.
fn copy_checked(from: &Path, to: &Path, progress: impl FnMut(u64, u64)) -> Result<(), StoreError> {
    let source = files::open_reader(from)?;
    // Held to the end: SQLite would begin anew whenever another process has written (sqlite3_backup_step).
    source.execute_batch("BEGIN").map_err(fault)?;
    schema::check(&source).map_err(|error| located(from, error))?;
    let mut target = files::connect(to, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|error| fault_at(to, error))?;
    let copied = copy(&source, &mut target, progress).and_then(|()| {
        target.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
        target.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))
    });
    let checked = copied.map_err(|error| fault_at(from, error))?;
    if checked != "ok" {
        return Err(StoreError::Unusable(format!("{} is damaged: {checked}", from.display())));
    }
    target.close().map_err(|(_, error)| fault_at(to, error))?;
    File::open(to).and_then(|file| file.sync_all()).map_err(|error| io_fault(to, error))
}

fn copy(source: &Connection, target: &mut Connection, mut progress: impl FnMut(u64, u64)) -> rusqlite::Result<()> {
    // The file counts only once it is whole.
    target.pragma_update_and_check(None, "journal_mode", "off", |_| Ok(()))?;
    target.pragma_update(None, "synchronous", "off")?;
    let backup = Backup::new(source, target)?;
    loop {
        let step = backup.step(STEP)?;
        let pages = backup.progress();
        let number = |pages: i32| u64::try_from(pages).unwrap_or(0);
        progress(number(pages.pagecount - pages.remaining), number(pages.pagecount));
        match step {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            // Somebody else has opened the target.
            _ => return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)),
        }
    }
}

fn exists(what_not: &str, path: &Path) -> StoreError {
    StoreError::Unusable(format!("{what_not}: {} is there already", path.display()))
}

/// A copy under way, removed unless it was given its name.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn make(path: PathBuf) -> Result<Self, StoreError> {
        // One of a copy that was stopped.
        files::remove(&path).and_then(|()| files::make_file(&path)).map_err(|error| io_fault(&path, error))?;
        Ok(Self { path })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename there is none.
        let _ = files::remove(&self.path);
    }
}
