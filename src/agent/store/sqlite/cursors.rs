//! The cursors of deliveries, which tell a reader whether it has seen everything that came before.
//!
//! A restored store does not know which cursors were given out after the backup. So it gives out none of them again: a new
//! or restored store begins a range of cursors above all that an earlier state of the store can have given out. A cursor
//! between the ranges was never given out by this store. Within the ranges, and from one to the next, cursors grow.

use rusqlite::{Connection, TransactionBehavior, params};

use super::{
    errors::{store_error, store_error_at},
    files,
    statement::query_one,
};
use crate::agent::{clock::now, store::error::StoreError};

/// The name in the table `meta` that marks a restored store, until it is opened.
const RESTORED: &str = "restored";
/// The name in the table `meta` of the time of the last restore: the marks of messages that were handled after the backup are
/// lost.
pub(super) const RESTORED_AT: &str = "restored_at";
/// A range begins at the seconds since 1970 times 2^20, plus a random part, since two stores may be restored at the same
/// time. With fewer than 500,000 deliveries per second no range reaches the next one. Until the year 2242, a cursor is
/// below 2^53, which every JSON parser reads exactly.
const BITS_PER_SECOND: u32 = 20;
const RANDOM_BITS: i64 = 19;
const MAX_SECONDS: i64 = (1 << (53 - BITS_PER_SECOND)) - 2;

/// Marks a restored database, which no agent uses yet.
pub(super) fn mark_restored(database: &std::path::Path) -> Result<(), StoreError> {
    let marked = files::connect(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|db| db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, 1)", [RESTORED]));
    marked.map(drop).map_err(|error| store_error_at(database, error))
}

/// Begins a new range of cursors if the store is new or was restored.
pub(super) fn begin_range(db: &mut Connection, is_new: bool) -> Result<(), StoreError> {
    try_begin_range(db, is_new).map_err(store_error)
}

fn try_begin_range(db: &mut Connection, is_new: bool) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_restored = transaction.execute("DELETE FROM meta WHERE name = ?1", [RESTORED])? > 0;
    if !is_new && !is_restored {
        return Ok(());
    }
    if is_restored {
        let note = "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)";
        transaction.execute(note, params![RESTORED_AT, now()])?;
    }
    let last = last_cursor(&transaction)?;
    transaction.execute("UPDATE cursor_ranges SET last = ?1 WHERE last IS NULL", [last])?;
    let seconds = (now() / 1000).clamp(0, MAX_SECONDS);
    let random: i64 = transaction.query_row("SELECT abs(random() % ?1)", [1_i64 << RANDOM_BITS], |row| row.get(0))?;
    let before = last.max(seconds << BITS_PER_SECOND) + random;
    transaction.execute("INSERT INTO cursor_ranges (first, last) VALUES (?1, NULL)", [before + 1])?;
    if transaction.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'deliveries'", [before])? == 0 {
        transaction.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('deliveries', ?1)", [before])?;
    }
    transaction.commit()
}

/// Whether the store has given out this cursor. 0 is the beginning.
pub(super) fn is_known(db: &Connection, cursor: i64) -> rusqlite::Result<bool> {
    if cursor == 0 {
        return Ok(true);
    }
    let sql = "SELECT 1 FROM cursor_ranges WHERE first <= ?1 AND ifnull(last, ?2) >= ?1";
    Ok(query_one(db, sql, params![cursor, last_cursor(db)?], |_| Ok(()))?.is_some())
}

/// The last cursor that was given out.
fn last_cursor(db: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'";
    Ok(query_one(db, sql, [], |row| row.get(0))?.unwrap_or(0))
}
