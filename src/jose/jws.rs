//! Signed messages: JWS in General or Flattened JSON (RFC 7515 section 7.2) with one signature.

use serde_json::{Map, Value, json};

use super::{
    b64,
    error::JoseError,
    header::{SIGNATURE, refuse_extensions, refuse_misplaced},
    json,
};
use crate::{
    crypto,
    keys::{PublicKey, SignatureAlgorithm},
    secrets::Signature,
};

/// A signed message whose signature is not verified yet.
#[derive(Debug)]
pub struct Jws {
    algorithm: SignatureAlgorithm,
    kid: String,
    /// `protected.payload` as received: the signing input.
    input: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl Jws {
    /// The signature algorithm (`alg`).
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// The signer's key id. The key id may come from the unprotected header, which any relay can change. Trust the key
    /// id only after you have checked that the payload's `from` is its DID, and have verified the signature.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The payload, **unverified**. Use it only to find out who claims to have signed it.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// Verifies the signature and returns the payload.
    ///
    /// # Errors
    /// If the key is on another curve than the algorithm's, or the signature is wrong.
    pub fn verify(&self, key: &PublicKey) -> Result<&[u8], JoseError> {
        check_key(self.algorithm, key)?;
        crypto::verify(key, &self.input, &self.signature).map_err(|_| JoseError::InvalidSignature)?;
        Ok(&self.payload)
    }

    /// Reads a JWS from its members, and makes every check that needs no key.
    pub(super) fn from_object(mut map: Map<String, Value>) -> Result<Self, JoseError> {
        let payload = json::take_string(&mut map, "payload")?.ok_or(JoseError::Missing("payload"))?;
        let mut signer = match map.remove("signatures") {
            None => map, // Flattened: the members of the one signature are beside the payload.
            Some(_) if map.contains_key("signature") => {
                return Err(JoseError::DuplicateParameter("signature".to_owned()));
            }
            Some(Value::Array(mut signatures)) => match (signatures.pop(), signatures.len()) {
                (Some(Value::Object(signer)), 0) => signer,
                (Some(_), 0) => return Err(JoseError::InvalidMember("signatures")),
                (last, rest) => return Err(JoseError::SignatureCount(rest + usize::from(last.is_some()))),
            },
            Some(_) => return Err(JoseError::InvalidMember("signatures")),
        };
        let protected = json::take_string(&mut signer, "protected")?.ok_or(JoseError::Missing("protected"))?;
        let mut header =
            json::parse_object("protected header", &b64::decode("protected", &protected)?, json::MAX_HEADER_VALUES)?;
        refuse_extensions(&header)?;
        // A signed JWT such as a `from_prior` is not a message, whatever its claims look like.
        if is_jwt(&header) {
            return Err(JoseError::RefusedParameter("typ".to_owned()));
        }
        let kid = kid(&mut header, signer.remove("header"))?;
        let algorithm = algorithm(&mut header)?;
        let signature = json::take_string(&mut signer, "signature")?.ok_or(JoseError::Missing("signature"))?;
        let signature = b64::decode("signature", &signature)?;
        if signature.len() != SignatureAlgorithm::LENGTH {
            return Err(JoseError::InvalidLength("signature"));
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

/// Writes a signed message in the General JSON Serialization. The key id is in the unprotected header, as in the
/// vectors of the specification.
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

/// Removes `alg` from a header, and parses it.
pub(super) fn algorithm(header: &mut Map<String, Value>) -> Result<SignatureAlgorithm, JoseError> {
    let alg = json::take_string(header, "alg")?.ok_or(JoseError::Missing("alg"))?;
    alg.parse().map_err(|_| JoseError::UnsupportedAlgorithm(alg))
}

/// Whether a header says that this is a JWT. Media types are compared without regard to case (RFC 7515 section 4.1.9).
pub(super) fn is_jwt(header: &Map<String, Value>) -> bool {
    let typ = header.get("typ").and_then(Value::as_str).unwrap_or_default();
    typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("application/jwt")
}

/// Checks that the algorithm is that of the key's curve, whatever the header says.
pub(super) fn check_key(algorithm: SignatureAlgorithm, key: &PublicKey) -> Result<(), JoseError> {
    if key.curve() == algorithm.curve() {
        return Ok(());
    }
    Err(JoseError::AlgorithmMismatch { alg: algorithm.name(), curve: key.curve() })
}

/// Reads the key id. The text of the specification has it in the protected header, the specification's test vectors
/// have it in the unprotected header, and Affinidi's library writes it to both. In both, it must be equal. No other
/// parameter may be in both.
fn kid(protected: &mut Map<String, Value>, unprotected: Option<Value>) -> Result<String, JoseError> {
    let mut unprotected = match unprotected {
        None => Map::new(),
        Some(Value::Object(header)) => header,
        Some(_) => return Err(JoseError::InvalidMember("header")),
    };
    refuse_extensions(&unprotected)?;
    let kids = (json::take_string(protected, "kid")?, json::take_string(&mut unprotected, "kid")?);
    if let Some(name) = unprotected.keys().find(|name| protected.contains_key(*name)) {
        return Err(JoseError::DuplicateParameter(name.clone()));
    }
    refuse_misplaced(&unprotected, &["alg", "typ"], SIGNATURE)?;
    match kids {
        (Some(a), Some(b)) if a != b => Err(JoseError::DuplicateParameter("kid".to_owned())),
        (Some(kid), _) | (None, Some(kid)) => Ok(kid),
        (None, None) => Err(JoseError::Missing("kid")),
    }
}
