//! did:key: a DID that is a public key (did:key 0.7).

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    document::{CONTEXT, Document},
    resolve_error::ResolveError,
    shorten::shortened,
};
use crate::keys::{Curve, KeyError, PublicKey};

/// The document of the `did:key` of a key, exactly as peers resolve it.
///
/// For an Ed25519 key, `keyAgreement` has the X25519 key that is derived from it, and **no token holds that key**:
/// PKCS#11 cannot convert a private key. To receive encrypted messages with keys in hardware, use a `did:key` on P-256,
/// which signs and agrees on keys, on P-384 or P-521, or a `did:peer` with a key for each purpose.
pub fn create(key: &PublicKey) -> Document {
    document(&format!("did:key:{}", key.to_multikey()), key)
}

/// The X25519 key that peers derive from an Ed25519 key to encrypt to it. `None` for a key on another curve.
///
/// The derived key is the same point in Montgomery form (RFC 7748 section 4.1; did:key, "Derive Encryption
/// Key Algorithm").
pub fn derived_key_agreement(key: &PublicKey) -> Option<PublicKey> {
    let bytes = key.as_bytes().try_into().ok().filter(|_| key.curve() == Curve::Ed25519)?;
    let point = ed25519_dalek::VerifyingKey::from_bytes(bytes).ok()?.to_montgomery();
    PublicKey::from_bytes(Curve::X25519, point.as_bytes()).ok()
}

/// Resolves a `did:key`. Another method gives [`ResolveError::UnsupportedMethod`].
pub(super) fn resolve(did: &str) -> Result<Arc<Document>, ResolveError> {
    let multikey = did.strip_prefix("did:key:").ok_or_else(|| ResolveError::unsupported_method(did))?;
    let key = canonical(multikey).map_err(|source| ResolveError::Key { did: shortened(did), source })?;
    Ok(Arc::new(document(did, &key)))
}

/// Parses a multikey, and refuses any form but the canonical one, so that no key has two DIDs.
pub(super) fn canonical(multikey: &str) -> Result<PublicKey, KeyError> {
    PublicKey::check_multikey_form(multikey)?;
    PublicKey::from_multikey(multikey)
}

/// The document of a DID that is one key (did:key "Document Creation Algorithm"). A did:peer:0 has the same document.
pub(super) fn document(did: &str, key: &PublicKey) -> Document {
    let method = |key: &PublicKey| {
        let multikey = key.to_multikey();
        let id = format!("{did}#{multikey}");
        json!({ "id": id, "type": "Multikey", "controller": did, "publicKeyMultibase": multikey })
    };
    let own = method(key);
    let id = own["id"].clone();
    let mut methods = vec![own];
    let agreement = match key.curve() {
        Curve::Ed25519 => derived_key_agreement(key).map(|key| {
            let derived = method(&key);
            let id = derived["id"].clone();
            methods.push(derived);
            id
        }),
        curve => curve.supports_key_agreement().then(|| id.clone()),
    };
    let mut document = json!({ "@context": CONTEXT, "id": did, "verificationMethod": Value::Array(methods) });
    if key.curve() != Curve::X25519 {
        for relationship in ["authentication", "assertionMethod", "capabilityInvocation", "capabilityDelegation"] {
            document[relationship] = json!([id]);
        }
    }
    if let Some(agreement) = agreement {
        document["keyAgreement"] = json!([agreement]);
    }
    Document::from_value(document).expect("the document of a key and a DID is well-formed")
}
