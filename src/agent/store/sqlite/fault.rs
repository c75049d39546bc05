//! What SQLite says, as the store's errors.

use std::{io, path::Path};

use rusqlite::{Error, ErrorCode, ffi};

use crate::agent::store::StoreError;

pub(super) fn fault(error: Error) -> StoreError {
    translate("", error)
}

/// The same, of the file at `path`.
pub(super) fn fault_at(path: &Path, error: Error) -> StoreError {
    translate(&format!("{}: ", path.display()), error)
}

/// Says which file is unusable.
pub(super) fn located(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Unusable(why) => StoreError::Unusable(format!("at {} {why}", path.display())),
        other => other,
    }
}

pub(super) fn io_fault(path: &Path, error: io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(text),
        _ => StoreError::Unavailable(text),
    }
}

fn translate(at: &str, error: Error) -> StoreError {
    let Error::SqliteFailure(code, _) = &error else {
        return StoreError::Unusable(format!("holds what this release does not understand: {at}{error}"));
    };
    let text = format!("{at}{error}");
    match (code.code, code.extended_code) {
        // The shared memory of the WAL is a file, too.
        (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => StoreError::Full(text),
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => {
            StoreError::Unusable(format!("is damaged, or is no database: {text}"))
        }
        (
            ErrorCode::CannotOpen
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::NoLargeFileSupport
            | ErrorCode::OperationAborted
            | ErrorCode::OperationInterrupted
            | ErrorCode::OutOfMemory
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure,
            _,
        ) => StoreError::Unavailable(text),
        // It would be the same the next time: an id that is given twice, a column that is not there.
        _ => StoreError::Unusable(format!("refuses: {text}")),
    }
}
