//! Parses bytes into one of the three kinds of message. The members of the JSON object decide which kind it is. `typ`
//! does not, since some peers send a wrong one.

use serde_json::{Map, Value};

use super::{error::JoseError, json, jwe::Jwe, jws::Jws, limits::Limits};

/// A received DIDComm message, parsed once.
#[derive(Debug)]
pub enum Envelope {
    /// An encrypted message (JWE): authcrypt or anoncrypt.
    Encrypted(Box<Jwe>),
    /// A signed message (JWS).
    Signed(Box<Jws>),
    /// A plaintext message.
    Plain(Map<String, Value>),
}

impl Envelope {
    /// Parses a message and makes every check that needs no key.
    ///
    /// # Errors
    /// If the message is over the limits, is malformed, or uses an algorithm that DIDComm does not allow.
    pub fn parse(message: &[u8], limits: &Limits) -> Result<Self, JoseError> {
        if message.len() > limits.bytes {
            return Err(JoseError::TooLarge { size: message.len(), limit: limits.bytes });
        }
        let map = json::parse_object("message", message, limits.json_values)
            .map_err(|error| compact(message).map_or(error, JoseError::Serialization))?;
        let has = |name| map.contains_key(name);
        if has("ciphertext") {
            Ok(Self::Encrypted(Box::new(Jwe::from_object(map, limits)?)))
        } else if has("payload") && (has("signatures") || has("signature")) {
            Ok(Self::Signed(Box::new(Jws::from_object(map)?)))
        } else if has("type") {
            Ok(Self::Plain(map))
        } else {
            Err(JoseError::Unrecognised)
        }
    }
}

/// Returns the name of the serialization if a text that is not JSON is a compact JWE or JWS: five or three parts in
/// base64url.
fn compact(message: &[u8]) -> Option<&'static str> {
    let text = message.trim_ascii();
    let is_compact = text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
    match text.iter().filter(|byte| **byte == b'.').count() {
        4 if is_compact => Some("JWE Compact Serialization"),
        2 if is_compact => Some("JWS Compact Serialization"),
        _ => None,
    }
}
