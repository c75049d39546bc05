//! A signed message: JWS in General or Flattened JSON (RFC 7515 section 7.2), with one signature.

use serde_json::{Map, Value, json};

use super::{JoseError, b64, json, jwe::refuse_extensions};
use crate::{
    crypto,
    keys::{PublicKey, SignatureAlgorithm},
    secrets::Signature,
};

/// A signed message, not yet verified.
#[derive(Debug)]
pub struct Jws {
    algorithm: SignatureAlgorithm,
    kid: String,
    /// `protected.payload` as they came.
    input: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl Jws {
    /// The `alg`.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// The signer's key id. It may stand unprotected, where any relay can write it: it counts once the payload's `from`
    /// is its DID and the signature is its key's.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The payload **before** its signature is verified: for finding out whose it claims to be, and nothing else.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, if the signature is the key's.
    pub fn verify(&self, key: &PublicKey) -> Result<&[u8], JoseError> {
        check_key(self.algorithm, key)?;
        crypto::verify(key, &self.input, &self.signature).map_err(|_| JoseError::Signature)?;
        Ok(&self.payload)
    }

    pub(super) fn from_object(mut map: Map<String, Value>) -> Result<Self, JoseError> {
        let payload = json::take_string(&mut map, "payload")?.ok_or(JoseError::Missing("payload"))?;
        let mut signer = match map.remove("signatures") {
            None => map, // Flattened: the members of the one signature stand beside the payload.
            Some(_) if map.contains_key("signature") => return Err(JoseError::Twice("signature".to_owned())),
            Some(Value::Array(mut signatures)) => match (signatures.pop(), signatures.len()) {
                (Some(Value::Object(signer)), 0) => signer,
                (Some(_), 0) => return Err(JoseError::Member("signatures")),
                (last, rest) => return Err(JoseError::Signatures(rest + usize::from(last.is_some()))),
            },
            Some(_) => return Err(JoseError::Member("signatures")),
        };
        let protected = json::take_string(&mut signer, "protected")?.ok_or(JoseError::Missing("protected"))?;
        let mut header = json::object("protected header", &b64::decode("protected", &protected)?)?;
        refuse_extensions(&header)?;
        // What is signed as a JWT, a `from_prior` say, is no message, whatever its claims look like.
        if is_jwt(&header) {
            return Err(JoseError::Refused("typ".to_owned()));
        }
        let kid = kid(&mut header, signer.remove("header"))?;
        let algorithm = algorithm(&mut header)?;
        let signature = json::take_string(&mut signer, "signature")?.ok_or(JoseError::Missing("signature"))?;
        let signature = b64::decode("signature", &signature)?;
        if signature.len() != SignatureAlgorithm::LENGTH {
            return Err(JoseError::Length("signature"));
        }
        Ok(Self {
            algorithm,
            kid,
            input: format!("{protected}.{payload}").into_bytes(),
            payload: b64::decode("payload", &payload)?,
            signature,
        })
    }
}

/// The General JSON Serialization, with the key id in the unprotected header as the specification's vectors have it.
pub(crate) fn general_json(kid: &str, signature: &Signature) -> String {
    json!({
        "payload": signature.payload,
        "signatures": [{
            "protected": signature.protected,
            "signature": b64::encode(&signature.signature),
            "header": {"kid": kid},
        }],
    })
    .to_string()
}

pub(super) fn algorithm(header: &mut Map<String, Value>) -> Result<SignatureAlgorithm, JoseError> {
    let alg = json::take_string(header, "alg")?.ok_or(JoseError::Missing("alg"))?;
    alg.parse().map_err(|_| JoseError::Algorithm(alg))
}

/// Whether a header says that it is a JWT's. Media types are compared without case (RFC 7515 section 4.1.9).
pub(super) fn is_jwt(header: &Map<String, Value>) -> bool {
    let typ = header.get("typ").and_then(Value::as_str).unwrap_or_default();
    typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("application/jwt")
}

/// A key signs with the one algorithm of its curve, whatever a header says.
pub(super) fn check_key(algorithm: SignatureAlgorithm, key: &PublicKey) -> Result<(), JoseError> {
    if key.curve() == algorithm.curve() {
        return Ok(());
    }
    Err(JoseError::KeyAlgorithm { alg: algorithm.name(), curve: key.curve() })
}

/// The key id stands protected (the specification's text) or unprotected (its vectors), or in both if they are equal, as
/// Affinidi's library writes it. Nothing else may stand twice.
fn kid(protected: &mut Map<String, Value>, unprotected: Option<Value>) -> Result<String, JoseError> {
    let mut unprotected = match unprotected {
        None => Map::new(),
        Some(Value::Object(header)) => header,
        Some(_) => return Err(JoseError::Member("header")),
    };
    refuse_extensions(&unprotected)?;
    let kids = (json::take_string(protected, "kid")?, json::take_string(&mut unprotected, "kid")?);
    if let Some(name) = unprotected.keys().find(|name| protected.contains_key(*name)) {
        return Err(JoseError::Twice(name.clone()));
    }
    if let Some(name) = ["alg", "typ"].into_iter().find(|name| unprotected.contains_key(*name)) {
        return Err(JoseError::Refused(name.to_owned()));
    }
    match kids {
        (Some(a), Some(b)) if a != b => Err(JoseError::Twice("kid".to_owned())),
        (Some(kid), _) | (None, Some(kid)) => Ok(kid),
        (None, None) => Err(JoseError::Missing("kid")),
    }
}
