//! What is read.

use rusqlite::{Connection, OptionalExtension, Result, Row, params, types::Value};

use crate::agent::{
    clock::now,
    store::{Delivery, DeliveryQuery, Envelope, Millis, Outgoing, Record, SendState, ThreadEntry, Usage},
};

/// Nothing is postponed for longer: what waits longer waits since the clock was set back.
const LONGEST_WAIT: Millis = 60 * 60 * 1000;

fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// As JSON, for `json_each`: a statement has no other way to take a list.
fn list<T: serde::Serialize>(values: &[T]) -> String {
    serde_json::to_string(values).unwrap_or_else(|_| "[]".to_owned())
}

pub fn waiting(connection: &Connection, now: Millis, except: &[i64], limit: usize) -> Result<Vec<Envelope>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, packed, recipient, received, tries FROM envelopes
         WHERE (next_try <= ?1 OR next_try > ?1 + ?2) AND id NOT IN (SELECT value FROM json_each(?3))
         ORDER BY id LIMIT ?4",
    )?;
    let rows = statement.query_map(params![now, LONGEST_WAIT, list(except), most(limit)], |row| {
        Ok(Envelope {
            id: row.get(0)?,
            packed: row.get(1)?,
            recipient: row.get(2)?,
            received: row.get(3)?,
            tries: row.get(4)?,
        })
    })?;
    rows.collect()
}

const DELIVERY: &str = "id, cursor, message, thread, kind, sender, recipient, received, sealed";

fn delivery(row: &Row<'_>) -> Result<Delivery> {
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

pub fn deliveries(connection: &Connection, query: &DeliveryQuery) -> Result<Vec<Delivery>> {
    let mut sql = format!("SELECT {DELIVERY} FROM deliveries WHERE cursor > ?1");
    let mut values = vec![Value::Integer(query.after)];
    for (column, wanted) in [("thread", &query.thread), ("kind", &query.kind), ("sender", &query.sender)] {
        if let Some(wanted) = wanted {
            values.push(Value::Text(wanted.clone()));
            sql.push_str(&format!(" AND {column} = ?{}", values.len()));
        }
    }
    if !query.acknowledged {
        sql.push_str(" AND acknowledged IS NULL");
    }
    values.push(Value::Integer(most(query.limit)));
    sql.push_str(&format!(" ORDER BY cursor LIMIT ?{}", values.len()));
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), delivery)?;
    rows.collect()
}

pub fn peers(connection: &Connection) -> Result<Vec<String>> {
    let mut statement = connection.prepare_cached("SELECT DISTINCT peer FROM outbox WHERE state = 0")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}

const OUTGOING: &str = "id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, sealed";

fn outgoing_row(row: &Row<'_>) -> Result<Outgoing> {
    Ok(Outgoing {
        id: row.get(0)?,
        message: row.get(1)?,
        thread: row.get(2)?,
        kind: row.get(3)?,
        sender: row.get(4)?,
        peer: row.get(5)?,
        created: row.get(6)?,
        expires: row.get(7)?,
        state: match row.get::<_, i64>(8)? {
            0 => SendState::Waiting,
            1 => SendState::Sent,
            2 => SendState::Failed,
            _ => SendState::Expired,
        },
        tries: row.get(9)?,
        time: row.get(10)?,
        problem: row.get(11)?,
        sealed: row.get(12)?,
    })
}

pub fn outgoing(connection: &Connection, peer: &str, except: &[String], limit: usize) -> Result<Vec<Outgoing>> {
    let sql = format!(
        "SELECT {OUTGOING} FROM outbox WHERE state = 0 AND peer = ?1 AND id NOT IN (SELECT value FROM json_each(?2))
         ORDER BY seq LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![peer, list(except), most(limit)], outgoing_row)?;
    rows.collect()
}

pub fn sending(connection: &Connection, id: &str) -> Result<Option<Outgoing>> {
    let sql = format!("SELECT {OUTGOING} FROM outbox WHERE id = ?1");
    connection.prepare_cached(&sql)?.query_row([id], outgoing_row).optional()
}

pub fn thread(connection: &Connection, thread: &str, limit: usize) -> Result<Vec<ThreadEntry>> {
    let sql = format!("SELECT {DELIVERY} FROM deliveries WHERE thread = ?1 ORDER BY cursor LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let received = statement.query_map(params![thread, most(limit)], delivery)?;
    let mut entries: Vec<ThreadEntry> = received.map(|row| row.map(ThreadEntry::Received)).collect::<Result<_>>()?;
    let sql = format!("SELECT {OUTGOING} FROM outbox WHERE thread = ?1 ORDER BY seq LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    for row in statement.query_map(params![thread, most(limit)], outgoing_row)? {
        entries.push(ThreadEntry::Sent(row?));
    }
    entries.sort_by_key(|entry| match entry {
        ThreadEntry::Received(it) => it.received,
        ThreadEntry::Sent(it) => it.created,
    });
    entries.truncate(limit);
    Ok(entries)
}

fn record_row(row: &Row<'_>) -> Result<Record> {
    Ok(Record { kind: row.get(0)?, key: row.get(1)?, revision: row.get(2)?, value: row.get(3)?, expires: row.get(4)? })
}

pub fn record(connection: &Connection, kind: &str, key: &str) -> Result<Option<Record>> {
    connection
        .prepare_cached(
            "SELECT kind, key, revision, value, expires FROM records WHERE kind = ?1 AND key = ?2
                          AND (expires IS NULL OR expires > ?3)",
        )?
        .query_row(params![kind, key, now()], record_row)
        .optional()
}

pub fn records(connection: &Connection, kind: &str, after: &str, limit: usize) -> Result<Vec<Record>> {
    let mut statement = connection.prepare_cached(
        "SELECT kind, key, revision, value, expires FROM records WHERE kind = ?1 AND key > ?2
         AND (expires IS NULL OR expires > ?4) ORDER BY key LIMIT ?3",
    )?;
    let rows = statement.query_map(params![kind, after, most(limit), now()], record_row)?;
    rows.collect()
}

pub fn usage(connection: &Connection) -> Result<Usage> {
    let (envelopes, envelope_bytes) =
        connection.query_row("SELECT coalesce(sum(messages), 0), coalesce(sum(bytes), 0) FROM queues", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let oldest_envelope =
        connection.query_row("SELECT received FROM envelopes ORDER BY id LIMIT 1", [], |row| row.get(0)).optional()?;
    let waits = |count: &str, oldest: &str| -> Result<(u64, Option<Millis>)> {
        Ok((
            connection.query_row(count, [], |row| row.get(0))?,
            connection.query_row(oldest, [], |row| row.get(0)).optional()?,
        ))
    };
    let (deliveries, oldest_delivery) = waits(
        "SELECT count(*) FROM deliveries WHERE acknowledged IS NULL",
        "SELECT received FROM deliveries WHERE acknowledged IS NULL ORDER BY cursor LIMIT 1",
    )?;
    let (outgoing, oldest_outgoing) = waits(
        "SELECT count(*) FROM outbox WHERE state = 0",
        "SELECT min(created) FROM outbox WHERE state = 0 HAVING count(*) > 0",
    )?;
    Ok(Usage {
        envelopes,
        envelope_bytes,
        oldest_envelope,
        deliveries,
        oldest_delivery,
        outgoing,
        oldest_outgoing,
        bytes: 0,
    })
}

/// Its place in the order in which messages were handled.
pub fn handled(connection: &Connection, sender: &str, recipient: &str, message: &str) -> Result<Option<i64>> {
    connection
        .prepare_cached("SELECT seq FROM handled WHERE sender = ?1 AND recipient = ?2 AND message = ?3")?
        .query_row([sender, recipient, message], |row| row.get(0))
        .optional()
}
