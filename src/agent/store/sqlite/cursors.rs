//! The cursors of deliveries and of events, which tell a reader whether it has seen everything that came before.
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
use crate::agent::{
    clock::now,
    store::{
        cursor_range::{RANDOM_PART, earliest_start},
        error::StoreError,
        tables::COPIED,
    },
};

/// The name in the table `meta` that marks a restored store, or the source of a copy, until it is opened.
pub(super) const RESTORED: &str = "restored";
/// The name in the table `meta` of the time of the last restore: the marks of messages that were handled after the backup are
/// lost.
pub(super) const RESTORED_AT: &str = "restored_at";

/// The rows that have cursors. Each of the two has its own.
#[derive(Clone, Copy)]
pub(super) enum Sequence {
    Deliveries,
    Events,
}

impl Sequence {
    pub(super) const ALL: [Self; 2] = [Self::Deliveries, Self::Events];

    /// The table of the rows.
    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries",
            Self::Events => "events",
        }
    }

    /// The table of the ranges.
    pub(super) fn ranges(self) -> &'static str {
        match self {
            Self::Deliveries => "cursor_ranges",
            Self::Events => "event_ranges",
        }
    }
}

/// Marks a restored database, which no agent uses yet.
pub(super) fn mark_restored(database: &std::path::Path) -> Result<(), StoreError> {
    let marked = files::connect(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|db| db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, 1)", [RESTORED]));
    marked.map(drop).map_err(|error| store_error_at(database, error))
}

/// Begins new ranges of cursors if the store is new or was restored.
pub(super) fn begin_range(db: &mut Connection, is_new: bool) -> Result<(), StoreError> {
    try_begin_range(db, is_new).map_err(store_error)
}

fn try_begin_range(db: &mut Connection, is_new: bool) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_restored = transaction.execute("DELETE FROM meta WHERE name = ?1", [RESTORED])? > 0;
    transaction.execute("DELETE FROM meta WHERE name = ?1", [COPIED])?;
    if is_restored {
        let note = "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)";
        transaction.execute(note, params![RESTORED_AT, now()])?;
    }
    if is_new || is_restored {
        let start = earliest_start(now());
        let random: i64 = transaction.query_row("SELECT abs(random() % ?1)", [RANDOM_PART], |row| row.get(0))?;
        let last = last_cursor(&transaction, Sequence::Deliveries)?;
        begin(&transaction, Sequence::Deliveries, last.max(start) + random)?;
    }
    // Events follow, also where a release that does not know them has begun the range of the deliveries.
    let [deliveries, events] = [Sequence::Deliveries, Sequence::Events].map(|of| newest_range(&transaction, of));
    let (deliveries, events) = (deliveries?, events?);
    if events < deliveries {
        let last = last_cursor(&transaction, Sequence::Events)?;
        begin(&transaction, Sequence::Events, last.max(deliveries - 1))?;
    }
    transaction.commit()
}

/// Begins the range that follows the cursor `before`.
fn begin(db: &Connection, sequence: Sequence, before: i64) -> rusqlite::Result<()> {
    let (table, ranges) = (sequence.table(), sequence.ranges());
    let last = last_cursor(db, sequence)?;
    db.execute(&format!("UPDATE {ranges} SET last = ?1 WHERE last IS NULL"), [last])?;
    db.execute(&format!("INSERT INTO {ranges} (first, last) VALUES (?1, NULL)"), [before + 1])?;
    if db.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = ?2", params![before, table])? == 0 {
        db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?2, ?1)", params![before, table])?;
    }
    Ok(())
}

/// The first cursor of the newest range; 0 without a range.
fn newest_range(db: &Connection, sequence: Sequence) -> rusqlite::Result<i64> {
    db.query_row(&format!("SELECT ifnull(max(first), 0) FROM {}", sequence.ranges()), [], |row| row.get(0))
}

/// Whether the store has given out this cursor. 0 is the beginning.
pub(super) fn is_known(db: &Connection, sequence: Sequence, cursor: i64) -> rusqlite::Result<bool> {
    if cursor == 0 {
        return Ok(true);
    }
    let sql = format!("SELECT 1 FROM {} WHERE first <= ?1 AND ifnull(last, ?2) >= ?1", sequence.ranges());
    Ok(query_one(db, &sql, params![cursor, last_cursor(db, sequence)?], |_| Ok(()))?.is_some())
}

/// The last cursor that was given out.
fn last_cursor(db: &Connection, sequence: Sequence) -> rusqlite::Result<i64> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
    Ok(query_one(db, sql, [sequence.table()], |row| row.get(0))?.unwrap_or(0))
}
