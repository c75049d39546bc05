//! The forms of a DID in a message.

use crate::did::did_of;
pub(super) use crate::did::is_same_did as same_did;

/// Returns the longer of two forms of one DID: `did`, and the DID in `kid`. For a did:peer:4, the longer is the long
/// form, which resolves even if the resolver has not stored it before.
pub(super) fn resolvable<'a>(did: &'a str, kid: &'a str) -> &'a str {
    let owner = did_of(kid).unwrap_or(kid);
    if did.len() > owner.len() { did } else { owner }
}
