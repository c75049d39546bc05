//! The schema, and its migrations.

use super::errors::store_error;
use super::locks::{SCHEMA_NUMBER, TRANSACTION_LOCK};
use super::session::{Session, params};
use crate::agent::store::{
    error::StoreError,
    tables::{COPY_OF, unfinished},
};

/// The migrations. Number n, counted from 1, migrates a database of schema n - 1. A released migration never changes.
const MIGRATIONS: [&str; 3] =
    [include_str!("schema/1.sql"), include_str!("schema/2.sql"), include_str!("schema/3.sql")];
/// The schema of this release, as in the table `claviger`.
pub(super) const KNOWN_SCHEMA: i64 = MIGRATIONS.len() as i64;
/// The oldest server that the SQL is written for.
const OLDEST_SERVER: i64 = 150_000;

/// Checks that the server and the database can hold a store, and makes the commits of this session durable.
pub(super) async fn set_up(session: &Session) -> Result<(), StoreError> {
    let sql =
        "SELECT current_setting('server_version_num')::int8, current_setting('server_encoding'), current_schema(),
        current_setting('synchronous_commit'), current_setting('fsync'), pg_is_in_recovery()";
    let unusable = |why: String| Err(StoreError::Unusable(why));
    let Some(row) = session.first(sql, &[]).await.map_err(store_error)? else {
        return unusable("has a server that does not answer a question about itself".to_owned());
    };
    let number: i64 = row.get(0);
    if number < OLDEST_SERVER {
        return unusable(format!("needs PostgreSQL 15 or newer, and the server is {}", number / 10_000));
    }
    let encoding: &str = row.get(1);
    if encoding != "UTF8" {
        return unusable(format!("needs a database with the encoding UTF8, and this one has {encoding}"));
    }
    if row.get::<_, Option<&str>>(2).is_none() {
        return unusable("has no schema for its tables: set the role's search_path".to_owned());
    }
    if row.get(5) {
        return Err(StoreError::Unavailable("the server is a standby, which cannot be written".to_owned()));
    }
    // What is answered must be durable. The server's default may be another.
    if row.get::<_, &str>(3) == "off" {
        session.commit_durably().await.map_err(store_error)?;
    }
    if row.get::<_, &str>(4) == "off" {
        tracing::warn!("PostgreSQL has fsync off: messages that were accepted are lost if the machine stops");
    }
    Ok(())
}

/// Returns the schema of the store, or 0 for an empty database. Writes nothing, since the database may be another program's.
///
/// # Errors
/// [`StoreError::Unusable`] for another program's database and for an unfinished copy; [`StoreError::TooNew`] for a newer
/// schema that this release must not use. A newer schema that this release may use says so in `readable_from`.
pub(super) async fn current(session: &Session) -> Result<i64, StoreError> {
    let found = version(session).await?;
    if found > 0 && copy_of(session).await?.is_some() { Err(unfinished()) } else { Ok(found) }
}

/// Returns the number that an unfinished copy has of its source.
pub(super) async fn copy_of(session: &Session) -> Result<Option<i64>, StoreError> {
    let find = "SELECT value FROM claviger WHERE name = $1";
    Ok(session.first(find, params![COPY_OF]).await.map_err(store_error)?.map(|row| row.get(0)))
}

/// Returns the schema of the store or of an unfinished copy, or 0 for an empty database.
pub(super) async fn version(session: &Session) -> Result<i64, StoreError> {
    let is_store = session.first("SELECT to_regclass('claviger') IS NOT NULL", &[]).await.map_err(store_error)?;
    if is_store.is_none_or(|row| !row.get::<_, bool>(0)) {
        // What belongs to an extension may be there.
        let sql = "SELECT 1 FROM pg_class WHERE relnamespace = current_schema()::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend
                WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e') LIMIT 1";
        return match session.first(sql, &[]).await.map_err(store_error)? {
            None => Ok(0),
            Some(_) => Err(StoreError::Unusable(
                "is another program's database: give the agent an empty database, or a schema of its own".to_owned(),
            )),
        };
    }
    let find = "SELECT (SELECT value FROM claviger WHERE name = 'schema'),
        (SELECT value FROM claviger WHERE name = 'readable_from')";
    let row = session.first(find, &[]).await.map_err(store_error)?;
    let (found, readable_from): (Option<i64>, Option<i64>) = row.map_or((None, None), |row| (row.get(0), row.get(1)));
    let Some(found) = found else {
        return Err(StoreError::Unusable("has a table `claviger` that does not tell its schema".to_owned()));
    };
    if found > KNOWN_SCHEMA && readable_from.is_none_or(|oldest| oldest > KNOWN_SCHEMA) {
        return Err(StoreError::TooNew { found, known: KNOWN_SCHEMA });
    }
    Ok(found)
}

/// Migrates a database from the schema `found` to that of this release. A newer schema that this release may use is left as it
/// is.
pub(super) async fn migrate(session: &Session, found: i64) -> Result<(), StoreError> {
    for (sql, number) in MIGRATIONS.iter().zip(1..).filter(|(_, number)| *number > found) {
        apply(session, sql, number).await.map_err(store_error)?;
        if found > 0 {
            tracing::info!(schema = number, "store migrated");
        }
    }
    Ok(())
}

/// Creates the tables of a copy that is to be filled, in an empty database.
pub(super) async fn create_copy(session: &Session, source: i64) -> Result<(), StoreError> {
    let create = async {
        session.run(&format!("BEGIN{}; SET LOCAL statement_timeout = 0", session.local_settings())).await?;
        for (sql, number) in MIGRATIONS.iter().zip(1..) {
            run(session, sql, number).await?;
        }
        session.execute("INSERT INTO claviger (name, value) VALUES ($1, $2)", params![COPY_OF, source]).await?;
        session.run("COMMIT").await
    };
    create.await.map_err(store_error)
}

async fn apply(session: &Session, sql: &str, number: i64) -> Result<(), tokio_postgres::Error> {
    // Other nodes do not write meanwhile: they could wait for a table that this transaction has, and this one for theirs.
    let begin = format!(
        "BEGIN{}; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({TRANSACTION_LOCK}, {SCHEMA_NUMBER})",
        session.local_settings()
    );
    session.run(&begin).await?;
    run(session, sql, number).await?;
    session.run("COMMIT").await
}

async fn run(session: &Session, sql: &str, number: i64) -> Result<(), tokio_postgres::Error> {
    session.run(sql).await?;
    let note = "INSERT INTO claviger (name, value) VALUES ('schema', $1)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    session.execute(note, params![number]).await.map(drop)
}
