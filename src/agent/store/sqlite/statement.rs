//! Helpers for SQL statements.

use rusqlite::{Connection, OptionalExtension, Params, Row};

/// Executes a statement. Returns the number of changed rows.
pub(super) fn execute(db: &Connection, sql: &str, parameters: impl Params) -> rusqlite::Result<usize> {
    db.prepare_cached(sql)?.execute(parameters)
}

/// Reads the first row, if there is a row.
pub(super) fn query_one<T>(
    db: &Connection,
    sql: &str,
    parameters: impl Params,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    db.prepare_cached(sql)?.query_row(parameters, read).optional()
}

/// Reads all rows.
pub(super) fn query_all<T>(
    db: &Connection,
    sql: &str,
    parameters: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare_cached(sql)?.query_map(parameters, read)?.collect()
}

/// Returns a limit as a parameter of a statement.
pub(super) fn limit_parameter(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Returns a list as a parameter of `json_each`: a statement has no parameter that is a list.
pub(super) fn list_parameter<T: serde::Serialize>(items: &[T]) -> String {
    serde_json::json!(items).to_string()
}
