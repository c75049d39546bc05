//! Finds the DID that an earlier DID, of ours or of a peer, has rotated to.

use super::{own::OwnRotation, peer::PeerRotation};
use crate::agent::{protocol::connections::Connection, sealed_store::SealedStore, store::error::StoreError};

/// How many rotations of one DID are followed.
const MAX_ROTATIONS: usize = 16;

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
