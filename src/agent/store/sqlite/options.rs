//! The options of the SQLite store.

pub use crate::agent::store::limits::StoreLimits as SqliteOptions;
