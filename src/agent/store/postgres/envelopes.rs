//! The write requests for pending envelopes in SQL, like `changes`.

use tokio_postgres::{Error, Row};

use super::{
    queries::quota,
    recount::count_envelopes,
    request::{Outcome, Rollback},
    session::{limit_parameter, params},
    strangers,
    text::{array_text, optional_text, stored, text},
    totals::{Count, Counter},
    transaction::Db,
};
use crate::agent::{
    clock::now,
    store::{
        digests::record_digest,
        error::StoreError,
        types::{Attribution, CONNECTION_KIND, ExpiredEnvelope, Millis, NewEnvelope, Postponement, ReceiveOutcome},
    },
};

pub(super) async fn receive(db: &Db<'_>, envelope: &NewEnvelope) -> Outcome<ReceiveOutcome> {
    let found = look_up(db, envelope).await?;
    let (unresolved, named_peer) = match check_arrival(db, envelope, &found)? {
        Arrival::Pending(id) => return Ok(ReceiveOutcome::AlreadyPending(id)),
        Arrival::Processed => return Ok(ReceiveOutcome::AlreadyProcessed),
        Arrival::New { unresolved, named_peer } => (unresolved, named_peer),
    };
    let NewEnvelope { digest, recipient, received, packed, .. } = envelope;
    // The room is taken before other requests of the batch look at it.
    let size = Count::of(1, packed.len() as i64);
    db.add(|counts| count_envelopes(counts, recipient, unresolved, named_peer.clone(), size));
    // The ids are given in the order of the elements. `keys` is an array of its own for each.
    let insert = "WITH stored AS (
            INSERT INTO envelopes (digest, recipient, received, packed, charged, unresolved, named_peer, node, keys)
            SELECT digest, recipient, received, packed, charged, unresolved, named_peer, node, keys::int8[]
            FROM unnest($1::bytea[], $2::text[], $3::int8[], $4::bytea[], $5::bool[], $6::bool[], $7::text[], $8::int8[],
                $9::text[]) AS new (digest, recipient, received, packed, charged, unresolved, named_peer, node, keys)
            RETURNING id)
        SELECT row_number() OVER (ORDER BY id), id FROM stored";
    let quota_checked = envelope.sender.is_some();
    let named_peer = named_peer.as_deref().map(stored);
    let node = db.node().worker_for(&envelope.keys);
    let keys = array_text(&envelope.keys);
    let parameters = params![
        &digest[..],
        stored(recipient),
        received,
        packed,
        quota_checked,
        unresolved,
        named_peer,
        node.unwrap_or(0),
        keys
    ];
    match db.ask_one(insert, parameters).await? {
        Some(row) => match node.filter(|node| *node != db.node().number()) {
            None => Ok(ReceiveOutcome::Stored(row.try_get(1)?)),
            Some(other) => {
                db.tell(|entry| entry.given(other, false));
                Ok(ReceiveOutcome::HandedOver(row.try_get(1)?))
            }
        },
        None => Err(Rollback::Error(StoreError::Unusable("has a rule or trigger for envelopes".to_owned()))),
    }
}

/// What the store knows of an envelope that arrives.
pub(super) enum Arrival {
    /// The same envelope is pending, with this id.
    Pending(i64),
    /// The same envelope was handled or refused before.
    Processed,
    /// The envelope is new, and there is room for it. `unresolved` and `named_peer` are columns of its row.
    New { unresolved: bool, named_peer: Option<String> },
}

/// What was found of an envelope that arrives.
#[derive(Default)]
pub(super) struct Found {
    /// The id under which it is pending.
    pending: Option<i64>,
    is_processed: bool,
    /// Whether the connection with the claimed sender is kept; `None` without a connection.
    is_kept: Option<bool>,
}

/// The key of the connection with the claimed sender.
fn connection_of(envelope: &NewEnvelope) -> Option<&str> {
    match &envelope.attribution {
        Attribution::Fetched => None,
        Attribution::Resolvable { connection } => connection.as_deref(),
        Attribution::Unresolvable { connection } => Some(connection),
    }
}

/// Looks up an envelope.
pub(super) async fn look_up(db: &Db<'_>, envelope: &NewEnvelope) -> Result<Found, tokio_postgres::Error> {
    let find = "SELECT place, (SELECT id FROM envelopes WHERE digest = given.digest),
            (SELECT true FROM concluded WHERE digest = given.digest),
            (SELECT peer IS NULL FROM records
                WHERE digest = given.connection AND coalesce(expires > given.now, true))
        FROM unnest($1::bytea[], $2::bytea[], $3::int8[]) WITH ORDINALITY AS given (digest, connection, now, place)";
    let record = connection_of(envelope).map(|key| record_digest(CONNECTION_KIND, key));
    let parameters = params![&envelope.digest[..], record.as_ref().map(|digest| &digest[..]), now()];
    let row = db.ask_one(find, parameters).await?;
    Ok(row.map_or_else(Found::default, |row| Found {
        pending: row.get(1),
        is_processed: row.get::<_, Option<bool>>(2).is_some(),
        is_kept: row.get(3),
    }))
}

/// Checks whether an envelope is new, and all limits for it.
pub(super) fn check_arrival<T>(db: &Db<'_>, envelope: &NewEnvelope, found: &Found) -> Result<Arrival, Rollback<T>> {
    if let Some(id) = found.pending {
        return Ok(Arrival::Pending(id));
    }
    if found.is_processed {
        return Ok(Arrival::Processed);
    }
    let connection = connection_of(envelope);
    let peer = match found.is_kept {
        None => Peer::Unknown,
        Some(false) => Peer::Stranger,
        Some(true) => Peer::Known,
    };
    let unresolved = matches!(envelope.attribution, Attribution::Unresolvable { .. }) && peer == Peer::Unknown;
    match check_limits(db, envelope, connection, peer, unresolved) {
        Room::Free { named_peer } => Ok(Arrival::New { unresolved, named_peer }),
        Room::Full(reason) => Err(Rollback::Error(StoreError::Full(reason))),
    }
}

/// What the connection with a claimed sender says about the sender.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// There is no connection.
    Unknown,
    /// There is a connection, and only the peer has written.
    Stranger,
    /// Somebody on our side has begun or accepted the connection.
    Known,
}

/// Whether there is room for an envelope.
enum Room {
    /// There is room. `named_peer` is the connection with the known peer whose share the envelope takes.
    Free { named_peer: Option<String> },
    /// The envelope would exceed this limit, in words for people.
    Full(String),
}

/// Whether one more envelope of this size exceeds a limit.
fn is_full(load: Count, size: u64, max_envelopes: u64, max_bytes: u64) -> bool {
    load.number() >= max_envelopes || load.bytes().saturating_add(size) > max_bytes
}

/// Checks all limits for a new envelope. Everything that is needed is in memory: no other request comes between.
fn check_limits(db: &Db<'_>, envelope: &NewEnvelope, connection: Option<&str>, peer: Peer, unresolved: bool) -> Room {
    let (limits, size, recipient) = (db.limits(), envelope.packed.len() as u64, &envelope.recipient);
    let (total, own) = (db.count(&Counter::Pending), db.count(&Counter::PendingFor(recipient.clone())));
    if is_full(total, size, u64::MAX, limits.max_envelope_bytes) {
        let (bytes, limit) = (total.bytes, limits.max_envelope_bytes);
        return Room::Full(format!("the messages that wait to be opened have {bytes} of at most {limit} bytes"));
    }
    if is_full(own, size, limits.max_envelopes_for, limits.max_envelope_bytes_for) {
        let Count { number, bytes } = own;
        return Room::Full(format!("{number} messages with {bytes} bytes wait to be opened for {recipient}"));
    }
    if unresolved {
        let all = db.count(&Counter::Unresolved);
        let own = db.count(&Counter::UnresolvedFor(recipient.clone()));
        let is_full = is_full(all, size, limits.max_unresolved, limits.max_unresolved_bytes)
            || is_full(own, size, (limits.max_envelopes_for / 10).max(1), limits.max_envelope_bytes_for / 10);
        return match is_full {
            true => Room::Full("too many messages wait whose senders cannot be resolved".to_owned()),
            false => Room::Free { named_peer: None },
        };
    }
    let named_peer = match check_share(db, envelope, connection, peer, (total, own)) {
        Room::Free { named_peer } => named_peer,
        full => return full,
    };
    match exceeded_unread_limit(db, envelope, connection, peer) {
        None => Room::Free { named_peer },
        Some(reason) => Room::Full(reason),
    }
}

/// Checks the share of strangers in the loads of all recipients and of the envelope's. Once it is used up, only envelopes
/// that name a known peer as their sender are stored. Anyone can write such an envelope, so each known peer has a share
/// too.
fn check_share(
    db: &Db<'_>,
    envelope: &NewEnvelope,
    connection: Option<&str>,
    peer: Peer,
    (total, own): (Count, Count),
) -> Room {
    let free = Room::Free { named_peer: None };
    if envelope.attribution == Attribution::Fetched {
        return free;
    }
    let (limits, size) = (db.limits(), envelope.packed.len() as u64);
    let share = |limit: u64, percent: u32| (u128::from(limit) * u128::from(percent.min(100)) / 100) as u64;
    let is_over = |percent: u32, total: Count, own: Count| {
        is_full(total, size, u64::MAX, share(limits.max_envelope_bytes, percent))
            || is_full(
                own,
                size,
                share(limits.max_envelopes_for, percent),
                share(limits.max_envelope_bytes_for, percent),
            )
    };
    // Envelopes with unresolvable senders have their own limit, and take no room of others.
    let unresolved = [Counter::Unresolved, Counter::UnresolvedFor(envelope.recipient.clone())];
    let [of_all, of_own] = unresolved.map(|counter| db.count(&counter));
    let is_used_up = is_over(limits.strangers_percent, total, own)
        && is_over(limits.strangers_percent, total.minus(of_all), own.minus(of_own));
    if !is_used_up {
        return free;
    }
    let Some(key) = connection.filter(|_| peer == Peer::Known) else {
        return Room::Full("messages that wait to be opened have used the share of strangers".to_owned());
    };
    let load = db.count(&Counter::NamedBy(key.to_owned()));
    if is_over(limits.known_peer_percent, load, load) {
        return Room::Full("too many messages wait to be opened that name this known peer as sender".to_owned());
    }
    Room::Free { named_peer: Some(key.to_owned()) }
}

/// Returns which limit for unread messages the envelope would exceed, in words for people.
fn exceeded_unread_limit(db: &Db<'_>, envelope: &NewEnvelope, connection: Option<&str>, peer: Peer) -> Option<String> {
    let limits = db.limits();
    let of_strangers = db.count(&Counter::UnreadOfStrangers);
    let known = db.count(&Counter::Unread).minus(of_strangers);
    let is_full_for_known = known.bytes() >= limits.max_unread_bytes;
    // If both have room, it does not matter which of them the sender is.
    let matters = is_full_for_known || !strangers::has_room(of_strangers, limits);
    let is_stranger = matters && connection.is_some() && peer != Peer::Known;
    if is_full_for_known && !is_stranger {
        let (bytes, limit) = (known.bytes, limits.max_unread_bytes);
        return Some(format!("the unread messages have {bytes} of at most {limit} bytes"));
    }
    let sender = envelope.sender.as_ref()?;
    let has_room = quota(|counter| db.count(counter), sender, is_stranger, limits).may_deliver;
    (!has_room).then(|| format!("too many messages of {sender} are unread"))
}

/// Removes an envelope, and remembers its digest.
pub(super) async fn remove(db: &Db<'_>, envelope: i64, now: Millis) -> Result<(), Error> {
    // Two may ask for one envelope. Then the first one gets the row.
    let remove = "WITH gone AS (DELETE FROM envelopes WHERE id = ANY($1)
            RETURNING id, digest, recipient, received, problem, unresolved, named_peer, octet_length(packed)::int8 AS size),
        given AS (SELECT array_position($1, id)::int8 AS place, gone.* FROM gone),
        kept AS (INSERT INTO concluded (digest, time) SELECT digest, ($2::int8[])[place] FROM given
            ON CONFLICT (digest) DO UPDATE SET time = excluded.time)
        SELECT place, recipient, unresolved, named_peer, size FROM given";
    let gone = db.ask_one(remove, params![envelope, now]).await?;
    db.note_change(gone.is_some());
    gone.map_or(Ok(()), |row| count_removed(db, &row, 1))
}

/// Counts a removed envelope. The columns from `first` on are its recipient, whether it is unresolved, its peer and its size.
fn count_removed(db: &Db<'_>, row: &Row, first: usize) -> Result<(), Error> {
    let (recipient, named_peer) = (text(row, first)?, optional_text(row, first + 2)?);
    let size = Count::of(-1, -row.get::<_, i64>(first + 3));
    db.add(|counts| count_envelopes(counts, &recipient, row.get(first + 1), named_peer, size));
    Ok(())
}

pub(super) async fn postpone(db: &Db<'_>, envelope: i64, postponement: &Postponement) -> Outcome<()> {
    let Postponement { until, reason, attempted, unresolved_since } = postponement;
    let update = "UPDATE envelopes SET tries = tries + 1, next_try = $2, problem = $3, attempts = attempts + $4,
            unresolved_since = coalesce(unresolved_since, $5)
        WHERE id = $1 AND ($6::int8 IS NULL OR node = $6)";
    // What was handed over meanwhile is due at its new node.
    let (attempted, worker) = (i64::from(*attempted), db.node().worker());
    let parameters = params![envelope, until, stored(reason), attempted, unresolved_since, worker];
    db.execute(update, parameters).await?;
    Ok(())
}

/// Makes all envelopes of this node due that do not wait for the document of their sender.
pub(super) async fn make_due(db: &Db<'_>, max_attempts: u32) -> Outcome<()> {
    let update = "UPDATE envelopes SET next_try = 0
        WHERE next_try > $1 AND unresolved_since IS NULL AND attempts < $2 AND ($3::int8 IS NULL OR node = $3)";
    db.execute(update, params![now(), i64::from(max_attempts), db.node().worker()]).await?;
    Ok(())
}

pub(super) async fn expire_envelopes(db: &Db<'_>, arrived: Millis, limit: usize) -> Outcome<Vec<ExpiredEnvelope>> {
    let remove = "WITH gone AS (
            DELETE FROM envelopes WHERE id IN
                (SELECT id FROM envelopes WHERE received <= $2 ORDER BY received LIMIT $3)
            RETURNING id, digest, recipient, received, problem, unresolved, named_peer, octet_length(packed)::int8 AS size),
        kept AS (INSERT INTO concluded (digest, time) SELECT digest, $1 FROM gone
            ON CONFLICT (digest) DO UPDATE SET time = excluded.time)
        SELECT id, received, problem, recipient, unresolved, named_peer, size FROM gone ORDER BY received, id";
    let gone = db.change(remove, params![now(), arrived, limit_parameter(limit)]).await?;
    let expired = gone.iter().map(|row| {
        count_removed(db, row, 3)?;
        let (id, received) = (row.try_get(0)?, row.try_get(1)?);
        Ok(ExpiredEnvelope { id, recipient: text(row, 3)?, received, problem: optional_text(row, 2)? })
    });
    expired.collect::<Result<_, Error>>().map_err(Rollback::from)
}
