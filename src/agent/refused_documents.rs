//! Documents of our DIDs that name a key which no token proves. Such a DID is refused: peers would encrypt to a key that
//! we do not have, and somebody else may have it.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    did::{Document, Relationship},
    keys::PublicKey,
    secrets::{HeldKeys, KeyUse},
};

/// A DID of ours whose document is refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedDid {
    /// The DID.
    pub did: String,
    /// The keys of the document that are not proved.
    pub keys: Vec<UnprovedKey>,
}

/// A key of a document that no token proves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnprovedKey {
    /// The DID URL of the key.
    pub id: String,
    /// The public key, as multikey.
    pub key: String,
    /// Why the key is not proved.
    pub why: String,
}

/// Checks the documents against the keys that the tokens hold. Returns those that are refused, in the order of the
/// documents:
///
/// - documents with a key that a token holds and does not serve, unless another token serves it;
/// - documents with keys in a relationship of which no token serves any. This is decided only once every token has shown
///   its keys ([`HeldKeys::is_complete`]): the key of a token that is away is not refused.
///
/// A document with several keys in a relationship is not refused because one of them is in no token: its token may have
/// been replaced.
pub(super) fn refused_documents(held: &HeldKeys, documents: &[Document]) -> Vec<RefusedDid> {
    // The first of several pairs with one public half counts, as in a search.
    let reasons = held.refused().iter().rev().filter_map(|pair| Some((&pair.public, pair.refused.as_deref()?)));
    let reasons: HashMap<&PublicKey, &str> = reasons.collect();
    let refused = |document: &Document| {
        let keys = unproved_keys(held, &reasons, document);
        (!keys.is_empty()).then(|| RefusedDid { did: document.id().to_owned(), keys })
    };
    documents.iter().filter_map(refused).collect()
}

fn unproved_keys(held: &HeldKeys, reasons: &HashMap<&PublicKey, &str>, document: &Document) -> Vec<UnprovedKey> {
    let mut unproved: Vec<UnprovedKey> = Vec::new();
    for relationship in [Relationship::KeyAgreement, Relationship::Authentication] {
        // Keys on curves that no token of ours can have say nothing.
        let keys = document.methods(relationship).filter_map(|method| Some((&method.id, method.key.as_ref().ok()?)));
        let keys: Vec<_> = keys.collect();
        let is_served = |key: &PublicKey| held.get(key).is_some_and(|held| fits(held.usage, relationship));
        // Peers derive the agreement key of an Ed25519 did:key themselves, and no token holds it.
        let is_derived = relationship == Relationship::KeyAgreement && document.id().starts_with("did:key:");
        let none_served = held.is_complete() && !is_derived && !keys.iter().any(|(_, key)| is_served(key));
        for (id, key) in keys {
            let why = match reasons.get(key).copied() {
                _ if is_served(key) => continue,
                Some(reason) if held.get(key).is_none() => reason,
                _ if !none_served => continue,
                _ if held.get(key).is_some() => "its token does not let it be used for this",
                _ => "no token holds it, and every token has shown its keys",
            };
            if !unproved.iter().any(|known| known.id == *id) {
                unproved.push(UnprovedKey { id: id.clone(), key: key.to_multikey(), why: why.to_owned() });
            }
        }
    }
    unproved
}

fn fits(usage: KeyUse, relationship: Relationship) -> bool {
    match relationship {
        Relationship::KeyAgreement => usage.allows_key_agreement(),
        _ => usage.allows_signing(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crypto::EphemeralKey, did::peer, keys::Curve, secrets::HeldKey};

    fn key() -> PublicKey {
        EphemeralKey::generate(Curve::P256).unwrap().public().clone()
    }

    fn document(agreement: &[&PublicKey], authentication: &PublicKey) -> Document {
        let agreement = agreement.iter().map(|key| (Relationship::KeyAgreement, (*key).clone()));
        let keys: Vec<_> = agreement.chain([(Relationship::Authentication, authentication.clone())]).collect();
        peer::create_2(&keys, &[]).unwrap()
    }

    fn held(key: &PublicKey, usage: KeyUse) -> HeldKey {
        HeldKey::new(key.clone(), "token", usage)
    }

    #[test]
    fn a_document_is_refused_for_keys_that_are_not_proved() {
        let [agreement, spare, signing] = [key(), key(), key()];
        let both = [held(&agreement, KeyUse::Agreement), held(&signing, KeyUse::Signing)];
        let refused = |keys: &[HeldKey], pairs: Vec<HeldKey>, is_complete, document: &Document| {
            let keys = HeldKeys::new(keys.to_vec(), pairs, is_complete);
            let refused = refused_documents(&keys, std::slice::from_ref(document));
            refused.first().map(|did| did.keys.iter().map(|key| key.key.clone()).collect::<Vec<_>>())
        };
        let one = document(&[&agreement], &signing);
        assert_eq!(refused(&both, vec![], true, &one), None);
        // The agreement key is in no token; or its token may be away.
        assert_eq!(refused(&both[1..], vec![], true, &one), Some(vec![agreement.to_multikey()]));
        assert_eq!(refused(&both[1..], vec![], false, &one), None);
        // A token holds a pair with the key, and does not serve it.
        let mut bad = held(&agreement, KeyUse::Agreement);
        bad.refused = Some("wrong".into());
        assert_eq!(refused(&both[1..], vec![bad.clone()], false, &one), Some(vec![agreement.to_multikey()]));
        assert_eq!(refused(&both, vec![bad.clone()], true, &one), None, "another token serves it");
        // A key for another use.
        let unfit = [held(&agreement, KeyUse::Signing), both[1].clone()];
        assert_eq!(refused(&unfit, vec![], true, &one), Some(vec![agreement.to_multikey()]));
        // One of two tokens is no longer configured; or its pair is bad.
        let two = document(&[&spare, &agreement], &signing);
        assert_eq!(refused(&both, vec![], true, &two), None);
        bad.public = spare.clone();
        assert_eq!(refused(&both, vec![bad], true, &two), Some(vec![spare.to_multikey()]));
    }
}
