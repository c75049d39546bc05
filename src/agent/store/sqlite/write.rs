//! What is written, each within the transaction of its caller.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::SqliteOptions;
use crate::agent::{
    clock::now,
    store::{
        Arrival, Change, Commit, Committed, Delivery, Handled, Millis, Outgoing, Receipt, Record, Retention,
        SendOutcome, StoreError,
    },
};

/// The outer error is the database's, the inner one that of a limit.
pub fn receive(
    connection: &Connection,
    arrival: &Arrival,
    options: &SqliteOptions,
) -> Result<Result<Receipt, StoreError>> {
    let waiting = connection
        .prepare_cached("SELECT id FROM envelopes WHERE digest = ?1")?
        .query_row([&arrival.digest[..]], |row| row.get(0))
        .optional()?;
    if let Some(id) = waiting {
        return Ok(Ok(Receipt::Waiting(id)));
    }
    let concluded = connection
        .prepare_cached("SELECT 1 FROM concluded WHERE digest = ?1")?
        .query_row([&arrival.digest[..]], |_| Ok(()))
        .optional()?;
    if concluded.is_some() {
        return Ok(Ok(Receipt::Concluded));
    }
    let (messages, bytes): (u64, u64) = connection
        .prepare_cached(
            "SELECT coalesce(sum(iif(recipient = ?1, messages, 0)), 0), coalesce(sum(bytes), 0) FROM queues",
        )?
        .query_row([&arrival.recipient], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if bytes + arrival.packed.len() as u64 > options.max_envelope_bytes {
        return Ok(Err(StoreError::Full(format!("{bytes} bytes of messages wait to be opened"))));
    }
    if messages >= options.max_envelopes_for {
        return Ok(Err(StoreError::Full(format!("{messages} messages for one DID wait to be opened"))));
    }
    let id = connection
        .prepare_cached(
            "INSERT INTO envelopes (digest, packed, recipient, received, next_try) VALUES (?1, ?2, ?3, ?4, ?4)",
        )?
        .insert(params![&arrival.digest[..], arrival.packed, arrival.recipient, arrival.received])?;
    Ok(Ok(Receipt::New(id)))
}

pub fn postpone(connection: &Connection, envelope: i64, until: Millis, why: &str) -> Result<()> {
    connection
        .prepare_cached("UPDATE envelopes SET next_try = ?2, tries = tries + 1, problem = ?3 WHERE id = ?1")?
        .execute(params![envelope, until, why])
        .map(drop)
}

/// None on a conflict: then nothing stands.
pub fn commit(connection: &Connection, turn: &Commit) -> Result<Option<Committed>> {
    let committed = match &turn.handled {
        Some(handled) if !mark(connection, handled)? => Committed::HandledBefore,
        _ => {
            for change in &turn.changes {
                if !make(connection, change)? {
                    return Ok(None);
                }
            }
            Committed::Done
        }
    };
    if let Some(envelope) = turn.envelope {
        conclude(connection, envelope)?;
    }
    Ok(Some(committed))
}

/// False if it was handled before.
fn mark(connection: &Connection, handled: &Handled) -> Result<bool> {
    let Handled { sender, recipient, message, until } = handled;
    let new = connection
        .prepare_cached(
            "INSERT INTO handled (sender, recipient, message, until) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (sender, recipient, message) DO UPDATE SET until = ?4 WHERE handled.until < ?5",
        )?
        .execute(params![sender, recipient, message, until, now()])?;
    Ok(new == 1)
}

/// An envelope goes, its digest stays for a while.
fn conclude(connection: &Connection, envelope: i64) -> Result<()> {
    let time = now();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO concluded (digest, time) SELECT digest, ?2 FROM envelopes WHERE id = ?1",
        )?
        .execute(params![envelope, time])?;
    connection.prepare_cached("DELETE FROM envelopes WHERE id = ?1")?.execute([envelope]).map(drop)
}

/// False if a record is another than the one that was read.
fn make(connection: &Connection, change: &Change) -> Result<bool> {
    match change {
        Change::Deliver(delivery) => deliver(connection, delivery).map(|()| true),
        Change::Send(outgoing) => send(connection, outgoing).map(|()| true),
        Change::Put(record) => put(connection, record),
        Change::Delete { kind, key } => connection
            .prepare_cached("DELETE FROM records WHERE kind = ?1 AND key = ?2")?
            .execute([kind, key])
            .map(|_| true),
    }
}

fn deliver(connection: &Connection, it: &Delivery) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO deliveries (id, message, thread, kind, sender, recipient, received, sealed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![it.id, it.message, it.thread, it.kind, it.sender, it.recipient, it.received, it.sealed])
        .map(drop)
}

fn send(connection: &Connection, it: &Outgoing) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO outbox (id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, sealed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, ?7, NULL, ?9)",
        )?
        .execute(params![
            it.id, it.message, it.thread, it.kind, it.sender, it.peer, it.created, it.expires, it.sealed
        ])
        .map(drop)
}

fn put(connection: &Connection, record: &Record) -> Result<bool> {
    let Record { kind, key, revision, value, expires } = record;
    let written = match revision {
        // One that has expired is not there, though it was not swept away yet.
        0 => connection
            .prepare_cached(
                "INSERT INTO records (kind, key, revision, value, expires) VALUES (?1, ?2, 1, ?3, ?4)
                 ON CONFLICT (kind, key) DO UPDATE SET revision = revision + 1, value = ?3, expires = ?4
                 WHERE records.expires <= ?5",
            )?
            .execute(params![kind, key, value, expires, now()])?,
        _ => connection
            .prepare_cached(
                "UPDATE records SET revision = revision + 1, value = ?4, expires = ?5
                 WHERE kind = ?1 AND key = ?2 AND revision = ?3",
            )?
            .execute(params![kind, key, revision, value, expires])?,
    };
    Ok(written == 1)
}

pub fn acknowledge(connection: &Connection, ids: &[String]) -> Result<usize> {
    let time = now();
    let mut statement = connection.prepare_cached(
        "UPDATE deliveries SET acknowledged = ?2, sealed = NULL WHERE id = ?1 AND acknowledged IS NULL",
    )?;
    ids.iter().map(|id| statement.execute(params![id, time])).sum()
}

pub fn sent(connection: &Connection, id: &str, outcome: &SendOutcome) -> Result<()> {
    let (state, time, problem) = match outcome {
        SendOutcome::Later(time, problem) => {
            let later = "UPDATE outbox SET tries = tries + 1, time = ?2, problem = ?3 WHERE id = ?1 AND state = 0";
            return connection.prepare_cached(later)?.execute(params![id, time, problem]).map(drop);
        }
        SendOutcome::Sent(time) => (1, time, None),
        SendOutcome::Failed(time, problem) => (2, time, Some(problem)),
        SendOutcome::Expired(time) => (3, time, None),
    };
    connection
        .prepare_cached(
            "UPDATE outbox SET state = ?2, time = ?3, sealed = NULL, tries = tries + (?2 <> 3),
             problem = iif(?2 = 1, NULL, coalesce(?4, problem)) WHERE id = ?1 AND state = 0",
        )?
        .execute(params![id, state, time, problem])
        .map(drop)
}

pub fn sweep(connection: &Connection, time: Millis, retention: &Retention, limit: usize) -> Result<usize> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let before = |age: Millis| time.saturating_sub(age);
    let never = Millis::MIN;
    let unread = if retention.deliveries == 0 { never } else { before(retention.deliveries) };
    // One statement for each table; none of its rows was looked at by a person.
    let statements: [(&str, Millis); 7] = [
        (
            "DELETE FROM concluded WHERE digest IN (SELECT digest FROM concluded WHERE time < ?1 LIMIT ?2)",
            before(retention.digests),
        ),
        (
            "DELETE FROM envelopes WHERE id IN (SELECT id FROM envelopes WHERE received < ?1 LIMIT ?2)",
            before(retention.envelopes),
        ),
        (
            "DELETE FROM deliveries WHERE cursor IN
             (SELECT cursor FROM deliveries WHERE acknowledged IS NULL AND received < ?1 LIMIT ?2)",
            unread,
        ),
        (
            "DELETE FROM deliveries WHERE cursor IN
             (SELECT cursor FROM deliveries WHERE acknowledged IS NOT NULL AND acknowledged < ?1 LIMIT ?2)",
            before(retention.history),
        ),
        (
            "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE state <> 0 AND time < ?1 LIMIT ?2)",
            before(retention.history),
        ),
        (
            "DELETE FROM records WHERE (kind, key) IN
             (SELECT kind, key FROM records WHERE expires IS NOT NULL AND expires < ?1 LIMIT ?2)",
            time,
        ),
        ("DELETE FROM handled WHERE seq IN (SELECT seq FROM handled WHERE until < ?1 LIMIT ?2)", time),
    ];
    statements.iter().map(|(sql, before)| connection.prepare_cached(sql)?.execute(params![before, limit])).sum()
}

pub fn probe(connection: &Connection) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO meta (name, value) VALUES ('probe', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1",
        )?
        .execute([])
        .map(drop)
}
