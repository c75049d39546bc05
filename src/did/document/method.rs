//! Verification methods, and the formats of their keys.

use serde_json::{Map, Value};

use super::service::one_or_many;
use crate::{
    encoding::{from_base58, from_base64, from_hex, from_multibase, to_base64url},
    keys::{Curve, Jwk, KeyError, PublicKey},
};

/// A verification method: a key in a DID document (DID Core section 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerificationMethod {
    /// The absolute DID URL, which a `kid` or `skid` names.
    pub id: String,
    /// The first value of `type`. Empty if it is absent.
    pub kind: String,
    /// The DID that may use the key. It is not always the subject of the document.
    pub controller: String,
    /// The key, or the reason why it cannot be used.
    pub key: Result<PublicKey, KeyError>,
}

impl VerificationMethod {
    /// Reads the key from the members of a method.
    pub(super) fn new(id: String, controller: String, members: &Map<String, Value>) -> Self {
        let kind = one_or_many(members.get("type")).iter().find_map(Value::as_str).unwrap_or_default().to_owned();
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

/// Reads the key of a method. One member should contain it. If several members do, they must contain the same key, so
/// that every reader sees the same key.
///
/// The members and types are those of the DID Document Property Extensions, the deprecated ones included, and those that
/// came before them (`Secp256k1VerificationKey2018`). A key that is only named, by `blockchainAccountId` or
/// `ethereumAddress`, cannot be used.
fn key(kind: &str, members: &Map<String, Value>) -> Result<PublicKey, KeyError> {
    let mut key: Option<PublicKey> = None;
    if let Some(value) = members.get("publicKeyJwk") {
        key = Some(jwk(value)?);
    }
    if let Some(value) = members.get("publicKeyMultibase") {
        key = Some(same(multibase(kind, value)?, key)?);
    }
    // The deprecated members do not say which curve the key is on. The type does, or another member.
    let curve = curve_of(kind).or(key.as_ref().map(PublicKey::curve));
    for (member, read) in DEPRECATED {
        let Some(value) = members.get(member) else { continue };
        let read = match curve {
            Some(curve) => point(curve, member, value, read),
            None => Err(unsupported(&format!("{member} in {kind:?}"))),
        };
        match (read, &key) {
            (Ok(read), _) => key = Some(same(read, key)?),
            (Err(error), None) => return Err(error),
            // A reader that knows only this member reads no key.
            (Err(_), Some(_)) => {}
        }
    }
    let key = key.ok_or_else(|| unsupported(kind))?;
    match curve_of(kind) {
        Some(curve) if curve != key.curve() => Err(unsupported(&format!("{kind} with {}", key.curve()))),
        _ => Ok(key),
    }
}

/// Returns `key` if `other` is absent or the same key.
fn same(key: PublicKey, other: Option<PublicKey>) -> Result<PublicKey, KeyError> {
    match other {
        Some(other) if other != key => {
            Err(KeyError::Malformed("the verification method, which holds two different keys,"))
        }
        _ => Ok(key),
    }
}

/// The type of a key is text of a stranger.
fn unsupported(kind: &str) -> KeyError {
    KeyError::Unsupported(kind.chars().take(100).collect())
}

/// The curve that a type implies. `None` for `JsonWebKey2020`, `JsonWebKey`, `Multikey` and unknown types, whose key
/// names the curve.
fn curve_of(kind: &str) -> Option<Curve> {
    match kind {
        "Ed25519VerificationKey2018" | "Ed25519VerificationKey2020" => Some(Curve::Ed25519),
        "X25519KeyAgreementKey2019" | "X25519KeyAgreementKey2020" => Some(Curve::X25519),
        "EcdsaSecp256k1VerificationKey2019" | "EcdsaSecp256k1RecoveryMethod2020" | "Secp256k1VerificationKey2018" => {
            Some(Curve::Secp256k1)
        }
        "EcdsaSecp256r1VerificationKey2019" | "Secp256r1VerificationKey2018" | "P256Key2021" => Some(Curve::P256),
        "EcdsaSecp384r1VerificationKey2019" | "P384Key2021" => Some(Curve::P384),
        "P521Key2021" => Some(Curve::P521),
        _ => None,
    }
}

fn jwk(value: &Value) -> Result<PublicKey, KeyError> {
    let members = value.as_object().ok_or(KeyError::Malformed("publicKeyJwk"))?;
    if members.contains_key("d") {
        // DID Core section 5.2.1 forbids a private key here: every reader of the document could use the key.
        return Err(KeyError::Malformed("publicKeyJwk, which holds a private key,"));
    }
    if !members.contains_key("crv") {
        let kty = members.get("kty").and_then(Value::as_str).ok_or(KeyError::MissingMember("kty"))?;
        return Err(KeyError::Unsupported(kty.chars().take(20).collect()));
    }
    let text = |name| match members.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(KeyError::Malformed("publicKeyJwk")),
        None => Err(KeyError::MissingMember(name)),
    };
    // RFC 7515 has no padding, but older did:peer libraries write it.
    let coordinate = |name| from_base64(&text(name)?).map(to_base64url).ok_or(KeyError::Malformed(name));
    let y = if members.contains_key("y") { Some(coordinate("y")?) } else { None };
    let crv = match text("crv")? {
        // Its name before RFC 8812.
        crv if crv == "P-256K" => Curve::Secp256k1.name().to_owned(),
        crv => crv,
    };
    PublicKey::from_jwk(&Jwk { kty: text("kty")?, crv, x: coordinate("x")?, y })
}

fn multibase(kind: &str, value: &Value) -> Result<PublicKey, KeyError> {
    const MEMBER: &str = "publicKeyMultibase";
    let bytes = value.as_str().and_then(from_multibase).ok_or(KeyError::Malformed(MEMBER))?;
    // Some libraries leave out the multicodec prefix in the types of 2019 and 2020. The type then names the curve.
    PublicKey::from_multicodec(&bytes).or_else(|error| match curve_of(kind) {
        Some(curve @ (Curve::X25519 | Curve::Ed25519)) => PublicKey::from_bytes(curve, &bytes).map_err(|_| error),
        _ => Err(error),
    })
}

/// The deprecated members that hold a point: how its bytes are written.
const DEPRECATED: [(&str, Reader); 3] =
    [("publicKeyBase58", from_base58), ("publicKeyHex", hex), ("publicKeyBase64", from_base64)];

/// Reads bytes from a text.
type Reader = fn(&str) -> Option<Vec<u8>>;

/// Some write `0x` first.
fn hex(text: &str) -> Option<Vec<u8>> {
    from_hex(text.strip_prefix("0x").unwrap_or(text))
}

/// Reads a point: 32 bytes, or a SEC 1 point, compressed, uncompressed, or uncompressed without its first byte.
fn point(curve: Curve, member: &'static str, value: &Value, read: Reader) -> Result<PublicKey, KeyError> {
    let text = value.as_str().filter(|text| text.len() <= MAX_LENGTH);
    let bytes = text.and_then(read).ok_or(KeyError::Malformed(member))?;
    let n = curve.coordinate_length();
    if curve.point_length() != n && bytes.len() == 2 * n {
        return PublicKey::from_coordinates(curve, &bytes[..n], &bytes[n..]);
    }
    PublicKey::from_bytes(curve, &bytes)
}

/// The longest text of a point, in characters. A P-521 point has 266 hexadecimal digits.
const MAX_LENGTH: usize = 300;
