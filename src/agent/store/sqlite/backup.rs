//! Copies of a store: made while an agent uses it, and put back while none does.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{StoreError, connect, failed, lock, schema};

/// Pages that are copied before others have their turn.
const STEP: i32 = 256;

/// Copies a store to a file that is not there yet, as it stands at one moment. `progress` is told how many pages are done,
/// and how many there are.
///
/// # Errors
/// If there is no such store, the file is there, or the copy is not sound: then none is left behind.
pub fn backup(store: &Path, to: &Path, mut progress: impl FnMut(u32, u32)) -> Result<(), StoreError> {
    let from = connect(store, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    schema::check(&from)?;
    let unusable =
        |error: std::io::Error| StoreError::Unusable(format!("cannot be copied to {}: {error}", to.display()));
    // Made here, so that nothing is overwritten.
    File::create_new(to).map_err(unusable)?;
    let copied =
        copy(&from, to, &mut progress).and_then(|()| File::open(to).and_then(|file| file.sync_all()).map_err(unusable));
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied
}

fn copy(from: &Connection, to: &Path, progress: &mut impl FnMut(u32, u32)) -> Result<(), StoreError> {
    let mut copy = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    {
        // One read transaction: else each commit meanwhile would have it begin anew.
        from.execute_batch("BEGIN").map_err(failed)?;
        from.query_row("SELECT count(*) FROM meta", [], |_| Ok(())).map_err(failed)?;
        let backup = Backup::new(from, &mut copy).map_err(failed)?;
        loop {
            let step = backup.step(STEP).map_err(failed)?;
            let state = backup.progress();
            let all = u32::try_from(state.pagecount).unwrap_or(0);
            progress(all.saturating_sub(u32::try_from(state.remaining).unwrap_or(0)), all);
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
    from.execute_batch("COMMIT").map_err(failed)?;
    // A copy is one file.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(failed)?;
    sound(&copy)
}

fn sound(connection: &Connection) -> Result<(), StoreError> {
    schema::check(connection)?;
    let said: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if said == "ok" { Ok(()) } else { Err(StoreError::Unusable(format!("is damaged: {said}"))) }
}

/// Puts a copy in the place of a store, which no agent may use meanwhile. One that is there stays beside it, under the name
/// that is returned.
///
/// # Errors
/// If the copy is not sound, an agent uses the store, or the files cannot be written.
pub fn restore(copy: &Path, store: &Path) -> Result<Option<PathBuf>, StoreError> {
    let unusable =
        |error: std::io::Error| StoreError::Unusable(format!("cannot be put to {}: {error}", store.display()));
    let from = connect(copy, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    if schema::version(&from)? == 0 {
        return Err(StoreError::Unusable(format!("{} is no copy of a store", copy.display())));
    }
    sound(&from)?;
    drop(from);
    let _lock = lock(store)?;
    let new = store.with_extension("restored");
    fs::copy(copy, &new).map_err(unusable)?;
    File::open(&new).and_then(|file| file.sync_all()).map_err(unusable)?;
    let old = match store.exists() {
        false => None,
        true => {
            // What its log holds goes into it, and the log goes: it is not that of the new one.
            connect(store, OpenFlags::SQLITE_OPEN_READ_WRITE)?
                .query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
                .map_err(failed)?;
            let old = beside(store);
            fs::rename(store, &old).map_err(unusable)?;
            Some(old)
        }
    };
    fs::rename(&new, store).map_err(unusable)?;
    let folder = store.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(unusable)?;
    Ok(old)
}

/// A name that is free.
fn beside(store: &Path) -> PathBuf {
    let names = (1..).map(|number| store.with_extension(format!("before-{number}")));
    names.into_iter().find(|name| !name.exists()).unwrap_or_else(|| store.with_extension("before"))
}
