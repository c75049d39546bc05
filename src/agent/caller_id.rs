//! The ids that the application gives its requests, so that they can be repeated.

use super::error::AgentError;

/// The most characters of an id.
const MAX_ID_CHARS: usize = 64;

/// Checks an id that the application gives a message or another request.
///
/// # Errors
/// [`AgentError::Invalid`] if it is not 1 to 64 lower-case letters, digits, and characters of `-._~`. Peers compare ids without
/// case, so capitals are refused.
pub(super) fn check_id(id: &str) -> Result<(), AgentError> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._~".contains(&byte);
    match (1..=MAX_ID_CHARS).contains(&id.len()) && id.bytes().all(is_allowed) {
        true => Ok(()),
        false => Err(AgentError::Invalid(format!(
            "the id must be 1 to {MAX_ID_CHARS} characters: lower-case letters, digits, and -._~"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for valid in ["a", "order-4711.v_2~", &"0".repeat(64)] {
            assert!(check_id(valid).is_ok(), "{valid}");
        }
        for invalid in ["", "A", "a b", "ä", "a/b", &"0".repeat(65)] {
            assert!(check_id(invalid).is_err(), "{invalid}");
        }
    }
}
