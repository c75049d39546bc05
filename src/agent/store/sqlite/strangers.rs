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
/// How many of the latest unread messages of strangers are searched for those of a stranger that becomes known.
const SEARCHED_MESSAGES: i64 = 1000;

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

/// Keeps what is known of a peer, which is not a stranger any more. An unread message that strangers have left very many others
/// after goes on counting as a stranger's.
pub(super) fn keep(db: &Connection, peer: &str) -> rusqlite::Result<()> {
    execute(db, "UPDATE records SET peer = NULL, seen = NULL WHERE peer = ?1", [peer])?;
    if query_one(db, "SELECT 1 FROM left_by WHERE peer = ?1 AND unread > 0", [peer], |_| Ok(()))?.is_some() {
        let messages = "UPDATE deliveries SET stranger = 0 WHERE sender = ?1 AND cursor IN (
            SELECT cursor FROM deliveries INDEXED BY deliveries_of_strangers
            WHERE stranger = 1 AND acknowledged IS NULL ORDER BY cursor DESC LIMIT ?2)";
        execute(db, messages, params![peer, SEARCHED_MESSAGES])?;
    }
    Ok(())
}

/// Checks that a message of this `created_time` cannot repeat one whose mark was dropped.
pub(super) fn check_age(db: &Connection, created: Option<Millis>) -> Result<(), Rollback<CommitOutcome>> {
    match created {
        Some(created) if created <= dropped(db)? => Err(Rollback::Answer(CommitOutcome::TooOld)),
        _ => Ok(()),
    }
}

/// Checks the age of a stranger's message, and drops the oldest marks of strangers' messages if there are too many. A mark whose
/// `created` is in the future is kept until then: otherwise its time would make the messages of all other strangers too old. A
/// tenth of the room is for such marks.
pub(super) fn bound_marks(
    db: &Connection,
    stranger: &Stranger,
    now: Millis,
    limits: &SqliteOptions,
) -> Result<(), Rollback<CommitOutcome>> {
    let sums = query_one(db, "SELECT marks, dropped FROM of_strangers", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (marks, dropped): (i64, Millis) = sums.unwrap_or_default();
    if stranger.created.is_some_and(|created| created <= dropped) {
        return Err(Rollback::Answer(CommitOutcome::TooOld));
    }
    let limit = i64::try_from(limits.max_stranger_marks).unwrap_or(i64::MAX);
    if stranger.created.is_some_and(|created| created > now) {
        let full = "SELECT 1 FROM handled WHERE stranger = 1 AND created > ?1 LIMIT 1 OFFSET ?2";
        if query_one(db, full, [now, (limit / 10).max(1)], |_| Ok(()))?.is_some() {
            return Err(Rollback::Answer(CommitOutcome::DatedAhead));
        }
    }
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
    let sql = "DELETE FROM records WHERE rowid IN (
        SELECT rowid FROM records WHERE seen <= ?1 AND peer NOT IN (SELECT peer FROM left_by) LIMIT ?2)";
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::agent::{
        clock::now,
        store::{
            sqlite::{changes::commit, files, schema},
            types::{Change, Commit, Delivery, HandledMessage},
        },
    };

    /// Text without order, as keys and hashes are.
    fn random_text(length: usize) -> String {
        let mut bytes = vec![0; length.div_ceil(2)];
        getrandom::fill(&mut bytes).unwrap();
        let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        text.truncate(length);
        text
    }

    /// A message whose sender and recipient have DIDs like those of did:peer:2 with keys on P-256 and a service.
    fn message(own_did: &str, sender: &str, is_stranger: bool) -> Commit {
        let (id, key) = (random_text(36), format!("{own_did} {sender}"));
        let connection =
            Record { kind: "connection".to_owned(), revision: 0, value: vec![1; key.len() + 100], expires: None, key };
        let delivery = Delivery {
            id: random_text(36),
            cursor: 0,
            message: id.clone(),
            thread: id.clone(),
            kind: "https://didcomm.org/basicmessage/2.0/message".to_owned(),
            sender: sender.to_owned(),
            recipient: own_did.to_owned(),
            received: now(),
            sealed: Some(vec![1; 1300]),
        };
        let handled = HandledMessage {
            sender: sender.to_owned(),
            recipient: own_did.to_owned(),
            message: id,
            until: now() + 1_000_000,
            received: now(),
            earlier: Vec::new(),
        };
        let mut changes = vec![Change::Deliver(delivery)];
        if is_stranger {
            changes.insert(0, Change::Remember(connection));
        }
        let stranger = is_stranger.then(|| Stranger { did: sender.to_owned(), created: Some(now()) });
        Commit { handled: Some(handled), changes, stranger, ..Commit::default() }
    }

    /// Each page that a transaction changes is written twice: to the log, and to the database. A record's key has two long
    /// DIDs: an index that repeats it costs three pages.
    #[test]
    fn a_message_of_a_new_stranger_changes_few_pages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let mut db = files::open_writer(&path, None).unwrap();
        files::use_wal(&db, &path).unwrap();
        schema::migrate(&mut db, 0).unwrap();
        db.execute_batch("PRAGMA synchronous = off; PRAGMA wal_autocheckpoint = 0").unwrap();
        let did = || format!("did:peer:2.EzDn{}", random_text(310));
        let own_did = did();
        let limits = SqliteOptions::default();
        // Pages for each message, with eight messages in a transaction.
        let mut pages_of = |senders: &[String], is_stranger| {
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            for senders in senders.chunks(8) {
                let transaction = db.transaction().unwrap();
                for sender in senders {
                    let outcome = commit(&transaction, &message(&own_did, sender, is_stranger), &limits);
                    assert!(matches!(outcome, Ok(CommitOutcome::Committed)));
                }
                transaction.commit().unwrap();
            }
            let log = fs::metadata(files::beside(&path, "-wal")).unwrap().len();
            // A frame of the log is a page of 4096 bytes with a header of 24.
            log as f64 / 4120.0 / senders.len() as f64
        };
        let senders: Vec<_> = (0..800).map(|_| did()).collect();
        let (of_strangers, of_known) = (pages_of(&senders, true), pages_of(&senders, false));
        assert!(of_strangers < 11.5, "{of_strangers} pages for a message of a new stranger");
        assert!(of_known < 6.5, "{of_known} pages for a message of a known peer");
    }
}
