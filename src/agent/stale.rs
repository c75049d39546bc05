//! What this node must read from the store again, because another node has changed it.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// What is kept in memory, and may differ from the store. What takes no time comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Envelopes wait that were another node's.
    Envelopes,
    /// The connections that are known to be kept.
    KnownPeers,
    /// The mediators.
    Mediators,
    /// Our DIDs whose overlap is over.
    RetiredDids,
    /// The blocked peers.
    BlockedPeers,
    /// The documents of our DIDs.
    OwnDids,
    /// The peers for which messages wait.
    OutboxPeers,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 7] = [
        Self::Envelopes,
        Self::KnownPeers,
        Self::Mediators,
        Self::RetiredDids,
        Self::BlockedPeers,
        Self::OwnDids,
        Self::OutboxPeers,
    ];
}

/// The parts that are to be read again. However often one is marked, it is read once.
#[derive(Default)]
pub struct Stale {
    parts: Mutex<BTreeSet<Part>>,
    marked: Notify,
}

impl Stale {
    /// Marks a part.
    pub fn mark(&self, part: Part) {
        self.parts().insert(part);
        self.marked.notify_one();
    }

    /// Returns once a part was marked since the last call.
    pub async fn marked(&self) {
        self.marked.notified().await;
    }

    /// Takes the marked parts.
    pub fn take(&self) -> BTreeSet<Part> {
        std::mem::take(&mut *self.parts())
    }

    fn parts(&self) -> MutexGuard<'_, BTreeSet<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
