//! Hashes of did:webvh.

use sha2::{Digest, Sha256};

/// The SHA-256 multihash of `text`, encoded in base58btc without a multibase prefix.
pub(super) fn hash(text: &str) -> String {
    let mut multihash = vec![0x12, 32];
    multihash.extend_from_slice(&Sha256::digest(text));
    bs58::encode(multihash).into_string()
}
