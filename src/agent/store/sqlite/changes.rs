//! The write requests in SQL. A request has the name of its method in the trait `Store`, and runs in a savepoint of the
//! writer's transaction.

use rusqlite::{Connection, Row, params};
use sha2::{Digest, Sha256};

use super::{
    options::SqliteOptions,
    queries, rows,
    statement::{execute, query_all, query_one},
    writer::Rollback,
};
use crate::agent::{
    clock::now,
    store::{
        error::StoreError,
        types::{
            Change, Commit, CommitOutcome, Delivery, ExpiredMessage, HandledMessage, Millis, NewEnvelope, OutboxEntry,
            ReceiveOutcome, Record, Retention, SendOutcome, SendState,
        },
    },
};

/// The answer to a request, or why its changes are rolled back.
type Outcome<T> = Result<T, Rollback<T>>;

pub(super) fn receive(db: &Connection, envelope: &NewEnvelope, limits: &SqliteOptions) -> Outcome<ReceiveOutcome> {
    let pending = "SELECT id FROM envelopes WHERE digest = ?1";
    if let Some(id) = query_one(db, pending, [envelope.digest], |row| row.get(0))? {
        return Ok(ReceiveOutcome::AlreadyPending(id));
    }
    if query_one(db, "SELECT 1 FROM concluded WHERE digest = ?1", [envelope.digest], |_| Ok(()))?.is_some() {
        return Ok(ReceiveOutcome::AlreadyProcessed);
    }
    if let Some(reason) = exceeded_limit(db, envelope, limits)? {
        return Err(Rollback::Error(StoreError::Full(reason)));
    }
    let insert = "INSERT INTO envelopes (digest, recipient, received, packed, charged) VALUES (?1, ?2, ?3, ?4, ?5)";
    let quota_checked = envelope.sender.is_some();
    execute(
        db,
        insert,
        params![envelope.digest, envelope.recipient, envelope.received, envelope.packed, quota_checked],
    )?;
    Ok(ReceiveOutcome::Stored(db.last_insert_rowid()))
}

/// Returns which limit the envelope would exceed, as a message for people. `None` if it would exceed none.
fn exceeded_limit(db: &Connection, envelope: &NewEnvelope, limits: &SqliteOptions) -> rusqlite::Result<Option<String>> {
    let bytes: i64 = query_one(db, "SELECT bytes FROM total_load", [], |row| row.get(0))?.unwrap_or(0);
    if bytes.unsigned_abs().saturating_add(envelope.packed.len() as u64) > limits.max_envelope_bytes {
        return Ok(Some(format!("pending envelopes have {bytes} of at most {} bytes", limits.max_envelope_bytes)));
    }
    let load = "SELECT envelopes, bytes FROM load WHERE recipient = ?1";
    let (envelopes, bytes): (i64, i64) =
        query_one(db, load, [&envelope.recipient], |row| Ok((row.get(0)?, row.get(1)?)))?.unwrap_or_default();
    let bytes_with_this = bytes.unsigned_abs().saturating_add(envelope.packed.len() as u64);
    if envelopes.unsigned_abs() >= limits.max_envelopes_for || bytes_with_this > limits.max_envelope_bytes_for {
        return Ok(Some(format!("{envelopes} envelopes with {bytes} bytes are pending for {}", envelope.recipient)));
    }
    let unread: i64 = query_one(db, "SELECT bytes FROM total_unread", [], |row| row.get(0))?.unwrap_or(0);
    if unread.unsigned_abs() >= limits.max_unread_bytes {
        return Ok(Some(format!(
            "unacknowledged deliveries have {unread} of at most {} bytes",
            limits.max_unread_bytes
        )));
    }
    let Some(sender) = &envelope.sender else { return Ok(None) };
    let has_room = queries::peer_quota(db, sender, limits)?.may_deliver;
    Ok((!has_room).then(|| format!("{sender} has too many unacknowledged deliveries")))
}

pub(super) fn postpone(db: &Connection, envelope: i64, until: Millis, reason: &str) -> Outcome<()> {
    let update = "UPDATE envelopes SET tries = tries + 1, next_try = ?2, problem = ?3 WHERE id = ?1";
    execute(db, update, params![envelope, until, reason])?;
    Ok(())
}

pub(super) fn commit(db: &Connection, commit: &Commit) -> Outcome<CommitOutcome> {
    let now = now();
    // Remove the envelope first, so that the other changes can use its database pages.
    if let Some(envelope) = commit.envelope {
        remove_envelope(db, envelope, now)?;
    }
    if let Some(handled) = &commit.handled
        && !mark_handled(db, handled, now)?
    {
        return Ok(CommitOutcome::Duplicate);
    }
    for change in &commit.changes {
        match change {
            Change::Deliver(delivery) => deliver(db, delivery)?,
            Change::Send(entry) => send(db, entry)?,
            Change::Put(record) => {
                if !put(db, record, now)? {
                    return Err(Rollback::Answer(CommitOutcome::Conflict));
                }
            }
            Change::Delete { kind, key } => {
                execute(db, "DELETE FROM records WHERE kind = ?1 AND key = ?2", params![kind, key])?;
            }
        }
    }
    Ok(CommitOutcome::Committed)
}

/// Removes an envelope, and remembers its digest.
fn remove_envelope(db: &Connection, envelope: i64, now: Millis) -> rusqlite::Result<()> {
    let remember = "INSERT OR REPLACE INTO concluded (digest, time) SELECT digest, ?2 FROM envelopes WHERE id = ?1";
    execute(db, remember, params![envelope, now])?;
    execute(db, "DELETE FROM envelopes WHERE id = ?1", [envelope])?;
    Ok(())
}

/// Marks a message as handled. Returns false if it has a mark already.
fn mark_handled(db: &Connection, handled: &HandledMessage, now: Millis) -> rusqlite::Result<bool> {
    let mark = handled_mark(&handled.sender, &handled.recipient, &handled.message);
    let insert = "INSERT INTO handled (mark, until) VALUES (?1, ?2)
        ON CONFLICT (mark) DO UPDATE SET until = excluded.until WHERE until <= ?3";
    Ok(execute(db, insert, params![mark, handled.until, now])? == 1)
}

/// Returns the mark of a message: a hash, since DIDs are long.
pub(super) fn handled_mark(sender: &str, recipient: &str, message: &str) -> [u8; 32] {
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
    execute(db, insert, params![id, message, thread, kind, sender, recipient, received, sealed])?;
    Ok(())
}

fn send(db: &Connection, entry: &OutboxEntry) -> rusqlite::Result<()> {
    let OutboxEntry { id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, sealed } =
        entry;
    let state = rows::state_number(*state);
    let insert = "INSERT INTO outgoing
        (id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, sealed)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let columns =
        params![id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, sealed];
    execute(db, insert, columns)?;
    Ok(())
}

/// Writes a record. Returns false if the stored revision is not that of `record`. An expired record counts as deleted.
fn put(db: &Connection, record: &Record, now: Millis) -> rusqlite::Result<bool> {
    let Record { kind, key, revision, value, expires } = record;
    let find = "SELECT revision FROM records WHERE kind = ?1 AND key = ?2 AND ifnull(expires > ?3, true)";
    let found: i64 = query_one(db, find, params![kind, key, now], |row| row.get(0))?.unwrap_or(0);
    if found != *revision {
        return Ok(false);
    }
    let write = "INSERT OR REPLACE INTO records (kind, key, revision, expires, value) VALUES (?1, ?2, ?3, ?4, ?5)";
    execute(db, write, params![kind, key, revision + 1, expires, value])?;
    Ok(true)
}

pub(super) fn acknowledge(db: &Connection, ids: &[String]) -> Outcome<usize> {
    let now = now();
    let update = "UPDATE deliveries SET acknowledged = ?2, sealed = NULL WHERE id = ?1 AND acknowledged IS NULL";
    ids.iter().try_fold(0, |done, id| Ok(done + execute(db, update, params![id, now])?))
}

pub(super) fn record_send_outcome(db: &Connection, id: &str, outcome: &SendOutcome) -> Outcome<()> {
    let later = "UPDATE outgoing SET tries = tries + 1, time = ?2, problem = ?3 WHERE id = ?1 AND state = 0";
    let done = "UPDATE outgoing SET state = ?2, time = ?3, problem = ?4, sealed = NULL WHERE id = ?1 AND state = 0";
    // The message may have expired during the attempt.
    let sent = "UPDATE outgoing SET state = ?2, time = ?3, problem = NULL, sealed = NULL
        WHERE id = ?1 AND state IN (0, ?4)";
    // An expired message keeps the reason of its last attempt.
    let expired = "UPDATE outgoing SET state = ?2, time = ?3, sealed = NULL WHERE id = ?1 AND state = 0";
    let number = rows::state_number;
    match outcome {
        SendOutcome::Later(until, reason) => execute(db, later, params![id, until, reason])?,
        SendOutcome::Sent(time) => {
            execute(db, sent, params![id, number(SendState::Sent), time, number(SendState::Expired)])?
        }
        SendOutcome::Failed(time, reason) => execute(db, done, params![id, number(SendState::Failed), time, reason])?,
        SendOutcome::Expired(time) => execute(db, expired, params![id, number(SendState::Expired), time])?,
    };
    Ok(())
}

pub(super) fn expire_outgoing(db: &Connection, now: Millis, limit: i64) -> Outcome<Vec<ExpiredMessage>> {
    // An expired message keeps the reason of its last attempt.
    let update = "UPDATE outgoing SET state = ?3, time = ?1, sealed = NULL WHERE sequence IN
        (SELECT sequence FROM outgoing INDEXED BY outgoing_expires
            WHERE state = 0 AND expires <= ?1 ORDER BY expires LIMIT ?2)
        RETURNING message, kind, problem";
    let expired = rows::state_number(SendState::Expired);
    let read = |row: &Row<'_>| Ok(ExpiredMessage { message: row.get(0)?, kind: row.get(1)?, problem: row.get(2)? });
    Ok(query_all(db, update, params![now, limit, expired], read)?)
}

pub(super) fn delete_expired(db: &Connection, now: Millis, retention: &Retention, limit: i64) -> Outcome<usize> {
    let before = |time: Millis| now.saturating_sub(time);
    // 0 keeps deliveries for ever.
    let deliveries = if retention.deliveries == 0 { Millis::MIN } else { before(retention.deliveries) };
    let steps = [
        (
            "DELETE FROM concluded WHERE digest IN (SELECT digest FROM concluded WHERE time <= ?1 LIMIT ?2)",
            before(retention.digests),
        ),
        // Envelopes that were not opened, also those that only waited for a token.
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
    let mut deleted = 0;
    for (sql, until) in steps {
        deleted += execute(db, sql, params![until, limit])?;
    }
    // Two statements for one table share the limit.
    let history = "DELETE FROM deliveries WHERE cursor IN
        (SELECT cursor FROM deliveries WHERE acknowledged <= ?1 LIMIT ?2)";
    let known = execute(db, history, params![before(retention.history), limit])?;
    let unread = "DELETE FROM deliveries WHERE cursor IN
        (SELECT cursor FROM deliveries WHERE acknowledged IS NULL AND received <= ?1 LIMIT ?2)";
    let left = limit.saturating_sub(i64::try_from(known).unwrap_or(i64::MAX));
    let unread = execute(db, unread, params![deliveries, left])?;
    Ok(deleted + known + unread)
}

pub(super) fn probe_write(db: &Connection) -> Outcome<()> {
    let write = "INSERT INTO meta (name, value) VALUES ('probe', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1";
    execute(db, write, [])?;
    Ok(())
}
