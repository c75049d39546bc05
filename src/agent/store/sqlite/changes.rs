//! What the writer does, in SQL. Each runs in a savepoint of the writer's transaction.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Params, params};
use sha2::{Digest, Sha256};

use super::{SqliteOptions, queries, rows, writer::Undo};
use crate::agent::store::{
    Arrival, Change, Commit, Committed, Delivery, Handled, Millis, Outgoing, Receipt, Record, Retention, SendOutcome,
    SendState, StoreError,
};

type Outcome<T> = Result<T, Undo<T>>;

pub(super) fn receive(db: &Connection, arrival: &Arrival, limits: &SqliteOptions) -> Outcome<Receipt> {
    let waiting = "SELECT id FROM envelopes WHERE digest = ?1";
    if let Some(id) = one(db, waiting, [arrival.digest], |row| row.get(0))? {
        return Ok(Receipt::Waiting(id));
    }
    if one(db, "SELECT 1 FROM concluded WHERE digest = ?1", [arrival.digest], |_| Ok(()))?.is_some() {
        return Ok(Receipt::Concluded);
    }
    if let Some(why) = over_limit(db, arrival, limits)? {
        return Err(Undo::Error(StoreError::Full(why)));
    }
    let insert = "INSERT INTO envelopes (digest, recipient, received, packed, charged) VALUES (?1, ?2, ?3, ?4, ?5)";
    let charged = arrival.sender.is_some();
    run(db, insert, params![arrival.digest, arrival.recipient, arrival.received, arrival.packed, charged])?;
    Ok(Receipt::New(db.last_insert_rowid()))
}

/// Why it cannot be kept, if it would be over a limit.
fn over_limit(db: &Connection, arrival: &Arrival, limits: &SqliteOptions) -> rusqlite::Result<Option<String>> {
    let bytes: i64 = one(db, "SELECT bytes FROM total_load", [], |row| row.get(0))?.unwrap_or(0);
    if bytes.unsigned_abs().saturating_add(arrival.packed.len() as u64) > limits.max_envelope_bytes {
        return Ok(Some(format!("the envelopes that wait have {bytes} bytes of {}", limits.max_envelope_bytes)));
    }
    let load = "SELECT envelopes, bytes FROM load WHERE recipient = ?1";
    let (envelopes, bytes): (i64, i64) =
        one(db, load, [&arrival.recipient], |row| Ok((row.get(0)?, row.get(1)?)))?.unwrap_or_default();
    let bytes_then = bytes.unsigned_abs().saturating_add(arrival.packed.len() as u64);
    if envelopes.unsigned_abs() >= limits.max_envelopes_for || bytes_then > limits.max_envelope_bytes_for {
        return Ok(Some(format!("{envelopes} envelopes of {bytes} bytes wait for {}", arrival.recipient)));
    }
    let unread: i64 = one(db, "SELECT bytes FROM total_unread", [], |row| row.get(0))?.unwrap_or(0);
    if unread.unsigned_abs() >= limits.max_unread_bytes {
        return Ok(Some(format!("the application has not acknowledged {unread} bytes of {}", limits.max_unread_bytes)));
    }
    let Some(sender) = &arrival.sender else { return Ok(None) };
    let room = queries::room(db, sender, limits)?.unread;
    Ok((!room).then(|| format!("the application has not acknowledged too much of {sender} already")))
}

pub(super) fn postpone(db: &Connection, envelope: i64, until: Millis, why: &str) -> Outcome<()> {
    let update = "UPDATE envelopes SET tries = tries + 1, next_try = ?2, problem = ?3 WHERE id = ?1";
    run(db, update, params![envelope, until, why])?;
    Ok(())
}

pub(super) fn commit(db: &Connection, turn: &Commit) -> Outcome<Committed> {
    let now = now();
    // First, so that its pages are free for what the turn writes.
    if let Some(envelope) = turn.envelope {
        conclude(db, envelope, now)?;
    }
    if let Some(handled) = &turn.handled
        && !mark(db, handled, now)?
    {
        return Ok(Committed::HandledBefore);
    }
    for change in &turn.changes {
        match change {
            Change::Deliver(delivery) => deliver(db, delivery)?,
            Change::Send(outgoing) => send(db, outgoing)?,
            Change::Put(record) => {
                if !put(db, record, now)? {
                    return Err(Undo::Answer(Committed::Conflict));
                }
            }
            Change::Delete { kind, key } => {
                run(db, "DELETE FROM records WHERE kind = ?1 AND key = ?2", params![kind, key])?;
            }
        }
    }
    Ok(Committed::Done)
}

fn conclude(db: &Connection, envelope: i64, now: Millis) -> rusqlite::Result<()> {
    let remember = "INSERT OR REPLACE INTO concluded (digest, time) SELECT digest, ?2 FROM envelopes WHERE id = ?1";
    run(db, remember, params![envelope, now])?;
    run(db, "DELETE FROM envelopes WHERE id = ?1", [envelope])?;
    Ok(())
}

/// Remembers a message; false if it is remembered already.
fn mark(db: &Connection, handled: &Handled, now: Millis) -> rusqlite::Result<bool> {
    let mark = mark_of(&handled.sender, &handled.recipient, &handled.message);
    let insert = "INSERT INTO handled (mark, until) VALUES (?1, ?2)
        ON CONFLICT (mark) DO UPDATE SET until = excluded.until WHERE until <= ?3";
    Ok(run(db, insert, params![mark, handled.until, now])? == 1)
}

pub(super) fn mark_of(sender: &str, recipient: &str, message: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [sender, recipient, message] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn deliver(db: &Connection, delivery: &Delivery) -> rusqlite::Result<()> {
    let Delivery { id, message, thread, kind, sender, recipient, received, sealed, cursor: _ } = delivery;
    let insert = "INSERT INTO deliveries (id, message, thread, kind, sender, recipient, received, sealed)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    run(db, insert, params![id, message, thread, kind, sender, recipient, received, sealed])?;
    Ok(())
}

fn send(db: &Connection, outgoing: &Outgoing) -> rusqlite::Result<()> {
    let Outgoing { id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, sealed } =
        outgoing;
    let state = rows::state_number(*state);
    let insert = "INSERT INTO outgoing
        (id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, sealed)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let columns =
        params![id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, sealed];
    run(db, insert, columns)?;
    Ok(())
}

/// Writes a record; false if its revision is another by now. One that is past its time is not there.
fn put(db: &Connection, record: &Record, now: Millis) -> rusqlite::Result<bool> {
    let Record { kind, key, revision, value, expires } = record;
    let find = "SELECT revision FROM records WHERE kind = ?1 AND key = ?2 AND ifnull(expires > ?3, true)";
    let found: i64 = one(db, find, params![kind, key, now], |row| row.get(0))?.unwrap_or(0);
    if found != *revision {
        return Ok(false);
    }
    let write = "INSERT OR REPLACE INTO records (kind, key, revision, expires, value) VALUES (?1, ?2, ?3, ?4, ?5)";
    run(db, write, params![kind, key, revision + 1, expires, value])?;
    Ok(true)
}

pub(super) fn acknowledge(db: &Connection, ids: &[String]) -> Outcome<usize> {
    let now = now();
    let update = "UPDATE deliveries SET acknowledged = ?2, sealed = NULL WHERE id = ?1 AND acknowledged IS NULL";
    ids.iter().try_fold(0, |done, id| Ok(done + run(db, update, params![id, now])?))
}

pub(super) fn sent(db: &Connection, id: &str, outcome: &SendOutcome) -> Outcome<()> {
    let later = "UPDATE outgoing SET tries = tries + 1, time = ?2, problem = ?3 WHERE id = ?1 AND state = 0";
    let done = "UPDATE outgoing SET state = ?2, time = ?3, problem = ?4, sealed = NULL WHERE id = ?1 AND state = 0";
    // One that was not sent in its time keeps the reason of the last try.
    let too_late = "UPDATE outgoing SET state = ?2, time = ?3, sealed = NULL WHERE id = ?1 AND state = 0";
    let number = rows::state_number;
    match outcome {
        SendOutcome::Later(until, why) => run(db, later, params![id, until, why])?,
        SendOutcome::Sent(time) => run(db, done, params![id, number(SendState::Sent), time, None::<String>])?,
        SendOutcome::Failed(time, why) => run(db, done, params![id, number(SendState::Failed), time, why])?,
        SendOutcome::Expired(time) => run(db, too_late, params![id, number(SendState::Expired), time])?,
    };
    Ok(())
}

pub(super) fn sweep(db: &Connection, now: Millis, retention: &Retention, limit: i64) -> Outcome<usize> {
    let before = |time: Millis| now.saturating_sub(time);
    // 0 is for ever.
    let deliveries = if retention.deliveries == 0 { Millis::MIN } else { before(retention.deliveries) };
    let steps = [
        (
            "DELETE FROM concluded WHERE digest IN (SELECT digest FROM concluded WHERE time <= ?1 LIMIT ?2)",
            before(retention.digests),
        ),
        (
            "DELETE FROM envelopes WHERE id IN (SELECT id FROM envelopes WHERE received <= ?1 LIMIT ?2)",
            before(retention.envelopes),
        ),
        ("DELETE FROM handled WHERE seq IN (SELECT seq FROM handled WHERE until <= ?1 LIMIT ?2)", now),
        (
            "DELETE FROM outgoing WHERE sequence IN
            (SELECT sequence FROM outgoing WHERE state <> 0 AND time <= ?1 LIMIT ?2)",
            before(retention.history),
        ),
        ("DELETE FROM records WHERE (kind, key) IN (SELECT kind, key FROM records WHERE expires <= ?1 LIMIT ?2)", now),
    ];
    let mut gone = 0;
    for (sql, until) in steps {
        gone += run(db, sql, params![until, limit])?;
    }
    // Two reasons for one table, which share the limit.
    let history = "DELETE FROM deliveries WHERE cursor IN
        (SELECT cursor FROM deliveries WHERE acknowledged <= ?1 LIMIT ?2)";
    let known = run(db, history, params![before(retention.history), limit])?;
    let unread = "DELETE FROM deliveries WHERE cursor IN
        (SELECT cursor FROM deliveries WHERE acknowledged IS NULL AND received <= ?1 LIMIT ?2)";
    let left = limit.saturating_sub(i64::try_from(known).unwrap_or(i64::MAX));
    let unread = run(db, unread, params![deliveries, left])?;
    Ok(gone + known + unread)
}

pub(super) fn probe(db: &Connection) -> Outcome<()> {
    let write = "INSERT INTO meta (name, value) VALUES ('probe', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1";
    run(db, write, [])?;
    Ok(())
}

/// The system's clock.
pub(super) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

fn run(db: &Connection, sql: &str, parameters: impl Params) -> rusqlite::Result<usize> {
    db.prepare_cached(sql)?.execute(parameters)
}

fn one<T>(
    db: &Connection,
    sql: &str,
    parameters: impl Params,
    read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    db.prepare_cached(sql)?.query_row(parameters, read).optional()
}
