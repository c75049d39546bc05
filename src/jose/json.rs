//! Parses JSON objects. Duplicate members are refused (RFC 7515 section 4, RFC 7516 section 4).

use serde_json::{Map, Value};

use super::error::JoseError;
use crate::json::{Duplicates, parse};

/// The most values of a header or of the claims of a JWT.
pub(crate) const MAX_HEADER_VALUES: usize = 1000;

/// Parses a JSON object with at most `max_values` values. `name` names the object in the error.
pub(crate) fn parse_object(
    name: &'static str,
    bytes: &[u8],
    max_values: usize,
) -> Result<Map<String, Value>, JoseError> {
    match parse(bytes, max_values, Duplicates::Refused) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(JoseError::Json { name, reason: "it is not an object".to_owned() }),
        Err(error) => Err(JoseError::Json { name, reason: error.to_string() }),
    }
}

/// Removes a member from an object, and returns it if it is a string.
pub(crate) fn take_string(map: &mut Map<String, Value>, name: &'static str) -> Result<Option<String>, JoseError> {
    match map.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(JoseError::InvalidMember(name)),
    }
}
