//! Compares DIDs: the long and the short form of a did:peer:4 name the same DID.

use crate::did::{did_of, peer};

/// Whether two DIDs are the same: equal texts, or the long and the short form of one did:peer:4.
pub(super) fn same_did(a: &str, b: &str) -> bool {
    let short = |did| peer::short_form(did).unwrap_or(did);
    a == b || (a.starts_with("did:peer:4") && b.starts_with("did:peer:4") && short(a) == short(b))
}

/// Returns the longer of two forms of one DID: `did`, and the DID in `kid`. For a did:peer:4, the longer is the long
/// form, which resolves even if the resolver has not stored it before.
pub(super) fn resolvable<'a>(did: &'a str, kid: &'a str) -> &'a str {
    let owner = did_of(kid).unwrap_or(kid);
    if did.len() > owner.len() { did } else { owner }
}
