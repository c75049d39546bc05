//! Limits on documents from peers.

/// The longest accepted document, as JSON without white space, in bytes.
pub(in crate::did) const MAX_BYTES: usize = 64 * 1024;
/// The longest document that is derived from its own DID, in bytes. Such a document repeats the DID many times.
pub(in crate::did) const MAX_EXPANDED_BYTES: usize = 2 * 1024 * 1024;
/// The most JSON values of a document.
pub(in crate::did) const MAX_VALUES: usize = 5000;
/// The most verification methods, and the most services, of a document.
pub(in crate::did) const MAX_ENTRIES: usize = 100;
