//! The read requests in SQL. A request has the name of its method in the trait `Store`, and runs in a transaction, so
//! that it sees one state of the database.

use std::path::Path;

use rusqlite::{Connection, Row, ToSql, named_params, params};

use super::{
    cursors::{self, Sequence},
    files,
    options::SqliteOptions,
    rows::{self, DELIVERY, ENVELOPE, OUTGOING, RECORD},
    statement::{limit_parameter, list_parameter, query_all, query_one},
    strangers::Unread,
};
use crate::agent::{
    clock::now,
    store::types::{
        CONNECTION_KIND, Delivery, DeliveryQuery, Millis, OutboxEntry, OutboxPosition, OutboxQuery, PEER_ROTATION_KIND,
        PeerQuota, PendingEnvelope, Record, SendState, ThreadEntry, ThreadPosition, Usage,
    },
};

/// Follows all characters.
const AFTER_ALL: char = char::MAX;

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
    if !cursors::is_known(db, Sequence::Deliveries, query.after)? {
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

pub(super) fn deliveries_by_id(db: &Connection, beginning: &str, limit: usize) -> Rows<Delivery> {
    let sql = format!("SELECT {DELIVERY} FROM deliveries WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3");
    query_all(db, &sql, params![beginning, format!("{beginning}{AFTER_ALL}"), limit_parameter(limit)], rows::delivery)
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

/// Lists the outbox. A page of the messages that wait or were given up reads an index of them alone.
pub(super) fn outbox(db: &Connection, query: &OutboxQuery) -> Rows<(OutboxPosition, OutboxEntry)> {
    let state = match query.state {
        None => "true".to_owned(),
        Some(state) => {
            format!("state = {} AND cancelled = {}", rows::state_number(state), state == SendState::Cancelled)
        }
    };
    let by_time = "(created, sequence) > (:created, :sequence) ORDER BY created, sequence";
    let by_sequence = "sequence > :sequence ORDER BY sequence";
    let (index, order) = match (query.state, &query.peer) {
        (Some(SendState::Waiting), Some(_)) => ("INDEXED BY outgoing_waiting WHERE", by_sequence),
        (Some(SendState::Waiting), None) => ("INDEXED BY outgoing_created WHERE", by_time),
        (Some(SendState::Failed | SendState::Expired | SendState::Cancelled), _) => {
            ("INDEXED BY outgoing_given_up WHERE state > 1 AND", by_time)
        }
        (Some(SendState::Sent) | None, _) => ("NOT INDEXED WHERE", by_sequence),
    };
    let of_peer = if query.peer.is_some() { "peer = :peer AND" } else { "" };
    let columns = OUTGOING.replace("sealed", "NULL");
    let sql = format!("SELECT {columns}, sequence FROM outgoing {index} {state} AND {of_peer} {order} LIMIT :limit");
    let (OutboxPosition { created, sequence }, limit) = (query.after, limit_parameter(query.limit));
    let mut parameters: Vec<(&str, &dyn ToSql)> = vec![(":sequence", &sequence), (":limit", &limit)];
    if order == by_time {
        parameters.push((":created", &created));
    }
    if let Some(peer) = &query.peer {
        parameters.push((":peer", peer));
    }
    query_all(db, &sql, &*parameters, |row| {
        let entry = rows::outbox_entry(row)?;
        Ok((OutboxPosition { created: entry.created, sequence: row.get("sequence")? }, entry))
    })
}

pub(super) fn thread_entries(
    db: &Connection,
    thread: &str,
    after: ThreadPosition,
    limit: usize,
) -> Rows<(ThreadPosition, ThreadEntry)> {
    // Only whether there is content. Whole content of all entries could fill the memory.
    let without_content = |columns: &str| columns.replace("sealed", "iif(sealed IS NULL, NULL, zeroblob(0))");
    let (delivery, outgoing) = (without_content(DELIVERY), without_content(OUTGOING));
    let received = format!(
        "SELECT {delivery} FROM deliveries WHERE thread = ?1 AND (received, cursor) > (?2, ?3)
        ORDER BY received, cursor LIMIT ?4"
    );
    let sent = format!(
        "SELECT {outgoing}, sequence FROM outgoing WHERE thread = ?1 AND (created, sequence) > (?2, ?3)
        ORDER BY created, sequence LIMIT ?4"
    );
    // Of the same time, all received messages come before those that were sent.
    let ThreadPosition { time, is_sent, sequence } = after;
    let (received_after, sent_after) = if is_sent { (i64::MAX, sequence) } else { (sequence, i64::MIN) };
    let limit_of_each = limit_parameter(limit);
    let mut entries = query_all(db, &received, params![thread, time, received_after, limit_of_each], |row| {
        let delivery = rows::delivery(row)?;
        let position = ThreadPosition { time: delivery.received, is_sent: false, sequence: delivery.cursor };
        Ok((position, ThreadEntry::Received(delivery)))
    })?;
    entries.extend(query_all(db, &sent, params![thread, time, sent_after, limit_of_each], |row| {
        let entry = rows::outbox_entry(row)?;
        let position = ThreadPosition { time: entry.created, is_sent: true, sequence: row.get("sequence")? };
        Ok((position, ThreadEntry::Sent(entry)))
    })?);
    entries.sort_by_key(|(position, _)| *position);
    entries.truncate(limit);
    Ok(entries)
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

pub(super) fn records_with_peer(
    db: &Connection,
    kind: &'static str,
    peer: &str,
    after: &str,
    limit: usize,
) -> Rows<Record> {
    // All that begin with the prefix; for a whole DID nothing but the DID.
    let beginning = peer.strip_suffix('~').unwrap_or(peer);
    let end = match peer.ends_with([':', '~']) {
        true => format!("{beginning}{AFTER_ALL}"),
        false => format!("{peer}\0"),
    };
    let in_key = "substr(key, instr(key, ' ') + 1)";
    let select = |index: &str, condition: &str, did: &str| {
        format!(
            "SELECT {RECORD} FROM records INDEXED BY {index}
            WHERE kind = '{kind}' AND {condition} AND {did} >= :peer AND {did} < :end
                AND key > :after AND ifnull(expires > :now, true)"
        )
    };
    let found = match kind {
        // Each connection is in one of these indexes.
        CONNECTION_KIND => [
            select("connections_by_peer", &format!("(peer IS NULL OR peer <> {in_key})"), in_key),
            select("records_peer", &format!("peer = {in_key}"), "peer"),
        ]
        .join(" UNION ALL "),
        PEER_ROTATION_KIND => select("rotations_by_peer", "true", in_key),
        _ => return Ok(Vec::new()),
    };
    let parameters = named_params! {
        ":peer": beginning, ":end": end, ":after": after, ":now": now(), ":limit": limit_parameter(limit)
    };
    query_all(db, &format!("{found} ORDER BY key LIMIT :limit"), parameters, rows::record)
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
