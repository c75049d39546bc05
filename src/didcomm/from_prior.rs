//! `from_prior`: a JWT by which a DID names its successor (DIDComm v2.1 "DID Rotation").

use serde_json::Value;

use super::{Error, FromPrior, Identities, error::FromPriorError, unpack::resolve_key};
use crate::{
    did::{Relationship, Resolver, did_of, is_did},
    jose::Jwt,
    secrets::{Context, ToSign},
};

impl FromPrior {
    /// Claims that `sub` follows upon `iss`; `iat` is when that was decided, in seconds since 1970.
    pub fn rotation(iss: impl Into<String>, sub: impl Into<String>, iat: i64) -> Self {
        Self { iss: iss.into(), sub: Some(sub.into()), iat: Some(iat) }
    }

    /// Claims that `iss` ends a relationship.
    pub fn ending(iss: impl Into<String>, iat: i64) -> Self {
        Self { iss: iss.into(), sub: None, iat: Some(iat) }
    }

    /// Signs with an authentication key of the old DID, in its token: `issuer_kid`, or the first of the DID that is
    /// ready. The JWT and the key's DID URL.
    pub async fn pack(&self, issuer_kid: Option<&str>, me: &Identities) -> Result<(String, String), Error> {
        let name = issuer_kid.unwrap_or(&self.iss);
        let key = me
            .ready_keys(name, Relationship::Authentication)
            .into_iter()
            .find(|key| key.key.curve().signature_algorithm().is_some())
            .ok_or_else(|| Error::NotOurs { name: name.to_owned(), relationship: "authentication" })?;
        if !super::same_did(&key.did, &self.iss) {
            return Err(Error::FromPrior(FromPriorError::Issuer));
        }
        let what = ToSign::FromPrior { kid: &key.kid, claims: self };
        let signature = me.secrets().sign(&key.key, &what, &Context::default().for_kid(&key.kid)).await?;
        Ok((signature.compact(), key.kid.clone()))
    }

    /// Verifies a JWT: the claims, and the old DID's key that signed. `kid` must be an authentication key of `iss`.
    pub async fn unpack(jwt: &str, resolver: &dyn Resolver) -> Result<(Self, String), Error> {
        Unverified::parse(jwt)?.verify(resolver).await
    }
}

/// A `from_prior` whose form was checked, and nothing else.
pub(super) struct Unverified {
    jwt: Jwt,
    /// What it claims: for finding out whether it is worth resolving anyone.
    pub claims: FromPrior,
}

impl Unverified {
    pub fn parse(jwt: &str) -> Result<Self, Error> {
        let jwt = Jwt::parse(jwt)?;
        let claims = Value::Object(jwt.unverified_claims().clone());
        let claims: FromPrior = serde_json::from_value(claims)
            .map_err(|error| Error::FromPrior(FromPriorError::Claims(error.to_string())))?;
        // Before anything is resolved: else a stranger's JWT makes us ask a server of its choice.
        let issuer = did_of(jwt.kid()).ok_or_else(|| Error::KeyId(jwt.kid().to_owned()))?;
        if !is_did(&claims.iss) || !super::same_did(issuer, &claims.iss) {
            return Err(Error::FromPrior(FromPriorError::Issuer));
        }
        Ok(Self { jwt, claims })
    }

    pub async fn verify(self, resolver: &dyn Resolver) -> Result<(FromPrior, String), Error> {
        let kid = self.jwt.kid();
        let owner = super::resolvable(&self.claims.iss, kid);
        let key = resolve_key(resolver, owner, kid, Relationship::Authentication).await?;
        self.jwt.verify(&key)?;
        Ok((self.claims, kid.to_owned()))
    }
}
