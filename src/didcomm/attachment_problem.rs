//! What is wrong with an attachment.

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::message_error::HashError;

/// The most notes on the attachments of one message. The notes are stored with the message.
pub(super) const MAX_NOTES: usize = 100;

/// What is wrong with an attachment. We send no such attachment. A received one is delivered with an
/// [`AttachmentNote`], unless its content has another hash than it says: such a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachmentProblem {
    /// It has neither content nor links.
    #[error("it has no data: jws, hash, links, base64 or json")]
    NoData,
    /// A member of the specification has a wrong type, so it is in `extra`. Holds the name of the member; one of `data`
    /// begins with `data.`.
    #[error("its {0} has a wrong type")]
    Member(&'static str),
    /// The content or the hash is wrong.
    #[error("{0}")]
    Hash(#[from] HashError),
}

impl AttachmentProblem {
    /// A stable code for programs, in kebab case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoData => "no-data",
            Self::Member(_) => "wrong-type",
            Self::Hash(HashError::Missing) => "no-hash",
            Self::Hash(HashError::Malformed) => "malformed-hash",
            Self::Hash(HashError::Unsupported(_)) => "unsupported-hash",
            Self::Hash(HashError::Mismatch) => "wrong-hash",
            Self::Hash(HashError::Base64) => "not-base64",
        }
    }
}

/// A note on an attachment that was delivered although something is wrong with it.
///
/// As JSON: `{"attachment": 0, "code": "not-base64", "problem": "the content is not base64"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachmentNote {
    /// The position in [`Message::attachments`](super::Message::attachments), from 0.
    pub attachment: usize,
    /// What is wrong.
    pub problem: AttachmentProblem,
}

impl Serialize for AttachmentNote {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut note = serializer.serialize_struct("AttachmentNote", 3)?;
        note.serialize_field("attachment", &self.attachment)?;
        note.serialize_field("code", self.problem.code())?;
        note.serialize_field("problem", &self.problem.to_string())?;
        note.end()
    }
}
