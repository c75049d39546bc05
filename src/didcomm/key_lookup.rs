//! Finds a peer's key by the key's DID URL, and checks that the peer's document allows the use of the key.

use super::error::Error;
use crate::{
    did::{Document, Relationship, Resolver, did_of},
    keys::PublicKey,
};

/// Returns the key `kid` from the document of `owner`, which is a DID or a DID URL. The key must be in `relationship`. If
/// the document does not list the key, the document is fetched again, since it may have come from a cache.
pub(super) async fn resolve_key(
    resolver: &dyn Resolver,
    owner: &str,
    kid: &str,
    relationship: Relationship,
) -> Result<PublicKey, Error> {
    let did = did_of(owner).ok_or_else(|| Error::InvalidKeyId(owner.to_owned()))?;
    let document = resolver.resolve(did).await?;
    match find_key(&document, kid, relationship) {
        Err(error @ (Error::NotAuthorised { .. } | Error::UnusableKey { .. })) => {
            match resolver.resolve_again(did).await? {
                Some(newer) => find_key(&newer, kid, relationship),
                None => Err(error),
            }
        }
        found => found,
    }
}

/// Returns the key `kid` from a document that was fetched again, if it differs from `old`: the owner may have replaced a
/// key and kept its id. `None` also if the document cannot be fetched again now.
pub(super) async fn replaced_key(
    resolver: &dyn Resolver,
    kid: &str,
    relationship: Relationship,
    old: &PublicKey,
) -> Option<PublicKey> {
    let newer = resolver.resolve_again(did_of(kid)?).await.ok()??;
    find_key(&newer, kid, relationship).ok().filter(|key| key != old)
}

/// Returns the key `kid` from `document`. The key must be in `relationship`.
pub(super) fn find_key(document: &Document, kid: &str, relationship: Relationship) -> Result<PublicKey, Error> {
    let method =
        document.method(kid, relationship).ok_or_else(|| Error::NotAuthorised { kid: kid.to_owned(), relationship })?;
    method.key.clone().map_err(|error| Error::UnusableKey { kid: kid.to_owned(), error })
}
