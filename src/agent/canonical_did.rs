//! The form of a DID in the keys of records and in comparisons.

use crate::did::peer::short_form;

/// Returns the short form of a did:peer:4, and any other DID unchanged. The two forms of a did:peer:4 name the same
/// DID.
pub fn canonical_did(did: &str) -> &str {
    short_form(did).unwrap_or(did)
}
