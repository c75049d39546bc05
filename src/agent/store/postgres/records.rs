//! The changes of records in SQL.

use tokio_postgres::Error;

use super::{
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

/// Writes a record if the stored revision is the one in `record`; a record that has expired counts as deleted. The record is
/// kept, or it is about the stranger of `of`, who was seen at that time; a record that is kept then stays so. Returns whether
/// the record was written.
pub(super) async fn put(db: &Db<'_>, record: &Record, of: Option<(&str, Millis)>, now: Millis) -> Result<bool, Error> {
    let Record { kind, key, revision, value, expires } = record;
    let current = "CASE WHEN records.expires <= $7 THEN 0 ELSE records.revision END";
    let keep = match of {
        None => "peer = NULL, seen = NULL",
        Some(_) => "seen = CASE WHEN records.peer IS NOT NULL THEN greatest(records.seen, excluded.seen) END",
    };
    let write = format!(
        "WITH old AS (SELECT {STRANGER_RECORD} AS size FROM records WHERE digest = $1)
        INSERT INTO records (digest, kind, key, revision, expires, value, peer, seen)
        SELECT $1, $2, $3, nextval('record_revisions'), $4::int8, $5::bytea, $8::text, $9::int8
            WHERE $6::int8 <= 0 OR EXISTS (SELECT FROM old)
        ON CONFLICT (digest) DO UPDATE SET revision = excluded.revision, expires = excluded.expires,
            value = excluded.value, {keep}
            WHERE $6 = {UNREAD} OR {current} = $6
        RETURNING coalesce((SELECT size FROM old), 0), {STRANGER_RECORD}"
    );
    let digest = record_digest(kind, key);
    let (peer, seen) = of.unzip();
    let parameters =
        params![&digest[..], stored(kind), stored(key), expires, value, revision, now, peer.map(stored), seen];
    let Some(row) = db.change(&write, parameters).await?.pop() else { return Ok(false) };
    db.tell(|told| told.changed(kind));
    count(db, row.get(0), row.get(1));
    Ok(true)
}

/// Whether records have the revisions that are expected; a record that has expired counts as deleted.
pub(super) async fn are_unchanged(db: &Db<'_>, expected: &[Expectation], now: Millis) -> Result<bool, Error> {
    if expected.is_empty() {
        return Ok(true);
    }
    let (digests, revisions) = digests_and_revisions(expected);
    let digests: Vec<_> = digests.iter().map(|digest| &digest[..]).collect();
    Ok(db.first(&changed(1, 2, 3), params![digests, revisions, now]).await?.is_none())
}

/// The digests of the expected records, and their revisions, as parameters of [`changed`].
pub(super) fn digests_and_revisions(expected: &[Expectation]) -> (Vec<[u8; 32]>, Vec<i64>) {
    expected.iter().map(|it| (record_digest(&it.kind, &it.key), it.revision)).unzip()
}

/// A query for a record that has another revision than the expected one. The numbers are those of the parameters: the digests,
/// the revisions, and the present time.
pub(super) fn changed(digests: u32, revisions: u32, now: u32) -> String {
    format!(
        "SELECT 1 FROM unnest(${digests}::bytea[], ${revisions}::int8[]) AS expected (digest, revision)
        LEFT JOIN records ON records.digest = expected.digest AND coalesce(expires > ${now}, true)
        WHERE coalesce(records.revision, 0) <> expected.revision LIMIT 1"
    )
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
