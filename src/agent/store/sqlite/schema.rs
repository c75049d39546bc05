//! The schema, and its migrations.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{errors::store_error, statement::query_one};
use crate::agent::store::{
    error::StoreError,
    tables::{COPY_OF, unfinished},
};

/// The migrations. Number n, counted from 1, migrates a database of schema n - 1. A released migration never changes.
const MIGRATIONS: [&str; 5] = [
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
    include_str!("schema/5.sql"),
];

/// The schema of this release, as in `user_version`.
pub(super) const KNOWN_SCHEMA: i64 = MIGRATIONS.len() as i64;
/// The `application_id` of a store, "Clav" in ASCII. It tells a store from another program's database.
const APPLICATION_ID: i64 = 0x436c_6176;

/// Returns the schema of a database, or 0 for an empty database. Writes nothing, since the database may be another
/// program's.
pub(super) fn current(connection: &Connection) -> Result<i64, StoreError> {
    if is_empty(connection).map_err(store_error)? { Ok(0) } else { check(connection) }
}

/// Migrates a database from the schema `found` to that of this release. A newer schema that this release may use is
/// left as it is.
pub(super) fn migrate(connection: &mut Connection, found: i64) -> Result<(), StoreError> {
    for (sql, number) in MIGRATIONS.iter().zip(1..).filter(|(_, number)| *number > found) {
        apply(connection, sql, number).map_err(store_error)?;
        if found > 0 {
            tracing::info!(schema = number, "store migrated");
        }
    }
    Ok(())
}

/// Returns the schema of a store.
///
/// # Errors
/// [`StoreError::Unusable`] for another program's database and for an unfinished copy; [`StoreError::TooNew`] for a newer
/// schema that this release must not use. A newer schema that this release may use says so in `readable_from`.
pub(super) fn check(connection: &Connection) -> Result<i64, StoreError> {
    let found = version(connection)?;
    if copy_of(connection)?.is_some() { Err(unfinished()) } else { Ok(found) }
}

/// Returns the number that an unfinished copy has of its source.
pub(super) fn copy_of(connection: &Connection) -> Result<Option<i64>, StoreError> {
    let find = "SELECT value FROM meta WHERE name = ?1";
    query_one(connection, find, [COPY_OF], |row| row.get(0)).map_err(store_error)
}

/// Returns the schema of a store, or of an unfinished copy.
pub(super) fn version(connection: &Connection) -> Result<i64, StoreError> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(store_error);
    let found = number("user_version")?;
    if number("application_id")? != APPLICATION_ID || found == 0 {
        return Err(StoreError::Unusable("is another program's database".to_owned()));
    }
    if found > KNOWN_SCHEMA {
        let sql = "SELECT value FROM meta WHERE name = 'readable_from'";
        let readable_from: Option<i64> =
            connection.query_row(sql, [], |row| row.get(0)).optional().map_err(store_error)?;
        if readable_from.is_none_or(|oldest| oldest > KNOWN_SCHEMA) {
            return Err(StoreError::TooNew { found, known: KNOWN_SCHEMA });
        }
    }
    Ok(found)
}

/// The name of the value that `readable_from` gets when a copy is complete.
const READABLE_WHEN_COMPLETE: &str = "readable_when_complete";

/// Creates the tables of a copy that is to be filled, in an empty database.
pub(super) fn create_copy(connection: &mut Connection, source: i64) -> Result<(), StoreError> {
    let mut create = || {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (sql, number) in MIGRATIONS.iter().zip(1..) {
            run(&transaction, sql, number)?;
        }
        transaction.execute("INSERT INTO meta (name, value) VALUES (?1, ?2)", params![COPY_OF, source])?;
        // Older releases do not know the mark of a copy.
        let hide = "INSERT INTO meta (name, value) SELECT ?1, value FROM meta WHERE name = 'readable_from'";
        transaction.execute(hide, [READABLE_WHEN_COMPLETE])?;
        transaction.execute("UPDATE meta SET value = ?1 WHERE name = 'readable_from'", [KNOWN_SCHEMA])?;
        transaction.commit()
    };
    create().map_err(store_error)
}

/// Makes a copy a store that agents open.
pub(super) fn complete_copy(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let show =
        "UPDATE meta SET value = ifnull((SELECT value FROM meta WHERE name = ?1), value) WHERE name = 'readable_from'";
    transaction.execute(show, [READABLE_WHEN_COMPLETE])?;
    transaction.execute("DELETE FROM meta WHERE name IN (?1, ?2)", [COPY_OF, READABLE_WHEN_COMPLETE])?;
    transaction.commit()
}

pub(super) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}

fn apply(connection: &mut Connection, sql: &str, number: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    run(&transaction, sql, number)?;
    transaction.commit()
}

fn run(transaction: &Transaction<'_>, sql: &str, number: i64) -> rusqlite::Result<()> {
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", number)
}
