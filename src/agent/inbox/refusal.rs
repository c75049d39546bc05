//! Why an envelope was not accepted.

use crate::{agent::store::error::StoreError, jose::JoseError};

/// Why an envelope was not accepted. The peer gets only part of this information.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The envelope is malformed. The peer is at fault, and sending the envelope again does not help.
    #[error(transparent)]
    Malformed(#[from] JoseError),
    /// The envelope is larger than allowed. The field is the limit in bytes.
    #[error("the message has more than {0} bytes")]
    TooLarge(usize),
    /// No recipient of the envelope is one of our keys.
    #[error("the message is encrypted to none of our keys")]
    NotForUs {
        /// Whether a recipient may be a DID of ours: there is a candidate document, and no token has shown one of its
        /// keys since the start; or another node may have its document, and the store does not tell. The peer is then asked
        /// to send the message again later.
        may_be_own: bool,
    },
    /// The message is not encrypted.
    #[error("the message is not encrypted")]
    NotEncrypted,
    /// The envelope cannot be stored now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refusal {
    /// Returns the value of the metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::TooLarge(_) => "too-large",
            Self::NotForUs { .. } => "not-for-us",
            Self::NotEncrypted => "not-encrypted",
            Self::Store(_) => "not-kept",
        }
    }
}
