//! The write requests in SQL. A request has the name of its method in the trait `Store`, and runs in the transaction of its
//! batch.

use futures_util::future::try_join5;
use tokio_postgres::Error;

use super::{
    envelopes::{self, Arrival, Found},
    events,
    gather::Add,
    handover::needed_to_send,
    queries,
    records::{self, Known},
    recount::{count_deliveries, count_outgoing},
    request::{Outcome, Rollback},
    rows::{self, OUTGOING, SEQUENCE, state_number},
    session::{limit_parameter, params},
    strangers::{self, Seen},
    text::{all_stored, stored, text},
    totals::{Count, Counter},
    transaction::Db,
};
use crate::agent::{
    clock::now,
    store::{
        digests::{handled_mark, record_digest},
        event::NewEvent,
        types::{
            Change, Commit, CommitOutcome, Delivery, EventOfExpired, HandledMessage, Millis, NewEnvelope, OutboxEntry,
            Record, Retention, SendOutcome, SendState, Stranger,
        },
    },
};

pub(super) async fn commit(db: &Db<'_>, commit: &Commit) -> Outcome<CommitOutcome> {
    let now = now();
    // All is read at once and checked before the first change: otherwise the whole batch would be done again.
    let Before { is_unchanged, arrived, marks, mut known, mut seen } = Before::read(db, commit, now).await?;
    if !is_unchanged {
        return Err(Rollback::Answer(CommitOutcome::Conflict));
    }
    check_room(db, commit)?;
    let stranger = commit.stranger.as_ref();
    let arrival = match &arrived {
        Some((arrived, found)) => Some((arrived, envelopes::check_arrival(db, arrived, found)?)),
        None => None,
    };
    if !matches!(arrival, Some((_, Arrival::Processed))) {
        check_marks(db, commit, &marks, now).await?;
    }
    if let Some(envelope) = commit.envelope {
        envelopes::remove(db, envelope, now).await?;
    }
    match arrival {
        None => {}
        Some((_, Arrival::Processed)) => return Ok(CommitOutcome::Duplicate),
        Some((_, Arrival::Pending(id))) => envelopes::remove(db, id, now).await?,
        Some((arrived, Arrival::New { .. })) => {
            let remember = "INSERT INTO concluded (digest, time) SELECT * FROM unnest($1::bytea[], $2::int8[])";
            db.write(remember, params![&arrived.digest[..], now]);
        }
    }
    if let Some(handled) = &commit.handled {
        if marks.first().is_some_and(|mark| mark.is_live) {
            return Ok(CommitOutcome::Duplicate);
        }
        for mark in &marks {
            mark.write(db, handled, stranger).await?;
        }
    }
    // Other commits of the batch may have taken the room meanwhile.
    check_room(db, commit)?;
    for change in &commit.changes {
        match change {
            Change::Deliver(delivery) => deliver(db, delivery, stranger.is_some()),
            Change::Send(entry) => send(db, entry),
            Change::Put(record) | Change::Remember(record) => {
                let is_written = match (change, stranger) {
                    (Change::Remember(_), Some(stranger)) => {
                        strangers::remember(db, &mut known, record, (&stranger.did, &mut seen), now).await?
                    }
                    _ => records::put(db, &mut known, record, None, now).await?,
                };
                if !is_written {
                    return Err(Rollback::Answer(CommitOutcome::Conflict));
                }
            }
            Change::Keep(peer) => {
                strangers::keep(db, peer).await?;
                (known, seen) = (Known::new(), None);
            }
            Change::Event(event) => events::record(db, event, stranger.is_some()),
            Change::Delete { kind, key } => {
                records::delete(db, kind, key).await?;
                known.remove(&record_digest(kind, key));
            }
        }
    }
    Ok(CommitOutcome::Committed)
}

/// Checks that there is the room that a commit needs.
fn check_room(db: &Db<'_>, commit: &Commit) -> Result<(), Rollback<CommitOutcome>> {
    let Some(room) = &commit.room else { return Ok(()) };
    let quota = queries::quota(|counter| db.count(counter), &room.peer, room.is_stranger, db.limits());
    match quota.has(room) {
        true => Ok(()),
        false => Err(Rollback::Answer(CommitOutcome::NoRoom(quota))),
    }
}

/// What is in the database before a commit.
struct Before<'c> {
    /// Whether the records are as the commit expects.
    is_unchanged: bool,
    arrived: Option<(&'c NewEnvelope, Found)>,
    /// The mark of the handled message, and those of its earlier names.
    marks: Vec<Mark>,
    known: Known,
    seen: Seen,
}

impl<'c> Before<'c> {
    async fn read(db: &Db<'_>, commit: &'c Commit, now: Millis) -> Result<Self, Error> {
        let mut records = Vec::new();
        for change in &commit.changes {
            match change {
                Change::Put(Record { kind, key, .. }) | Change::Remember(Record { kind, key, .. }) => {
                    records.push(record_digest(kind, key));
                }
                _ => {}
            }
        }
        let remembers = commit.changes.iter().any(|change| matches!(change, Change::Remember(_)));
        let (arrived, is_unchanged, marks, known, seen) = try_join5(
            async {
                let Some(arrived) = &commit.arrived else { return Ok(None) };
                envelopes::look_up(db, arrived).await.map(|found| Some((&**arrived, found)))
            },
            records::are_unchanged(db, &commit.expects, now),
            Mark::read(db, commit.handled.as_ref()),
            records::read(db, &records, now),
            async {
                match &commit.stranger {
                    Some(stranger) if remembers => strangers::seen(db, &stranger.did).await,
                    _ => Ok(None),
                }
            },
        )
        .await?;
        Ok(Self { is_unchanged, arrived, marks, known, seen })
    }
}

/// Checks that a message may be handled. That its own mark is there makes no difference here.
async fn check_marks(db: &Db<'_>, commit: &Commit, marks: &[Mark], now: Millis) -> Result<(), Rollback<CommitOutcome>> {
    let Some((own, earlier)) = marks.split_first() else { return Ok(()) };
    if own.is_live {
        return Ok(());
    }
    let is_repeated =
        |(number, mark): (usize, &Mark)| mark.is_live || marks[..=number].iter().any(|it| it.mark == mark.mark);
    if earlier.iter().enumerate().any(is_repeated) {
        return Err(Rollback::Answer(CommitOutcome::Conflict));
    }
    let stranger = commit.stranger.as_ref();
    if strangers::is_too_old(db, stranger.map_or(commit.created_by_stranger, |stranger| stranger.created)) {
        return Err(Rollback::Answer(CommitOutcome::TooOld));
    }
    match stranger {
        Some(stranger) if strangers::is_ahead(db, stranger, now).await? => {
            Err(Rollback::Answer(CommitOutcome::DatedAhead))
        }
        _ => Ok(()),
    }
}

/// The mark of a handled message.
struct Mark {
    mark: [u8; 32],
    is_there: bool,
    /// Whether the mark is there, and had not ended when the message arrived.
    is_live: bool,
}

impl Mark {
    /// Looks for the marks of a message under all its names, its own first.
    async fn read(db: &Db<'_>, handled: Option<&HandledMessage>) -> Result<Vec<Self>, Error> {
        let Some(HandledMessage { sender, recipient, message, received, earlier, .. }) = handled else {
            return Ok(Vec::new());
        };
        let find = "SELECT place, until > given.received
            FROM unnest($1::bytea[], $2::int8[]) WITH ORDINALITY AS given (mark, received, place)
            CROSS JOIN LATERAL (SELECT until FROM handled WHERE handled.mark = given.mark OFFSET 0) AS handled";
        let own = [(sender, recipient)].into_iter();
        let names = own.chain(earlier.iter().map(|(sender, recipient)| (sender, recipient)));
        let marks = names.map(|(sender, recipient)| handled_mark(sender, recipient, message));
        let mut marks: Vec<_> = marks.map(|mark| Self { mark, is_there: false, is_live: false }).collect();
        let fill = |add: &mut Add<'_>| marks.iter().for_each(|it| add(params![&it.mark[..], received]));
        for (number, row) in db.ask(find, fill).await? {
            if let Some(mark) = marks.get_mut(number) {
                (mark.is_there, mark.is_live) = (true, row.get(1));
            }
        }
        Ok(marks)
    }

    async fn write(&self, db: &Db<'_>, handled: &HandledMessage, stranger: Option<&Stranger>) -> Result<(), Error> {
        if self.is_there {
            let renew = "UPDATE handled SET until = $2 WHERE mark = $1";
            return db.execute(renew, params![&self.mark[..], handled.until]).await.map(drop);
        }
        let insert = "INSERT INTO handled (mark, until, stranger, created)
            SELECT * FROM unnest($1::bytea[], $2::int8[], $3::bool[], $4::int8[])";
        let created = stranger.and_then(|stranger| stranger.created);
        db.write(insert, params![&self.mark[..], handled.until, stranger.is_some(), created]);
        if stranger.is_some() {
            db.add(|counts| counts.add(Counter::StrangerMarks, Count::of(1, 0)));
        }
        Ok(())
    }
}

fn deliver(db: &Db<'_>, delivery: &Delivery, of_stranger: bool) {
    let Delivery { id, message, thread, kind, sender, recipient, received, sealed, cursor: _ } = delivery;
    let insert = "INSERT INTO deliveries (id, message, thread, kind, sender, recipient, received, sealed, stranger)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int8[],
            $8::bytea[], $9::bool[])";
    let [id, message, thread, kind, recipient] = [id, message, thread, kind, recipient].map(|text| stored(text));
    db.write(insert, params![id, message, thread, kind, stored(sender), recipient, received, sealed, of_stranger]);
    db.tell(|told| told.delivered(&delivery.id));
    let size = sealed.as_ref().map_or(0, Vec::len) as i64;
    db.add(|counts| count_deliveries(counts, sender.clone(), of_stranger, Count::of(1, size)));
}

fn send(db: &Db<'_>, entry: &OutboxEntry) {
    let OutboxEntry { id, message, thread, kind, sender, peer, created, expires, tries, time, problem, .. } = entry;
    let insert = "INSERT INTO outgoing (id, message, thread, kind, sender, peer, created, expires, state, tries, time,
            problem, to_stranger, by_application, sealed, node)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int8[],
            $8::int8[], $9::int8[], $10::int8[], $11::int8[], $12::text[], $13::bool[], $14::bool[], $15::bytea[],
            $16::int8[])";
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
    db.write(insert, parameters);
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
        events::record(db, event, false);
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
    let find = "SELECT place, sequence, peer, state, to_stranger, node
        FROM unnest($1::text[]) WITH ORDINALITY AS given (id, place)
        CROSS JOIN LATERAL (SELECT * FROM outgoing WHERE outgoing.id = given.id OFFSET 0) AS old";
    let Some(row) = db.ask_one(find, params![stored(id)]).await? else { return Ok(false) };
    let (sequence, old_state, to_stranger): (i64, i64, bool) = (row.get(1), row.get(3), row.get(4));
    if !from.contains(&old_state) {
        return Ok(false);
    }
    if to_stranger {
        db.write("DELETE FROM outgoing WHERE sequence = ANY($1)", params![sequence]);
    } else {
        let update = "UPDATE outgoing SET state = given.state, time = given.time, tries = tries + given.attempts,
                sealed = NULL, problem = CASE WHEN given.keeps THEN outgoing.problem ELSE given.problem END
            FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::bool[], $6::text[])
                AS given (sequence, state, time, attempts, keeps, problem)
            WHERE outgoing.sequence = given.sequence";
        let End { state, time, attempts, problem } = end;
        let new_problem = problem.flatten().map(stored);
        db.write(update, params![sequence, state_number(state), time, attempts, problem.is_none(), new_problem]);
    }
    if old_state == state_number(SendState::Waiting) {
        let (peer, node) = (text(&row, 2)?, db.node().is_shared().then(|| row.get(5)));
        db.add(|counts| count_outgoing(counts, peer, to_stranger, node, -1));
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
            events::record(db, &event, false);
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
