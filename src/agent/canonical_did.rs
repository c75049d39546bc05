//! The name under which a DID is remembered.

use crate::did::peer::short_form;

/// Returns the short form of a did:peer:4, and any other DID as it is. The two forms of a did:peer:4 name the same DID.
pub fn canonical_did(did: &str) -> &str {
    short_form(did).unwrap_or(did)
}
