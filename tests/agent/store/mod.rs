//! What outlives the process: every backend keeps the trait's word, and SQLite's own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use claviger::agent::store::{SqliteOptions, SqliteStore, Store};
use tempfile::TempDir;

mod age;
mod copies;
mod disk;
mod envelopes;
mod file;
mod many;
mod messages;
mod model;
mod quotas;
mod records;
mod suite;
mod things;
mod turns;

use suite::{Limits, Place};

mod sqlite {
    crate::suite!(crate::store::SqlitePlace::new);
}

/// A folder with a store in it.
struct SqlitePlace(TempDir);

impl SqlitePlace {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for temporary files"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store.db")
    }
}

#[async_trait]
impl Place for SqlitePlace {
    async fn open(&self, limits: Limits) -> Arc<dyn Store> {
        let limits = SqliteOptions {
            max_envelope_bytes: limits.envelope_bytes,
            max_envelopes_for: limits.envelopes_for,
            max_envelope_bytes_for: limits.envelope_bytes_for,
            max_unread_bytes: limits.unread_bytes,
            max_unread_from: limits.unread_from,
            max_unread_bytes_from: limits.unread_bytes_from,
            max_replies_to: limits.replies_to,
            ..SqliteOptions::default()
        };
        Arc::new(open(&self.path(), limits))
    }
}

fn open(path: &Path, options: SqliteOptions) -> SqliteStore {
    SqliteStore::open(path, options).expect("the store opens")
}
