//! The write requests for pending envelopes in SQL, like `changes`.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    options::SqliteOptions,
    queries,
    statement::{execute, query_all, query_one},
    strangers::Unread,
    writer::{Outcome, Rollback},
};
use crate::agent::{
    clock::now,
    store::{
        error::StoreError,
        types::{
            Attribution, CONNECTION_KIND, ExpiredEnvelope, Millis, NewEnvelope, Postponement, ReceiveOutcome,
            digest_beginning,
        },
    },
};

pub(super) fn receive(db: &Connection, envelope: &NewEnvelope, limits: &SqliteOptions) -> Outcome<ReceiveOutcome> {
    let (unresolved, named_peer) = match check_arrival(db, envelope, limits)? {
        Arrival::Pending(id) => return Ok(ReceiveOutcome::AlreadyPending(id)),
        Arrival::Processed => return Ok(ReceiveOutcome::AlreadyProcessed),
        Arrival::New { unresolved, named_peer } => (unresolved, named_peer),
    };
    let insert = "INSERT INTO envelopes (digest, recipient, received, packed, charged, unresolved, named_peer)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let quota_checked = envelope.sender.is_some();
    let NewEnvelope { digest, recipient, received, packed, .. } = envelope;
    execute(db, insert, params![digest, recipient, received, packed, quota_checked, unresolved, named_peer])?;
    Ok(ReceiveOutcome::Stored(db.last_insert_rowid()))
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

/// Checks whether an envelope is new, and all limits for it.
pub(super) fn check_arrival<T>(
    db: &Connection,
    envelope: &NewEnvelope,
    limits: &SqliteOptions,
) -> Result<Arrival, Rollback<T>> {
    let pending = "SELECT id FROM envelopes WHERE digest = ?1";
    if let Some(id) = query_one(db, pending, [envelope.digest], |row| row.get(0))? {
        return Ok(Arrival::Pending(id));
    }
    if query_one(db, "SELECT 1 FROM concluded WHERE digest = ?1", [envelope.digest], |_| Ok(()))?.is_some() {
        return Ok(Arrival::Processed);
    }
    let unresolved = match &envelope.attribution {
        Attribution::Unresolvable { connection } => connection_of(db, connection)? == Peer::Unknown,
        Attribution::Resolvable { .. } | Attribution::Fetched => false,
    };
    match check_limits(db, envelope, unresolved, limits)? {
        Room::Free { named_peer } => Ok(Arrival::New { unresolved, named_peer }),
        Room::Full(reason) => Err(Rollback::Error(StoreError::Full(reason))),
    }
}

/// Removes an envelope, and remembers its digest.
pub(super) fn remove(db: &Connection, envelope: i64, now: Millis) -> rusqlite::Result<()> {
    let remember = "INSERT OR REPLACE INTO concluded (digest, time) SELECT digest, ?2 FROM envelopes WHERE id = ?1";
    execute(db, remember, params![envelope, now])?;
    execute(db, "DELETE FROM envelopes WHERE id = ?1", [envelope])?;
    Ok(())
}

/// What the connection with a claimed sender says about the sender.
#[derive(PartialEq, Eq)]
enum Peer {
    /// There is no connection.
    Unknown,
    /// There is a connection, and only the peer has written.
    Stranger,
    /// Somebody on our side has begun or accepted the connection.
    Known,
}

fn connection_of(db: &Connection, key: &str) -> rusqlite::Result<Peer> {
    let find = "SELECT peer IS NULL FROM records
        WHERE kind = ?1 AND key = ?2 AND ifnull(expires > ?3, true)";
    Ok(match query_one(db, find, params![CONNECTION_KIND, key, now()], |row| row.get(0))? {
        None => Peer::Unknown,
        Some(false) => Peer::Stranger,
        Some(true) => Peer::Known,
    })
}

/// Whether there is room for an envelope.
enum Room {
    /// There is room. `named_peer` is the connection with the known peer whose share the envelope takes.
    Free { named_peer: Option<String> },
    /// The envelope would exceed this limit, in words for people.
    Full(String),
}

/// A number of envelopes, and their bytes.
#[derive(Clone, Copy, Default)]
struct Load {
    envelopes: u64,
    bytes: u64,
}

impl Load {
    /// Reads the load of a recipient; that of all recipients if `recipient` is empty. In `named_load`, the load of a
    /// connection.
    fn of(db: &Connection, table: &str, recipient: &str) -> rusqlite::Result<Self> {
        let sql = match (table, recipient) {
            ("load", "") => "SELECT envelopes, bytes FROM total_load WHERE ?1 = ''",
            ("load", _) => "SELECT envelopes, bytes FROM load WHERE recipient = ?1",
            ("named_load", _) => "SELECT envelopes, bytes FROM named_load WHERE peer = ?1",
            _ => "SELECT envelopes, bytes FROM unresolved_load WHERE recipient = ?1",
        };
        let read = |row: &rusqlite::Row<'_>| {
            let number = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
            Ok(Self { envelopes: number(0)?, bytes: number(1)? })
        };
        Ok(db.prepare_cached(sql)?.query_row([recipient], read).optional()?.unwrap_or_default())
    }

    fn without(self, other: Self) -> Self {
        Self {
            envelopes: self.envelopes.saturating_sub(other.envelopes),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Whether one more envelope of this size exceeds a limit.
    fn is_full(self, size: u64, max_envelopes: u64, max_bytes: u64) -> bool {
        self.envelopes >= max_envelopes || self.bytes.saturating_add(size) > max_bytes
    }
}

/// Checks all limits for a new envelope.
fn check_limits(
    db: &Connection,
    envelope: &NewEnvelope,
    unresolved: bool,
    limits: &SqliteOptions,
) -> rusqlite::Result<Room> {
    let size = envelope.packed.len() as u64;
    let (total, own) = (Load::of(db, "load", "")?, Load::of(db, "load", &envelope.recipient)?);
    if total.is_full(size, u64::MAX, limits.max_envelope_bytes) {
        let Load { bytes, .. } = total;
        let limit = limits.max_envelope_bytes;
        return Ok(Room::Full(format!("the messages that wait to be opened have {bytes} of at most {limit} bytes")));
    }
    if own.is_full(size, limits.max_envelopes_for, limits.max_envelope_bytes_for) {
        let Load { envelopes, bytes } = own;
        let recipient = &envelope.recipient;
        return Ok(Room::Full(format!("{envelopes} messages with {bytes} bytes wait to be opened for {recipient}")));
    }
    if unresolved {
        let (all, own) = (Load::of(db, "unresolved_load", "")?, Load::of(db, "unresolved_load", &envelope.recipient)?);
        let is_full = all.is_full(size, limits.max_unresolved, limits.max_unresolved_bytes)
            || own.is_full(size, (limits.max_envelopes_for / 10).max(1), limits.max_envelope_bytes_for / 10);
        return Ok(match is_full {
            true => Room::Full("too many messages wait whose senders cannot be resolved".to_owned()),
            false => Room::Free { named_peer: None },
        });
    }
    let named_peer = match check_share(db, envelope, (total, own), limits)? {
        Room::Free { named_peer } => named_peer,
        full => return Ok(full),
    };
    Ok(match exceeded_unread_limit(db, envelope, limits)? {
        None => Room::Free { named_peer },
        Some(reason) => Room::Full(reason),
    })
}

/// Checks the share of strangers in the loads of all recipients and of the envelope's. Once it is used up, only envelopes
/// that name a known peer as their sender are stored. Anyone can write such an envelope, so each known peer has a share
/// too.
fn check_share(
    db: &Connection,
    envelope: &NewEnvelope,
    (total, own): (Load, Load),
    limits: &SqliteOptions,
) -> rusqlite::Result<Room> {
    let free = Room::Free { named_peer: None };
    let named = match &envelope.attribution {
        Attribution::Fetched => return Ok(free),
        Attribution::Resolvable { connection } => connection.as_deref(),
        Attribution::Unresolvable { connection } => Some(connection.as_str()),
    };
    let size = envelope.packed.len() as u64;
    let share = |limit: u64, percent: u32| (u128::from(limit) * u128::from(percent.min(100)) / 100) as u64;
    let is_over = |percent: u32, total: Load, own: Load| {
        total.is_full(size, u64::MAX, share(limits.max_envelope_bytes, percent))
            || own.is_full(
                size,
                share(limits.max_envelopes_for, percent),
                share(limits.max_envelope_bytes_for, percent),
            )
    };
    // Envelopes with unresolvable senders have their own limit, and take no room of others.
    let is_used_up = is_over(limits.strangers_percent, total, own)
        && is_over(
            limits.strangers_percent,
            total.without(Load::of(db, "unresolved_load", "")?),
            own.without(Load::of(db, "unresolved_load", &envelope.recipient)?),
        );
    if !is_used_up {
        return Ok(free);
    }
    let peer = match named {
        Some(key) if connection_of(db, key)? == Peer::Known => key,
        _ => return Ok(Room::Full("messages that wait to be opened have used the share of strangers".to_owned())),
    };
    let load = Load::of(db, "named_load", peer)?;
    if is_over(limits.known_peer_percent, load, load) {
        return Ok(Room::Full("too many messages wait to be opened that name this known peer as sender".to_owned()));
    }
    Ok(Room::Free { named_peer: Some(peer.to_owned()) })
}

/// Returns which limit for unread messages the envelope would exceed, in words for people.
fn exceeded_unread_limit(
    db: &Connection,
    envelope: &NewEnvelope,
    limits: &SqliteOptions,
) -> rusqlite::Result<Option<String>> {
    let unread = Unread::read(db)?;
    let is_full_for_known = unread.known_bytes >= limits.max_unread_bytes;
    let is_stranger = match &envelope.attribution {
        // Both have room, so it does not matter which of them the sender is.
        _ if !is_full_for_known && unread.has_room_for_strangers(limits) => false,
        Attribution::Resolvable { connection: Some(key) } | Attribution::Unresolvable { connection: key } => {
            connection_of(db, key)? != Peer::Known
        }
        _ => false,
    };
    if is_full_for_known && !is_stranger {
        let (bytes, limit) = (unread.known_bytes, limits.max_unread_bytes);
        return Ok(Some(format!("the unread messages have {bytes} of at most {limit} bytes")));
    }
    let Some(sender) = &envelope.sender else { return Ok(None) };
    let has_room = queries::peer_quota(db, sender, is_stranger, limits)?.may_deliver;
    Ok((!has_room).then(|| format!("too many messages of {sender} are unread")))
}

/// Returns the beginnings of the digests of at most `limit` envelopes that are pending or were processed, latest first.
pub(super) fn known_digests(db: &Connection, limit: i64) -> rusqlite::Result<Vec<u64>> {
    let sql = "SELECT digest FROM (SELECT digest FROM envelopes UNION ALL
        SELECT digest FROM (SELECT digest FROM concluded ORDER BY time DESC LIMIT ?1)) LIMIT ?1";
    query_all(db, sql, [limit], |row| Ok(digest_beginning(&row.get(0)?)))
}

pub(super) fn postpone(db: &Connection, envelope: i64, postponement: &Postponement) -> Outcome<()> {
    let Postponement { until, reason, attempted, unresolved_since } = postponement;
    let update = "UPDATE envelopes SET tries = tries + 1, next_try = ?2, problem = ?3, attempts = attempts + ?4,
            unresolved_since = ifnull(unresolved_since, ?5)
        WHERE id = ?1";
    execute(db, update, params![envelope, until, reason, attempted, unresolved_since])?;
    Ok(())
}

/// Makes all envelopes due that do not wait for the document of their sender.
pub(super) fn make_due(db: &Connection, max_attempts: u32) -> Outcome<()> {
    let update = "UPDATE envelopes SET next_try = 0
        WHERE next_try > ?1 AND unresolved_since IS NULL AND attempts < ?2";
    execute(db, update, params![now(), max_attempts])?;
    Ok(())
}

pub(super) fn expire_envelopes(db: &Connection, arrived: Millis, limit: i64) -> Outcome<Vec<ExpiredEnvelope>> {
    let find = "SELECT id, recipient, received, problem FROM envelopes WHERE received <= ?1 ORDER BY received LIMIT ?2";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(ExpiredEnvelope { id: row.get(0)?, recipient: row.get(1)?, received: row.get(2)?, problem: row.get(3)? })
    };
    let expired = query_all(db, find, params![arrived, limit], read)?;
    for envelope in &expired {
        remove(db, envelope.id, now())?;
    }
    Ok(expired)
}
