//! Converts rows of the tables to the types of the store. Each constant lists the columns of the function after it.

use rusqlite::{Row, types::Type};

use crate::agent::store::types::{Delivery, OutboxEntry, PendingEnvelope, Record, SendState};

pub(super) const ENVELOPE: &str =
    "id, packed, recipient, received, tries, charged, attempts, unresolved_since, unresolved";

pub(super) fn envelope(row: &Row<'_>) -> rusqlite::Result<PendingEnvelope> {
    Ok(PendingEnvelope {
        id: row.get(0)?,
        packed: row.get(1)?,
        recipient: row.get(2)?,
        received: row.get(3)?,
        tries: row.get(4)?,
        quota_checked: row.get(5)?,
        attempts: row.get(6)?,
        unresolved_since: row.get(7)?,
        unresolved: row.get(8)?,
    })
}

pub(super) const DELIVERY: &str = "id, cursor, message, thread, kind, sender, recipient, received, sealed";

pub(super) fn delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    Ok(Delivery {
        id: row.get(0)?,
        cursor: row.get(1)?,
        message: row.get(2)?,
        thread: row.get(3)?,
        kind: row.get(4)?,
        sender: row.get(5)?,
        recipient: row.get(6)?,
        received: row.get(7)?,
        sealed: row.get(8)?,
    })
}

pub(super) const OUTGOING: &str = "id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, sealed, to_stranger, cancelled, by_application";

pub(super) fn outbox_entry(row: &Row<'_>) -> rusqlite::Result<OutboxEntry> {
    Ok(OutboxEntry {
        id: row.get(0)?,
        message: row.get(1)?,
        thread: row.get(2)?,
        kind: row.get(3)?,
        sender: row.get(4)?,
        peer: row.get(5)?,
        created: row.get(6)?,
        expires: row.get(7)?,
        state: state(row, 8)?,
        tries: row.get(9)?,
        time: row.get(10)?,
        problem: row.get(11)?,
        sealed: row.get(12)?,
        to_stranger: row.get(13)?,
        by_application: row.get(15)?,
    })
}

pub(super) const RECORD: &str = "kind, key, revision, value, expires";

pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record { kind: row.get(0)?, key: row.get(1)?, revision: row.get(2)?, value: row.get(3)?, expires: row.get(4)? })
}

/// Returns the number that stands for a state in the table `outgoing`.
pub(super) fn state_number(state: SendState) -> i64 {
    match state {
        SendState::Waiting => 0,
        SendState::Sent => 1,
        // A cancelled message has the state that older releases know, and the column `cancelled`.
        SendState::Failed | SendState::Cancelled => 2,
        SendState::Expired => 3,
    }
}

fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<SendState> {
    match row.get(column)? {
        0 => Ok(SendState::Waiting),
        1 => Ok(SendState::Sent),
        2 if row.get("cancelled")? => Ok(SendState::Cancelled),
        2 => Ok(SendState::Failed),
        3 => Ok(SendState::Expired),
        other => {
            let why = format!("there is no state {other}");
            Err(rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, why.into()))
        }
    }
}
