//! Bounds texts that peers choose: message ids in record keys, and the length of other texts.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::didcomm::Message;

/// The longest message id that is part of a record's key without being hashed, in bytes.
const MAX_ID: usize = 64;

/// The longest id, thread id or type of a message, in bytes. They stay in the store in the clear, for as long as the
/// history of the message.
const MAX_NAME_BYTES: usize = 1024;
/// Why a message [`has_too_long_name`].
pub(in crate::agent) const TOO_LONG_NAME: &str = "its id, its thread or its type is longer than 1024 bytes";

/// Whether the id, the thread or the type of a message is too long. Such a message is neither sent nor handled.
pub(in crate::agent) fn has_too_long_name(message: &Message) -> bool {
    [&*message.id, message.thread(), &*message.type_].iter().any(|name| name.len() > MAX_NAME_BYTES)
}

/// Returns a message id as part of a record's key: in lower case, since ids are compared without case (v2.1 "Message
/// IDs"). An id that is longer than 64 bytes, or has characters that are not unreserved in RFC 3986, is hashed.
pub(super) fn id_as_key(id: &str) -> Cow<'_, str> {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if id.len() > MAX_ID || !id.bytes().all(is_unreserved) {
        let digest = Sha256::digest(id.to_lowercase().as_bytes());
        return Cow::Owned(format!("sha256~{}", bs58::encode(digest).into_string()));
    }
    if id.bytes().any(|byte| byte.is_ascii_uppercase()) { id.to_ascii_lowercase().into() } else { id.into() }
}

/// Returns the longest prefix of a text that has at most `bytes` bytes.
pub(in crate::agent) fn truncate_to(text: &str, bytes: usize) -> &str {
    (0..=bytes).rev().find_map(|end| text.get(..end)).unwrap_or(text)
}
