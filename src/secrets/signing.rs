//! What may be signed. The callee builds the input, so no caller can pass off one thing for another.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::SecretsError;
use crate::{
    crypto::{canonical_json, document_hash, proof_input, proof_options},
    keys::{PublicKey, SignatureAlgorithm},
};

/// Something that a key signs.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum ToSign<'a> {
    /// A DIDComm plaintext message, as the bytes that become the JWS payload.
    Message(&'a [u8]),
    /// A DID rotation (DIDComm v2.1 "DID Rotation").
    FromPrior {
        /// The key's DID URL, for the protected header.
        kid: &'a str,
        /// The claims.
        claims: &'a Claims,
    },
    /// An entry of a did:webvh's log without its proof, as JSON (did:webvh 1.0 "The DID Log File"). The key is Ed25519.
    WebvhEntry(&'a [u8]),
}

/// The claims of a `from_prior` JWT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The old DID.
    pub iss: String,
    /// The new DID; none ends the relationship.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// When the DID was rotated: seconds since 1970, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
}

/// A signature in JOSE form: `protected` and `payload` are base64url, and what was signed is `protected.payload`.
///
/// Of a log's entry it is a Data Integrity proof: `protected` is the proof without its value, `payload` the entry, both as
/// canonical JSON, and what was signed is their hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// By which algorithm.
    pub algorithm: SignatureAlgorithm,
    /// The protected header.
    pub protected: String,
    /// The payload.
    pub payload: String,
    /// 64 bytes.
    pub signature: Vec<u8>,
}

impl Signature {
    /// The JWS Compact Serialization (RFC 7515 section 7.1).
    pub fn compact(&self) -> String {
        format!("{}.{}.{}", self.protected, self.payload, URL_SAFE_NO_PAD.encode(&self.signature))
    }
}

/// What a key signs, and what a signature shows of it.
pub(super) struct SigningInput {
    algorithm: SignatureAlgorithm,
    protected: String,
    payload: String,
    /// The bytes that are signed.
    pub(super) bytes: Vec<u8>,
}

impl SigningInput {
    pub(super) fn new(key: &PublicKey, what: &ToSign<'_>) -> Result<Self, SecretsError> {
        let algorithm =
            key.curve().signature_algorithm().ok_or(SecretsError::Request("the key's curve does not sign"))?;
        let (header, payload) = match what {
            ToSign::Message(payload) => {
                check_message(payload)?;
                let header = json!({"typ": "application/didcomm-signed+json", "alg": algorithm.name()});
                (header, URL_SAFE_NO_PAD.encode(payload))
            }
            ToSign::FromPrior { kid, claims } => {
                let header = json!({"typ": "JWT", "alg": algorithm.name(), "kid": kid});
                let claims = serde_json::to_vec(claims).expect("strings and a number are JSON");
                (header, URL_SAFE_NO_PAD.encode(claims))
            }
            ToSign::WebvhEntry(entry) => return Self::of_entry(key, algorithm, entry),
        };
        let protected = URL_SAFE_NO_PAD.encode(header.to_string());
        let bytes = format!("{protected}.{payload}").into_bytes();
        Ok(Self { algorithm, protected, payload, bytes })
    }

    fn of_entry(key: &PublicKey, algorithm: SignatureAlgorithm, entry: &[u8]) -> Result<Self, SecretsError> {
        if algorithm != SignatureAlgorithm::EdDsa {
            return Err(SecretsError::Request("a did:webvh is changed by an Ed25519 key"));
        }
        let (entry, time) = check_entry(entry)?;
        let proof = proof_options(&key.to_multikey(), &time);
        let bytes = proof_input(&proof, &document_hash(&entry)).to_vec();
        Ok(Self { algorithm, protected: canonical_json(&proof), payload: canonical_json(&entry), bytes })
    }

    /// What came of it.
    pub(super) fn signed(self, signature: Vec<u8>) -> Signature {
        let Self { algorithm, protected, payload, .. } = self;
        Signature { algorithm, protected, payload, signature }
    }
}

/// An entry, and its time. It has the four members of one and no other, so that nothing else passes for it: no message and no
/// credential.
fn check_entry(entry: &[u8]) -> Result<(Value, String), SecretsError> {
    let Ok(Value::Object(entry)) = serde_json::from_slice(entry) else {
        return Err(SecretsError::Request("what is to be signed is no JSON object"));
    };
    let time = entry.get("versionTime").and_then(Value::as_str).map(str::to_owned);
    let is_whole = entry.len() == 4
        && entry.get("versionId").is_some_and(Value::is_string)
        && entry.get("parameters").is_some_and(Value::is_object)
        && entry
            .get("state")
            .and_then(|state| state.get("id")?.as_str())
            .is_some_and(|id| id.starts_with("did:webvh:"));
    match time {
        Some(time) if is_whole => Ok((Value::Object(entry), time)),
        _ => Err(SecretsError::Request("what is to be signed is no entry of a did:webvh's log without its proof")),
    }
}

/// A message is a DIDComm plaintext, and cannot be read as a JWT: no signature for one serves as the other.
fn check_message(payload: &[u8]) -> Result<(), SecretsError> {
    let Ok(Value::Object(message)) = serde_json::from_slice(payload) else {
        return Err(SecretsError::Request("what is to be signed is no JSON object"));
    };
    for member in ["id", "type"] {
        if !message.get(member).is_some_and(Value::is_string) {
            return Err(SecretsError::Request("what is to be signed is no DIDComm message: it wants id and type"));
        }
    }
    for claim in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"] {
        if message.contains_key(claim) {
            return Err(SecretsError::Request("a message to be signed must not carry JWT claims"));
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
    fn only_a_logs_entry_is_signed_as_one() {
        let sign = |curve, entry: &Value| {
            SigningInput::new(&key(curve), &ToSign::WebvhEntry(entry.to_string().as_bytes())).map(|input| input.bytes)
        };
        let entry = json!({
            "versionId": "2-Qm", "versionTime": "2026-01-01T00:00:00Z", "parameters": {}, "state": { "id": "did:webvh:Qm:a" },
        });
        assert_eq!(sign(Curve::Ed25519, &entry).unwrap().len(), 64);
        assert!(matches!(sign(Curve::P256, &entry), Err(SecretsError::Request(_))));
        for member in ["versionId", "versionTime", "parameters", "state"] {
            let mut other = entry.clone();
            other[member] = 1.into();
            assert!(matches!(sign(Curve::Ed25519, &other), Err(SecretsError::Request(_))), "{member}");
            other.as_object_mut().unwrap().remove(member);
            assert!(matches!(sign(Curve::Ed25519, &other), Err(SecretsError::Request(_))), "{member}");
        }
        for (member, value) in [("proof", json!([])), ("id", "1".into()), ("type", "t".into())] {
            let mut more = entry.clone();
            more[member] = value;
            assert!(matches!(sign(Curve::Ed25519, &more), Err(SecretsError::Request(_))), "{member}");
        }
        let mut credential = entry.clone();
        credential["state"]["id"] = "did:web:a".into();
        assert!(matches!(sign(Curve::Ed25519, &credential), Err(SecretsError::Request(_))));
    }

    #[test]
    fn only_a_plaintext_message_is_signed_as_one() {
        let sign = |payload: &str| SigningInput::new(&key(Curve::Ed25519), &ToSign::Message(payload.as_bytes()));
        assert!(sign(r#"{"id":"1","type":"https://example.org/a/1.0/b","body":{}}"#).is_ok());
        for refused in [
            "[]",
            "x",
            r#"{"id":"1"}"#,
            r#"{"id":1,"type":"t"}"#,
            r#"{"id":"1","type":"t","iss":"did:example:alice","sub":"did:example:mallory"}"#,
        ] {
            assert!(matches!(sign(refused), Err(SecretsError::Request(_))), "{refused}");
        }
    }
}
