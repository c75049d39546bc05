//! The hashes that backends find rows by, since DIDs are long.

use sha2::{Digest, Sha256};

/// Returns the mark of a message.
pub(super) fn handled_mark(sender: &str, recipient: &str, message: &str) -> [u8; 32] {
    hash_of(&[sender, recipient, message])
}

/// Returns the digest of a record's kind and key.
pub(in crate::agent) fn record_digest(kind: &str, key: &str) -> [u8; 32] {
    hash_of(&[kind, key])
}

/// The lengths tell where each text ends.
fn hash_of(texts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}
