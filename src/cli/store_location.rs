//! Where the store is, from `[store]`: a file of SQLite, or a database of PostgreSQL.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc};

use claviger::{
    agent::store::{PostgresOptions, PostgresStore, SqliteStore, Store, StoreError, StoreLimits},
    net::client_config,
};

use super::{config::Config, failure::Failure};

/// Where the store is.
pub enum StoreLocation {
    File(PathBuf),
    Database(Box<PostgresOptions>),
}

impl StoreLocation {
    /// Reads the location from the configuration. Reads the password and the certificates too, so call it before the process
    /// enters its sandbox.
    pub fn of(config: &Config) -> Result<Self, Failure> {
        let store = &config.daemon.store;
        let Some(url) = &store.url else { return Ok(Self::File(config.store_path())) };
        let invalid = |message: String| Failure::usage("bad-config", message);
        let ca = config.daemon.net.ca.as_ref().map(|ca| config.base.join(ca));
        let tls = client_config(ca.as_deref()).map_err(|error| Failure::usage("bad-certificate", error.to_string()))?;
        let mut options =
            PostgresOptions::from_url(url, &tls).map_err(|error| invalid(format!("url in [store]: {error}")))?;
        if options.has_unix_socket() {
            // The sandbox allows no new connections to Unix sockets, whose servers may do anything for the agent's user.
            return Err(invalid(
                "url in [store] names a Unix socket, which the agent's sandbox cannot reach".to_owned(),
            )
            .hint("name an address, such as 127.0.0.1, and a password_file"));
        }
        if let Some(file) = &store.password_file {
            let path = config.base.join(file);
            options = options
                .with_password_file(&path)
                .map_err(|error| invalid(format!("password_file in [store], {}: {error}", path.display())))?;
        }
        Ok(Self::Database(Box::new(options)))
    }

    /// The addresses of the database that are known without the DNS. No URL of a peer may lead there.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::File(_) => Vec::new(),
            Self::Database(options) => options.literal_addresses(),
        }
    }

    /// Opens the store. A database is used by tasks of the present tokio runtime.
    pub async fn open(&self, limits: StoreLimits) -> Result<Arc<dyn Store>, StoreError> {
        Ok(match self {
            Self::File(path) => Arc::new(SqliteStore::open(path, limits)?),
            Self::Database(options) => Arc::new(PostgresStore::open(PostgresOptions::clone(options), limits).await?),
        })
    }

    /// Checks whether a database can be used, also while an agent uses it.
    pub async fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::File(_) => Ok(()),
            Self::Database(options) => PostgresStore::check(options).await,
        }
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Database(options) => write!(f, "the database {} in PostgreSQL", options.name()),
        }
    }
}
