//! Finds the DID that an earlier DID, of ours or of a peer, has rotated to, and the connection of the two.

use std::time::Duration;

use super::{own::OwnRotation, peer::PeerRotation};
use crate::agent::{
    protocol::connections::{Connection, MAX_PREVIOUS},
    sealed_store::SealedStore,
    store::error::StoreError,
};

/// How many rotations of one DID are followed.
const MAX_ROTATIONS: usize = MAX_PREVIOUS;
/// How long connections are remembered that nothing compares with the store.
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
    find(store, own_did, peer_did, Duration::ZERO).await
}

/// Like [`current_connection`], without a request to the store for each message. What another process has changed is seen
/// within a second; changes of this process are seen at once.
///
/// # Errors
/// The errors of [`current_own_did`].
pub async fn recent_connection(
    store: &SealedStore,
    own_did: &str,
    peer_did: &str,
) -> Result<CurrentConnection, StoreError> {
    find(store, own_did, peer_did, REMEMBERED_FOR).await
}

async fn find(
    store: &SealedStore,
    own_did: &str,
    peer_did: &str,
    max_age: Duration,
) -> Result<CurrentConnection, StoreError> {
    let (mut own_did, mut peer_did) = (own_did.to_owned(), peer_did.to_owned());
    let (mut own_rotations, mut peer_rotations) = (0, 0);
    loop {
        let key = Connection::key(&own_did, &peer_did);
        let keys = [&*own_did, &key, &key];
        let (own, peer, connection) =
            store.get_together::<OwnRotation, PeerRotation, Connection>(keys, max_age).await?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agent::store::{Commit, SqliteOptions, SqliteStore, Store};

    #[tokio::test]
    async fn a_change_of_this_process_is_seen_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let inner = SqliteStore::open(&folder.path().join("store.db"), SqliteOptions::default()).unwrap();
        let inner: Arc<dyn Store> = Arc::new(inner);
        let store = SealedStore::with_new_key(inner.clone());
        let (ours, theirs) = ("did:example:us", "did:example:them");
        let key = Connection::key(ours, theirs);
        let find = || async { recent_connection(&store, ours, theirs).await.unwrap() };
        // Changes that are made behind the agent's back are seen after a second. A busy machine may take that long.
        let change_elsewhere = async |connection: &Connection, revision| {
            let change = store.put_change(&key, connection, revision, None).unwrap();
            inner.commit(Commit { changes: vec![change], ..Commit::default() }).await.unwrap();
        };
        let is_remembered = async |before: &Connection, after: &Connection, revision| {
            let (start, read) = (std::time::Instant::now(), find().await.connection);
            assert_eq!(read.as_ref(), Some(before));
            change_elsewhere(after, revision).await;
            let again = find().await.connection;
            start.elapsed() > REMEMBERED_FOR || again.as_ref() == Some(before)
        };

        assert!(find().await.connection.is_none());
        let begun = Connection::begun_by_us(ours, theirs, 1);
        assert!(store.put(&key, &begun, 0).await.unwrap());
        let labelled = Connection { label: Some("Alice".to_owned()), ..begun.clone() };
        assert!(is_remembered(&begun, &labelled, 1).await);
        tokio::time::sleep(REMEMBERED_FOR).await;
        assert_eq!(find().await.connection, Some(labelled.clone()));
        assert_eq!(current_connection(&store, ours, theirs).await.unwrap().connection, Some(labelled));

        let rotation = OwnRotation { to: "did:example:new".to_owned(), time: 1, until: 2 };
        assert!(store.put(ours, &rotation, 0).await.unwrap());
        let moved = find().await;
        assert_eq!((&*moved.own_did, moved.connection.is_none()), ("did:example:new", true));
    }
}
