//! Translates errors of PostgreSQL to [`StoreError`].

use std::{error::Error as _, io};

use tokio_postgres::{
    Error,
    error::SqlState,
    types::{WasNull, WrongType},
};

use crate::agent::store::error::StoreError;

/// Translates an error of PostgreSQL. Of an error that the server reports, the message and the code are told: its details may
/// quote rows.
pub(super) fn store_error(error: Error) -> StoreError {
    let Some(reported) = error.as_db_error() else {
        let is_of_data = error.source().is_some_and(|source| source.is::<WrongType>() || source.is::<WasNull>());
        return match is_of_data {
            true => StoreError::Unusable(format!("contains data that this release does not understand: {error}")),
            // The source says which address, which certificate or which end of a file.
            false => StoreError::Unavailable(error.source().map_or(error.to_string(), |why| format!("{error}: {why}"))),
        };
    };
    let code = reported.code();
    let text = format!("{} (SQLSTATE {})", reported.message(), code.code());
    match code.code() {
        "53100" => StoreError::Full(text),
        "XX001" | "XX002" => StoreError::Unusable(format!("is damaged: {text}")),
        // The session that had prepared the statement is another one.
        "26000" | "42P05" => StoreError::Unusable(format!(
            "is behind a pooler in transaction mode (name the server itself in listen_url of [store]): {text}"
        )),
        _ if is_transient(code) => StoreError::Unavailable(text),
        // The request would fail again: an id that exists already, a table that does not exist, a right that is missing.
        _ => StoreError::Unusable(format!("refuses the request: {text}")),
    }
}

/// Whether the connection is gone, or about to go.
pub(super) fn is_lost(error: &Error) -> bool {
    let is_shut_down = |code: &SqlState| {
        [&SqlState::ADMIN_SHUTDOWN, &SqlState::CRASH_SHUTDOWN, &SqlState::CANNOT_CONNECT_NOW].contains(&code)
            || code.code().starts_with("08")
            || code.code() == "57P05"
            || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
    };
    match error.as_db_error() {
        Some(reported) => is_shut_down(reported.code()),
        None => error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>()),
    }
}

/// Whether the server may carry out the same request later. A wrong password or a missing database counts: whoever runs the
/// server can mend it meanwhile.
fn is_transient(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    // Connections, transactions that were rolled back, resources, the operator, the system, logins, databases.
    ["08", "28", "3D", "40", "53", "57", "58"].contains(&class)
        || [&SqlState::LOCK_NOT_AVAILABLE, &SqlState::READ_ONLY_SQL_TRANSACTION, &SqlState::IN_FAILED_SQL_TRANSACTION]
            .contains(&code)
        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
}
