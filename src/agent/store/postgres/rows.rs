//! Converts rows of the tables to the types of the store. Each constant lists the columns of the function after it.

use tokio_postgres::{Error, Row};

use super::text::{optional_text, text};
use crate::agent::store::types::{Delivery, OutboxEntry, PendingEnvelope, Record, SendState};

pub(super) const ENVELOPE: &str =
    "id, packed, recipient, received, tries, charged, attempts, unresolved_since, unresolved";

pub(super) fn envelope(row: &Row) -> Result<PendingEnvelope, Error> {
    Ok(PendingEnvelope {
        id: row.try_get(0)?,
        packed: row.try_get(1)?,
        recipient: text(row, 2)?,
        received: row.try_get(3)?,
        tries: count(row, 4)?,
        quota_checked: row.try_get(5)?,
        attempts: count(row, 6)?,
        unresolved_since: row.try_get(7)?,
        unresolved: row.try_get(8)?,
    })
}

pub(super) const DELIVERY: &str = "id, cursor, message, thread, kind, sender, recipient, received, sealed";

pub(super) fn delivery(row: &Row) -> Result<Delivery, Error> {
    Ok(Delivery {
        id: text(row, 0)?,
        cursor: row.try_get(1)?,
        message: text(row, 2)?,
        thread: text(row, 3)?,
        kind: text(row, 4)?,
        sender: text(row, 5)?,
        recipient: text(row, 6)?,
        received: row.try_get(7)?,
        sealed: row.try_get(8)?,
    })
}

pub(super) const OUTGOING: &str = "id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, sealed, to_stranger, by_application, sequence";
/// The column `sequence` of [`OUTGOING`].
pub(super) const SEQUENCE: usize = 15;

pub(super) fn outbox_entry(row: &Row) -> Result<OutboxEntry, Error> {
    Ok(OutboxEntry {
        id: text(row, 0)?,
        message: text(row, 1)?,
        thread: text(row, 2)?,
        kind: text(row, 3)?,
        sender: text(row, 4)?,
        peer: text(row, 5)?,
        created: row.try_get(6)?,
        expires: row.try_get(7)?,
        state: state(row.try_get(8)?),
        tries: count(row, 9)?,
        time: row.try_get(10)?,
        problem: optional_text(row, 11)?,
        sealed: row.try_get(12)?,
        to_stranger: row.try_get(13)?,
        by_application: row.try_get(14)?,
    })
}

/// Lists columns without the content: whether there is content stays.
pub(super) fn without_content(columns: &str) -> String {
    columns.replace("sealed", "CASE WHEN sealed IS NULL THEN NULL ELSE ''::bytea END")
}

pub(super) const RECORD: &str = "kind, key, revision, value, expires";

pub(super) fn record(row: &Row) -> Result<Record, Error> {
    Ok(Record {
        kind: text(row, 0)?,
        key: text(row, 1)?,
        revision: row.try_get(2)?,
        value: row.try_get(3)?,
        expires: row.try_get(4)?,
    })
}

/// Returns the number that stands for a state in the table `outgoing`.
pub(super) fn state_number(state: SendState) -> i64 {
    match state {
        SendState::Waiting => 0,
        SendState::Sent => 1,
        SendState::Failed => 2,
        SendState::Expired => 3,
        SendState::Cancelled => 4,
    }
}

/// A state that a later release may have written counts as failed: the message is not tried again.
fn state(number: i64) -> SendState {
    match number {
        0 => SendState::Waiting,
        1 => SendState::Sent,
        3 => SendState::Expired,
        4 => SendState::Cancelled,
        _ => SendState::Failed,
    }
}

fn count(row: &Row, column: usize) -> Result<u32, Error> {
    Ok(u32::try_from(row.try_get::<_, i64>(column)?).unwrap_or(u32::MAX))
}

/// Reads all rows with a function.
pub(super) fn all<T>(rows: &[Row], read: impl Fn(&Row) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    rows.iter().map(read).collect()
}
