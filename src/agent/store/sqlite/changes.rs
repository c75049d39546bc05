//! The write requests in SQL. A request has the name of its method in the trait `Store`, and runs in a savepoint of the
//! writer's transaction.

use rusqlite::{Connection, Row, params};

use super::{
    envelopes::{self, Arrival},
    events,
    options::SqliteOptions,
    queries,
    rows::{self, OUTGOING},
    statement::{execute, query_all, query_one},
    strangers,
    writer::{Outcome, Rollback},
};
use crate::agent::{
    clock::now,
    store::{
        digests::handled_mark,
        event::NewEvent,
        types::{
            Change, Commit, CommitOutcome, Delivery, EventOfExpired, Expectation, HandledMessage, Millis, OutboxEntry,
            Record, Retention, SendOutcome, SendState, Stranger, UNREAD,
        },
    },
};

pub(super) fn commit(db: &Connection, commit: &Commit, limits: &SqliteOptions) -> Outcome<CommitOutcome> {
    let now = now();
    for Expectation { kind, key, revision } in &commit.expects {
        if current_revision(db, kind, key, now)? != *revision {
            return Err(Rollback::Answer(CommitOutcome::Conflict));
        }
    }
    if let Some(room) = &commit.room {
        let quota = queries::peer_quota(db, &room.peer, room.is_stranger, limits)?;
        if !quota.has(room) {
            return Err(Rollback::Answer(CommitOutcome::NoRoom(quota)));
        }
    }
    // Remove the envelope before the other changes, so that these can use its database pages.
    if let Some(envelope) = commit.envelope {
        envelopes::remove(db, envelope, now)?;
    }
    if let Some(arrived) = &commit.arrived {
        match envelopes::check_arrival(db, arrived, limits)? {
            Arrival::Processed => return Ok(CommitOutcome::Duplicate),
            Arrival::Pending(id) => envelopes::remove(db, id, now)?,
            Arrival::New { .. } => {
                execute(db, "INSERT INTO concluded (digest, time) VALUES (?1, ?2)", params![arrived.digest, now])?;
            }
        }
    }
    let stranger = commit.stranger.as_ref();
    if let Some(handled) = &commit.handled {
        if !mark_handled(db, handled, stranger)? {
            return Ok(CommitOutcome::Duplicate);
        }
        for (sender, recipient) in &handled.earlier {
            let (sender, recipient) = (sender.clone(), recipient.clone());
            if !mark_handled(db, &HandledMessage { sender, recipient, ..handled.clone() }, stranger)? {
                return Err(Rollback::Answer(CommitOutcome::Conflict));
            }
        }
        match stranger {
            Some(stranger) => strangers::bound_marks(db, stranger, now, limits)?,
            None => strangers::check_age(db, commit.created_by_stranger)?,
        }
    }
    for change in &commit.changes {
        match change {
            Change::Deliver(delivery) => deliver(db, delivery, stranger.is_some())?,
            Change::Send(entry) => send(db, entry)?,
            Change::Put(record) | Change::Remember(record) => {
                let Revisions { current, next } = revisions(db, &record.kind, &record.key, now)?;
                if record.revision != UNREAD && current != record.revision {
                    return Err(Rollback::Answer(CommitOutcome::Conflict));
                }
                let written = Record { revision: next, ..record.clone() };
                match (change, stranger) {
                    (Change::Remember(_), Some(stranger)) => {
                        strangers::remember(db, &written, &stranger.did, now, limits)?;
                    }
                    _ => put(db, &written)?,
                }
            }
            Change::Keep(peer) => strangers::keep(db, peer)?,
            Change::Event(event) => events::record(db, event, stranger.is_some())?,
            Change::Delete { kind, key } => {
                execute(db, "DELETE FROM records WHERE kind = ?1 AND key = ?2", params![kind, key])?;
            }
        }
    }
    Ok(CommitOutcome::Committed)
}

/// Marks a message as handled. Returns false if it has a mark already.
fn mark_handled(db: &Connection, handled: &HandledMessage, stranger: Option<&Stranger>) -> rusqlite::Result<bool> {
    let mark = handled_mark(&handled.sender, &handled.recipient, &handled.message);
    let insert = "INSERT INTO handled (mark, until, stranger, created) VALUES (?1, ?2, ?4, ?5)
        ON CONFLICT (mark) DO UPDATE SET until = excluded.until WHERE until <= ?3";
    let created = stranger.and_then(|stranger| stranger.created);
    Ok(execute(db, insert, params![mark, handled.until, handled.received, stranger.is_some(), created])? == 1)
}

fn deliver(db: &Connection, delivery: &Delivery, of_stranger: bool) -> rusqlite::Result<()> {
    let Delivery { id, message, thread, kind, sender, recipient, received, sealed, cursor: _ } = delivery;
    let insert = "INSERT INTO deliveries (id, message, thread, kind, sender, recipient, received, sealed, stranger)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    execute(db, insert, params![id, message, thread, kind, sender, recipient, received, sealed, of_stranger])?;
    Ok(())
}

fn send(db: &Connection, entry: &OutboxEntry) -> rusqlite::Result<()> {
    let OutboxEntry { id, message, thread, kind, sender, peer, created, expires, tries, time, problem, .. } = entry;
    let (state, sealed) = (rows::state_number(entry.state), &entry.sealed);
    let (to_stranger, by_application) = (entry.to_stranger, entry.by_application);
    let insert = "INSERT INTO outgoing
        (id, message, thread, kind, sender, peer, created, expires, state, tries, time, problem, to_stranger, by_application,
            sealed)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
    let columns = params![
        id,
        message,
        thread,
        kind,
        sender,
        peer,
        created,
        expires,
        state,
        tries,
        time,
        problem,
        to_stranger,
        by_application,
        sealed
    ];
    execute(db, insert, columns)?;
    Ok(())
}

/// The revisions of a record.
struct Revisions {
    /// The stored revision, or 0 if there is none. An expired record counts as deleted.
    current: i64,
    /// The revision that a write gives the record.
    next: i64,
}

/// Returns the stored revision of a record: [`Revisions::current`].
fn current_revision(db: &Connection, kind: &str, key: &str, now: Millis) -> rusqlite::Result<i64> {
    let find = "SELECT revision FROM records WHERE kind = ?1 AND key = ?2 AND ifnull(expires > ?3, true)";
    Ok(query_one(db, find, params![kind, key, now], |row| row.get(0))?.unwrap_or(0))
}

fn revisions(db: &Connection, kind: &str, key: &str, now: Millis) -> rusqlite::Result<Revisions> {
    let find = "SELECT revision, ifnull(expires > ?3, true) FROM records WHERE kind = ?1 AND key = ?2";
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?));
    if let Some((revision, is_valid)) = query_one(db, find, params![kind, key, now], read)? {
        return Ok(Revisions { current: if is_valid { revision } else { 0 }, next: revision + 1 });
    }
    let deleted = "SELECT value FROM meta WHERE name = 'deleted_revision'";
    let deleted = query_one(db, deleted, [], |row| row.get(0))?.unwrap_or(0);
    Ok(Revisions { current: 0, next: deleted + 1 })
}

/// Writes a record that is kept.
fn put(db: &Connection, record: &Record) -> rusqlite::Result<()> {
    let Record { kind, key, revision, value, expires } = record;
    // Most records are kept already. Their columns `peer` and `seen`, and the indexes on these, stay as they are.
    let update = "UPDATE records SET revision = ?3, expires = ?4, value = ?5
        WHERE kind = ?1 AND key = ?2 AND peer IS NULL";
    if execute(db, update, params![kind, key, revision, expires, value])? == 1 {
        return Ok(());
    }
    let write = "INSERT INTO records (kind, key, revision, expires, value) VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT (kind, key) DO UPDATE SET revision = excluded.revision, expires = excluded.expires,
            value = excluded.value, peer = NULL, seen = NULL";
    execute(db, write, params![kind, key, revision, expires, value])?;
    Ok(())
}

pub(super) fn acknowledge(db: &Connection, ids: &[String]) -> Outcome<usize> {
    let now = now();
    let update = "UPDATE deliveries SET acknowledged = ?2, sealed = NULL WHERE id = ?1 AND acknowledged IS NULL";
    ids.iter().try_fold(0, |done, id| Ok(done + execute(db, update, params![id, now])?))
}

pub(super) fn record_send_outcome(
    db: &Connection,
    id: &str,
    outcome: &SendOutcome,
    event: Option<&NewEvent>,
) -> Outcome<()> {
    let later = "UPDATE outgoing SET tries = tries + 1, time = ?2, problem = ?3 WHERE id = ?1 AND state = 0";
    let done = "UPDATE outgoing SET tries = tries + 1, state = ?2, time = ?3, problem = ?4, sealed = NULL
        WHERE id = ?1 AND state = 0";
    // The message may have expired, or may have been cancelled, during the attempt.
    let sent =
        "UPDATE outgoing SET tries = tries + 1, state = ?2, time = ?3, problem = NULL, sealed = NULL, cancelled = 0
        WHERE id = ?1 AND (state IN (0, ?4) OR cancelled)";
    // An expired message keeps the reason of its last attempt.
    let expired = "UPDATE outgoing SET state = ?2, time = ?3, sealed = NULL WHERE id = ?1 AND state = 0";
    let number = rows::state_number;
    let changed = match outcome {
        SendOutcome::Later(until, reason) => execute(db, later, params![id, until, reason])?,
        SendOutcome::Sent(time) => {
            execute(db, sent, params![id, number(SendState::Sent), time, number(SendState::Expired)])?
        }
        SendOutcome::Failed(time, reason) => execute(db, done, params![id, number(SendState::Failed), time, reason])?,
        SendOutcome::Expired(time) => execute(db, expired, params![id, number(SendState::Expired), time])?,
    };
    if let Some(event) = event.filter(|_| changed == 1) {
        events::record(db, event, false)?;
    }
    Ok(())
}

pub(super) fn cancel_outgoing(db: &Connection, id: &str, time: Millis) -> Outcome<bool> {
    // A cancelled message keeps the reason of its last attempt.
    let update = "UPDATE outgoing SET state = ?2, cancelled = 1, time = ?3, sealed = NULL WHERE id = ?1 AND state = 0";
    Ok(execute(db, update, params![id, rows::state_number(SendState::Cancelled), time])? == 1)
}

pub(super) fn expire_outgoing(
    db: &Connection,
    now: Millis,
    limit: i64,
    event: EventOfExpired,
) -> Outcome<Vec<OutboxEntry>> {
    // An expired message keeps the reason of its last attempt.
    let update = format!(
        "UPDATE outgoing SET state = ?3, time = ?1, sealed = NULL WHERE sequence IN
        (SELECT sequence FROM outgoing INDEXED BY outgoing_expires
            WHERE state = 0 AND expires <= ?1 ORDER BY expires LIMIT ?2)
        RETURNING {OUTGOING}"
    );
    let state = rows::state_number(SendState::Expired);
    let expired = query_all(db, &update, params![now, limit, state], rows::outbox_entry)?;
    for event in expired.iter().filter_map(event) {
        events::record(db, &event, false)?;
    }
    Ok(expired)
}

pub(super) fn delete_expired(
    db: &Connection,
    now: Millis,
    retention: &Retention,
    limit: i64,
    limits: &SqliteOptions,
) -> Outcome<usize> {
    let before = |time: Millis| now.saturating_sub(time);
    // 0 keeps deliveries for ever.
    let deliveries = if retention.deliveries == 0 { Millis::MIN } else { before(retention.deliveries) };
    let steps = [
        (
            "DELETE FROM concluded WHERE digest IN (SELECT digest FROM concluded WHERE time <= ?1 LIMIT ?2)",
            before(retention.digests),
        ),
        // A copy of the message that arrived in time may still wait for a token.
        (
            "DELETE FROM handled WHERE seq IN (SELECT seq FROM handled
                WHERE until <= min(?1, ifnull((SELECT min(received) FROM envelopes), ?1)) LIMIT ?2)",
            now,
        ),
        (
            "DELETE FROM outgoing WHERE sequence IN
            (SELECT sequence FROM outgoing WHERE state <> 0 AND time <= ?1 LIMIT ?2)",
            before(retention.history),
        ),
        // Those that have expired meanwhile.
        (
            "DELETE FROM outgoing WHERE sequence IN (SELECT sequence FROM outgoing
                INDEXED BY outgoing_replies_done WHERE to_stranger = 1 AND state <> 0 AND time <= ?1 LIMIT ?2)",
            now,
        ),
        ("DELETE FROM records WHERE rowid IN (SELECT rowid FROM records WHERE expires <= ?1 LIMIT ?2)", now),
    ];
    let mut deleted = strangers::forget(db, before(retention.strangers), limit)?;
    deleted += strangers::bound_history(db, limit, limits)?;
    deleted += events::delete_expired(db, before(retention.history), limits.max_events, limit)?;
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
    deleted += known + execute(db, unread, params![deliveries, left])?;
    // Counting the digests takes a while, so it waits until nothing else is left.
    if i64::try_from(deleted).is_ok_and(|deleted| deleted < limit) {
        deleted += strangers::bound_digests(db, limit)?;
    }
    Ok(deleted)
}

pub(super) fn probe_write(db: &Connection) -> Outcome<()> {
    let write = "INSERT INTO meta (name, value) VALUES ('probe', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1";
    execute(db, write, [])?;
    Ok(())
}
