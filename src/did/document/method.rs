//! Verification methods, and the formats of their keys.

use serde_json::{Map, Value};

use crate::keys::{Curve, Jwk, KeyError, PublicKey};

/// A verification method: a key in a DID document (DID Core section 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerificationMethod {
    /// The absolute DID URL, which a `kid` or `skid` names.
    pub id: String,
    /// The value of `type`. Empty if it is absent.
    pub kind: String,
    /// The DID that may use the key. It is not always the subject of the document.
    pub controller: String,
    /// The key, or the reason why it cannot be used.
    pub key: Result<PublicKey, KeyError>,
}

impl VerificationMethod {
    /// Reads the key from the members of a method.
    pub(super) fn new(id: String, controller: String, members: &Map<String, Value>) -> Self {
        let kind = members.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = key(&kind, members);
        Self { id, kind, controller, key }
    }

    /// Whether libraries from before the clarifications of did:peer:2 use this fragment for the method: the multikey,
    /// the multikey without `z`, or the first eight characters of the multikey without `z`.
    pub(super) fn has_legacy_fragment(&self, fragment: &str) -> bool {
        self.key.as_ref().is_ok_and(|key| {
            let multikey = key.to_multikey();
            fragment == multikey || fragment == &multikey[1..] || fragment == &multikey[1..9]
        })
    }
}

/// Reads a key from the type of the method and the value of one member.
type Reader = fn(&str, &Value) -> Result<PublicKey, KeyError>;

/// Reads the key of a method. One member should contain it. If several members do, they must contain the same key, so
/// that every reader sees the same key.
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

/// The curve that a type implies. `None` for `JsonWebKey2020`, `JsonWebKey`, `Multikey` and unknown types, whose key
/// names the curve.
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
        // DID Core section 5.2.1 forbids a private key here: every reader of the document could use the key.
        return Err(KeyError::Malformed("publicKeyJwk, which holds a private key,"));
    }
    if !members.contains_key("crv") {
        let kty = members.get("kty").and_then(Value::as_str).ok_or(KeyError::MissingMember("kty"))?;
        return Err(KeyError::Unsupported(kty.chars().take(20).collect()));
    }
    let member = |name| match members.get(name) {
        // RFC 7515 has no padding, but older did:peer libraries write it.
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
    // Some libraries leave out the multicodec prefix in the types of 2020. The type then names the curve.
    if let (Err(_), Some(curve @ (Curve::X25519 | Curve::Ed25519))) = (&multikey, curve_of(kind)) {
        return text.strip_prefix('z').and_then(|text| point_from_base58(curve, text)).unwrap_or(multikey);
    }
    multikey
}

fn base58(kind: &str, value: &Value) -> Result<PublicKey, KeyError> {
    let curve = curve_of(kind).ok_or_else(|| KeyError::Unsupported(format!("publicKeyBase58 in {kind:?}")))?;
    value
        .as_str()
        .and_then(|text| point_from_base58(curve, text))
        .unwrap_or(Err(KeyError::Malformed("publicKeyBase58")))
}

/// Reads a point in base58 without a prefix. `None` if the text is not base58, or longer than any point: decoding
/// base58 takes quadratic time.
fn point_from_base58(curve: Curve, text: &str) -> Option<Result<PublicKey, KeyError>> {
    let bytes = (text.len() <= 200).then(|| bs58::decode(text).into_vec().ok())??;
    Some(PublicKey::from_bytes(curve, &bytes))
}
