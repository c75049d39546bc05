//! What the readers are asked, in SQL. Each runs in a transaction, so that it sees one state.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Params, Row, ToSql, named_params, params};

use super::{
    SqliteOptions,
    changes::now,
    files,
    rows::{self, DELIVERY, ENVELOPE, OUTGOING, RECORD},
};
use crate::agent::store::{Delivery, DeliveryQuery, Envelope, Millis, Outgoing, Record, Room, ThreadEntry, Usage};

type Rows<T> = rusqlite::Result<Vec<T>>;

/// Nothing is postponed for longer: what seems to be was postponed before the clock was set back.
const LONGEST: Millis = 60 * 60 * 1000;

pub(super) fn waiting(db: &Connection, now: Millis, except: &[i64], limit: usize) -> Rows<Envelope> {
    let sql = format!(
        "SELECT {ENVELOPE} FROM envelopes WHERE id IN (
            SELECT id FROM envelopes INDEXED BY envelopes_due
            WHERE (next_try <= ?1 OR next_try > ?2) AND id NOT IN (SELECT value FROM json_each(?3))
            ORDER BY id LIMIT ?4
        ) ORDER BY id"
    );
    all(db, &sql, params![now, now.saturating_add(LONGEST), list(except), count(limit)], rows::envelope)
}

pub(super) fn waiting_for(db: &Connection, recipient: &str) -> rusqlite::Result<u64> {
    let rows = all(db, "SELECT envelopes FROM load WHERE recipient = ?1", [recipient], |row| row.get::<_, i64>(0))?;
    Ok(rows.first().map_or(0, |waiting| waiting.unsigned_abs()))
}

pub(super) fn room(db: &Connection, peer: &str, limits: &SqliteOptions) -> rusqlite::Result<Room> {
    let left = "SELECT unread, unread_bytes, unsent FROM left_by WHERE peer = ?1";
    let read = |row: &Row<'_>| {
        let number = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
        let unread = number(0)? < limits.max_unread_from && number(1)? < limits.max_unread_bytes_from;
        Ok(Room { unread, unsent: number(2)? < limits.max_replies_to })
    };
    let room = db.prepare_cached(left)?.query_row([peer], read).optional()?;
    Ok(room.unwrap_or(Room { unread: true, unsent: true }))
}

pub(super) fn deliveries(db: &Connection, query: &DeliveryQuery) -> Rows<Delivery> {
    let limit = count(query.limit);
    let mut sql = format!("SELECT {DELIVERY} FROM deliveries WHERE cursor > :after");
    let mut parameters: Vec<(&str, &dyn ToSql)> = vec![(":after", &query.after), (":limit", &limit)];
    if !query.acknowledged {
        sql.push_str(" AND acknowledged IS NULL");
    }
    for (column, name, value) in
        [("thread", ":thread", &query.thread), ("kind", ":kind", &query.kind), ("sender", ":sender", &query.sender)]
    {
        if let Some(value) = value {
            sql.push_str(&format!(" AND {column} = {name}"));
            parameters.push((name, value));
        }
    }
    sql.push_str(" ORDER BY cursor LIMIT :limit");
    all(db, &sql, &*parameters, rows::delivery)
}

/// From one peer to the next in the index, however many messages each has.
pub(super) fn peers(db: &Connection) -> Rows<String> {
    let sql = "WITH RECURSIVE next (peer) AS (
            SELECT min(peer) FROM outgoing WHERE state = 0
            UNION ALL
            SELECT (SELECT min(peer) FROM outgoing WHERE state = 0 AND peer > next.peer)
            FROM next WHERE next.peer IS NOT NULL
        ) SELECT peer FROM next WHERE peer IS NOT NULL";
    all(db, sql, [], |row| row.get(0))
}

pub(super) fn outgoing(db: &Connection, peer: &str, except: &[String], limit: usize) -> Rows<Outgoing> {
    let sql = format!(
        "SELECT {OUTGOING} FROM outgoing INDEXED BY outgoing_waiting
        WHERE state = 0 AND peer = ?1 AND id NOT IN (SELECT value FROM json_each(?2))
        ORDER BY sequence LIMIT ?3"
    );
    all(db, &sql, params![peer, list(except), count(limit)], rows::outgoing)
}

pub(super) fn sending(db: &Connection, id: &str) -> rusqlite::Result<Option<Outgoing>> {
    let sql = format!("SELECT {OUTGOING} FROM outgoing WHERE id = ?1");
    db.prepare_cached(&sql)?.query_row([id], rows::outgoing).optional()
}

pub(super) fn thread(db: &Connection, thread: &str, limit: usize) -> Rows<ThreadEntry> {
    let came = format!("SELECT {DELIVERY} FROM deliveries WHERE thread = ?1 ORDER BY received, cursor LIMIT ?2");
    let went = format!("SELECT {OUTGOING} FROM outgoing WHERE thread = ?1 ORDER BY created, sequence LIMIT ?2");
    let mut entries: Vec<_> = all(db, &came, params![thread, count(limit)], rows::delivery)?
        .into_iter()
        .map(|delivery| (delivery.received, ThreadEntry::Received(delivery)))
        .collect();
    let went = all(db, &went, params![thread, count(limit)], rows::outgoing)?;
    entries.extend(went.into_iter().map(|outgoing| (outgoing.created, ThreadEntry::Sent(outgoing))));
    // It is stable: at one time what came goes first, as an answer follows its question.
    entries.sort_by_key(|(time, _)| *time);
    Ok(entries.into_iter().map(|(_, entry)| entry).take(limit).collect())
}

pub(super) fn record(db: &Connection, kind: &str, key: &str) -> rusqlite::Result<Option<Record>> {
    let sql = format!("SELECT {RECORD} FROM records WHERE kind = ?1 AND key = ?2 AND ifnull(expires > ?3, true)");
    db.prepare_cached(&sql)?.query_row(params![kind, key, now()], rows::record).optional()
}

pub(super) fn records(db: &Connection, kind: &str, after: &str, limit: usize) -> Rows<Record> {
    let sql = format!(
        "SELECT {RECORD} FROM records WHERE kind = :kind AND key > :after AND ifnull(expires > :now, true)
        ORDER BY key LIMIT :limit"
    );
    let parameters = named_params! {":kind": kind, ":after": after, ":now": now(), ":limit": count(limit)};
    all(db, &sql, parameters, rows::record)
}

pub(super) fn usage(db: &Connection, path: &Path) -> rusqlite::Result<Usage> {
    let sql = "SELECT envelopes, bytes, (SELECT min(received) FROM envelopes),
            (SELECT count(*) FROM deliveries WHERE acknowledged IS NULL),
            (SELECT min(received) FROM deliveries WHERE acknowledged IS NULL),
            (SELECT count(*) FROM outgoing WHERE state = 0),
            (SELECT min(created) FROM outgoing WHERE state = 0),
            (SELECT bytes FROM total_unread)
        FROM total_load";
    let number = |row: &Row<'_>, column| row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0));
    db.prepare_cached(sql)?.query_row([], |row| {
        Ok(Usage {
            envelopes: number(row, 0)?,
            envelope_bytes: number(row, 1)?,
            oldest_envelope: row.get(2)?,
            deliveries: number(row, 3)?,
            delivery_bytes: number(row, 7)?,
            oldest_delivery: row.get(4)?,
            outgoing: number(row, 5)?,
            oldest_outgoing: row.get(6)?,
            bytes: files::size(path),
        })
    })
}

/// For `json_each`: a statement has no parameter that is a list.
fn list<T: serde::Serialize>(items: &[T]) -> String {
    serde_json::json!(items).to_string()
}

pub(super) fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn all<T>(
    db: &Connection,
    sql: &str,
    parameters: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Rows<T> {
    db.prepare_cached(sql)?.query_map(parameters, read)?.collect()
}

pub(super) fn handled(db: &Connection, mark: &[u8; 32]) -> rusqlite::Result<Option<i64>> {
    let place = "SELECT seq FROM handled WHERE mark = ?1";
    db.prepare_cached(place)?.query_row([mark], |row| row.get(0)).optional()
}
