//! The events for the application, in SQL.

use tokio_postgres::Error;

use super::{
    cursors::{self, Sequence},
    log::Entry,
    rows,
    session::{Session, limit_parameter, params},
    text::{all_stored, stored, text},
    transaction::Db,
};
use crate::agent::store::{
    event::{NewEvent, StoredEvent},
    types::Millis,
};

/// The part of the room that the events of strangers may take: a tenth.
const STRANGERS_PART: i64 = 10;

/// Writes an event. `of_stranger` says whether a message of a stranger has caused it.
pub(super) fn record(db: &Db<'_>, event: &NewEvent, of_stranger: bool) {
    let NewEvent { time, kind, data } = event;
    let insert = "INSERT INTO events (time, kind, data, stranger)
        SELECT * FROM unnest($1::int8[], $2::text[], $3::text[], $4::bool[])";
    db.tell(Entry::recorded);
    db.write(insert, params![time, stored(kind), stored(data), of_stranger]);
}

/// Returns `None` if the store has not given out the cursor.
pub(super) async fn events(
    session: &Session,
    after: i64,
    kinds: &[String],
    limit: usize,
) -> Result<Option<Vec<StoredEvent>>, Error> {
    if !cursors::is_known(session, Sequence::Events, after).await? {
        return Ok(None);
    }
    // Reads at most `limit` events of each kind, however many there are of the others.
    let sql = "SELECT event.* FROM (SELECT DISTINCT unnest($2::text[]) COLLATE \"C\" AS kind) AS wanted
        CROSS JOIN LATERAL (SELECT cursor, time, kind, data FROM events
            WHERE events.kind = wanted.kind AND cursor > $1 ORDER BY cursor LIMIT $3) AS event
        ORDER BY cursor LIMIT $3";
    let found = session.all(sql, params![after, all_stored(kinds), limit_parameter(limit)]).await?;
    let event = |row: &tokio_postgres::Row| {
        Ok(StoredEvent { cursor: row.try_get(0)?, time: row.try_get(1)?, kind: text(row, 2)?, data: text(row, 3)? })
    };
    rows::all(&found, event).map(Some)
}

/// Deletes the events of `before` and earlier, and the oldest of strangers beyond their part of the most events, then the oldest
/// of all beyond it. Deletes at most `limit`.
pub(super) async fn delete_expired(db: &Db<'_>, before: Millis, limit: i64) -> Result<u64, Error> {
    // Their order is that of time, unless the clock was set. So the oldest are looked at, and no index is needed.
    let old = "DELETE FROM events WHERE cursor IN (
        SELECT cursor FROM (SELECT cursor, time FROM events ORDER BY cursor LIMIT $2) AS oldest WHERE time <= $1)";
    let mut deleted = db.execute(old, params![before, limit]).await?;
    let max = i64::try_from(db.limits().max_events).unwrap_or(i64::MAX);
    let of_strangers = (max / STRANGERS_PART).max(1);
    // There are no more events than cursors, so they are counted only if there may be too many.
    let span = db.first("SELECT coalesce(max(cursor) - min(cursor), 0) FROM events", &[]).await?;
    if span.is_none_or(|row| row.get::<_, i64>(0) < of_strangers) {
        return Ok(deleted);
    }
    for (of, max) in [("WHERE stranger", of_strangers), ("", max)] {
        let count = db.first(&format!("SELECT count(*) FROM events {of}"), &[]).await?;
        let surplus = count.map_or(0, |row| row.get::<_, i64>(0)).saturating_sub(max);
        let surplus = surplus.min(limit.saturating_sub_unsigned(deleted)).max(0);
        let oldest =
            format!("DELETE FROM events WHERE cursor IN (SELECT cursor FROM events {of} ORDER BY cursor LIMIT $1)");
        deleted += db.execute(&oldest, params![surplus]).await?;
    }
    Ok(deleted)
}
