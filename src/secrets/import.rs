//! A private key to import into a token: read from a JWK, checked, and wiped when dropped.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::elliptic_curve::sec1::ToSec1Point;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::key_use::KeyUse;
use crate::keys::{Curve, Jwk, KeyError, PublicKey};

/// A key pair to import into a token.
pub struct ImportKey {
    /// The public half.
    pub public: PublicKey,
    /// The scalar, big-endian at full length, or the 32 bytes of a 25519 key (RFC 8037 `d`).
    pub private: Zeroizing<Vec<u8>>,
    /// What the key may do. It must fit the curve.
    pub usage: KeyUse,
    /// A label for people.
    pub label: Option<Arc<str>>,
}

impl fmt::Debug for ImportKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportKey").field("public", &self.public).field("usage", &self.usage).finish_non_exhaustive()
    }
}

/// Why a JWK cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The JWK is not a JSON object with the members of an EC or OKP key.
    #[error("not a JWK of an EC or OKP key")]
    NotAJwk,
    /// The public half is invalid.
    #[error(transparent)]
    Public(#[from] KeyError),
    /// There is no `d`: the JWK is a public key.
    #[error("the JWK has no private part (\"d\")")]
    NoPrivate,
    /// `d` is not base64url without padding, or too long, or not a private key of the curve.
    #[error("the JWK's private part (\"d\") is not a private key on {0}")]
    Private(Curve),
    /// `d` is a private key, but not that of `x` and `y`.
    #[error("the JWK's private part (\"d\") does not belong to its public part")]
    Mismatch,
    /// A member has an invalid type or value.
    #[error("the JWK's {0:?} is malformed")]
    Malformed(&'static str),
    /// `use` and `key_ops` allow nothing that a key on the curve can do.
    #[error("the JWK's \"use\" and \"key_ops\" allow neither signing nor key agreement with a key on {0}")]
    NoUse(Curve),
}

impl ImportKey {
    /// Reads a private JWK (RFC 7517, RFC 7518 section 6.2, RFC 8037). Returns the key pair and the `kid`, which is
    /// also the label.
    ///
    /// The public half is computed from `d` and compared with `x` and `y`. `use` and `key_ops` restrict what the key
    /// may do; without them it may do everything that its curve can. A `d` without its leading zeros is padded.
    ///
    /// # Errors
    /// If the JWK is not a private EC or OKP key, or its public half or a member is invalid.
    pub fn from_jwk(jwk: &Value) -> Result<(Self, Option<String>), ImportError> {
        let object = jwk.as_object().ok_or(ImportError::NotAJwk)?;
        let public = PublicKey::from_jwk(&Jwk::deserialize(jwk).map_err(|_| ImportError::NotAJwk)?)?;
        let curve = public.curve();
        let private = private_part(curve, object.get("d").ok_or(ImportError::NoPrivate)?)?;
        if public_half(curve, &private)?[..] != *public.as_bytes() {
            return Err(ImportError::Mismatch);
        }
        let usage = usage(curve, jwk)?;
        let kid = kid(object)?;
        let label = kid.as_deref().map(Into::into);
        Ok((Self { public, private, usage, label }, kid))
    }
}

/// Decodes `d`, and pads it to the full length of a scalar.
fn private_part(curve: Curve, d: &Value) -> Result<Zeroizing<Vec<u8>>, ImportError> {
    let wrong = || ImportError::Private(curve);
    let text = d.as_str().ok_or_else(wrong)?;
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?);
    let length = curve.coordinate_length();
    match curve {
        // These keys are strings of 32 bytes, not numbers, so no leading zeros can be missing (RFC 8037 section 2).
        Curve::X25519 | Curve::Ed25519 if bytes.len() != length => Err(wrong()),
        _ if bytes.is_empty() || bytes.len() > length => Err(wrong()),
        _ => {
            let mut padded = Zeroizing::new(vec![0; length]);
            padded[length - bytes.len()..].copy_from_slice(&bytes);
            Ok(padded)
        }
    }
}

/// The public key of a private key, in the form of [`PublicKey::as_bytes`].
fn public_half(curve: Curve, private: &[u8]) -> Result<Vec<u8>, ImportError> {
    let wrong = || ImportError::Private(curve);
    macro_rules! sec1 {
        ($curve:ident) => {{
            let secret = $curve::SecretKey::from_slice(private).map_err(|_| wrong())?;
            Ok(secret.public_key().to_sec1_point(false).as_bytes().to_vec())
        }};
    }
    let seed = || <[u8; 32]>::try_from(private).map(Zeroizing::new).map_err(|_| wrong());
    match curve {
        Curve::X25519 => {
            let secret = x25519_dalek::StaticSecret::from(*seed()?);
            Ok(x25519_dalek::PublicKey::from(&secret).as_bytes().to_vec())
        }
        Curve::Ed25519 => Ok(ed25519_dalek::SigningKey::from_bytes(&*seed()?).verifying_key().as_bytes().to_vec()),
        Curve::P256 => sec1!(p256),
        Curve::P384 => sec1!(p384),
        Curve::P521 => sec1!(p521),
        Curve::Secp256k1 => sec1!(k256),
    }
}

/// The uses that the curve has and that `use` and `key_ops` allow (RFC 7517 sections 4.2 and 4.3).
fn usage(curve: Curve, jwk: &Value) -> Result<KeyUse, ImportError> {
    let (mut agrees, mut signs) = (KeyUse::of(curve).allows_key_agreement(), KeyUse::of(curve).allows_signing());
    match jwk.get("use").map(|value| value.as_str().ok_or(ImportError::Malformed("use"))).transpose()? {
        None => {}
        Some("sig") => agrees = false,
        Some("enc") => signs = false,
        Some(_) => return Err(ImportError::NoUse(curve)),
    }
    if let Some(operations) = jwk.get("key_ops") {
        let operations = operations.as_array().ok_or(ImportError::Malformed("key_ops"))?;
        let has = |name: &str| operations.iter().any(|operation| operation == name);
        agrees &= has("deriveKey") || has("deriveBits");
        signs &= has("sign");
    }
    match (agrees, signs) {
        (true, true) => Ok(KeyUse::Both),
        (true, false) => Ok(KeyUse::Agreement),
        (false, true) => Ok(KeyUse::Signing),
        (false, false) => Err(ImportError::NoUse(curve)),
    }
}

/// The `kid`. White space around the member's name is ignored: Bob's keys in appendix A of DIDComm v2.1 have `"kid "`.
fn kid(jwk: &serde_json::Map<String, Value>) -> Result<Option<String>, ImportError> {
    let kid = jwk.get("kid").or_else(|| jwk.iter().find(|(name, _)| name.trim() == "kid").map(|(_, kid)| kid));
    kid.map(|kid| kid.as_str().map(str::to_owned).ok_or(ImportError::Malformed("kid"))).transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 7515 appendix A.3: a P-256 key without `use` and `key_ops`.
    fn p256() -> Value {
        json!({
            "kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
        })
    }

    /// RFC 8037 appendix A.1.
    fn ed25519() -> Value {
        json!({
            "kty": "OKP", "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        })
    }

    fn with(mut jwk: Value, member: &str, value: Value) -> Value {
        jwk[member] = value;
        jwk
    }

    fn refused(jwk: Value) -> ImportError {
        ImportKey::from_jwk(&jwk).map(|(key, _)| key).expect_err(&jwk.to_string())
    }

    #[test]
    fn every_key_of_the_specification_is_imported() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/didcomm-v2.1/secrets");
        let mut curves = std::collections::HashSet::new();
        for file in ["alice.json", "bob.json"] {
            let keys: Vec<Value> = serde_json::from_slice(&std::fs::read(format!("{folder}/{file}")).unwrap()).unwrap();
            for jwk in keys {
                let (key, kid) = ImportKey::from_jwk(&jwk).unwrap();
                let kid = kid.expect("each key has a kid, trimmed or not");
                assert!(kid.starts_with("did:example:"), "{kid}");
                assert_eq!(key.label.as_deref(), Some(&*kid));
                assert_eq!(key.private.len(), key.public.curve().coordinate_length());
                curves.insert(key.public.curve());
            }
        }
        assert_eq!(curves.len(), Curve::ALL.len(), "all six curves");
    }

    #[test]
    fn use_and_key_ops_restrict_the_key_use() {
        let usage = |jwk: Value| ImportKey::from_jwk(&jwk).unwrap().0.usage;
        assert_eq!(usage(p256()), KeyUse::Both);
        assert_eq!(usage(with(p256(), "use", json!("sig"))), KeyUse::Signing);
        assert_eq!(usage(with(p256(), "use", json!("enc"))), KeyUse::Agreement);
        assert_eq!(usage(with(p256(), "key_ops", json!(["sign"]))), KeyUse::Signing);
        assert_eq!(usage(with(p256(), "key_ops", json!(["deriveBits", "deriveKey"]))), KeyUse::Agreement);
        assert_eq!(usage(with(p256(), "key_ops", json!(["sign", "deriveBits"]))), KeyUse::Both);
        assert_eq!(usage(ed25519()), KeyUse::Signing);

        assert_eq!(refused(with(p256(), "key_ops", json!(["verify"]))), ImportError::NoUse(Curve::P256));
        assert_eq!(refused(with(p256(), "use", json!("tls"))), ImportError::NoUse(Curve::P256));
        assert_eq!(refused(with(ed25519(), "use", json!("enc"))), ImportError::NoUse(Curve::Ed25519));
        assert_eq!(refused(with(p256(), "use", json!(1))), ImportError::Malformed("use"));
        assert_eq!(refused(with(p256(), "key_ops", json!("sign"))), ImportError::Malformed("key_ops"));
        let contradiction = with(with(p256(), "use", json!("sig")), "key_ops", json!(["deriveKey"]));
        assert_eq!(refused(contradiction), ImportError::NoUse(Curve::P256));
    }

    /// Some implementations strip leading zeros from scalars, as they do from coordinates.
    #[test]
    fn a_short_scalar_is_padded() {
        let two = p256::SecretKey::from_slice(&[&[0; 31][..], &[2]].concat()).unwrap();
        let point = two.public_key().to_sec1_point(false);
        let public = PublicKey::from_bytes(Curve::P256, point.as_bytes()).unwrap();
        let mut jwk = serde_json::to_value(public.to_jwk()).unwrap();
        jwk["d"] = json!(URL_SAFE_NO_PAD.encode([2]));
        let (key, kid) = ImportKey::from_jwk(&jwk).unwrap();
        assert_eq!(*key.private, [&[0; 31][..], &[2]].concat());
        assert_eq!((kid, key.label), (None, None));
    }

    #[test]
    fn invalid_private_keys_are_refused() {
        assert_eq!(refused(json!([])), ImportError::NotAJwk);
        assert_eq!(refused(json!({"kty": "oct", "k": "AA"})), ImportError::NotAJwk);
        assert_eq!(refused(with(p256(), "kid", json!(7))), ImportError::Malformed("kid"));
        let mut public = p256();
        public.as_object_mut().unwrap().remove("d");
        assert_eq!(refused(public), ImportError::NoPrivate);
        assert_eq!(refused(with(p256(), "x", p256()["y"].clone())), KeyError::NotOnCurve(Curve::P256).into());

        let zero = URL_SAFE_NO_PAD.encode([0; 32]);
        let long = URL_SAFE_NO_PAD.encode([1; 33]);
        let order = URL_SAFE_NO_PAD.encode([0xff; 32]);
        for d in [json!(""), json!("*"), json!(7), json!(zero), json!(long), json!(order), json!("AA==")] {
            assert_eq!(refused(with(p256(), "d", d)), ImportError::Private(Curve::P256));
        }
        let short = URL_SAFE_NO_PAD.encode([1; 31]);
        assert_eq!(refused(with(ed25519(), "d", json!(short))), ImportError::Private(Curve::Ed25519));

        let other = URL_SAFE_NO_PAD.encode([1; 32]);
        assert_eq!(refused(with(p256(), "d", json!(other.clone()))), ImportError::Mismatch);
        assert_eq!(refused(with(ed25519(), "d", json!(other))), ImportError::Mismatch);
    }
}
