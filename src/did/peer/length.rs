//! How long a did:peer may be.

use super::error::PeerError;

/// The longest accepted DID, in characters. Decoding base58 takes quadratic time, so this also bounds the time.
pub(super) const MAX_LENGTH: usize = 20 * 1024;

/// Fails with [`PeerError::TooLong`] if the DID is longer than [`MAX_LENGTH`].
pub(super) fn check_length(did: &str) -> Result<(), PeerError> {
    if did.len() <= MAX_LENGTH {
        return Ok(());
    }
    Err(PeerError::TooLong { length: did.len(), limit: MAX_LENGTH })
}
