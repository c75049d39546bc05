//! `from_prior`: a JWT with which a DID names its successor (DIDComm v2.1 "DID Rotation").

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::{
    did_forms::{resolvable, same_did},
    error::{Error, FromPriorError},
    identities::Identities,
    key_lookup::{replaced_key, resolve_key},
    times::{MAX_CLOCK_SKEW_SECONDS, kind, numeric_date},
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
    /// of `iss`. The clocks of the signer and of this machine may differ by five minutes.
    ///
    /// # Errors
    /// If the JWT is malformed, is not valid any more or yet (`exp`, `nbf`), or names an audience (`aud`), which only a
    /// recipient can compare with itself ([`Message::unpack`](super::Message::unpack) does); if its `kid` is not an
    /// authentication key of `iss`, the document of `iss` cannot be resolved, or the signature is wrong.
    pub async fn unpack(jwt: &str, resolver: &dyn Resolver) -> Result<(Self, String), Error> {
        let prior = UnverifiedFromPrior::parse(jwt)?;
        prior.check_validity(SystemTime::now(), |_| false)?;
        prior.verify(resolver).await
    }
}

/// A `from_prior` with checked syntax and unverified signature.
pub(super) struct UnverifiedFromPrior {
    jwt: Jwt,
    /// The unverified claims. They decide whether the DID of the issuer is resolved.
    pub claims: FromPriorClaims,
    validity: Validity,
}

/// When and for whom a JWT is valid (RFC 7519 sections 4.1.3 to 4.1.5).
struct Validity {
    /// The time from which it is not accepted any more, in seconds since 1970.
    exp: Option<f64>,
    /// The time from which it is accepted, in seconds since 1970.
    nbf: Option<f64>,
    /// Those for whom it is.
    aud: Option<Vec<String>>,
}

impl UnverifiedFromPrior {
    /// Parses a JWT, and checks that its `kid` belongs to its `iss`.
    pub fn parse(jwt: &str) -> Result<Self, Error> {
        let jwt = Jwt::parse(jwt)?;
        let claims = jwt.unverified_claims();
        let validity =
            Validity { exp: date_claim(claims, "exp")?, nbf: date_claim(claims, "nbf")?, aud: audience(claims)? };
        let claims = FromPriorClaims {
            iss: string_claim(claims, "iss")?
                .ok_or_else(|| Error::from(FromPriorError::Claims("iss is absent".into())))?,
            sub: string_claim(claims, "sub")?,
            // A fraction of a second is dropped.
            iat: date_claim(claims, "iat")?.map(|seconds| seconds.floor() as i64),
        };
        // Checked before anything is resolved: otherwise a stranger's JWT could make us send a request to any server.
        let issuer = did_of(jwt.kid()).ok_or_else(|| Error::InvalidKeyId(jwt.kid().to_owned()))?;
        if !is_did(&claims.iss) || !same_did(issuer, &claims.iss) {
            return Err(Error::FromPrior(FromPriorError::Issuer));
        }
        Ok(Self { jwt, claims, validity })
    }

    /// Checks `exp`, `nbf` and `aud`. `arrived` is when the message came, so that one which waited for a token does not
    /// expire meanwhile. `is_audience` tells whether a name in `aud` is the recipient's.
    pub fn check_validity(
        &self,
        arrived: SystemTime,
        is_audience: impl Fn(&str) -> bool,
    ) -> Result<(), FromPriorError> {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        let skew = f64::from(MAX_CLOCK_SKEW_SECONDS);
        let Validity { exp, nbf, aud } = &self.validity;
        if exp.is_some_and(|exp| exp + skew <= seconds(arrived)) {
            return Err(FromPriorError::Expired);
        }
        if nbf.is_some_and(|nbf| nbf - skew > seconds(SystemTime::now().max(arrived))) {
            return Err(FromPriorError::NotYetValid);
        }
        match aud {
            Some(aud) if !aud.iter().any(|name| is_audience(name)) => Err(FromPriorError::Audience),
            _ => Ok(()),
        }
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

fn string_claim(claims: &Map<String, Value>, name: &str) -> Result<Option<String>, FromPriorError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong(name, "a string", kind(other))),
    }
}

/// Reads a NumericDate, which may have a fraction (RFC 7519 section 2).
fn date_claim(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, FromPriorError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match numeric_date(value) {
            Ok(seconds) => Ok(Some(seconds)),
            Err(found) => Err(wrong(name, "a number of seconds since 1970", found)),
        },
    }
}

/// Reads `aud`: one name, or an array of names (RFC 7519 section 4.1.3).
fn audience(claims: &Map<String, Value>) -> Result<Option<Vec<String>>, FromPriorError> {
    const EXPECTED: &str = "a string or an array of strings";
    let names = match claims.get("aud") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(names)) => names.iter(),
        Some(name) => std::slice::from_ref(name).iter(),
    };
    let names = names.map(|name| match name {
        Value::String(name) => Ok(name.clone()),
        other => Err(wrong("aud", EXPECTED, kind(other))),
    });
    names.collect::<Result<_, _>>().map(Some)
}

fn wrong(name: &str, expected: &str, found: &str) -> FromPriorError {
    FromPriorError::Claims(format!("{name} must be {expected}, and is {found}"))
}
