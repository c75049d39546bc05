//! Commits to the store, and tells a listener what was committed.

use std::sync::Arc;

use tracing::Instrument;

use super::{
    record_cache::RecordCache,
    store::{
        Store,
        error::StoreError,
        types::{Change, Commit, CommitOutcome},
    },
};

/// The function that is called after each successful commit with its deliveries and its messages to send, without their
/// sealed content, and its events.
pub type CommitListener = Box<dyn Fn(&[Change]) + Send + Sync>;

/// Makes commits.
pub struct Committer {
    store: Arc<dyn Store>,
    on_commit: CommitListener,
    records: Arc<RecordCache>,
}

impl Committer {
    /// The committer has `records` forget what it changes.
    pub fn new(store: Arc<dyn Store>, on_commit: CommitListener, records: Arc<RecordCache>) -> Self {
        Self { store, on_commit, records }
    }

    /// Commits, and tells the listener about the deliveries and the messages to send, without their content, and the events.
    /// The listener is told also if the caller stops waiting, as that of a closed connection does: otherwise a message that
    /// was committed would wait until another one for its peer.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn commit(self: &Arc<Self>, commit: Commit) -> Result<CommitOutcome, StoreError> {
        let committer = self.clone();
        let committing = tokio::spawn(async move { committer.commit_and_tell(commit).await }.in_current_span());
        committing.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    async fn commit_and_tell(&self, mut commit: Commit) -> Result<CommitOutcome, StoreError> {
        let changes = Change::copy_without_content(&mut commit.changes);
        let changed = RecordCache::digests(&commit.changes);
        let outcome = self.store.commit(commit).await;
        // Also after an error, since the changes may be made.
        self.records.forget(&changed);
        let outcome = outcome?;
        if outcome == CommitOutcome::Committed {
            self.tell(&changes);
        }
        Ok(outcome)
    }

    /// Tells the listener about changes.
    pub fn tell(&self, changes: &[Change]) {
        (self.on_commit)(changes);
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::FutureExt;
    use rusqlite::Connection;

    use super::*;
    use crate::agent::store::{SqliteOptions, SqliteStore, event::NewEvent};

    /// An application closes its connection while its message is being committed.
    #[tokio::test]
    async fn what_is_committed_is_told_although_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = Arc::new(SqliteStore::open(&path, SqliteOptions::default()).unwrap());
        let (told, mut is_told) = tokio::sync::mpsc::unbounded_channel();
        let committer = Arc::new(Committer::new(store, Box::new(move |_| _ = told.send(())), Arc::default()));
        // The store cannot write before the lock is gone.
        let lock = Connection::open(&path).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        let event = NewEvent { kind: "message.sent".to_owned(), data: "{}".to_owned(), time: 0 };
        {
            let mut committing =
                pin!(committer.commit(Commit { changes: vec![Change::Event(event)], ..Commit::default() }));
            assert!(committing.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        assert!(is_told.try_recv().is_err());
        lock.execute_batch("ROLLBACK").unwrap();
        tokio::time::timeout(Duration::from_secs(60), is_told.recv()).await.unwrap().unwrap();
    }
}
