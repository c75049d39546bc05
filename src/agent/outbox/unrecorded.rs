//! The messages of a peer that were sent, until the store has recorded it. The peer's task does not wait for that, and does not
//! read these messages from the store again.

use std::{collections::HashSet, sync::Arc};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::state::Outbox;
use crate::agent::{
    clock::Millis,
    store::types::{OutboxEntry, SendOutcome},
};

/// The messages of one peer whose outcome is being recorded.
#[derive(Default)]
pub(super) struct Unrecorded {
    /// Each ends with the id of its message.
    writes: JoinSet<String>,
    ids: HashSet<String>,
}

impl Unrecorded {
    /// Records that a message was sent, in the background.
    pub fn record(&mut self, outbox: &Arc<Outbox>, mut entry: OutboxEntry, sent: Millis, shutdown: &CancellationToken) {
        // The content is not needed any more.
        entry.sealed = None;
        self.ids.insert(entry.id.clone());
        let (outbox, shutdown) = (outbox.clone(), shutdown.clone());
        self.writes.spawn(async move {
            outbox.record_outcome(&entry, SendOutcome::Sent(sent), &shutdown).await;
            entry.id
        });
    }

    /// Returns once at most `count` messages are not recorded.
    pub async fn shrink_to(&mut self, count: usize) {
        while self.writes.len() > count
            && let Some(written) = self.writes.join_next().await
        {
            self.forget(written.ok());
        }
    }

    /// The ids of the messages that are not recorded.
    pub fn ids(&mut self) -> &HashSet<String> {
        while let Some(written) = self.writes.try_join_next() {
            self.forget(written.ok());
        }
        &self.ids
    }

    pub fn len(&self) -> usize {
        self.writes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    fn forget(&mut self, id: Option<String>) {
        match id {
            Some(id) => drop(self.ids.remove(&id)),
            // A write has panicked, so its message is known when there is no other.
            None if self.writes.is_empty() => self.ids.clear(),
            None => {}
        }
    }
}
