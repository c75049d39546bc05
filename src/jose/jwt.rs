//! A compact JWS that is a JWT: `from_prior`, and nothing else in DIDComm.

use serde_json::{Map, Value};

use super::{JoseError, b64, json, jwe::refuse_extensions, jws};
use crate::{
    crypto,
    keys::{PublicKey, SignatureAlgorithm},
};

/// A JWT, not yet verified.
#[derive(Debug)]
pub struct Jwt {
    algorithm: SignatureAlgorithm,
    kid: String,
    input: String,
    claims: Map<String, Value>,
    signature: Vec<u8>,
}

impl Jwt {
    /// Parses `header.claims.signature`. `typ` must be JWT and `kid` stand in the header, so that no signed message
    /// passes for one.
    pub fn parse(text: &str) -> Result<Self, JoseError> {
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JoseError::Member("from_prior"));
        };
        let input = text[..header.len() + 1 + claims.len()].to_owned();
        let mut header = json::object("JWT header", &b64::decode("JWT header", header)?)?;
        refuse_extensions(&header)?;
        if !jws::is_jwt(&header) {
            return Err(JoseError::Member("typ"));
        }
        let algorithm = jws::algorithm(&mut header)?;
        let kid = json::take_string(&mut header, "kid")?.ok_or(JoseError::Missing("kid"))?;
        let claims = json::object("JWT claims", &b64::decode("JWT claims", claims)?)?;
        let signature = b64::decode("JWT signature", signature)?;
        if signature.len() != SignatureAlgorithm::LENGTH {
            return Err(JoseError::Length("signature"));
        }
        Ok(Self { algorithm, kid, input, claims, signature })
    }

    /// The signer's key id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The claims **before** the signature is verified: for finding out whose they claim to be, and nothing else.
    pub fn unverified_claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The claims, if the signature is the key's.
    pub fn verify(&self, key: &PublicKey) -> Result<&Map<String, Value>, JoseError> {
        jws::check_key(self.algorithm, key)?;
        crypto::verify(key, self.input.as_bytes(), &self.signature).map_err(|_| JoseError::Signature)?;
        Ok(&self.claims)
    }
}
