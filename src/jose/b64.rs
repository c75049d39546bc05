//! Base64url as JOSE wants it (RFC 7515 section 2): no padding, no white space, and no loose bits at the end, so that
//! every byte string has one spelling only.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::JoseError;

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn decode(name: &'static str, text: &str) -> Result<Vec<u8>, JoseError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| JoseError::Base64(name))
}
