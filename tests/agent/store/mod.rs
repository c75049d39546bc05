//! The store: the suite of the trait for each backend, and tests of each backend alone.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use claviger::agent::store::{SqliteOptions, SqliteStore, Store, StoreLimits};
use tempfile::TempDir;

mod backups;
mod checks;
mod commits;
mod concurrency;
mod content;
#[cfg(feature = "postgres")]
mod copies;
mod disk;
mod envelopes;
mod events;
mod fixtures;
#[cfg(feature = "postgres")]
mod handover;
mod messages;
mod model;
#[cfg(feature = "postgres")]
mod node_failures;
#[cfg(feature = "postgres")]
pub mod nodes;
#[cfg(feature = "postgres")]
mod pooler;
#[cfg(feature = "postgres")]
pub mod postgres;
mod quotas;
mod records;
mod retention;
#[cfg(feature = "postgres")]
mod rolling_update;
mod sqlite_file;
mod strangers;
mod suite;

use suite::{Limits, StoreLocation};

mod sqlite {
    crate::suite!(crate::store::SqliteLocation::some);
}

/// A temporary folder with a store.
struct SqliteLocation(TempDir);

impl SqliteLocation {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for temporary files"))
    }

    fn some() -> Option<Self> {
        Some(Self::new())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store.db")
    }
}

#[async_trait]
impl StoreLocation for SqliteLocation {
    async fn open(&self, limits: Limits) -> Arc<dyn Store> {
        Arc::new(open(&self.path(), store_limits(limits)))
    }
}

fn open(path: &Path, options: SqliteOptions) -> SqliteStore {
    SqliteStore::open(path, options).expect("the store opens")
}

/// The limits in the product's type.
fn store_limits(limits: Limits) -> StoreLimits {
    StoreLimits {
        max_envelope_bytes: limits.envelope_bytes,
        max_envelopes_for: limits.envelopes_for,
        known_peer_percent: limits.known_peer_percent,
        max_envelope_bytes_for: limits.envelope_bytes_for,
        max_unread_bytes: limits.unread_bytes,
        max_unread_from: limits.unread_from,
        max_unread_bytes_from: limits.unread_bytes_from,
        max_replies_to: limits.replies_to,
        max_stranger_bytes: limits.stranger_bytes,
        max_stranger_marks: limits.stranger_marks,
        max_stranger_unread: limits.stranger_unread,
        max_stranger_unread_bytes: limits.stranger_unread_bytes,
        max_events: limits.events,
        ..StoreLimits::default()
    }
}
