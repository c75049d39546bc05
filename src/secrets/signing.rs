//! What may be signed, and the signing input that is built from it.
//!
//! The keyring or keeper builds the input itself, so no caller can pass off one kind of content as another.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::SecretsError;
use crate::{
    crypto::{canonical_json, document_hash, proof_input, proof_options},
    json::{Duplicates, parse, parse_for_hash},
    keys::{PublicKey, SignatureAlgorithm},
};

/// The most JSON values of content to sign. A keeper does not trust the agent that sends it.
const MAX_VALUES: usize = 100_000;

/// Content to sign. These are the only kinds that a key signs.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum SignRequest<'a> {
    /// A DIDComm plaintext message: the bytes of the JWS payload.
    Message(&'a [u8]),
    /// A DID rotation: a `from_prior` JWT (DIDComm v2.1 "DID Rotation").
    FromPrior {
        /// The key's DID URL, for the protected header.
        kid: &'a str,
        /// The claims.
        claims: &'a FromPriorClaims,
    },
    /// An entry of a did:webvh log without its proof, as JSON (did:webvh 1.0 "The DID Log File"). The key
    /// must be Ed25519.
    WebvhEntry(&'a [u8]),
}

/// The claims of a `from_prior` JWT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromPriorClaims {
    /// The old DID.
    pub iss: String,
    /// The new DID; `None` if the sender ends the relationship.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// When the DID was rotated, in seconds since 1970 (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
}

/// A signature, with the header and the payload that it covers.
///
/// For a message and a rotation this is a JWS: `protected` and `payload` are base64url, and the signing input is
/// `protected.payload`. For a did:webvh entry it is a Data Integrity proof: `protected` is the proof without its value,
/// `payload` is the entry, both as canonical JSON, and the signing input is their hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The signature algorithm.
    pub algorithm: SignatureAlgorithm,
    /// The protected header.
    pub protected: String,
    /// The payload.
    pub payload: String,
    /// The signature: 64 bytes.
    pub signature: Vec<u8>,
}

impl Signature {
    /// The JWS in the Compact Serialization (RFC 7515 section 7.1).
    pub fn compact(&self) -> String {
        format!("{}.{}.{}", self.protected, self.payload, URL_SAFE_NO_PAD.encode(&self.signature))
    }
}

/// The bytes to sign, and the parts that the finished signature carries.
pub(super) struct SigningInput {
    algorithm: SignatureAlgorithm,
    protected: String,
    payload: String,
    /// The bytes that are signed.
    pub(super) bytes: Vec<u8>,
}

impl SigningInput {
    /// Checks the request and builds the input for `key`. Fails with [`SecretsError::InvalidRequest`] if the curve of
    /// `key` does not fit, or the content is not what the request says it is.
    pub(super) fn new(key: &PublicKey, request: &SignRequest<'_>) -> Result<Self, SecretsError> {
        let algorithm = key
            .curve()
            .signature_algorithm()
            .ok_or(SecretsError::InvalidRequest("the key's curve is not for signatures"))?;
        let (header, payload) = match request {
            SignRequest::Message(payload) => {
                check_message(payload)?;
                let header = json!({"typ": "application/didcomm-signed+json", "alg": algorithm.name()});
                (header, URL_SAFE_NO_PAD.encode(payload))
            }
            SignRequest::FromPrior { kid, claims } => {
                let header = json!({"typ": "JWT", "alg": algorithm.name(), "kid": kid});
                let claims = serde_json::to_vec(claims).expect("strings and a number are JSON");
                (header, URL_SAFE_NO_PAD.encode(claims))
            }
            SignRequest::WebvhEntry(entry) => return Self::for_webvh_entry(key, algorithm, entry),
        };
        let protected = URL_SAFE_NO_PAD.encode(header.to_string());
        let bytes = format!("{protected}.{payload}").into_bytes();
        Ok(Self { algorithm, protected, payload, bytes })
    }

    fn for_webvh_entry(key: &PublicKey, algorithm: SignatureAlgorithm, entry: &[u8]) -> Result<Self, SecretsError> {
        if algorithm != SignatureAlgorithm::EdDsa {
            return Err(SecretsError::InvalidRequest("a did:webvh entry must be signed by an Ed25519 key"));
        }
        let (entry, time) = parse_webvh_entry(entry)?;
        let proof = proof_options(&key.to_multikey(), &time);
        let bytes = proof_input(&proof, &document_hash(&entry)).to_vec();
        Ok(Self { algorithm, protected: canonical_json(&proof), payload: canonical_json(&entry), bytes })
    }

    /// Adds the signature that the token made.
    pub(super) fn with_signature(self, signature: Vec<u8>) -> Signature {
        let Self { algorithm, protected, payload, .. } = self;
        Signature { algorithm, protected, payload, signature }
    }
}

/// Parses an entry of a did:webvh log. Returns the entry and its `versionTime`. The entry must have exactly the four
/// members of an unsigned entry, so that no message and no credential passes for an entry.
fn parse_webvh_entry(entry: &[u8]) -> Result<(Value, String), SecretsError> {
    let Ok(Value::Object(entry)) = parse_for_hash(entry, MAX_VALUES) else {
        return Err(SecretsError::InvalidRequest("the content to sign is not a JSON object"));
    };
    let time = entry.get("versionTime").and_then(Value::as_str).map(str::to_owned);
    let is_complete = entry.len() == 4
        && entry.get("versionId").is_some_and(Value::is_string)
        && entry.get("parameters").is_some_and(Value::is_object)
        && entry
            .get("state")
            .and_then(|state| state.get("id")?.as_str())
            .is_some_and(|id| id.starts_with("did:webvh:"));
    match time {
        Some(time) if is_complete => Ok((Value::Object(entry), time)),
        _ => {
            Err(SecretsError::InvalidRequest("the content to sign is not an entry of a did:webvh log without a proof"))
        }
    }
}

/// The payload must be a DIDComm plaintext and must not be readable as JWT claims, so that the signature of a message
/// cannot pass for that of a JWT.
fn check_message(payload: &[u8]) -> Result<(), SecretsError> {
    let Ok(Value::Object(message)) = parse(payload, MAX_VALUES, Duplicates::LastWins) else {
        return Err(SecretsError::InvalidRequest("the content to sign is not a JSON object"));
    };
    for member in ["id", "type"] {
        if !message.get(member).is_some_and(Value::is_string) {
            return Err(SecretsError::InvalidRequest(
                "the content to sign is not a DIDComm message: it has no id or no type",
            ));
        }
    }
    for claim in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"] {
        if message.contains_key(claim) {
            return Err(SecretsError::InvalidRequest("a message to sign must not have members that are JWT claims"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Curve;

    fn key(curve: Curve) -> PublicKey {
        let multikey = match curve {
            Curve::Ed25519 => "z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG",
            _ => "zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169",
        };
        PublicKey::from_multikey(multikey).unwrap()
    }

    #[test]
    fn only_a_webvh_entry_is_signed_as_an_entry() {
        let sign = |curve, entry: &Value| {
            SigningInput::new(&key(curve), &SignRequest::WebvhEntry(entry.to_string().as_bytes()))
                .map(|input| input.bytes)
        };
        let entry = json!({
            "versionId": "2-Qm", "versionTime": "2026-01-01T00:00:00Z", "parameters": {}, "state": { "id": "did:webvh:Qm:a" },
        });
        assert_eq!(sign(Curve::Ed25519, &entry).unwrap().len(), 64);
        assert!(matches!(sign(Curve::P256, &entry), Err(SecretsError::InvalidRequest(_))));
        for member in ["versionId", "versionTime", "parameters", "state"] {
            let mut other = entry.clone();
            other[member] = 1.into();
            assert!(matches!(sign(Curve::Ed25519, &other), Err(SecretsError::InvalidRequest(_))), "{member}");
            other.as_object_mut().unwrap().remove(member);
            assert!(matches!(sign(Curve::Ed25519, &other), Err(SecretsError::InvalidRequest(_))), "{member}");
        }
        for (member, value) in [("proof", json!([])), ("id", "1".into()), ("type", "t".into())] {
            let mut extended = entry.clone();
            extended[member] = value;
            assert!(matches!(sign(Curve::Ed25519, &extended), Err(SecretsError::InvalidRequest(_))), "{member}");
        }
        let mut credential = entry.clone();
        credential["state"]["id"] = "did:web:a".into();
        assert!(matches!(sign(Curve::Ed25519, &credential), Err(SecretsError::InvalidRequest(_))));
    }

    #[test]
    fn only_a_plaintext_message_is_signed_as_a_message() {
        let sign = |payload: &str| SigningInput::new(&key(Curve::Ed25519), &SignRequest::Message(payload.as_bytes()));
        assert!(sign(r#"{"id":"1","type":"https://example.org/a/1.0/b","body":{}}"#).is_ok());
        for refused in [
            "[]",
            "x",
            r#"{"id":"1"}"#,
            r#"{"id":1,"type":"t"}"#,
            r#"{"id":"1","type":"t","iss":"did:example:alice","sub":"did:example:mallory"}"#,
        ] {
            assert!(matches!(sign(refused), Err(SecretsError::InvalidRequest(_))), "{refused}");
        }
    }
}
