//! `from_prior`: a JWT with which a DID names its successor (DIDComm v2.1 "DID Rotation").

use serde_json::Value;

use super::{
    did_forms::{resolvable, same_did},
    error::{Error, FromPriorError},
    identities::Identities,
    key_lookup::{replaced_key, resolve_key},
};
use crate::{
    did::{Relationship, Resolver, did_of, is_did},
    jose::Jwt,
    secrets::{Context, FromPriorClaims, SignRequest},
};

impl FromPriorClaims {
    /// Claims that `sub` is the successor of `iss`. `iat` is the time of the rotation, in seconds since 1970 (UTC).
    pub fn rotation(iss: impl Into<String>, sub: impl Into<String>, iat: i64) -> Self {
        Self { iss: iss.into(), sub: Some(sub.into()), iat: Some(iat) }
    }

    /// Claims that `iss` ends the relationship. `iat` is the time of the ending, in seconds since 1970 (UTC).
    pub fn ending(iss: impl Into<String>, iat: i64) -> Self {
        Self { iss: iss.into(), sub: None, iat: Some(iat) }
    }

    /// Signs the claims with an authentication key of the old DID, in the key's token. Returns the JWT and the DID
    /// URL of the key.
    ///
    /// `issuer_kid` is the DID URL of the key. If it is `None`, the first ready authentication key of `iss` that
    /// can sign is used.
    ///
    /// # Errors
    /// If no such key is ready, the key is not a key of `iss`, or the token fails.
    pub async fn pack(&self, issuer_kid: Option<&str>, me: &Identities) -> Result<(String, String), Error> {
        let name = issuer_kid.unwrap_or(&self.iss);
        let key = me
            .ready_keys(name, Relationship::Authentication)
            .into_iter()
            .find(|key| key.key.curve().signature_algorithm().is_some())
            .ok_or_else(|| me.no_ready_key(name, Relationship::Authentication))?;
        if !same_did(&key.did, &self.iss) {
            return Err(Error::FromPrior(FromPriorError::Issuer));
        }
        let request = SignRequest::FromPrior { kid: &key.kid, claims: self };
        let signature = me.secrets().sign(&key.key, &request, &Context::default().for_kid(&key.kid)).await?;
        Ok((signature.compact(), key.kid.clone()))
    }

    /// Verifies a JWT. Returns the claims and the DID URL of the key that signed, which must be an authentication key
    /// of `iss`.
    ///
    /// # Errors
    /// If the JWT is malformed, its `kid` is not an authentication key of `iss`, the document of `iss` cannot be
    /// resolved, or the signature is wrong.
    pub async fn unpack(jwt: &str, resolver: &dyn Resolver) -> Result<(Self, String), Error> {
        UnverifiedFromPrior::parse(jwt)?.verify(resolver).await
    }
}

/// A `from_prior` with checked syntax and unverified signature.
pub(super) struct UnverifiedFromPrior {
    jwt: Jwt,
    /// The unverified claims. They decide whether the DID of the issuer is resolved.
    pub claims: FromPriorClaims,
}

impl UnverifiedFromPrior {
    /// Parses a JWT, and checks that its `kid` belongs to its `iss`.
    pub fn parse(jwt: &str) -> Result<Self, Error> {
        let jwt = Jwt::parse(jwt)?;
        let claims = Value::Object(jwt.unverified_claims().clone());
        let claims: FromPriorClaims = serde_json::from_value(claims)
            .map_err(|error| Error::FromPrior(FromPriorError::Claims(error.to_string())))?;
        // Checked before anything is resolved: otherwise a stranger's JWT could make us send a request to any server.
        let issuer = did_of(jwt.kid()).ok_or_else(|| Error::InvalidKeyId(jwt.kid().to_owned()))?;
        if !is_did(&claims.iss) || !same_did(issuer, &claims.iss) {
            return Err(Error::FromPrior(FromPriorError::Issuer));
        }
        Ok(Self { jwt, claims })
    }

    /// Verifies the signature. Returns the claims and the DID URL of the key that signed.
    pub async fn verify(self, resolver: &dyn Resolver) -> Result<(FromPriorClaims, String), Error> {
        let kid = self.jwt.kid();
        let owner = resolvable(&self.claims.iss, kid);
        let key = resolve_key(resolver, owner, kid, Relationship::Authentication).await?;
        if let Err(error) = self.jwt.verify(&key) {
            let newer = replaced_key(resolver, kid, Relationship::Authentication, &key).await;
            self.jwt.verify(&newer.ok_or(error)?)?;
        }
        Ok((self.claims, kid.to_owned()))
    }
}
