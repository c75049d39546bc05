//! The write requests in SQL. A request has the name of its method in the trait `Store`, and runs in the transaction of its
//! batch.

use super::{
    envelopes::{self, Arrival},
    events,
    handover::needed_to_send,
    queries, records,
    recount::{count_deliveries, count_outgoing},
    request::{Outcome, Rollback},
    rows::{self, OUTGOING, SEQUENCE, state_number},
    session::{limit_parameter, params},
    strangers,
    text::{all_stored, stored, text},
    totals::{Count, Counter},
    transaction::Db,
};
use crate::agent::{
    clock::now,
    store::{
        digests::handled_mark,
        event::NewEvent,
        types::{
            Change, Commit, CommitOutcome, Delivery, EventOfExpired, HandledMessage, Millis, OutboxEntry, Retention,
            SendOutcome, SendState, Stranger,
        },
    },
};

pub(super) async fn commit(db: &Db<'_>, commit: &Commit) -> Outcome<CommitOutcome> {
    let now = now();
    // Checked before the first change: otherwise the whole batch is done again.
    let arrived = match &commit.arrived {
        Some(arrived) => Some((arrived, envelopes::look_up(db, arrived, &commit.expects).await?)),
        None => None,
    };
    let is_unchanged = match &arrived {
        Some((_, found)) => found.is_unchanged,
        None => records::are_unchanged(db, &commit.expects, now).await?,
    };
    if !is_unchanged {
        return Err(Rollback::Answer(CommitOutcome::Conflict));
    }
    if let Some(room) = &commit.room {
        let quota = queries::quota(|counter| db.count(counter), &room.peer, room.is_stranger, db.limits());
        if !quota.has(room) {
            return Err(Rollback::Answer(CommitOutcome::NoRoom(quota)));
        }
    }
    if let Some(envelope) = commit.envelope {
        envelopes::remove(db, envelope, now).await?;
    }
    let mut concluded = None;
    if let Some((arrived, found)) = arrived {
        match envelopes::check_arrival(db, arrived, &found)? {
            Arrival::Processed => return Ok(CommitOutcome::Duplicate),
            Arrival::Pending(id) => envelopes::remove(db, id, now).await?,
            Arrival::New { .. } if commit.handled.is_some() => concluded = Some((&arrived.digest[..], now)),
            Arrival::New { .. } => {
                let remember = "INSERT INTO concluded (digest, time) VALUES ($1, $2)";
                db.execute(remember, params![&arrived.digest[..], now]).await?;
            }
        }
    }
    let stranger = commit.stranger.as_ref();
    if let Some(handled) = &commit.handled {
        if !mark_handled(db, handled, stranger, concluded).await? {
            return Ok(CommitOutcome::Duplicate);
        }
        for (sender, recipient) in &handled.earlier {
            let (sender, recipient) = (sender.clone(), recipient.clone());
            let earlier = HandledMessage { sender, recipient, ..handled.clone() };
            if !mark_handled(db, &earlier, stranger, None).await? {
                return Err(Rollback::Answer(CommitOutcome::Conflict));
            }
        }
        strangers::check_age(db, stranger.map_or(commit.created_by_stranger, |stranger| stranger.created)).await?;
        if let Some(stranger) = stranger {
            strangers::bound_marks(db, stranger, now).await?;
        }
    }
    for change in &commit.changes {
        match change {
            Change::Deliver(delivery) => deliver(db, delivery, stranger.is_some()).await?,
            Change::Send(entry) => send(db, entry).await?,
            Change::Put(record) | Change::Remember(record) => {
                let is_written = match (change, stranger) {
                    (Change::Remember(_), Some(stranger)) => {
                        strangers::remember(db, record, &stranger.did, now).await?
                    }
                    _ => records::put(db, record, None, now).await?,
                };
                if !is_written {
                    return Err(Rollback::Answer(CommitOutcome::Conflict));
                }
            }
            Change::Keep(peer) => strangers::keep(db, peer).await?,
            Change::Event(event) => events::record(db, event, stranger.is_some()).await?,
            Change::Delete { kind, key } => {
                records::delete(db, kind, key).await?;
            }
        }
    }
    Ok(CommitOutcome::Committed)
}

/// Marks a message as handled, and remembers the digest of its envelope, with the time, in the same statement. Returns false if
/// the message has a mark already; the digest is remembered all the same.
async fn mark_handled(
    db: &Db<'_>,
    handled: &HandledMessage,
    stranger: Option<&Stranger>,
    concluded: Option<(&[u8], Millis)>,
) -> Result<bool, tokio_postgres::Error> {
    let mark = handled_mark(&handled.sender, &handled.recipient, &handled.message);
    let insert = "WITH old AS (SELECT FROM handled WHERE mark = $1),
            concluded AS (INSERT INTO concluded (digest, time) SELECT $6::bytea, $7::int8 WHERE $6::bytea IS NOT NULL)
        INSERT INTO handled (mark, until, stranger, created) VALUES ($1, $2, $4, $5)
        ON CONFLICT (mark) DO UPDATE SET until = excluded.until WHERE handled.until <= $3
        RETURNING EXISTS (SELECT FROM old)";
    let created = stranger.and_then(|stranger| stranger.created);
    let (digest, time) = concluded.unzip();
    if concluded.is_some() {
        db.note_change(true);
    }
    let parameters = params![&mark[..], handled.until, handled.received, stranger.is_some(), created, digest, time];
    let Some(row) = db.change(insert, parameters).await?.pop() else { return Ok(false) };
    if stranger.is_some() && !row.get::<_, bool>(0) {
        db.add(|counts| counts.add(Counter::StrangerMarks, Count::of(1, 0)));
    }
    Ok(true)
}

async fn deliver(db: &Db<'_>, delivery: &Delivery, of_stranger: bool) -> Result<(), tokio_postgres::Error> {
    let Delivery { id, message, thread, kind, sender, recipient, received, sealed, cursor: _ } = delivery;
    let insert = "INSERT INTO deliveries (id, message, thread, kind, sender, recipient, received, sealed, stranger)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let [id, message, thread, kind, recipient] = [id, message, thread, kind, recipient].map(|text| stored(text));
    let parameters = params![id, message, thread, kind, stored(sender), recipient, received, sealed, of_stranger];
    db.execute(insert, parameters).await?;
    db.tell(|told| told.delivered(&delivery.id));
    let size = sealed.as_ref().map_or(0, Vec::len) as i64;
    db.add(|counts| count_deliveries(counts, sender.clone(), of_stranger, Count::of(1, size)));
    Ok(())
}

async fn send(db: &Db<'_>, entry: &OutboxEntry) -> Result<(), tokio_postgres::Error> {
    let OutboxEntry { id, message, thread, kind, sender, peer, created, expires, tries, time, problem, .. } = entry;
    let insert = "INSERT INTO outgoing (id, message, thread, kind, sender, peer, created, expires, state, tries, time,
            problem, to_stranger, by_application, sealed, node)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";
    // No other request of the batch comes between this and the count.
    let node = sending_node(db, peer, sender);
    let [id, message, thread, kind, sender] = [id, message, thread, kind, sender].map(|text| stored(text));
    let parameters = params![
        id,
        message,
        thread,
        kind,
        sender,
        stored(peer),
        created,
        expires,
        state_number(entry.state),
        i64::from(*tries),
        time,
        problem.as_deref().map(stored),
        entry.to_stranger,
        entry.by_application,
        entry.sealed,
        node.unwrap_or(0),
    ];
    if entry.state == SendState::Waiting {
        db.add(|counts| count_outgoing(counts, peer.clone(), entry.to_stranger, node, 1));
        db.tell(|told| told.sent(node.unwrap_or(0), peer));
    }
    db.execute(insert, parameters).await.map(drop)
}

/// Returns the node that sends the messages for a peer: the one that has waiting messages for the peer, else this one, or one
/// that has a key of the sender ready. `None` if this agent has the database for itself.
fn sending_node(db: &Db<'_>, peer: &str, sender: &str) -> Option<i64> {
    let this = db.node().worker()?;
    let sends = |node: &i64| db.count(&Counter::UnsentBy(*node, peer.to_owned())).number > 0;
    let has_waiting = db.node().nodes().into_iter().find(sends);
    has_waiting.or_else(|| db.node().worker_for(&needed_to_send(sender))).or(Some(this))
}

pub(super) async fn acknowledge(db: &Db<'_>, ids: &[String]) -> Outcome<usize> {
    let now = now();
    let update = "WITH wanted AS (
            SELECT cursor, sender, stranger, coalesce(octet_length(sealed), 0) AS size
            FROM deliveries WHERE id = ANY($1) AND acknowledged IS NULL),
        done AS (UPDATE deliveries SET acknowledged = $2, sealed = NULL WHERE cursor IN (SELECT cursor FROM wanted))
        SELECT sender, stranger, count(*), sum(size)::int8 FROM wanted GROUP BY sender, stranger";
    let mut acknowledged = 0;
    for row in db.change(update, params![all_stored(ids), now]).await? {
        let (sender, of_stranger, number) = (text(&row, 0)?, row.get(1), row.get::<_, i64>(2));
        if of_stranger {
            // The application may answer a stranger for a while after it has acknowledged the message.
            let seen = "UPDATE records SET seen = greatest(seen, $2) WHERE peer = $1";
            db.execute(seen, params![stored(&sender), now]).await?;
        }
        db.add(|counts| count_deliveries(counts, sender, of_stranger, Count::of(-number, -row.get::<_, i64>(3))));
        acknowledged += usize::try_from(number).unwrap_or(0);
    }
    Ok(acknowledged)
}

pub(super) async fn record_send_outcome(
    db: &Db<'_>,
    id: &str,
    outcome: &SendOutcome,
    event: Option<&NewEvent>,
) -> Outcome<()> {
    let waiting = state_number(SendState::Waiting);
    let is_changed = match outcome {
        SendOutcome::Later(until, reason) => {
            let later = "UPDATE outgoing SET tries = tries + 1, time = $2, problem = $3 WHERE id = $1 AND state = 0";
            db.execute(later, params![stored(id), until, stored(reason)]).await? == 1
        }
        // The message may have expired, or may have been cancelled, during the attempt.
        SendOutcome::Sent(time) => {
            let from = [waiting, state_number(SendState::Expired), state_number(SendState::Cancelled)];
            let end = End { state: SendState::Sent, time: *time, attempts: 1, problem: Some(None) };
            finish(db, id, &from, end).await?
        }
        SendOutcome::Failed(time, reason) => {
            let end = End { state: SendState::Failed, time: *time, attempts: 1, problem: Some(Some(reason)) };
            finish(db, id, &[waiting], end).await?
        }
        SendOutcome::Expired(time) => {
            let end = End { state: SendState::Expired, time: *time, attempts: 0, problem: None };
            finish(db, id, &[waiting], end).await?
        }
    };
    if let Some(event) = event.filter(|_| is_changed) {
        events::record(db, event, false).await?;
    }
    Ok(())
}

pub(super) async fn cancel_outgoing(db: &Db<'_>, id: &str, time: Millis) -> Outcome<bool> {
    let end = End { state: SendState::Cancelled, time, attempts: 0, problem: None };
    Ok(finish(db, id, &[state_number(SendState::Waiting)], end).await?)
}

/// How a message ends.
struct End<'a> {
    state: SendState,
    time: Millis,
    /// How many attempts are added.
    attempts: i64,
    /// `None`: the message keeps the reason of its last attempt.
    problem: Option<Option<&'a str>>,
}

/// Ends a message that has one of these states, and deletes its content; an automatic reply to a stranger is deleted. Returns
/// whether there is such a message.
async fn finish(db: &Db<'_>, id: &str, from: &[i64], end: End<'_>) -> Result<bool, tokio_postgres::Error> {
    let update =
        "WITH old AS (SELECT sequence, peer, state, to_stranger, node FROM outgoing WHERE id = $1 AND state = ANY($2)),
        gone AS (DELETE FROM outgoing WHERE sequence IN (SELECT sequence FROM old WHERE to_stranger)),
        done AS (UPDATE outgoing SET state = $3, time = $4, tries = tries + $5, sealed = NULL,
                problem = CASE WHEN $6 THEN problem ELSE $7 END
            WHERE sequence IN (SELECT sequence FROM old WHERE NOT to_stranger))
        SELECT peer, state, to_stranger, node FROM old";
    let End { state, time, attempts, problem } = end;
    let new_problem = problem.flatten().map(stored);
    let parameters = params![stored(id), from, state_number(state), time, attempts, problem.is_none(), new_problem];
    let Some(row) = db.change(update, parameters).await?.pop() else { return Ok(false) };
    if row.get::<_, i64>(1) == state_number(SendState::Waiting) {
        let (peer, node) = (text(&row, 0)?, db.node().is_shared().then(|| row.get(3)));
        db.add(|counts| count_outgoing(counts, peer, row.get(2), node, -1));
    }
    Ok(true)
}

pub(super) async fn expire_outgoing(
    db: &Db<'_>,
    now: Millis,
    limit: usize,
    event: EventOfExpired,
) -> Outcome<Vec<OutboxEntry>> {
    // An expired message keeps the reason of its last attempt.
    let update = format!(
        "UPDATE outgoing SET state = $3, time = $1, sealed = NULL WHERE sequence IN
            (SELECT sequence FROM outgoing WHERE state = 0 AND expires <= $1 ORDER BY expires LIMIT $2)
        RETURNING {OUTGOING}, node"
    );
    let parameters = params![now, limit_parameter(limit), state_number(SendState::Expired)];
    let expired = rows::all(&db.change(&update, parameters).await?, |row| {
        Ok((rows::outbox_entry(row)?, db.node().is_shared().then(|| row.get(SEQUENCE + 1))))
    })?;
    for (entry, node) in &expired {
        db.add(|counts| count_outgoing(counts, entry.peer.clone(), entry.to_stranger, *node, -1));
        if entry.to_stranger {
            db.execute("DELETE FROM outgoing WHERE id = $1", params![stored(&entry.id)]).await?;
        }
        if let Some(event) = event(entry) {
            events::record(db, &event, false).await?;
        }
    }
    Ok(expired.into_iter().map(|(entry, _)| entry).collect())
}

pub(super) async fn delete_expired(db: &Db<'_>, now: Millis, retention: &Retention, limit: usize) -> Outcome<usize> {
    let before = |time: Millis| now.saturating_sub(time);
    let limit = limit_parameter(limit);
    let mut deleted = strangers::forget(db, before(retention.strangers), limit).await?;
    deleted += strangers::bound_history(db, limit).await?;
    deleted += events::delete_expired(db, before(retention.history), limit).await?;
    deleted += strangers::delete_marks(db, now, limit).await?;
    deleted += records::delete_expired(db, now, limit).await?;
    for (sql, until) in [
        (
            "DELETE FROM concluded WHERE digest IN (SELECT digest FROM concluded WHERE time <= $1 LIMIT $2)",
            before(retention.digests),
        ),
        (
            "DELETE FROM outgoing WHERE sequence IN
                (SELECT sequence FROM outgoing WHERE state <> 0 AND time <= $1 LIMIT $2)",
            before(retention.history),
        ),
    ] {
        deleted += db.execute(sql, params![until, limit]).await?;
    }
    // Two statements for one table share the limit.
    let history = "DELETE FROM deliveries WHERE cursor IN
        (SELECT cursor FROM deliveries WHERE acknowledged <= $1 LIMIT $2)";
    let known = db.execute(history, params![before(retention.history), limit]).await?;
    deleted += known;
    // 0 keeps deliveries for ever.
    if retention.deliveries != 0 {
        let left = limit.saturating_sub_unsigned(known);
        deleted += delete_unread(db, before(retention.deliveries), left).await?;
    }
    // Counting the digests takes a while, so it waits until nothing else is left.
    if limit > 0 && deleted < limit.unsigned_abs() {
        deleted += strangers::bound_digests(db, limit).await?;
    }
    Ok(usize::try_from(deleted).unwrap_or(usize::MAX))
}

async fn delete_unread(db: &Db<'_>, received: Millis, limit: i64) -> Result<u64, tokio_postgres::Error> {
    let delete = "WITH gone AS (
            DELETE FROM deliveries WHERE cursor IN
                (SELECT cursor FROM deliveries WHERE acknowledged IS NULL AND received <= $1 LIMIT $2)
            RETURNING sender, stranger, coalesce(octet_length(sealed), 0) AS size)
        SELECT sender, stranger, count(*), sum(size)::int8 FROM gone GROUP BY sender, stranger";
    let mut deleted = 0;
    for row in db.change(delete, params![received, limit]).await? {
        let (sender, number) = (text(&row, 0)?, row.get::<_, i64>(2));
        db.add(|counts| count_deliveries(counts, sender, row.get(1), Count::of(-number, -row.get::<_, i64>(3))));
        deleted += number.unsigned_abs();
    }
    Ok(deleted)
}

pub(super) async fn probe_write(db: &Db<'_>) -> Outcome<()> {
    let write = "INSERT INTO claviger (name, value) VALUES ('probe', 1)
        ON CONFLICT (name) DO UPDATE SET value = claviger.value + 1";
    db.execute(write, &[]).await?;
    Ok(())
}
