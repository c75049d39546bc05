//! From bytes to one of three types, by structure (`typ` is a hint that peers get wrong).

use serde_json::{Map, Value};

use super::{JoseError, Jwe, Jws, json};

/// A DIDComm message as it came, parsed once.
#[derive(Debug)]
pub enum Envelope {
    /// A JWE: authcrypt or anoncrypt.
    Encrypted(Box<Jwe>),
    /// A JWS.
    Signed(Box<Jws>),
    /// A plaintext message.
    Plain(Map<String, Value>),
}

/// How large a message may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Its size in bytes; 1,000,000 by default.
    pub bytes: usize,
    /// The recipients of a JWE; 100 by default.
    pub recipients: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 1_000_000, recipients: 100 }
    }
}

impl Envelope {
    /// Parses a message and makes every check that needs no key.
    pub fn parse(message: &[u8], limits: &Limits) -> Result<Self, JoseError> {
        if message.len() > limits.bytes {
            return Err(JoseError::TooLarge { size: message.len(), limit: limits.bytes });
        }
        let map = json::object("message", message)?;
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
