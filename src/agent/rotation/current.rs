//! Finds the DID that an earlier DID, of ours or of a peer, has rotated to, and the connection of the two.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;

use super::{own::OwnRotation, peer::PeerRotation};
use crate::agent::{
    protocol::connections::{Connection, MAX_PREVIOUS},
    sealed_store::SealedStore,
    store::error::StoreError,
};

/// How many rotations of one DID are followed.
const MAX_ROTATIONS: usize = MAX_PREVIOUS;
/// How many current connections are remembered, and how long. Changes of this process end that at once.
const REMEMBERED: usize = 1000;
const REMEMBERED_FOR: Duration = Duration::from_secs(1);

/// Returns the DID that one of our DIDs has rotated to, or the DID itself.
///
/// # Errors
/// [`StoreError`] if the store fails; [`StoreError::Unusable`] for a damaged record.
pub async fn current_own_did(store: &SealedStore, did: &str) -> Result<String, StoreError> {
    let mut current = did.to_owned();
    for _ in 0..MAX_ROTATIONS {
        let Some((rotation, _)) = store.get::<OwnRotation>(&current).await? else { break };
        current = rotation.to;
    }
    Ok(current)
}

/// Returns the DID that a peer has rotated to in its connection with `own_did`, or the peer's DID itself.
///
/// # Errors
/// The errors of [`current_own_did`].
pub async fn current_peer_did(store: &SealedStore, own_did: &str, peer_did: &str) -> Result<String, StoreError> {
    let mut current = peer_did.to_owned();
    for _ in 0..MAX_ROTATIONS {
        let Some((rotation, _)) = store.get::<PeerRotation>(&Connection::key(own_did, &current)).await? else { break };
        current = rotation.to;
    }
    Ok(current)
}

/// The connection of one of our DIDs with a peer, after the rotations of both.
pub struct CurrentConnection {
    /// The DID that our DID has rotated to, or our DID itself.
    pub own_did: String,
    /// The DID that the peer has rotated to, or the peer's DID itself.
    pub peer_did: String,
    /// The connection of these two, if there is one.
    pub connection: Option<Connection>,
}

/// Returns the connection that a connection of one of our DIDs with a peer has become. Most DIDs have not rotated, and then the
/// store gets one request.
///
/// # Errors
/// The errors of [`current_own_did`].
pub async fn current_connection(
    store: &SealedStore,
    own_did: &str,
    peer_did: &str,
) -> Result<CurrentConnection, StoreError> {
    let (mut own_did, mut peer_did) = (own_did.to_owned(), peer_did.to_owned());
    let (mut own_rotations, mut peer_rotations) = (0, 0);
    loop {
        let key = Connection::key(&own_did, &peer_did);
        let (own, peer, connection) =
            store.get_together::<OwnRotation, PeerRotation, Connection>([&own_did, &key, &key]).await?;
        match (own, peer) {
            (Some(rotation), _) if own_rotations < MAX_ROTATIONS => {
                own_rotations += 1;
                own_did = rotation.to;
            }
            (_, Some(rotation)) if peer_rotations < MAX_ROTATIONS => {
                peer_rotations += 1;
                peer_did = rotation.to;
            }
            _ => return Ok(CurrentConnection { own_did, peer_did, connection }),
        }
    }
}

/// Finds current connections for a series of messages, without a request to the store for each.
pub struct CurrentConnections {
    store: Arc<SealedStore>,
    recent: Cache<String, Recent>,
}

/// A current connection that was read.
#[derive(Clone)]
struct Recent {
    read: Instant,
    /// [`SealedStore::connection_changes`] before it was read.
    changes: u64,
    current: Arc<CurrentConnection>,
}

impl CurrentConnections {
    pub fn new(store: Arc<SealedStore>) -> Self {
        Self { store, recent: Cache::new(REMEMBERED) }
    }

    /// Like [`current_connection`]. What another process has changed is seen within a second.
    ///
    /// # Errors
    /// The errors of [`current_own_did`].
    pub async fn find(&self, own_did: &str, peer_did: &str) -> Result<Arc<CurrentConnection>, StoreError> {
        let name = Connection::key(own_did, peer_did);
        let changes = self.store.connection_changes();
        let is_valid = |recent: &Recent| recent.changes == changes && recent.read.elapsed() < REMEMBERED_FOR;
        if let Some(recent) = self.recent.get(&name).filter(is_valid) {
            return Ok(recent.current);
        }
        let read = Instant::now();
        let current = Arc::new(current_connection(&self.store, own_did, peer_did).await?);
        self.recent.insert(name, Recent { read, changes, current: current.clone() });
        Ok(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::store::{SqliteOptions, SqliteStore};

    #[tokio::test]
    async fn a_change_is_seen_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let inner = SqliteStore::open(&folder.path().join("store.db"), SqliteOptions::default()).unwrap();
        let store = Arc::new(SealedStore::with_new_key(Arc::new(inner)));
        let connections = CurrentConnections::new(store.clone());
        let (ours, theirs) = ("did:example:us", "did:example:them");
        let find = || async { connections.find(ours, theirs).await.unwrap() };

        let first = find().await;
        assert!(first.connection.is_none());
        assert!(Arc::ptr_eq(&first, &find().await), "it is remembered");
        let begun = Connection::begun_by_us(ours, theirs, 1);
        assert!(store.put(&Connection::key(ours, theirs), &begun, 0).await.unwrap());
        assert_eq!(find().await.connection.as_ref(), Some(&begun));
        let rotation = OwnRotation { to: "did:example:new".to_owned(), time: 1, until: 2 };
        assert!(store.put(ours, &rotation, 0).await.unwrap());
        let moved = find().await;
        assert_eq!((&*moved.own_did, moved.connection.is_none()), ("did:example:new", true));
    }
}
