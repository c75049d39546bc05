//! Where a store is.

use std::{fmt, path::PathBuf};

#[cfg(feature = "postgres")]
use super::postgres::{PostgresOptions, PostgresTables};
use super::{error::StoreError, sqlite::SqliteTables, tables::Tables};

/// Where a store is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StoreLocation {
    /// A database file of SQLite.
    Sqlite(PathBuf),
    /// A database of PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(Box<PostgresOptions>),
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            #[cfg(feature = "postgres")]
            Self::Postgres(options) => f.write_str(options.name()),
        }
    }
}

impl StoreLocation {
    /// Opens the store to copy it.
    pub(super) async fn open_source(&self) -> Result<Box<dyn Tables>, StoreError> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(SqliteTables::open_source(path).await?),
            #[cfg(feature = "postgres")]
            Self::Postgres(options) => Box::new(PostgresTables::open_source(options).await?),
        })
    }

    /// Opens a new store, or an unfinished copy of the source with this number.
    pub(super) async fn open_target(&self, source: i64) -> Result<Box<dyn Tables>, StoreError> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(SqliteTables::open_target(path, source).await?),
            #[cfg(feature = "postgres")]
            Self::Postgres(options) => Box::new(PostgresTables::open_target(options, source).await?),
        })
    }

    /// Opens the store to check it.
    pub(super) async fn open_to_check(&self) -> Result<Box<dyn Tables>, StoreError> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(SqliteTables::open_to_check(path).await?),
            #[cfg(feature = "postgres")]
            Self::Postgres(options) => Box::new(PostgresTables::open_to_check(options).await?),
        })
    }
}
