//! Makes relative ids in documents absolute, and checks the `id` of a document.

use super::error::DocumentError;
use crate::did::url::is_did;

/// Makes `id` absolute if it is relative to `did` (DID Core section 3.2.2). Some documents have fragments without `#`, such
/// as `key-1`. They cannot be anything else: an absolute id has a colon.
pub(super) fn absolute(did: &str, id: &str) -> String {
    match id.chars().next() {
        Some('#' | '?' | '/') => format!("{did}{id}"),
        Some(_) if !id.contains(':') => format!("{did}#{id}"),
        _ => id.to_owned(),
    }
}

/// Checks that the `id` of a document is a DID.
pub(super) fn checked_id(id: &str) -> Result<&str, DocumentError> {
    if is_did(id) { Ok(id) } else { Err(DocumentError::Member { member: "id", expected: "a DID" }) }
}
