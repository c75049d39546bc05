//! Finds the DID that an earlier DID, of ours or of a peer, has rotated to, and the connection of the two.

use super::{own::OwnRotation, peer::PeerRotation};
use crate::agent::{
    protocol::connections::{Connection, MAX_PREVIOUS},
    sealed_store::SealedStore,
    store::error::StoreError,
};

/// How many rotations of one DID are followed.
const MAX_ROTATIONS: usize = MAX_PREVIOUS;

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
