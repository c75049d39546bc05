//! The database's schema, and how one becomes the next.
//!
//! A release knows the schemas up to its own. A later release may have added to it: as long as `readable_from` in `meta` is
//! not beyond what an earlier one knows, that one goes on with the database. So a release can be taken back.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::{StoreError, failed};

/// Tells a store from other databases: "CLVG".
const APPLICATION: i64 = 0x434C_5647;
/// The steps from each schema to the next.
const STEPS: [&str; 1] = [include_str!("schema/1.sql")];
/// The newest schema that this release knows.
pub const KNOWN: i64 = STEPS.len() as i64;

/// Brings a database up to date.
pub fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    check(connection)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(StoreError::Unusable(format!("cannot have a write-ahead log: SQLite says {mode}")));
    }
    for (index, step) in STEPS.iter().enumerate().skip(usize::try_from(version(connection)?).unwrap_or(0)) {
        let next = index as i64 + 1;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction.execute_batch(step).map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION).map_err(failed)?;
        transaction.pragma_update(None, "user_version", next).map_err(failed)?;
        transaction
            .execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('readable_from', ?1)", [next])
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

/// Whether it is a store that this release understands, or an empty file.
pub fn check(connection: &Connection) -> Result<(), StoreError> {
    let found = version(connection)?;
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(failed)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if found == 0 && application == 0 && tables == 0 {
        return Ok(());
    }
    if application != APPLICATION {
        return Err(StoreError::Unusable("is a database of another program".to_owned()));
    }
    let readable_from: Option<i64> = connection
        .query_row("SELECT value FROM meta WHERE name = 'readable_from'", [], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    match readable_from {
        Some(from) if from > KNOWN => Err(StoreError::TooNew { found, known: KNOWN }),
        _ => Ok(()),
    }
}

/// Its schema; 0 for an empty file.
pub fn version(connection: &Connection) -> Result<i64, StoreError> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)
}
