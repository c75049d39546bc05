//! Where a store is: a file of SQLite, or a database of PostgreSQL. `[store]` or an argument names it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use claviger::{
    agent::store::{PostgresOptions, PostgresStore, SqliteStore, Store, StoreError, StoreLimits, StoreLocation},
    net::{TlsError, client_config},
};

use super::{config::Config, failure::Failure};

/// What a connection to PostgreSQL needs beside its URL.
pub struct Connection<'a> {
    pub password_file: Option<&'a Path>,
    /// The certificates of authorities that are trusted in addition to the system's.
    pub ca: Option<&'a Path>,
}

/// Returns where the configuration puts the store. Reads the password and the certificates too, so call it before the process
/// enters its sandbox.
pub fn configured(config: &Config) -> Result<StoreLocation, Failure> {
    let store = &config.daemon.store;
    let Some(url) = &store.url else { return Ok(StoreLocation::Sqlite(config.store_path())) };
    let path = |file: &PathBuf| config.base.join(file);
    let (password_file, ca) = (store.password_file.as_ref().map(path), config.daemon.net.ca.as_ref().map(path));
    let connection = Connection { password_file: password_file.as_deref(), ca: ca.as_deref() };
    let wrong = |what: &str, why: String| Failure::usage("bad-config", format!("{what} in [store]: {why}"));
    let mut options = connection.to(url, wrong)?;
    check_socket("url", &options)?;
    if let Some(url) = &store.listen_url {
        let tls = client_config(connection.ca).map_err(bad_certificate)?;
        options = options.with_direct_url(url, &tls).map_err(|error| wrong("listen_url", error.to_string()))?;
        check_socket("listen_url", &options)?;
    }
    if let Some(node) = &store.node {
        options = options.as_node(node).map_err(|error| wrong("node", error.to_string()))?;
    }
    Ok(StoreLocation::Postgres(Box::new(options)))
}

/// The sandbox allows no new connections to Unix sockets, whose servers may do anything for the agent's user.
fn check_socket(name: &str, options: &PostgresOptions) -> Result<(), Failure> {
    if !options.has_unix_socket() {
        return Ok(());
    }
    let message = format!("{name} in [store] names a Unix socket, which the agent's sandbox cannot reach");
    Err(Failure::usage("bad-config", message).hint("name an address, such as 127.0.0.1, and a password_file"))
}

/// Returns the store with this path or URL.
pub fn named(name: &str, connection: &Connection<'_>) -> Result<StoreLocation, Failure> {
    let invalid = |message: String| Failure::usage("bad-arguments", message);
    if ["postgres://", "postgresql://"].iter().any(|scheme| name.starts_with(scheme)) {
        let options = connection.to(name, |what, why| invalid(format!("{what}: {why}")))?;
        return Ok(StoreLocation::Postgres(Box::new(options)));
    }
    if name.contains("://") {
        return Err(invalid("a store is the path of a file, or a URL that begins with postgres://".to_owned()));
    }
    match connection.password_file {
        Some(_) => Err(invalid(format!("{name} is a file, which has no password"))),
        None => Ok(StoreLocation::Sqlite(name.into())),
    }
}

/// Returns the addresses of a database, and of the pooler before it, that are known without the DNS. No URL of a peer may lead
/// there.
pub fn addresses(location: &StoreLocation) -> Vec<SocketAddr> {
    match location {
        StoreLocation::Postgres(options) => options.literal_addresses(),
        _ => Vec::new(),
    }
}

/// Opens a store. A database is used by tasks of the present tokio runtime.
pub async fn open(location: &StoreLocation, limits: StoreLimits) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match location {
        StoreLocation::Postgres(options) => {
            Arc::new(PostgresStore::open(PostgresOptions::clone(options), limits).await?)
        }
        StoreLocation::Sqlite(path) => Arc::new(SqliteStore::open(path, limits)?),
        _ => return Err(StoreError::Unusable("is of an unknown kind".to_owned())),
    })
}

/// Checks that a database can be reached and used; if this agent does not run (`is_running`), also that no other one keeps it from
/// the database.
pub async fn try_open(location: &StoreLocation, is_running: bool) -> Result<(), StoreError> {
    match location {
        StoreLocation::Postgres(options) if is_running => PostgresStore::try_connect(options).await,
        StoreLocation::Postgres(options) => PostgresStore::try_open(options).await,
        _ => Ok(()),
    }
}

impl Connection<'_> {
    /// Reads what the connection needs. `wrong` makes the failure from what is wrong, and why.
    fn to(&self, url: &str, wrong: impl Fn(&str, String) -> Failure) -> Result<PostgresOptions, Failure> {
        let tls = client_config(self.ca).map_err(bad_certificate)?;
        let options = PostgresOptions::from_url(url, &tls).map_err(|error| wrong("url", error.to_string()))?;
        let Some(file) = self.password_file else { return Ok(options) };
        let with_password = options.with_password_file(file);
        with_password.map_err(|error| wrong("password_file", format!("{}: {error}", file.display())))
    }
}

fn bad_certificate(error: TlsError) -> Failure {
    Failure::usage("bad-certificate", error.to_string())
}
