//! Verification methods, and the ways in which documents write a key down.

use serde_json::{Map, Value};

use crate::keys::{Curve, Jwk, KeyError, PublicKey};

/// A key of a document (DID Core section 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerificationMethod {
    /// The absolute DID URL that a `kid` or `skid` names.
    pub id: String,
    /// `type` as it stands in the document; empty if there is none.
    pub kind: String,
    /// Who may use the key; not always the document's subject.
    pub controller: String,
    /// The key, or why it cannot be used.
    pub key: Result<PublicKey, KeyError>,
}

impl VerificationMethod {
    /// Reads the key of a method, whose other members are known.
    pub(super) fn new(id: String, controller: String, members: &Map<String, Value>) -> Self {
        let kind = members.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = key(&kind, members);
        Self { id, kind, controller, key }
    }

    /// Whether a library older than the clarifications of did:peer:2 gives the method this fragment: the multikey, the
    /// same without `z`, or of that the first eight characters.
    pub(super) fn has_legacy_fragment(&self, fragment: &str) -> bool {
        self.key.as_ref().is_ok_and(|key| {
            let multikey = key.to_multikey();
            fragment == multikey || fragment == &multikey[1..] || fragment == &multikey[1..9]
        })
    }
}

/// Reads the key of one member; the type of the method comes first.
type Reader = fn(&str, &Value) -> Result<PublicKey, KeyError>;

/// The key of the members that hold one. There should be one such member; if there are more they must agree, so that no
/// two readers see different keys.
fn key(kind: &str, members: &Map<String, Value>) -> Result<PublicKey, KeyError> {
    let readers: [(&str, Reader); 3] =
        [("publicKeyJwk", jwk), ("publicKeyMultibase", multibase), ("publicKeyBase58", base58)];
    let mut key: Option<PublicKey> = None;
    for (member, read) in readers {
        let Some(value) = members.get(member) else { continue };
        let read = read(kind, value)?;
        if key.as_ref().is_some_and(|key| *key != read) {
            return Err(KeyError::Malformed("the verification method, which holds two different keys,"));
        }
        key = Some(read);
    }
    let key = key.ok_or_else(|| KeyError::Unsupported(kind.to_owned()))?;
    match curve_of(kind) {
        Some(curve) if curve != key.curve() => Err(KeyError::Unsupported(format!("{kind} with {}", key.curve()))),
        _ => Ok(key),
    }
}

/// The curve that a type names; none for `JsonWebKey2020`, `JsonWebKey`, `Multikey` and unknown ones, whose material
/// names it.
fn curve_of(kind: &str) -> Option<Curve> {
    match kind {
        "Ed25519VerificationKey2018" | "Ed25519VerificationKey2020" => Some(Curve::Ed25519),
        "X25519KeyAgreementKey2019" | "X25519KeyAgreementKey2020" => Some(Curve::X25519),
        "EcdsaSecp256k1VerificationKey2019" => Some(Curve::Secp256k1),
        "EcdsaSecp256r1VerificationKey2019" | "P256Key2021" => Some(Curve::P256),
        "P384Key2021" => Some(Curve::P384),
        "P521Key2021" => Some(Curve::P521),
        _ => None,
    }
}

fn jwk(_: &str, value: &Value) -> Result<PublicKey, KeyError> {
    let members = value.as_object().ok_or(KeyError::Malformed("publicKeyJwk"))?;
    if members.contains_key("d") {
        // DID Core section 5.2.1. Whoever reads the document has this private key.
        return Err(KeyError::Malformed("publicKeyJwk, which holds a private key,"));
    }
    if !members.contains_key("crv") {
        let kty = members.get("kty").and_then(Value::as_str).ok_or(KeyError::MissingMember("kty"))?;
        return Err(KeyError::Unsupported(kty.chars().take(20).collect()));
    }
    let member = |name| match members.get(name) {
        // RFC 7515 has no padding; the older did:peer libraries wrote it.
        Some(Value::String(text)) => Ok(text.trim_end_matches('=').to_owned()),
        Some(_) => Err(KeyError::Malformed("publicKeyJwk")),
        None => Err(KeyError::MissingMember(name)),
    };
    let y = if members.contains_key("y") { Some(member("y")?) } else { None };
    PublicKey::from_jwk(&Jwk { kty: member("kty")?, crv: member("crv")?, x: member("x")?, y })
}

fn multibase(kind: &str, value: &Value) -> Result<PublicKey, KeyError> {
    let text = value.as_str().ok_or(KeyError::Malformed("publicKeyMultibase"))?;
    let multikey = PublicKey::from_multikey(text);
    // Some writers of the 2020 types leave out the multicodec prefix; 32 bytes can then be nothing else.
    if let (Err(_), Some(curve @ (Curve::X25519 | Curve::Ed25519))) = (&multikey, curve_of(kind)) {
        return text.strip_prefix('z').and_then(|text| raw(curve, text)).unwrap_or(multikey);
    }
    multikey
}

fn base58(kind: &str, value: &Value) -> Result<PublicKey, KeyError> {
    let curve = curve_of(kind).ok_or_else(|| KeyError::Unsupported(format!("publicKeyBase58 in {kind:?}")))?;
    value.as_str().and_then(|text| raw(curve, text)).unwrap_or(Err(KeyError::Malformed("publicKeyBase58")))
}

/// A point in base58 alone; none if it is not base58. As base58 is quadratic, what is longer than any point is not read.
fn raw(curve: Curve, text: &str) -> Option<Result<PublicKey, KeyError>> {
    let bytes = (text.len() <= 200).then(|| bs58::decode(text).into_vec().ok())??;
    Some(PublicKey::from_bytes(curve, &bytes))
}
