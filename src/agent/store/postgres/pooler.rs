//! What a pooler must not break.

use super::{
    errors::store_error,
    locks::PROBE_LOCK,
    options::PostgresOptions,
    session::{Session, params},
};
use crate::agent::store::error::StoreError;

/// How often two sessions are asked for the processes that serve them.
const ROUNDS: usize = 3;

/// Checks that a session keeps a lock. `direct` leads to the server itself, and `session` to the same place or through the pooler
/// of the options.
///
/// # Errors
/// [`StoreError::Unusable`] if a pooler takes the sessions away after each transaction; [`StoreError::Unavailable`] if the
/// pooler and the direct connection lead to different databases.
pub(super) async fn check(direct: &Session, session: &Session, options: &PostgresOptions) -> Result<(), StoreError> {
    match options.is_pooled() {
        true => check_same_database(direct, session, options).await,
        false => check_own_sessions(direct, session, options).await,
    }
}

/// A pooler in transaction mode gives an idle session to whoever asks next.
async fn check_own_sessions(one: &Session, other: &Session, options: &PostgresOptions) -> Result<(), StoreError> {
    let mut before = None;
    for _ in 0..ROUNDS {
        let processes = (one.process().await.map_err(store_error)?, other.process().await.map_err(store_error)?);
        if processes.0 == processes.1 || before.is_some_and(|before| before != processes) {
            return Err(StoreError::Unusable(format!(
                "needs sessions of its own, and {} is behind a pooler in transaction mode: name the server itself in \
                 listen_url of [store], beside the url of the pooler",
                options.name()
            )));
        }
        before = Some(processes);
    }
    Ok(())
}

/// A lock of the direct connection is seen through the pooler if both lead to one database of one server. A copy of the server
/// would have the same identifiers.
async fn check_same_database(direct: &Session, pooled: &Session, options: &PostgresOptions) -> Result<(), StoreError> {
    let schema = "current_schema()::regnamespace::oid::int8";
    let lock = format!(
        "SELECT number::int8, {schema}, pg_advisory_xact_lock({PROBE_LOCK}, number)::text
        FROM (SELECT floor(random() * 2147483647)::int4 AS number OFFSET 0) AS chosen"
    );
    let find = format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted
            AND classid::int8 = {PROBE_LOCK} AND objid::int8 = $1
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
            AND {schema} IS NOT DISTINCT FROM $2"
    );
    let is_same = async {
        direct.run("BEGIN").await?;
        let Some(row) = direct.first(&lock, &[]).await? else { return Ok(false) };
        let (number, schema): (i64, Option<i64>) = (row.get(0), row.get(1));
        let found = pooled.first(&find, params![number, schema]).await?;
        direct.run("COMMIT").await?;
        Ok(found.is_some_and(|row| row.get(0)))
    };
    if is_same.await.map_err(store_error)? {
        return Ok(());
    }
    Err(StoreError::Unavailable(format!(
        "{} and {} are not the same database of the same server, with the same search_path: url and listen_url in [store] must \
         lead to one database",
        options.name(),
        options.direct().name()
    )))
}
