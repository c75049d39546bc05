//! JWTs (RFC 7519) as JWS in the Compact Serialization. The only JWT in DIDComm is `from_prior`.

use serde_json::{Map, Value};

use super::{b64, error::JoseError, header::refuse_extensions, json, jws};
use crate::{
    crypto,
    keys::{PublicKey, SignatureAlgorithm},
};

/// A JWT whose signature is not verified yet.
#[derive(Debug)]
pub struct Jwt {
    algorithm: SignatureAlgorithm,
    kid: String,
    /// `header.claims` as received: the signing input.
    input: String,
    claims: Map<String, Value>,
    signature: Vec<u8>,
}

impl Jwt {
    /// Parses `header.claims.signature`. The header must have `typ` JWT, so that no signed message passes for a JWT,
    /// and a `kid`.
    ///
    /// # Errors
    /// If `text` is not such a JWT, its header has an extension, or its algorithm is not supported.
    pub fn parse(text: &str) -> Result<Self, JoseError> {
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JoseError::InvalidMember("from_prior"));
        };
        let input = text[..header.len() + 1 + claims.len()].to_owned();
        let mut header =
            json::parse_object("JWT header", &b64::decode("JWT header", header)?, json::MAX_HEADER_VALUES)?;
        refuse_extensions(&header)?;
        if !header.contains_key("typ") {
            return Err(JoseError::Missing("typ"));
        }
        if !jws::is_jwt(&header) {
            return Err(JoseError::InvalidMember("typ"));
        }
        let algorithm = jws::algorithm(&mut header)?;
        let kid = json::take_string(&mut header, "kid")?.ok_or(JoseError::Missing("kid"))?;
        let claims = json::parse_object("JWT claims", &b64::decode("JWT claims", claims)?, json::MAX_HEADER_VALUES)?;
        let signature = b64::decode("JWT signature", signature)?;
        if signature.len() != SignatureAlgorithm::LENGTH {
            return Err(JoseError::InvalidLength("signature"));
        }
        Ok(Self { algorithm, kid, input, claims, signature })
    }

    /// The signer's key id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The claims, **unverified**. Use them only to find out who claims to have signed them.
    pub fn unverified_claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Verifies the signature and returns the claims.
    ///
    /// # Errors
    /// If the key is on another curve than the algorithm's, or the signature is wrong.
    pub fn verify(&self, key: &PublicKey) -> Result<&Map<String, Value>, JoseError> {
        jws::check_key(self.algorithm, key)?;
        crypto::verify(key, self.input.as_bytes(), &self.signature).map_err(|_| JoseError::InvalidSignature)?;
        Ok(&self.claims)
    }
}
