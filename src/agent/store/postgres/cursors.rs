//! The cursors of deliveries and of events, which tell a reader whether it has seen everything that came before.
//!
//! A sequence of PostgreSQL gives its numbers outside of transactions. With two transactions at once, the higher number could
//! become visible first, and a reader that remembers it would never see the lower one. Here the numbers of one transaction
//! become visible together, and there is one transaction that writes at a time: the writer has one session, and whoever takes
//! the database waits until the last transaction of the former owner has ended (`ownership.rs`). **So cursors become visible in
//! their order.** Whoever lets several transactions write at once must number deliveries and events in another way.
//!
//! A restored database does not know which cursors were given out after the backup. So it gives out none of them again: a new
//! or restored store begins a range of cursors above all that an earlier state can have given out, as in SQLite.

use super::{
    errors::store_error,
    session::{Session, params},
};
use crate::agent::{
    clock::now,
    store::{
        cursor_range::{RANDOM_PART, earliest_start},
        error::StoreError,
    },
};

/// The name in the table `claviger` of the time of the last restore: the marks of messages that were handled after the backup
/// are lost.
pub(super) const RESTORED_AT: &str = "restored_at";

/// The rows that have cursors. Each of the two has its own.
#[derive(Clone, Copy)]
pub(super) enum Sequence {
    Deliveries,
    Events,
}

impl Sequence {
    pub(super) const ALL: [Self; 2] = [Self::Deliveries, Self::Events];

    /// The name of the table.
    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries",
            Self::Events => "events",
        }
    }

    /// An expression for the last cursor that was given out.
    fn last(self) -> &'static str {
        match self {
            Self::Deliveries => "(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM deliveries_cursor_seq)",
            Self::Events => "(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM events_cursor_seq)",
        }
    }
}

/// Where a database is: three numbers, by their names in the table `claviger`. A dump that is restored elsewhere is in another
/// cluster or in other tables; a server that is restored from its files, or a standby that is promoted, begins a timeline.
const PLACE: &str = "SELECT * FROM (VALUES
        ('place_cluster', (SELECT system_identifier FROM pg_control_system())),
        ('place_timeline', (SELECT timeline_id::int8 FROM pg_control_checkpoint())),
        ('place_table', 'claviger'::regclass::oid::int8)
    ) AS here (name, value)";

/// Begins new ranges of cursors if the store is new or was restored. The caller has a transaction, and is the only owner.
///
/// What is not noticed: a restore that empties the tables and fills them again where they are.
pub(super) async fn begin_range(session: &Session) -> Result<(), StoreError> {
    try_begin_range(session).await.map_err(store_error)
}

async fn try_begin_range(session: &Session) -> Result<(), tokio_postgres::Error> {
    let was_restored = was_restored(session).await?;
    if was_restored == Some(false) {
        return Ok(());
    }
    note_place(session).await?;
    if was_restored == Some(true) {
        tracing::warn!("the database was restored, moved or copied: cursors begin a new range");
        let note = "INSERT INTO claviger (name, value) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        session.execute(note, params![RESTORED_AT, now()]).await?;
    }
    let (start, random) = (earliest_start(now()), RANDOM_PART as f64);
    for sequence in Sequence::ALL {
        let (table, last) = (sequence.table(), sequence.last());
        let end = format!("UPDATE cursor_ranges SET last = {last} WHERE sequence = $1 AND last IS NULL");
        session.execute(&end, params![table]).await?;
        let begin = format!(
            "WITH begun AS (SELECT greatest({last}, $2) + floor(random() * $3)::int8 AS before),
                range AS (INSERT INTO cursor_ranges (sequence, first) SELECT $1, before + 1 FROM begun)
            SELECT setval(pg_get_serial_sequence($1, 'cursor'), before) FROM begun"
        );
        session.all(&begin, params![table, start, random]).await?;
    }
    Ok(())
}

/// Whether the database was restored or moved since its place was noted. `None`: its place was never noted.
pub(super) async fn was_restored(session: &Session) -> Result<Option<bool>, tokio_postgres::Error> {
    let compare = format!(
        "SELECT count(claviger.name), count(*) FILTER (WHERE claviger.value = here.value)
        FROM ({PLACE}) AS here LEFT JOIN claviger ON claviger.name = here.name"
    );
    let row = session.first(&compare, &[]).await?;
    let (known, same) = row.map_or((0, 0), |row| (row.get::<_, i64>(0), row.get::<_, i64>(1)));
    Ok((known > 0).then_some(same < 3))
}

/// Notes where the database is.
pub(super) async fn note_place(session: &Session) -> Result<(), tokio_postgres::Error> {
    let write =
        format!("INSERT INTO claviger (name, value) {PLACE} ON CONFLICT (name) DO UPDATE SET value = excluded.value");
    session.execute(&write, &[]).await.map(drop)
}

/// Notes a place that no database has, so that the database counts as restored.
pub(super) async fn note_no_place(session: &Session) -> Result<(), tokio_postgres::Error> {
    session.execute("UPDATE claviger SET value = 0 WHERE name = 'place_table'", &[]).await.map(drop)
}

/// Whether the store has given out this cursor. 0 is the beginning.
pub(super) async fn is_known(
    session: &Session,
    sequence: Sequence,
    cursor: i64,
) -> Result<bool, tokio_postgres::Error> {
    if cursor == 0 {
        return Ok(true);
    }
    let sql = format!(
        "SELECT 1 FROM cursor_ranges WHERE sequence = $1 AND first <= $2 AND coalesce(last, {}) >= $2",
        sequence.last()
    );
    Ok(session.first(&sql, params![sequence.table(), cursor]).await?.is_some())
}
