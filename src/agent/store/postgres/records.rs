//! The changes of records in SQL.

use std::collections::HashMap;

use tokio_postgres::Error;

use super::{
    gather::Add,
    recount::STRANGER_RECORD,
    session::{Parameters, params},
    text::stored,
    totals::{Count, Counter},
    transaction::Db,
};
use crate::agent::store::{
    digests::record_digest,
    types::{Expectation, Millis, Record, UNREAD},
};

/// What is in the database of a record that is to be written.
#[derive(Clone, Copy, Default)]
pub(super) struct Current {
    /// `None`: there is no row. 0: the record has expired, and counts as deleted.
    revision: Option<i64>,
    /// What a record about a stranger counts beside its value; 0 if the record is kept.
    frame: i64,
    value: i64,
}

/// The revision of a record that the same request has written: nobody can know it.
const UNKNOWN: i64 = i64::MAX;
/// What a record about a stranger counts for its place in the tables.
const PLACE: i64 = 200;

impl Current {
    /// What the record counts as one about a stranger.
    fn size(&self) -> i64 {
        if self.frame == 0 { 0 } else { self.frame + self.value }
    }
}

/// What is in the database of records that a request writes, by their digests.
pub(super) type Known = HashMap<[u8; 32], Current>;

/// Reads what is in the database of records that are to be written.
pub(super) async fn read(db: &Db<'_>, digests: &[[u8; 32]], now: Millis) -> Result<Known, Error> {
    let find = "SELECT place, CASE WHEN expires <= given.now THEN 0 ELSE revision END,
            coalesce(octet_length(key) + octet_length(peer) + 200, 0)::int8, octet_length(value)::int8
        FROM unnest($1::bytea[], $2::int8[]) WITH ORDINALITY AS given (digest, now, place)
        CROSS JOIN LATERAL (SELECT * FROM records WHERE records.digest = given.digest OFFSET 0) AS record";
    let mut known: Known = digests.iter().map(|digest| (*digest, Current::default())).collect();
    for (number, row) in db.ask(find, |add| digests.iter().for_each(|digest| add(params![&digest[..], now]))).await? {
        if let Some(current) = digests.get(number).and_then(|digest| known.get_mut(digest)) {
            *current = Current { revision: row.get(1), frame: row.get(2), value: row.get(3) };
        }
    }
    Ok(known)
}

/// Writes a record if the stored revision is the one in `record`; a record that has expired counts as deleted. The record is
/// kept, or it is about the stranger of `of`, who was seen at that time; a record that is kept then stays so. Returns whether
/// the record was written.
pub(super) async fn put(
    db: &Db<'_>,
    known: &mut Known,
    record: &Record,
    of: Option<(&str, Millis)>,
    now: Millis,
) -> Result<bool, Error> {
    let Record { kind, key, revision, value, expires } = record;
    let digest = record_digest(kind, key);
    let current = match known.get(&digest) {
        Some(current) => *current,
        None => read(db, &[digest], now).await?.remove(&digest).unwrap_or_default(),
    };
    if *revision != UNREAD && *revision != current.revision.unwrap_or(0) {
        return Ok(false);
    }
    let (kind_text, key_text, peer) = (stored(kind), stored(key), of.map(|(peer, _)| stored(peer)));
    let length = value.len() as i64;
    let frame = match (current.revision, &peer) {
        (_, None) => 0,
        (None, Some(peer)) => (key_text.len() + peer.len()) as i64 + PLACE,
        (Some(_), Some(_)) => current.frame,
    };
    match current.revision {
        None => {
            let insert = "INSERT INTO records (digest, kind, key, revision, expires, value, peer, seen)
                SELECT digest, kind, key, nextval('record_revisions'), expires, value, peer, seen
                FROM unnest($1::bytea[], $2::text[], $3::text[], $4::int8[], $5::bytea[], $6::text[], $7::int8[])
                    AS given (digest, kind, key, expires, value, peer, seen)";
            db.write(insert, params![&digest[..], kind_text, key_text, expires, value, peer, of.map(|(_, seen)| seen)]);
        }
        Some(_) => {
            let update = "UPDATE records SET revision = nextval('record_revisions'),
                    expires = given.expires, value = given.value,
                    peer = CASE WHEN given.seen IS NULL THEN NULL ELSE records.peer END,
                    seen = CASE WHEN given.seen IS NOT NULL AND records.peer IS NOT NULL
                        THEN greatest(records.seen, given.seen) END
                FROM unnest($1::bytea[], $2::int8[], $3::bytea[], $4::int8[]) AS given (digest, expires, value, seen)
                WHERE records.digest = given.digest";
            db.write(update, params![&digest[..], expires, value, of.map(|(_, seen)| seen)]);
        }
    }
    let revision = if expires.is_some_and(|expires| expires <= now) { 0 } else { UNKNOWN };
    let written = Current { revision: Some(revision), frame, value: length };
    known.insert(digest, written);
    db.tell(|told| told.changed(kind));
    count(db, current.size(), written.size());
    Ok(true)
}

/// Whether records have the revisions that are expected; a record that has expired counts as deleted.
pub(super) async fn are_unchanged(db: &Db<'_>, expected: &[Expectation], now: Millis) -> Result<bool, Error> {
    let changed = "SELECT place
        FROM unnest($1::bytea[], $2::int8[], $3::int8[]) WITH ORDINALITY AS expected (digest, revision, now, place)
        WHERE expected.revision <> coalesce((SELECT records.revision FROM records
            WHERE records.digest = expected.digest AND coalesce(expires > expected.now, true)), 0)";
    let fill = |add: &mut Add<'_>| {
        for Expectation { kind, key, revision } in expected {
            add(params![&record_digest(kind, key)[..], revision, now]);
        }
    };
    Ok(db.ask(changed, fill).await?.is_empty())
}

/// Deletes a record, if it exists.
pub(super) async fn delete(db: &Db<'_>, kind: &str, key: &str) -> Result<(), Error> {
    let delete = format!("DELETE FROM records WHERE digest = $1 RETURNING {STRANGER_RECORD}");
    for row in db.change(&delete, params![&record_digest(kind, key)[..]]).await? {
        db.tell(|told| told.changed(kind));
        count(db, row.get(0), 0);
    }
    Ok(())
}

/// Deletes records that have expired, at most `limit`.
pub(super) async fn delete_expired(db: &Db<'_>, now: Millis, limit: i64) -> Result<u64, Error> {
    delete_where(db, "expires <= $1", params![now, limit]).await
}

/// Deletes the records that a condition selects; its last parameter is the limit.
pub(super) async fn delete_where(db: &Db<'_>, condition: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
    let limit = parameters.len();
    let delete = format!(
        "DELETE FROM records WHERE digest IN (SELECT digest FROM records WHERE {condition} LIMIT ${limit})
        RETURNING {STRANGER_RECORD}"
    );
    let gone = db.change(&delete, parameters).await?;
    for row in &gone {
        count(db, row.get(0), 0);
    }
    Ok(gone.len() as u64)
}

/// Notes the size of a record about a stranger before and after a change; 0 stands for a record that is kept, or is not there.
fn count(db: &Db<'_>, before: i64, after: i64) {
    if before != after {
        let number = i64::from(after > 0) - i64::from(before > 0);
        db.add(|counts| counts.add(Counter::StrangerRecords, Count::of(number, after - before)));
    }
}
