//! The read requests in SQL. A request has the name of its method in the trait `Store`, and runs in a transaction, so
//! that it sees one state of the database.

use std::path::Path;

use rusqlite::{Connection, Row, ToSql, named_params, params};

use super::{
    cursors, files,
    options::SqliteOptions,
    rows::{self, DELIVERY, ENVELOPE, OUTGOING, RECORD},
    statement::{limit_parameter, list_parameter, query_all, query_one},
    strangers::Unread,
};
use crate::agent::{
    clock::now,
    store::types::{
        Delivery, DeliveryQuery, Millis, OutboxEntry, PeerQuota, PendingEnvelope, Record, ThreadEntry, Usage,
    },
};

type Rows<T> = rusqlite::Result<Vec<T>>;

/// The longest pause of a postponed envelope. An envelope that is due even later was postponed before the clock was set
/// back, so it counts as due.
const LONGEST_PAUSE: Millis = 60 * 60 * 1000;

pub(super) fn pending_envelopes(db: &Connection, now: Millis, except: &[i64], limit: usize) -> Rows<PendingEnvelope> {
    let sql = format!(
        "SELECT {ENVELOPE} FROM envelopes WHERE id IN (
            SELECT id FROM envelopes INDEXED BY envelopes_due
            WHERE (next_try <= ?1 OR next_try > ?2) AND id NOT IN (SELECT value FROM json_each(?3))
            ORDER BY id LIMIT ?4
        ) ORDER BY id"
    );
    query_all(
        db,
        &sql,
        params![now, now.saturating_add(LONGEST_PAUSE), list_parameter(except), limit_parameter(limit)],
        rows::envelope,
    )
}

pub(super) fn pending_count(db: &Connection, recipient: &str) -> rusqlite::Result<u64> {
    let rows =
        query_all(db, "SELECT envelopes FROM load WHERE recipient = ?1", [recipient], |row| row.get::<_, i64>(0))?;
    Ok(rows.first().map_or(0, |waiting| waiting.unsigned_abs()))
}

pub(super) fn peer_quota(
    db: &Connection,
    peer: &str,
    is_stranger: bool,
    limits: &SqliteOptions,
) -> rusqlite::Result<PeerQuota> {
    let left = "SELECT unread, unread_bytes, unsent FROM left_by WHERE peer = ?1";
    let read = |row: &Row<'_>| {
        let number = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
        let may_deliver = number(0)? < limits.max_unread_from && number(1)? < limits.max_unread_bytes_from;
        Ok(PeerQuota { may_deliver, may_reply: number(2)? < limits.max_replies_to })
    };
    let quota = query_one(db, left, [peer], read)?.unwrap_or(PeerQuota { may_deliver: true, may_reply: true });
    let may_deliver = quota.may_deliver && (!is_stranger || Unread::read(db)?.has_room_for_strangers(limits));
    let replies = "SELECT replies FROM of_strangers";
    let has_room = |replies: i64| replies.unsigned_abs() < limits.max_stranger_replies;
    let may_reply =
        quota.may_reply && (!is_stranger || query_one(db, replies, [], |row| row.get(0))?.is_none_or(has_room));
    Ok(PeerQuota { may_deliver, may_reply })
}

/// Returns `None` if the store has not given out the cursor.
pub(super) fn deliveries(db: &Connection, query: &DeliveryQuery) -> rusqlite::Result<Option<Vec<Delivery>>> {
    if !cursors::is_known(db, query.after)? {
        return Ok(None);
    }
    let limit = limit_parameter(query.limit);
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
    let mut statement = db.prepare_cached(&sql)?;
    let mut found = Vec::new();
    let mut left = query.max_bytes;
    for delivery in statement.query_map(&*parameters, rows::delivery)? {
        let delivery = delivery?;
        if let Some(left) = &mut left {
            match left.checked_sub(delivery.size()) {
                None if !found.is_empty() => break,
                rest => *left = rest.unwrap_or(0),
            }
        }
        found.push(delivery);
    }
    Ok(Some(found))
}

/// Returns the peers with waiting messages. The query jumps from one peer to the next in the index, without reading the
/// peer's other messages.
pub(super) fn outbox_peers(db: &Connection) -> Rows<String> {
    let sql = "WITH RECURSIVE next (peer) AS (
            SELECT min(peer) FROM outgoing WHERE state = 0
            UNION ALL
            SELECT (SELECT min(peer) FROM outgoing WHERE state = 0 AND peer > next.peer)
            FROM next WHERE next.peer IS NOT NULL
        ) SELECT peer FROM next WHERE peer IS NOT NULL";
    query_all(db, sql, [], |row| row.get(0))
}

pub(super) fn outbox_entries(
    db: &Connection,
    peer: &str,
    except_senders: &[String],
    except: &[String],
    limit: usize,
) -> Rows<OutboxEntry> {
    let sql = format!(
        "SELECT {OUTGOING} FROM outgoing INDEXED BY outgoing_waiting
        WHERE state = 0 AND peer = ?1 AND sender NOT IN (SELECT value FROM json_each(?2))
            AND id NOT IN (SELECT value FROM json_each(?3))
        ORDER BY sequence LIMIT ?4"
    );
    let (senders, except) = (list_parameter(except_senders), list_parameter(except));
    query_all(db, &sql, params![peer, senders, except, limit_parameter(limit)], rows::outbox_entry)
}

pub(super) fn outbox_entry(db: &Connection, id: &str) -> rusqlite::Result<Option<OutboxEntry>> {
    let sql = format!("SELECT {OUTGOING} FROM outgoing WHERE id = ?1");
    query_one(db, &sql, [id], rows::outbox_entry)
}

pub(super) fn thread_entries(db: &Connection, thread: &str, limit: usize) -> Rows<ThreadEntry> {
    // Only whether there is content. Whole content of all entries could fill the memory.
    let without_content = |columns: &str| columns.replace("sealed", "iif(sealed IS NULL, NULL, zeroblob(0))");
    let (delivery, outgoing) = (without_content(DELIVERY), without_content(OUTGOING));
    let received = format!("SELECT {delivery} FROM deliveries WHERE thread = ?1 ORDER BY received, cursor LIMIT ?2");
    let sent = format!("SELECT {outgoing} FROM outgoing WHERE thread = ?1 ORDER BY created, sequence LIMIT ?2");
    let mut entries: Vec<_> = query_all(db, &received, params![thread, limit_parameter(limit)], rows::delivery)?
        .into_iter()
        .map(|delivery| (delivery.received, ThreadEntry::Received(delivery)))
        .collect();
    let sent = query_all(db, &sent, params![thread, limit_parameter(limit)], rows::outbox_entry)?;
    entries.extend(sent.into_iter().map(|entry| (entry.created, ThreadEntry::Sent(entry))));
    // The sort is stable. If a received and a sent message have the same time, the received message comes first, since
    // an answer follows its question.
    entries.sort_by_key(|(time, _)| *time);
    Ok(entries.into_iter().map(|(_, entry)| entry).take(limit).collect())
}

pub(super) fn record(db: &Connection, kind: &str, key: &str) -> rusqlite::Result<Option<Record>> {
    let sql = format!("SELECT {RECORD} FROM records WHERE kind = ?1 AND key = ?2 AND ifnull(expires > ?3, true)");
    query_one(db, &sql, params![kind, key, now()], rows::record)
}

pub(super) fn records(db: &Connection, kind: &str, after: &str, limit: usize) -> Rows<Record> {
    let sql = format!(
        "SELECT {RECORD} FROM records WHERE kind = :kind AND key > :after AND ifnull(expires > :now, true)
        ORDER BY key LIMIT :limit"
    );
    let parameters = named_params! {":kind": kind, ":after": after, ":now": now(), ":limit": limit_parameter(limit)};
    query_all(db, &sql, parameters, rows::record)
}

pub(super) fn usage(db: &Connection, path: &Path) -> rusqlite::Result<Usage> {
    let sql = "SELECT envelopes, bytes, (SELECT min(received) FROM envelopes),
            (SELECT count(*) FROM deliveries WHERE acknowledged IS NULL),
            (SELECT min(received) FROM deliveries WHERE acknowledged IS NULL),
            (SELECT count(*) FROM outgoing WHERE state = 0),
            (SELECT min(created) FROM outgoing WHERE state = 0),
            (SELECT bytes FROM total_unread),
            (SELECT messages_of_strangers FROM total_unread), (SELECT of_strangers FROM total_unread),
            (SELECT record_bytes FROM of_strangers), (SELECT marks FROM of_strangers)
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
            stranger_deliveries: number(row, 8)?,
            stranger_delivery_bytes: number(row, 9)?,
            stranger_record_bytes: number(row, 10)?,
            stranger_marks: number(row, 11)?,
        })
    })
}

pub(super) fn handled_position(db: &Connection, mark: &[u8; 32]) -> rusqlite::Result<Option<i64>> {
    query_one(db, "SELECT seq FROM handled WHERE mark = ?1", [mark], |row| row.get(0))
}
