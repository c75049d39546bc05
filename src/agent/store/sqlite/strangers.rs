//! What strangers leave in the store, and its limits: records, marks and unread messages.
//!
//! A stranger is a peer with whom neither the application nor the operator has begun or accepted anything. Anyone can
//! make any number of DIDs, so the limits apply to all strangers together. Known peers have their own room.

use rusqlite::{Connection, params};

use super::{
    cursors::RESTORED_AT,
    options::SqliteOptions,
    statement::{execute, limit_parameter, query_all, query_one},
    writer::Rollback,
};
use crate::agent::{
    clock::MAX_CLOCK_SKEW,
    store::types::{CommitOutcome, Millis, Record, Stranger},
};

/// The most digests of processed envelopes that are remembered: about 100 MB.
const MAX_DIGESTS: i64 = 1_000_000;
/// How many of the oldest strangers are looked at to find one that has no message here.
const SEARCHED: i64 = 16;

/// The unread messages of all peers, in bytes of sealed content.
pub(super) struct Unread {
    pub known_bytes: u64,
    stranger_bytes: u64,
    stranger_messages: u64,
}

impl Unread {
    pub fn read(db: &Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT bytes - of_strangers, of_strangers, messages_of_strangers FROM total_unread";
        let read = query_one(db, sql, [], |row| {
            let number = |column| row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0));
            Ok(Self { known_bytes: number(0)?, stranger_bytes: number(1)?, stranger_messages: number(2)? })
        })?;
        Ok(read.unwrap_or(Self { known_bytes: 0, stranger_bytes: 0, stranger_messages: 0 }))
    }

    /// Whether strangers may leave more messages.
    pub fn has_room_for_strangers(&self, limits: &SqliteOptions) -> bool {
        self.stranger_bytes < limits.max_stranger_unread_bytes && self.stranger_messages < limits.max_stranger_unread
    }
}

/// Returns the keys of at most `limit` connections that are kept.
pub(super) fn known_connections(db: &Connection, limit: usize) -> rusqlite::Result<Vec<String>> {
    // Without the hint, SQLite reads the connections of strangers too.
    let sql = "SELECT key FROM records INDEXED BY records_known
        WHERE kind = 'connection' AND peer IS NULL ORDER BY key LIMIT ?1";
    query_all(db, sql, [limit_parameter(limit)], |row| row.get(0))
}

/// Writes a record about a stranger, and forgets the strangers that were seen longest ago if there is no room. A record
/// that is kept stays so.
pub(super) fn remember(
    db: &Connection,
    record: &Record,
    stranger: &str,
    now: Millis,
    limits: &SqliteOptions,
) -> rusqlite::Result<()> {
    let Record { kind, key, revision, value, expires } = record;
    let range = "SELECT min(seen), max(seen) FROM records WHERE peer = ?1";
    let earlier: Option<(Option<Millis>, Option<Millis>)> =
        query_one(db, range, [stranger], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (first, last) = earlier.unwrap_or_default();
    let seen = last.map_or(now, |last| last.max(now));
    let write = "INSERT INTO records (kind, key, revision, expires, value, peer, seen)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
        ON CONFLICT (kind, key) DO UPDATE SET revision = excluded.revision, expires = excluded.expires,
            value = excluded.value, seen = iif(peer IS NULL, NULL, max(seen, excluded.seen))";
    execute(db, write, params![kind, key, revision, expires, value, stranger, seen])?;
    if first.is_some_and(|first| first < now) {
        execute(db, "UPDATE records SET seen = ?2 WHERE peer = ?1 AND seen < ?2", params![stranger, now])?;
    }
    while record_bytes(db)? > limits.max_stranger_bytes {
        let Some(oldest) = oldest(db, stranger)? else { break };
        execute(db, "DELETE FROM records WHERE peer = ?1", [oldest])?;
    }
    Ok(())
}

fn record_bytes(db: &Connection) -> rusqlite::Result<u64> {
    let bytes: Option<i64> = query_one(db, "SELECT record_bytes FROM of_strangers", [], |row| row.get(0))?;
    Ok(bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
}

/// Returns the stranger that was seen longest ago: one without a message here if there is one among the oldest. The
/// stranger `except` is returned only if there is no other.
fn oldest(db: &Connection, except: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT peer FROM (SELECT peer, seen FROM records WHERE seen IS NOT NULL ORDER BY seen LIMIT ?2)
        ORDER BY peer = ?1, peer IN (SELECT peer FROM left_by), seen LIMIT 1";
    query_one(db, sql, params![except, SEARCHED], |row| row.get(0))
}

/// Keeps what is known of a peer, which is not a stranger any more.
pub(super) fn keep(db: &Connection, peer: &str) -> rusqlite::Result<()> {
    execute(db, "UPDATE records SET peer = NULL, seen = NULL WHERE peer = ?1", [peer])?;
    let messages = "UPDATE deliveries SET stranger = 0 WHERE sender = ?1 AND stranger = 1 AND acknowledged IS NULL";
    execute(db, messages, [peer])?;
    Ok(())
}

/// Checks that a message of this `created_time` cannot repeat one whose mark was dropped.
pub(super) fn check_age(db: &Connection, created: Option<Millis>) -> Result<(), Rollback<CommitOutcome>> {
    match created {
        Some(created) if created <= dropped(db)? => Err(Rollback::Answer(CommitOutcome::TooOld)),
        _ => Ok(()),
    }
}

/// Drops the oldest marks of strangers' messages if there are too many. A mark whose `created` is in the future is kept until
/// then: otherwise its time would make the messages of all other strangers too old. A tenth of the room is for such marks.
pub(super) fn bound_marks(
    db: &Connection,
    stranger: &Stranger,
    now: Millis,
    limits: &SqliteOptions,
) -> Result<(), Rollback<CommitOutcome>> {
    let limit = i64::try_from(limits.max_stranger_marks).unwrap_or(i64::MAX);
    if stranger.created.is_some_and(|created| created > now) {
        let full = "SELECT 1 FROM handled WHERE stranger = 1 AND created > ?1 LIMIT 1 OFFSET ?2";
        if query_one(db, full, [now, (limit / 10).max(1)], |_| Ok(()))?.is_some() {
            return Err(Rollback::Answer(CommitOutcome::DatedAhead));
        }
    }
    let marks: i64 = query_one(db, "SELECT marks FROM of_strangers", [], |row| row.get(0))?.unwrap_or(0);
    let surplus = marks.saturating_sub(limit);
    if surplus > 0 {
        let oldest = "SELECT seq FROM handled WHERE stranger = 1 AND ifnull(created <= ?2, true) ORDER BY seq LIMIT ?1";
        // 1 says that a mark was dropped, and makes no message too old.
        let latest = format!("SELECT max(ifnull(created, 1)) FROM handled WHERE seq IN ({oldest})");
        let update = format!("UPDATE of_strangers SET dropped = max(dropped, ifnull(({latest}), 0))");
        execute(db, &update, [surplus, now])?;
        execute(db, &format!("DELETE FROM handled WHERE seq IN ({oldest})"), [surplus, now])?;
    }
    Ok(())
}

/// The latest `created` of a mark that was dropped; 0 if none was.
fn dropped(db: &Connection) -> rusqlite::Result<Millis> {
    Ok(query_one(db, "SELECT dropped FROM of_strangers", [], |row| row.get(0))?.unwrap_or(0))
}

/// Whether a message of this `created_time` is newer than all whose marks were dropped or lost by a restore.
pub(super) fn is_after_lost_marks(db: &Connection, created: Option<Millis>) -> rusqlite::Result<bool> {
    let restored: Option<Millis> =
        query_one(db, "SELECT value FROM meta WHERE name = ?1", [RESTORED_AT], |row| row.get(0))?;
    // A peer's clock may be ahead of ours.
    let lost = restored.map_or(0, |restored| restored.saturating_add(MAX_CLOCK_SKEW)).max(dropped(db)?);
    Ok(lost == 0 || created.is_some_and(|created| created > lost))
}

/// Forgets strangers that were not seen since `before`, at most `limit` records. Strangers with a message that is not
/// read or not sent yet are kept, since the application may answer them.
pub(super) fn forget(db: &Connection, before: Millis, limit: i64) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM records WHERE (kind, key) IN (
        SELECT kind, key FROM records WHERE seen <= ?1 AND peer NOT IN (SELECT peer FROM left_by) LIMIT ?2)";
    execute(db, sql, params![before, limit])
}

/// Forgets the oldest digests of processed envelopes if there are too many, at most `limit`. A repeated envelope is then
/// opened again, and its message is recognized by its mark.
pub(super) fn bound_digests(db: &Connection, limit: i64) -> rusqlite::Result<usize> {
    let digests: i64 = query_one(db, "SELECT count(*) FROM concluded", [], |row| row.get(0))?.unwrap_or(0);
    let surplus = digests.saturating_sub(MAX_DIGESTS).min(limit);
    if surplus <= 0 {
        return Ok(0);
    }
    execute(
        db,
        "DELETE FROM concluded WHERE digest IN (SELECT digest FROM concluded ORDER BY time LIMIT ?1)",
        [surplus],
    )
}

/// Forgets the acknowledged messages of strangers beyond as many as may be unacknowledged, oldest first, at most `limit`.
pub(super) fn bound_history(db: &Connection, limit: i64, limits: &SqliteOptions) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM deliveries WHERE cursor IN (
        SELECT cursor FROM deliveries INDEXED BY deliveries_read_of_strangers
        WHERE stranger = 1 AND acknowledged IS NOT NULL ORDER BY acknowledged DESC LIMIT ?1 OFFSET ?2)";
    let kept = i64::try_from(limits.max_stranger_unread).unwrap_or(i64::MAX);
    execute(db, sql, params![limit, kept])
}

/// Counts the records of strangers anew. Releases that do not know strangers replace such a record without counting.
pub(super) fn recount(db: &Connection) -> rusqlite::Result<()> {
    let sql = "UPDATE of_strangers SET
        record_bytes = (SELECT ifnull(sum(length(key) + length(value) + length(peer) + 200), 0)
            FROM records WHERE peer IS NOT NULL),
        marks = (SELECT count(*) FROM handled WHERE stranger = 1)";
    execute(db, sql, [])?;
    Ok(())
}
