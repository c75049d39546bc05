//! What may be signed. The callee builds the input, so no caller can pass off one thing for another.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::SecretsError;
use crate::keys::SignatureAlgorithm;

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

/// `protected` and `payload` of what is to be signed.
pub(super) fn signing_input(
    algorithm: SignatureAlgorithm,
    what: &ToSign<'_>,
) -> Result<(String, String), SecretsError> {
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
    };
    Ok((URL_SAFE_NO_PAD.encode(header.to_string()), payload))
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

    #[test]
    fn only_a_plaintext_message_is_signed_as_one() {
        let sign = |payload: &str| signing_input(SignatureAlgorithm::EdDsa, &ToSign::Message(payload.as_bytes()));
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
