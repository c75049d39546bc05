//! Translates errors of SQLite and of files to [`StoreError`].

use std::{io, path::Path};

use rusqlite::{Error, ErrorCode, ffi};

use crate::agent::store::error::StoreError;

/// Translates an error of SQLite.
pub(super) fn store_error(error: Error) -> StoreError {
    translate("", error)
}

/// Translates an error of SQLite about the file at `path`.
pub(super) fn store_error_at(path: &Path, error: Error) -> StoreError {
    translate(&format!("{}: ", path.display()), error)
}

/// Adds the path of the unusable file to an error.
pub(super) fn with_path(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Unusable(why) => StoreError::Unusable(format!("at {} {why}", path.display())),
        other => other,
    }
}

/// Translates an error about the file at `path`.
pub(super) fn io_error(path: &Path, error: io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(text),
        _ => StoreError::Unavailable(text),
    }
}

fn translate(at: &str, error: Error) -> StoreError {
    let Error::SqliteFailure(code, _) = &error else {
        return StoreError::Unusable(format!("contains data that this release does not understand: {at}{error}"));
    };
    let text = format!("{at}{error}");
    match (code.code, code.extended_code) {
        // The shared memory of the write-ahead log is a file too.
        (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => StoreError::Full(text),
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => {
            StoreError::Unusable(format!("is damaged, or is not a database: {text}"))
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
        // The request would fail again: an id that exists already, a column that does not exist.
        _ => StoreError::Unusable(format!("refuses the request: {text}")),
    }
}
