//! `from_prior`: a JWT by which a DID names its successor (DIDComm v2.1 "DID Rotation").

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
        let signature = me.secrets().sign(&key.key, &what, &Context::default()).await?;
        Ok((signature.compact(), key.kid.clone()))
    }

    /// Verifies a JWT: the claims, and the old DID's key that signed. `kid` must be an authentication key of `iss`.
    pub async fn unpack(jwt: &str, resolver: &dyn Resolver) -> Result<(Self, String), Error> {
        let jwt = Jwt::parse(jwt)?;
        let claims = |map: &serde_json::Map<_, _>| -> Result<Self, Error> {
            serde_json::from_value(serde_json::Value::Object(map.clone()))
                .map_err(|error| Error::FromPrior(FromPriorError::Claims(error.to_string())))
        };
        let iss = claims(jwt.unverified_claims())?.iss;
        // Before anything is resolved: else a stranger's JWT makes us ask a server of its choice.
        let issuer = did_of(jwt.kid()).ok_or_else(|| Error::KeyId(jwt.kid().to_owned()))?;
        if !is_did(&iss) || !super::same_did(issuer, &iss) {
            return Err(Error::FromPrior(FromPriorError::Issuer));
        }
        let owner = super::resolvable(&iss, jwt.kid());
        let key = resolve_key(resolver, owner, jwt.kid(), Relationship::Authentication).await?;
        let verified = claims(jwt.verify(&key)?)?;
        Ok((verified, jwt.kid().to_owned()))
    }
}
