//! Why JSON is not a message, and why an attachment is refused.

use crate::jose::quoted;

/// Why a JSON object is not a valid message.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The message has no `id`, or an empty one.
    #[error("the message has no id")]
    NoId,
    /// The message has no `type`.
    #[error("the message has no type")]
    NoType,
    /// `type` is not a message type URI.
    #[error("the message type {} is not a message type URI", quoted(.0))]
    Type(String),
    /// The body is not a JSON object.
    #[error("the body of the message is not a JSON object")]
    Body,
    /// The text is not a JSON object, or a member is given twice. Holds the parser's error.
    #[error("the message is not valid JSON: {}", quoted(.0))]
    Json(String),
    /// A header has the wrong type or value.
    #[error("the header {header} must be {expected}, and is {found}")]
    HeaderValue {
        /// The header.
        header: &'static str,
        /// What it must be, such as `a string`.
        expected: &'static str,
        /// What it is, such as `a number`.
        found: &'static str,
    },
    /// A header must not be where the caller has put it.
    #[error("a header of the message is wrong: {}", quoted(.0))]
    Header(String),
    /// An attachment has no data.
    #[error("the attachment {} has no data: jws, hash, links, base64 or json", quoted(.0))]
    AttachmentData(String),
    /// A member of an attachment has a wrong type.
    #[error("the attachment {}: its {member} has a wrong type", quoted(id))]
    AttachmentMember {
        /// The attachment's id, or its index if it has none.
        id: String,
        /// The name of the member.
        member: &'static str,
    },
    /// The hash of an attachment is wrong, or absent although it has links; or its content is not base64.
    #[error("the attachment {}: {error}", quoted(id))]
    AttachmentHash {
        /// The attachment's id, or its index if it has none.
        id: String,
        /// What is wrong with the hash.
        error: HashError,
    },
}

impl MessageError {
    /// The header that is wrong. `None` if the whole message is.
    pub fn header(&self) -> Option<&'static str> {
        match self {
            Self::NoId => Some("id"),
            Self::NoType | Self::Type(_) => Some("type"),
            Self::Body => Some("body"),
            Self::HeaderValue { header, .. } => Some(header),
            Self::AttachmentData(_) | Self::AttachmentMember { .. } | Self::AttachmentHash { .. } => {
                Some("attachments")
            }
            Self::Json(_) | Self::Header(_) => None,
        }
    }
}

/// What is wrong with an attachment's hash, or with the content that it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// An attachment with links needs a hash.
    #[error("links need a hash")]
    Missing,
    /// The hash is not a multihash in hexadecimal, base58btc or multibase.
    #[error("the hash is not a multihash")]
    Malformed,
    /// The hash function is neither SHA-256 nor SHA-512.
    #[error("the hash function with multicodec {0:#x} is not supported")]
    Unsupported(u8),
    /// The content does not have this hash.
    #[error("the content does not have the hash")]
    Mismatch,
    /// The content is not base64.
    #[error("the content is not base64")]
    Base64,
}
