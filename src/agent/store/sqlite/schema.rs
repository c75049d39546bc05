//! The schema, and the steps to it from any older one.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::fault::fault;
use crate::agent::store::StoreError;

/// What step n is to a database of schema n - 1. A step is never changed once it is released.
const STEPS: [&str; 2] = [include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// Ours: `user_version`.
pub(super) const KNOWN: i64 = STEPS.len() as i64;
/// "Clav": `application_id`, by which a database is told from another program's.
const APPLICATION: i64 = 0x436c_6176;

/// The schema of a database, 0 of a new one; nothing is written, since it may be another program's.
pub(super) fn look(connection: &Connection) -> Result<i64, StoreError> {
    if is_empty(connection).map_err(fault)? { Ok(0) } else { check(connection) }
}

/// Brings a database from the schema `found` to that of this release. One that a later release has only added to is left
/// as it is.
pub(super) fn migrate(connection: &mut Connection, found: i64) -> Result<(), StoreError> {
    for (step, number) in STEPS.iter().zip(1..).filter(|(_, number)| *number > found) {
        take(connection, step, number).map_err(fault)?;
        if found > 0 {
            tracing::info!(schema = number, "the store has a new schema");
        }
    }
    Ok(())
}

/// Whether a database is ours, of a schema that this release may use. Returns its number.
pub(super) fn check(connection: &Connection) -> Result<i64, StoreError> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(fault);
    let found = number("user_version")?;
    if number("application_id")? != APPLICATION || found == 0 {
        return Err(StoreError::Unusable("is another program's database".to_owned()));
    }
    if found > KNOWN {
        let known_from = "SELECT value FROM meta WHERE name = 'readable_from'";
        let readable_from: Option<i64> =
            connection.query_row(known_from, [], |row| row.get(0)).optional().map_err(fault)?;
        if readable_from.is_none_or(|oldest| oldest > KNOWN) {
            return Err(StoreError::TooNew { found, known: KNOWN });
        }
    }
    Ok(found)
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}

fn take(connection: &mut Connection, step: &str, number: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(step)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", number)?;
    transaction.commit()
}
