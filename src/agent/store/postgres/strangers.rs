//! What strangers leave in the store, and its limits: records, marks and unread messages. `sqlite/strangers.rs` says more.

use tokio_postgres::Error;

use super::{
    cursors::RESTORED_AT,
    records::{self, Known},
    recount::STRANGER_RECORD,
    session::{Session, params},
    text::{stored, text},
    totals::{Count, Counter},
    transaction::Db,
};
use crate::agent::{
    clock::{MAX_CLOCK_SKEW, now},
    store::{
        limits::StoreLimits,
        types::{Millis, Record, Stranger},
    },
};

/// The most digests of processed envelopes that are remembered: about 100 MB.
const MAX_DIGESTS: i64 = 1_000_000;
/// How many of the oldest strangers are looked at to find one that has no message here.
const SEARCHED: i64 = 16;

/// Whether strangers may leave more messages, beside these unread ones.
pub(super) fn has_room(unread_of_strangers: Count, limits: &StoreLimits) -> bool {
    unread_of_strangers.bytes() < limits.max_stranger_unread_bytes
        && unread_of_strangers.number() < limits.max_stranger_unread
}

/// When a stranger was seen first and last, by the records about it.
pub(super) type Seen = Option<(Millis, Millis)>;

/// Reads when a stranger was seen.
pub(super) async fn seen(db: &Db<'_>, stranger: &str) -> Result<Seen, Error> {
    let range = "SELECT place, first, last FROM unnest($1::text[]) WITH ORDINALITY AS given (peer, place)
        CROSS JOIN LATERAL (SELECT min(seen) AS first, max(seen) AS last FROM records
            WHERE records.peer = given.peer) AS records
        WHERE first IS NOT NULL";
    let row = db.ask_one(range, params![stored(stranger)]).await?;
    Ok(row.map(|row| (row.get(1), row.get(2))))
}

/// Writes a record about a stranger. A record that is kept stays so. Returns false if the record has another revision.
pub(super) async fn remember(
    db: &Db<'_>,
    known: &mut Known,
    record: &Record,
    (stranger, seen): (&str, &mut Seen),
    now: Millis,
) -> Result<bool, Error> {
    let last = seen.map_or(now, |(_, last)| last.max(now));
    if !records::put(db, known, record, Some((stranger, last)), now).await? {
        return Ok(false);
    }
    if seen.is_some_and(|(first, _)| first < now) {
        let update = "UPDATE records SET seen = given.now FROM unnest($1::text[], $2::int8[]) AS given (peer, now)
            WHERE records.peer = given.peer AND seen < given.now";
        db.write(update, params![stored(stranger), now]);
    }
    *seen = Some((last, last));
    db.note_stranger(stranger);
    Ok(true)
}

/// Forgets what strangers have left beyond its limits: the oldest marks, and the records about those that were seen longest ago.
/// A batch ends with this.
pub(super) async fn bound(db: &Db<'_>) -> Result<(), Error> {
    drop_marks(db).await?;
    while db.count(&Counter::StrangerRecords).bytes() > db.limits().max_stranger_bytes {
        let Some(oldest) = oldest(db).await? else { break };
        records::delete_where(db, "peer = $1", params![stored(&oldest), i64::MAX]).await?;
    }
    Ok(())
}

/// Returns the stranger that was seen longest ago: one without a message here if there is one among the oldest. One that this
/// batch has written something about is returned only if there is no other.
async fn oldest(db: &Db<'_>) -> Result<Option<String>, Error> {
    let sql = "SELECT peer FROM records WHERE seen IS NOT NULL ORDER BY seen LIMIT $1";
    let mut best: Option<((bool, bool), String)> = None;
    for row in db.all(sql, params![SEARCHED]).await? {
        let peer = text(&row, 0)?;
        let has_left = db.count(&Counter::UnreadFrom(peer.clone())) != Count::default()
            || db.count(&Counter::UnsentTo(peer.clone())) != Count::default();
        let rank = (db.has_stranger(&peer), has_left);
        if best.as_ref().is_none_or(|(other, _)| rank < *other) {
            best = Some((rank, peer));
        }
    }
    Ok(best.map(|(_, peer)| peer))
}

/// Keeps what is known of a peer, which is not a stranger any more.
pub(super) async fn keep(db: &Db<'_>, peer: &str) -> Result<(), Error> {
    let records = format!(
        "WITH old AS (SELECT {STRANGER_RECORD} AS size FROM records WHERE peer = $1),
            done AS (UPDATE records SET peer = NULL, seen = NULL WHERE peer = $1)
        SELECT count(*), sum(size)::int8 FROM old HAVING count(*) > 0"
    );
    for row in db.change(&records, params![stored(peer)]).await? {
        let kept = Count::of(-row.get::<_, i64>(0), -row.get::<_, i64>(1));
        db.add(|counts| counts.add(Counter::StrangerRecords, kept));
    }
    let messages = "WITH done AS (
            UPDATE deliveries SET stranger = false WHERE sender = $1 AND stranger AND acknowledged IS NULL
            RETURNING coalesce(octet_length(sealed), 0) AS size)
        SELECT count(*), sum(size)::int8 FROM done HAVING count(*) > 0";
    for row in db.change(messages, params![stored(peer)]).await? {
        let kept = Count::of(-row.get::<_, i64>(0), -row.get::<_, i64>(1));
        db.add(|counts| counts.add(Counter::UnreadOfStrangers, kept));
    }
    Ok(())
}

/// Whether a message of this `created_time` may repeat one whose mark was dropped.
pub(super) fn is_too_old(db: &Db<'_>, created: Option<Millis>) -> bool {
    created.is_some_and(|created| created <= db.dropped())
}

/// Whether a stranger's message is dated ahead, and there is no room for more of them: a mark whose `created` is in the future is
/// kept until then. A tenth of the room is for such marks.
pub(super) async fn is_ahead(db: &Db<'_>, stranger: &Stranger, now: Millis) -> Result<bool, Error> {
    if stranger.created.is_none_or(|created| created <= now) {
        return Ok(false);
    }
    let full = "SELECT 1 FROM handled WHERE stranger AND created > $1 LIMIT 1 OFFSET $2";
    Ok(db.first(full, params![now, (max_marks(db) / 10).max(1) - 1]).await?.is_some())
}

fn max_marks(db: &Db<'_>) -> i64 {
    i64::try_from(db.limits().max_stranger_marks).unwrap_or(i64::MAX)
}

/// Drops the oldest marks of strangers' messages if there are too many. A mark whose `created` is in the future is kept until
/// then: otherwise its time would make the messages of all other strangers too old.
async fn drop_marks(db: &Db<'_>) -> Result<(), Error> {
    let surplus = db.count(&Counter::StrangerMarks).number.saturating_sub(max_marks(db));
    if surplus <= 0 {
        return Ok(());
    }
    // 1 says that a mark was dropped, and makes no message too old.
    let drop = "WITH gone AS (
            DELETE FROM handled WHERE seq IN (SELECT seq FROM handled
                WHERE stranger AND coalesce(created <= $2, true) ORDER BY seq LIMIT $1)
            RETURNING coalesce(created, 1) AS created)
        SELECT count(*), max(created) FROM gone HAVING count(*) > 0";
    for row in db.change(drop, params![surplus, now()]).await? {
        let (number, latest) = (row.get::<_, i64>(0), row.get::<_, Millis>(1));
        db.add(|counts| counts.add(Counter::StrangerMarks, Count::of(-number, 0)));
        let note = "UPDATE claviger SET value = $1 WHERE name = 'dropped' AND value < $1";
        db.execute(note, params![latest]).await?;
    }
    Ok(())
}

/// Whether a message of this `created_time` is newer than all whose marks were dropped or lost by a restore.
pub(super) async fn is_after_lost_marks(session: &Session, created: Option<Millis>) -> Result<bool, Error> {
    // A peer's clock may be ahead of ours.
    let sql = "SELECT greatest(
        (SELECT value FROM claviger WHERE name = 'dropped'),
        (SELECT value + $2 FROM claviger WHERE name = $1), 0)";
    let row = session.first(sql, params![RESTORED_AT, MAX_CLOCK_SKEW]).await?;
    let lost = row.map_or(0, |row| row.get::<_, Millis>(0));
    Ok(lost == 0 || created.is_some_and(|created| created > lost))
}

/// Forgets strangers that were not seen since `before`, at most `limit` records. Strangers with a message that is not
/// read or not sent yet are kept, since the application may answer them.
pub(super) async fn forget(db: &Db<'_>, before: Millis, limit: i64) -> Result<u64, Error> {
    let condition = "seen <= $1
        AND NOT EXISTS (SELECT FROM deliveries WHERE sender = records.peer AND acknowledged IS NULL)
        AND NOT EXISTS (SELECT FROM outgoing WHERE outgoing.peer = records.peer AND state = 0)";
    records::delete_where(db, condition, params![before, limit]).await
}

/// Forgets the oldest digests of processed envelopes if there are too many, at most `limit`. A repeated envelope is then
/// opened again, and its message is recognized by its mark.
pub(super) async fn bound_digests(db: &Db<'_>, limit: i64) -> Result<u64, Error> {
    let count = db.first("SELECT count(*) FROM concluded", &[]).await?;
    let surplus = count.map_or(0, |row| row.get::<_, i64>(0)).saturating_sub(MAX_DIGESTS).min(limit);
    if surplus <= 0 {
        return Ok(0);
    }
    let delete = "DELETE FROM concluded WHERE digest IN (SELECT digest FROM concluded ORDER BY time LIMIT $1)";
    db.execute(delete, params![surplus]).await
}

/// Forgets the acknowledged messages of strangers beyond as many as may be unacknowledged, oldest first, at most `limit`.
pub(super) async fn bound_history(db: &Db<'_>, limit: i64) -> Result<u64, Error> {
    let delete = "DELETE FROM deliveries WHERE cursor IN (
        SELECT cursor FROM deliveries WHERE stranger AND acknowledged IS NOT NULL
        ORDER BY acknowledged DESC LIMIT $1 OFFSET $2)";
    let kept = i64::try_from(db.limits().max_stranger_unread).unwrap_or(i64::MAX);
    db.execute(delete, params![limit, kept]).await
}

/// Deletes marks that have ended, at most `limit`. A mark stays longer while an envelope waits that arrived before: it may be a
/// copy of the message that arrived in time.
pub(super) async fn delete_marks(db: &Db<'_>, now: Millis, limit: i64) -> Result<u64, Error> {
    let delete = "WITH gone AS (
            DELETE FROM handled WHERE seq IN (SELECT seq FROM handled
                WHERE until <= least($1, (SELECT min(received) FROM envelopes)) LIMIT $2)
            RETURNING stranger)
        SELECT count(*), count(*) FILTER (WHERE stranger) FROM gone HAVING count(*) > 0";
    let mut deleted = 0;
    for row in db.change(delete, params![now, limit]).await? {
        db.add(|counts| counts.add(Counter::StrangerMarks, Count::of(-row.get::<_, i64>(1), 0)));
        deleted += row.get::<_, i64>(0).unsigned_abs();
    }
    Ok(deleted)
}
