//! The read requests in SQL. A request has the name of its method in the trait `Store`.
//!
//! A single statement sees one state of the database. A request of several statements says why it needs no common state, or has
//! a transaction.

use std::mem::size_of;

use tokio_postgres::Error;

use super::{
    cursors::{self, Sequence},
    rows::{self, DELIVERY, ENVELOPE, OUTGOING, RECORD, SEQUENCE, without_content},
    session::{Parameter, Parameters, Session, limit_parameter, params},
    strangers,
    text::{all_stored, stored},
    totals::{Count, Counter, Totals},
};
use crate::agent::{
    clock::now,
    store::{
        digests::record_digest,
        limits::StoreLimits,
        node::StoreNode,
        types::{
            CONNECTION_KIND, Delivery, DeliveryQuery, Millis, OutboxEntry, OutboxPosition, OutboxQuery,
            PEER_ROTATION_KIND, PeerQuota, PendingEnvelope, Record, SendState, ThreadEntry, ThreadPosition, Usage,
            digest_beginning,
        },
    },
};

/// Follows all characters.
const AFTER_ALL: char = char::MAX;
/// The longest pause of a postponed envelope. An envelope that is due even later was postponed before the clock was set
/// back, so it counts as due.
const LONGEST_PAUSE: Millis = 60 * 60 * 1000;
/// How many elements the server expects of an array that it does not know.
const EXPECTED_LENGTH: usize = 10;
/// The most deliveries whose sizes are added up, if their bytes are limited.
const MEASURED: i64 = 1000;

type Rows<T> = Result<Vec<T>, Error>;

/// Returns the beginnings of the digests of envelopes that are pending or were processed, latest first.
pub(super) async fn known_digests(session: &Session, limit: usize) -> Rows<u64> {
    let sql = "SELECT digest FROM envelopes UNION ALL
        (SELECT digest FROM concluded ORDER BY time DESC LIMIT $1) LIMIT $1";
    let found = session.all(sql, params![limit_parameter(limit)]).await?;
    let known = found.iter().map(|row| Ok(row.try_get::<_, &[u8]>(0)?.try_into().ok()));
    let known = known.collect::<Result<Vec<Option<[u8; 32]>>, Error>>()?;
    Ok(known.iter().flatten().map(digest_beginning).collect())
}

pub(super) async fn pending_envelopes(
    session: &Session,
    worker: Option<i64>,
    now: Millis,
    except: &[i64],
    limit: usize,
) -> Rows<PendingEnvelope> {
    let sql = format!(
        "SELECT {ENVELOPE} FROM envelopes WHERE (next_try <= $1 OR next_try > $2) AND id <> ALL($3)
            AND ($5::int8 IS NULL OR node = $5) ORDER BY id LIMIT $4"
    );
    let parameters = params![now, now.saturating_add(LONGEST_PAUSE), except, limit_parameter(limit), worker];
    rows::all(&session.all(&sql, parameters).await?, rows::envelope)
}

/// The nodes that share the database, oldest first. `this` is the number of this one.
pub(super) async fn nodes(session: &Session, this: i64) -> Rows<StoreNode> {
    // As `Readiness::leader` has it.
    let sql = "WITH living AS (SELECT number, ready FROM nodes WHERE ended IS NULL AND lease > clock_timestamp())
        SELECT number, name, release, (extract(epoch FROM since) * 1000)::int8,
            number = (SELECT number FROM living
                ORDER BY cardinality(ready) > 0 AND (SELECT bool_and(ready IS NOT NULL) FROM living) DESC, number LIMIT 1)
        FROM nodes WHERE ended IS NULL AND name <> '' ORDER BY number";
    rows::all(&session.all(sql, &[]).await?, |row| {
        let number = row.try_get(0)?;
        Ok(StoreNode {
            number,
            name: row.try_get(1)?,
            version: row.try_get(2)?,
            since: row.try_get(3)?,
            is_this: number == this,
            leads: row.try_get::<_, Option<bool>>(4)?.unwrap_or(false),
        })
    })
}

/// Compares what a peer has left with the limits.
pub(super) fn quota(
    count: impl Fn(&Counter) -> Count,
    peer: &str,
    is_stranger: bool,
    limits: &StoreLimits,
) -> PeerQuota {
    let unread = count(&Counter::UnreadFrom(peer.to_owned()));
    let may_deliver = unread.number() < limits.max_unread_from && unread.bytes() < limits.max_unread_bytes_from;
    let may_reply = count(&Counter::UnsentTo(peer.to_owned())).number() < limits.max_replies_to;
    if !is_stranger {
        return PeerQuota { may_deliver, may_reply };
    }
    PeerQuota {
        may_deliver: may_deliver && strangers::has_room(count(&Counter::UnreadOfStrangers), limits),
        may_reply: may_reply && count(&Counter::StrangerReplies).number() < limits.max_stranger_replies,
    }
}

/// Returns `None` if the store has not given out the cursor. A cursor that was given out stays known, so the statements need no
/// common state.
pub(super) async fn deliveries(session: &Session, query: &DeliveryQuery) -> Result<Option<Vec<Delivery>>, Error> {
    if !cursors::is_known(session, Sequence::Deliveries, query.after).await? {
        return Ok(None);
    }
    let mut condition = "cursor > $1 AND cursor <= $2".to_owned();
    if !query.acknowledged {
        condition.push_str(" AND acknowledged IS NULL");
    }
    let filters = [("thread", &query.thread), ("kind", &query.kind), ("sender", &query.sender)];
    let filters: Vec<_> =
        filters.iter().filter_map(|(column, value)| Some((*column, stored(value.as_deref()?)))).collect();
    for (number, (column, _)) in (4..).zip(&filters) {
        condition.push_str(&format!(" AND {column} = ${number}"));
        if *column == "thread" {
            condition.push_str(&format!(" AND left(thread, 600) = left(${number}, 600)"));
        }
    }
    let (mut last, mut limit) = (i64::MAX, limit_parameter(query.limit));
    if let Some(max_bytes) = query.max_bytes {
        // The sizes are read without the content, which then is read up to the last delivery that there is room for.
        limit = limit.min(MEASURED);
        let texts = "id, message, thread, kind, sender, recipient".replace(", ", ") + octet_length(");
        let sql = format!(
            "SELECT cursor, octet_length({texts}) + coalesce(octet_length(sealed), 0) FROM deliveries
            WHERE {condition} ORDER BY cursor LIMIT $3"
        );
        let mut left = max_bytes;
        for row in session.all(&sql, &with_filters(params![query.after, last, limit], &filters)).await? {
            let size = size_of::<Delivery>() + usize::try_from(row.get::<_, i32>(1)).unwrap_or(0);
            match left.checked_sub(size) {
                None if last != i64::MAX => break,
                rest => (left, last) = (rest.unwrap_or(0), row.get(0)),
            }
        }
    }
    let sql = format!("SELECT {DELIVERY} FROM deliveries WHERE {condition} ORDER BY cursor LIMIT $3");
    let found = session.all(&sql, &with_filters(params![query.after, last, limit], &filters)).await?;
    rows::all(&found, rows::delivery).map(Some)
}

/// Adds the values of filters to the parameters of a statement.
fn with_filters<'a>(
    parameters: Parameters<'a>,
    filters: &'a [(&str, std::borrow::Cow<'a, str>)],
) -> Vec<&'a dyn Parameter> {
    let values = filters.iter().map(|(_, value)| value as &dyn Parameter);
    parameters.iter().copied().chain(values).collect()
}

pub(super) async fn deliveries_by_id(session: &Session, beginning: &str, limit: usize) -> Rows<Delivery> {
    let sql = format!("SELECT {DELIVERY} FROM deliveries WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $3");
    let end = format!("{beginning}{AFTER_ALL}");
    let parameters = params![stored(beginning), stored(&end), limit_parameter(limit)];
    rows::all(&session.all(&sql, parameters).await?, rows::delivery)
}

pub(super) async fn outbox_entries(
    session: &Session,
    worker: Option<i64>,
    peer: &str,
    except_senders: &[String],
    except: &[String],
    limit: usize,
) -> Rows<OutboxEntry> {
    let sql = format!(
        "SELECT {OUTGOING} FROM outgoing
        WHERE state = 0 AND left(peer, 600) = left($1, 600) AND peer = $1
            AND sender <> ALL($2) AND id <> ALL($3) AND ($5::int8 IS NULL OR node = $5)
        ORDER BY sequence LIMIT $4"
    );
    let parameters =
        params![stored(peer), all_stored(except_senders), all_stored(except), limit_parameter(limit), worker];
    rows::all(&session.all(&sql, parameters).await?, rows::outbox_entry)
}

pub(super) async fn outbox_entry(session: &Session, id: &str) -> Result<Option<OutboxEntry>, Error> {
    let sql = format!("SELECT {OUTGOING} FROM outgoing WHERE id = $1");
    session.first(&sql, params![stored(id)]).await?.as_ref().map(rows::outbox_entry).transpose()
}

/// Lists the outbox. A page of the messages that wait or were given up reads an index of them alone.
pub(super) async fn outbox(session: &Session, query: &OutboxQuery) -> Rows<(OutboxPosition, OutboxEntry)> {
    // The states are written out, since the indexes are of some states.
    let mut condition = match query.state {
        None => "true".to_owned(),
        Some(state @ (SendState::Waiting | SendState::Sent)) => format!("state = {}", rows::state_number(state)),
        Some(state) => format!("state > 1 AND state = {}", rows::state_number(state)),
    };
    if query.peer.is_some() {
        condition.push_str(" AND peer = $4");
        if query.state == Some(SendState::Waiting) {
            condition.push_str(" AND left(peer, 600) = left($4, 600)");
        }
    }
    let order = match (query.state, &query.peer) {
        (Some(SendState::Waiting), Some(_)) | (Some(SendState::Sent) | None, _) => {
            "sequence > $2 AND $1::int8 IS NOT NULL ORDER BY sequence"
        }
        (Some(_), _) => "(created, sequence) > ($1, $2) ORDER BY created, sequence",
    };
    let columns = OUTGOING.replace("sealed", "NULL::bytea");
    let sql = format!("SELECT {columns} FROM outgoing WHERE {condition} AND {order} LIMIT $3");
    let (OutboxPosition { created, sequence }, limit) = (query.after, limit_parameter(query.limit));
    let peer: Vec<_> = query.peer.iter().map(|peer| ("peer", stored(peer))).collect();
    let found = session.all(&sql, &with_filters(params![created, sequence, limit], &peer)).await?;
    rows::all(&found, |row| {
        let entry = rows::outbox_entry(row)?;
        Ok((OutboxPosition { created: entry.created, sequence: row.try_get(SEQUENCE)? }, entry))
    })
}

/// Reads both directions in one state: otherwise an answer could be seen without its question, which later pages do not show.
pub(super) async fn thread_entries(
    session: &Session,
    thread: &str,
    after: ThreadPosition,
    limit: usize,
) -> Rows<(ThreadPosition, ThreadEntry)> {
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY{}", session.local_settings());
    session.run(&begin).await?;
    let entries = both_directions(session, thread, after, limit).await;
    // After an error this is a rollback.
    session.run("COMMIT").await?;
    entries
}

async fn both_directions(
    session: &Session,
    thread: &str,
    after: ThreadPosition,
    limit: usize,
) -> Rows<(ThreadPosition, ThreadEntry)> {
    // Only whether there is content. Whole content of all entries could fill the memory.
    let received = format!(
        "SELECT {} FROM deliveries
        WHERE left(thread, 600) = left($1, 600) AND thread = $1 AND (received, cursor) > ($2, $3)
        ORDER BY received, cursor LIMIT $4",
        without_content(DELIVERY)
    );
    let sent = format!(
        "SELECT {} FROM outgoing
        WHERE left(thread, 600) = left($1, 600) AND thread = $1 AND (created, sequence) > ($2, $3)
        ORDER BY created, sequence LIMIT $4",
        without_content(OUTGOING)
    );
    // Of the same time, all received messages come before those that were sent.
    let ThreadPosition { time, is_sent, sequence } = after;
    let (received_after, sent_after) = if is_sent { (i64::MAX, sequence) } else { (sequence, i64::MIN) };
    let (thread, limit_of_each) = (stored(thread), limit_parameter(limit));
    let received = session.all(&received, params![thread, time, received_after, limit_of_each]).await?;
    let mut entries = rows::all(&received, |row| {
        let delivery = rows::delivery(row)?;
        let position = ThreadPosition { time: delivery.received, is_sent: false, sequence: delivery.cursor };
        Ok((position, ThreadEntry::Received(delivery)))
    })?;
    let sent = session.all(&sent, params![thread, time, sent_after, limit_of_each]).await?;
    entries.extend(rows::all(&sent, |row| {
        let entry = rows::outbox_entry(row)?;
        let position = ThreadPosition { time: entry.created, is_sent: true, sequence: row.try_get(SEQUENCE)? };
        Ok((position, ThreadEntry::Sent(entry)))
    })?);
    entries.sort_by_key(|(position, _)| *position);
    entries.truncate(limit);
    Ok(entries)
}

pub(super) async fn records_at(session: &Session, places: &[(&str, &str)]) -> Rows<Option<Record>> {
    let digests: Vec<_> = places.iter().map(|(kind, key)| record_digest(kind, key)).collect();
    let mut digests: Vec<_> = digests.iter().map(|digest| Some(&digest[..])).collect();
    // A shorter array than it expects makes the server plan the statement each time.
    digests.resize(digests.len().max(EXPECTED_LENGTH), None);
    let sql = format!(
        "SELECT {RECORD} FROM unnest($1::bytea[]) WITH ORDINALITY AS wanted (digest, place)
        LEFT JOIN LATERAL (SELECT * FROM records
            WHERE records.digest = wanted.digest AND coalesce(expires > $2, true) OFFSET 0) AS record ON true
        ORDER BY place LIMIT $3"
    );
    let found = session.all(&sql, params![digests, now(), limit_parameter(places.len())]).await?;
    rows::all(&found, |row| match row.try_get::<_, Option<i64>>(2)? {
        None => Ok(None),
        Some(_) => rows::record(row).map(Some),
    })
}

pub(super) async fn records(session: &Session, kind: &str, after: &str, limit: usize) -> Rows<Record> {
    // The beginning of the key is in the index, and gives the order but for keys that have it in common.
    let sql = format!(
        "SELECT {RECORD} FROM records
        WHERE kind = $1 AND left(key, 600) >= left($2, 600) AND key > $2 AND coalesce(expires > $3, true)
        ORDER BY left(key, 600), key LIMIT $4"
    );
    let parameters = params![stored(kind), stored(after), now(), limit_parameter(limit)];
    rows::all(&session.all(&sql, parameters).await?, rows::record)
}

pub(super) async fn records_with_peer(
    session: &Session,
    kind: &'static str,
    peer: &str,
    after: &str,
    limit: usize,
) -> Rows<Record> {
    if ![CONNECTION_KIND, PEER_ROTATION_KIND].contains(&kind) {
        return Ok(Vec::new());
    }
    // All that begin with the prefix; for a whole DID nothing but the DID.
    let beginning = peer.strip_suffix('~').unwrap_or(peer);
    let end = match peer.ends_with([':', '~']) {
        true => format!("{beginning}{AFTER_ALL}"),
        false => format!("{peer}\0"),
    };
    let with = "substr(key, strpos(key, ' ') + 1)";
    let sql = format!(
        "SELECT {RECORD} FROM records
        WHERE kind = '{kind}' AND {with} >= $1 AND {with} < $2
            AND left({with}, 600) >= left($1, 600) AND left({with}, 600) <= left($2, 600)
            AND key > $3 AND coalesce(expires > $4, true)
        ORDER BY key LIMIT $5"
    );
    let parameters = params![stored(beginning), stored(&end), stored(after), now(), limit_parameter(limit)];
    rows::all(&session.all(&sql, parameters).await?, rows::record)
}

/// Returns the keys of at most `limit` connections that are kept.
pub(super) async fn known_connections(session: &Session, limit: usize) -> Rows<String> {
    let sql = "SELECT key FROM records WHERE kind = 'connection' AND peer IS NULL
        ORDER BY left(key, 600), key LIMIT $1";
    rows::all(&session.all(sql, params![limit_parameter(limit)]).await?, |row| super::text::text(row, 0))
}

pub(super) async fn usage(session: &Session, totals: &Totals) -> Result<Usage, Error> {
    let sql = "SELECT (SELECT min(received) FROM envelopes),
        (SELECT min(received) FROM deliveries WHERE acknowledged IS NULL),
        (SELECT min(created) FROM outgoing WHERE state = 0),
        pg_database_size(current_database())";
    let row = session.first(sql, &[]).await?;
    let (oldest_envelope, oldest_delivery, oldest_outgoing, bytes) = match &row {
        Some(row) => (row.get(0), row.get(1), row.get(2), row.get::<_, i64>(3).unsigned_abs()),
        None => (None, None, None, 0),
    };
    let (pending, unread) = (totals.get(&Counter::Pending), totals.get(&Counter::Unread));
    let of_strangers = totals.get(&Counter::UnreadOfStrangers);
    Ok(Usage {
        envelopes: pending.number(),
        envelope_bytes: pending.bytes(),
        oldest_envelope,
        deliveries: unread.number(),
        oldest_delivery,
        delivery_bytes: unread.bytes(),
        outgoing: totals.get(&Counter::Unsent).number(),
        oldest_outgoing,
        bytes,
        stranger_deliveries: of_strangers.number(),
        stranger_delivery_bytes: of_strangers.bytes(),
        stranger_record_bytes: totals.get(&Counter::StrangerRecords).bytes(),
        stranger_marks: totals.get(&Counter::StrangerMarks).number(),
    })
}

/// A mark is looked for first: one that is dropped meanwhile is among the lost ones afterwards.
pub(super) async fn is_certainly_new(
    session: &Session,
    mark: &[u8; 32],
    created: Option<Millis>,
) -> Result<bool, Error> {
    Ok(handled_position(session, mark).await?.is_none() && strangers::is_after_lost_marks(session, created).await?)
}

pub(super) async fn handled_position(session: &Session, mark: &[u8; 32]) -> Result<Option<i64>, Error> {
    let row = session.first("SELECT seq FROM handled WHERE mark = $1", params![&mark[..]]).await?;
    row.map(|row| row.try_get(0)).transpose()
}
