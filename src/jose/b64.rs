//! Base64url of JOSE (RFC 7515 section 2): no padding, no white space, and no unused bits set at the end. So each byte
//! string has exactly one encoding. What other spellings a peer writes elsewhere is not read here.

use super::error::JoseError;
use crate::encoding::from_base64url;
pub(crate) use crate::encoding::to_base64url as encode;

/// Decodes `text`. `name` names the value in the error.
pub(crate) fn decode(name: &'static str, text: &str) -> Result<Vec<u8>, JoseError> {
    from_base64url(text).ok_or(JoseError::InvalidBase64(name))
}
