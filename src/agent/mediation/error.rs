//! Why a mediator is of no use now.

use crate::agent::{net::NetError, outbox::NotPacked, store::StoreError};

/// Why a mediator was not asked, or did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MediationError {
    /// The caller's: it cannot be asked for.
    #[error("{0}")]
    Wrong(String),
    /// This agent uses no such mediator.
    #[error("{0} is none of the mediators that are used")]
    Unknown(String),
    /// It is not reached, or does not answer. That may pass.
    #[error("the mediator is not reached: {0}")]
    Away(String),
    /// It does not want to be ours.
    #[error("the mediator takes no messages for this agent: {0}")]
    Denied(String),
    /// Its DID leads nowhere, or it does not keep to its protocols.
    #[error("the mediator cannot be used: {0}")]
    Unusable(String),
    /// What it sends is larger than what is read at once.
    #[error("the mediator sends more than {0} bytes at once")]
    TooLarge(usize),
    /// A token of ours is not ready.
    #[error("no message to the mediator is packed or opened now: {0}")]
    Token(String),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<NetError> for MediationError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::TooLarge { limit, .. } => Self::TooLarge(limit),
            error if error.passes() => Self::Away(error.to_string()),
            error => Self::Unusable(error.to_string()),
        }
    }
}

impl From<NotPacked> for MediationError {
    fn from(error: NotPacked) -> Self {
        match error {
            NotPacked::Token(why) => Self::Token(why),
            NotPacked::Other(error) if error.passes => Self::Away(error.reason),
            NotPacked::Other(error) => Self::Unusable(error.reason),
        }
    }
}
