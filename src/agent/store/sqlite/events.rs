//! The events for the application, in SQL.

use rusqlite::{Connection, Row, params};

use super::{
    cursors::{self, Sequence},
    statement::{execute, limit_parameter, list_parameter, query_all, query_one},
};
use crate::agent::store::{
    event::{NewEvent, StoredEvent},
    types::Millis,
};

/// The part of the room that the events of strangers may take: a tenth.
const STRANGERS_PART: i64 = 10;

/// Writes an event. `of_stranger` says whether a message of a stranger has caused it.
pub(super) fn record(db: &Connection, event: &NewEvent, of_stranger: bool) -> rusqlite::Result<()> {
    let NewEvent { time, kind, data } = event;
    let insert = "INSERT INTO events (time, kind, data, stranger) VALUES (?1, ?2, ?3, ?4)";
    execute(db, insert, params![time, kind, data, of_stranger])?;
    Ok(())
}

/// Returns `None` if the store has not given out the cursor.
pub(super) fn events(
    db: &Connection,
    after: i64,
    kinds: &[String],
    limit: usize,
) -> rusqlite::Result<Option<Vec<StoredEvent>>> {
    if !cursors::is_known(db, Sequence::Events, after)? {
        return Ok(None);
    }
    // Reads at most `limit` events of each kind, however many there are of the others.
    let sql = "SELECT cursor, time, kind, data FROM (SELECT DISTINCT value FROM json_each(?2)) AS wanted
        CROSS JOIN events AS event ON event.cursor IN (
            SELECT cursor FROM events WHERE kind = wanted.value AND cursor > ?1 ORDER BY cursor LIMIT ?3)
        ORDER BY cursor LIMIT ?3";
    let read = |row: &Row<'_>| {
        Ok(StoredEvent { cursor: row.get(0)?, time: row.get(1)?, kind: row.get(2)?, data: row.get(3)? })
    };
    query_all(db, sql, params![after, list_parameter(kinds), limit_parameter(limit)], read).map(Some)
}

/// Deletes the events of `before` and earlier, and the oldest of strangers beyond their part of `max`, then the oldest of all
/// beyond `max`. Deletes at most `limit`.
pub(super) fn delete_expired(db: &Connection, before: Millis, max: u64, limit: i64) -> rusqlite::Result<usize> {
    // Their order is that of time, unless the clock was set. So the oldest are looked at, and no index is needed.
    let old = "DELETE FROM events WHERE cursor IN (
        SELECT cursor FROM (SELECT cursor, time FROM events ORDER BY cursor LIMIT ?2) WHERE time <= ?1)";
    let mut deleted = execute(db, old, params![before, limit])?;
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let of_strangers = (max / STRANGERS_PART).max(1);
    let span = "SELECT ifnull((SELECT max(cursor) FROM events) - (SELECT min(cursor) FROM events), 0)";
    // There are no more events than cursors, so they are counted only if there may be too many.
    if query_one(db, span, [], |row| row.get::<_, i64>(0))?.unwrap_or(0) < of_strangers {
        return Ok(deleted);
    }
    for (of, max) in [("WHERE stranger = 1", of_strangers), ("", max)] {
        let count: i64 =
            query_one(db, &format!("SELECT count(*) FROM events {of}"), [], |row| row.get(0))?.unwrap_or(0);
        let left = limit.saturating_sub(i64::try_from(deleted).unwrap_or(i64::MAX));
        let surplus = count.saturating_sub(max).min(left).max(0);
        let oldest =
            format!("DELETE FROM events WHERE cursor IN (SELECT cursor FROM events {of} ORDER BY cursor LIMIT ?1)");
        deleted += execute(db, &oldest, [surplus])?;
    }
    Ok(deleted)
}
