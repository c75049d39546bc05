//! The short form of a did:peer:4, and which DIDs have the key ids of older libraries.

use sha2::{Digest, Sha256};

/// The multihash prefix of SHA2-256: its code and its length.
const SHA2_256: [u8; 2] = [0x12, 0x20];

/// Returns the short form of a `did:peer:4`, which may be given in either form. Returns `None` if the hash in a long
/// form is wrong, and for any other DID.
pub fn short_form(did: &str) -> Option<&str> {
    let form = did.strip_prefix("did:peer:4")?;
    match form.split_once(':') {
        None => form.starts_with('z').then_some(did),
        Some((hashed, encoded)) => (hash(encoded) == hashed).then(|| &did[..did.len() - encoded.len() - 1]),
    }
}

/// The SHA-256 multihash of the encoded document, as multibase base58btc. The hash is over the encoded text, not over
/// the bytes that it encodes.
pub(super) fn hash(encoded: &str) -> String {
    let mut multihash = SHA2_256.to_vec();
    multihash.extend_from_slice(&Sha256::digest(encoded.as_bytes()));
    format!("z{}", bs58::encode(multihash).into_string())
}

/// Whether older libraries use the keys of this DID, or parts of them, as key ids.
pub(in crate::did) fn has_legacy_fragments(did: &str) -> bool {
    did.starts_with("did:peer:2") || did.starts_with("did:peer:0")
}
