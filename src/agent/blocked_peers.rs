//! Peers that a person has blocked. Their messages are dropped before they are stored or opened.
//!
//! The peer is not told: it gets the same answer as for any other message. So it has no reason to send the message again, and
//! no sign by which to tell a block from a message that was not read.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
};

use serde::{Deserialize, Serialize};

use super::{
    canonical_did::canonical_did,
    clock::{Millis, now},
    error::AgentError,
    protocol::RecordType,
    sealed_store::SealedStore,
    store::StoreError,
};
use crate::did::{did_of, webvh::scid_prefix};

/// The most peers that can be blocked. They are in memory.
const MAX_BLOCKED: usize = 100_000;
/// With so many blocked peers, rotations of blocked peers are not followed any more. A blocked peer can rotate on and on, and
/// must not use up the room of those whom a person blocks.
const MAX_FOLLOWED: usize = 10_000;
/// How many records are read from the store at once.
const PAGE_SIZE: usize = 1000;
/// How often the peers are read anew because this agent changes them meanwhile.
const MAX_ATTEMPTS: usize = 10;

/// A blocked peer. The key of the record is the peer's DID, or the beginning that all names of its did:webvh have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedPeer {
    /// The DID by which the peer was blocked.
    pub peer: String,
    /// When the peer was blocked, in milliseconds since 1970.
    pub since: Millis,
}

impl BlockedPeer {
    /// Returns the key of a peer's record: what all names of the peer have in common.
    pub(super) fn key(peer: &str) -> String {
        let did = did_of(peer).unwrap_or(peer);
        scid_prefix(did).map_or_else(|| canonical_did(did).into_owned(), str::to_owned)
    }
}

impl RecordType for BlockedPeer {
    const KIND: &'static str = "blocked";
}

/// The blocked peers.
pub(super) struct BlockedPeers {
    store: Arc<SealedStore>,
    known: RwLock<Known>,
}

/// The blocked peers in memory.
#[derive(Default)]
struct Known {
    /// The keys of the records.
    keys: HashSet<String>,
    /// How often this agent has changed them.
    changes: u64,
}

impl BlockedPeers {
    pub fn new(store: Arc<SealedStore>) -> Self {
        Self { store, known: RwLock::default() }
    }

    /// Reads the blocked peers from the store, which may be sealed: at the start, and after another node has changed them.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn load(&self) -> Result<(), StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            let before = self.read(|known| known.changes);
            let keys = self.read_keys().await?;
            let mut known = self.write();
            // What this agent has changed meanwhile may not be among them.
            if known.changes == before {
                known.keys = keys;
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("the blocked peers are changed again and again".to_owned()))
    }

    async fn read_keys(&self) -> Result<HashSet<String>, StoreError> {
        let (mut keys, mut after) = (HashSet::new(), String::new());
        loop {
            let page = self.store.inner().records(BlockedPeer::KIND, &after, PAGE_SIZE).await?;
            let is_last_page = page.len() < PAGE_SIZE;
            if let Some(last) = page.last() {
                after.clone_from(&last.key);
            }
            keys.extend(page.into_iter().map(|record| record.key));
            if is_last_page {
                return Ok(keys);
            }
        }
    }

    /// Whether a peer is blocked. The peer may be named by any of its names, or by a DID URL.
    pub fn contains(&self, peer: &str) -> bool {
        self.read(|known| !known.keys.is_empty() && known.keys.contains(&BlockedPeer::key(peer)))
    }

    /// Blocks a peer. Does nothing if it is blocked.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if too many peers are blocked; [`AgentError::Store`] if the store fails or is sealed.
    pub async fn block(&self, peer: &str) -> Result<(), AgentError> {
        self.block_up_to(MAX_BLOCKED, peer).await
    }

    /// Blocks a DID to which a blocked peer has rotated.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if many peers are blocked; [`AgentError::Store`] if the store fails or is sealed.
    pub async fn block_successor(&self, peer: &str) -> Result<(), AgentError> {
        self.block_up_to(MAX_FOLLOWED, peer).await
    }

    async fn block_up_to(&self, max: usize, peer: &str) -> Result<(), AgentError> {
        let key = BlockedPeer::key(peer);
        // Not what is in memory: another node may have unblocked the peer a moment ago.
        let revision = self.store.revision::<BlockedPeer>(&key).await?;
        if revision != 0 {
            self.note(key);
            return Ok(());
        }
        let count = self.read(|known| known.keys.len());
        if count >= max {
            return Err(AgentError::Invalid(format!("{count} peers are blocked: unblock some of them first")));
        }
        let blocked = BlockedPeer { peer: canonical_did(peer).into_owned(), since: now() };
        // False if another request has blocked the peer meanwhile.
        let _ = self.store.put(&key, &blocked, revision).await?;
        self.note(key);
        Ok(())
    }

    /// Notes a record that was found in the store.
    pub fn note(&self, key: String) {
        let mut known = self.write();
        if known.keys.insert(key) {
            known.changes += 1;
        }
    }

    /// Unblocks a peer. Does nothing if it is not blocked.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn unblock(&self, peer: &str) -> Result<(), StoreError> {
        let key = BlockedPeer::key(peer);
        self.store.delete::<BlockedPeer>(&key).await?;
        let mut known = self.write();
        known.keys.remove(&key);
        known.changes += 1;
        Ok(())
    }

    /// Returns at most `limit` blocked peers with keys after `after`, each with its key.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails or is sealed.
    pub async fn list(&self, after: &str, limit: usize) -> Result<Vec<(String, BlockedPeer)>, StoreError> {
        self.store.list(after, limit).await
    }

    fn read<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::store::{SqliteOptions, SqliteStore};

    /// A blocked peer that rotates on and on leaves room for those whom a person blocks.
    #[tokio::test]
    async fn rotations_do_not_use_up_the_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), SqliteOptions::default()).unwrap();
        let blocked = BlockedPeers::new(Arc::new(SealedStore::with_new_key(Arc::new(store))));
        let fill = |count| blocked.write().keys = (0..count).map(|it| format!("did:example:{it}")).collect();
        fill(MAX_FOLLOWED - 1);
        blocked.block_successor("did:example:a").await.unwrap();
        assert!(blocked.block_successor("did:example:b").await.is_err());
        assert!(blocked.block_successor("did:example:a").await.is_ok(), "it is blocked");
        blocked.block("did:example:c").await.unwrap();
        assert_eq!(["a", "b", "c"].map(|it| blocked.contains(&format!("did:example:{it}"))), [true, false, true]);
        assert_eq!(blocked.list("", 10).await.unwrap().len(), 2);
        fill(MAX_BLOCKED);
        assert!(blocked.block("did:example:d").await.is_err());
    }
}
