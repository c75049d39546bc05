//! Base64url of JOSE (RFC 7515 section 2): no padding, no white space, and no unused bits set at the end. So each byte
//! string has exactly one encoding.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::error::JoseError;

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes `text`. `name` names the value in the error.
pub(crate) fn decode(name: &'static str, text: &str) -> Result<Vec<u8>, JoseError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| JoseError::InvalidBase64(name))
}
