//! Why a mediator cannot be used.

use crate::{
    agent::{error::AgentError, outbox::PackError, store::StoreError},
    net::NetError,
};

/// Why a request to a mediator was not made, or failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MediationError {
    /// The caller's request is invalid.
    #[error("{0}")]
    InvalidRequest(String),
    /// This agent uses no mediator with this DID.
    #[error("this agent uses no mediator {0}")]
    Unknown(String),
    /// The mediator cannot be reached, or does not answer. A retry may help.
    #[error("the mediator cannot be reached: {0}")]
    Unreachable(String),
    /// The mediator refuses to mediate for this agent.
    #[error("the mediator refuses: {0}")]
    Denied(String),
    /// The mediator's DID has no usable document or endpoint, or the mediator violates its protocols.
    #[error("the mediator cannot be used: {0}")]
    Unusable(String),
    /// The mediator sends more bytes at once than the agent reads. The field is the limit in bytes.
    #[error("the mediator sends more than {0} bytes at once (max_delivery_bytes of [mediation])")]
    TooLarge(usize),
    /// No token is ready that can encrypt or decrypt messages of the mediator.
    #[error("no token is ready to encrypt or decrypt messages of the mediator: {0}")]
    TokenUnavailable(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<AgentError> for MediationError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Store(error) => Self::Store(error),
            error => Self::InvalidRequest(error.to_string()),
        }
    }
}

impl From<NetError> for MediationError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::TooLarge { limit, .. } => Self::TooLarge(limit),
            error @ NetError::WebSocketRefused { status: 401 | 403 | 407, .. } => Self::Denied(format!(
                "{error}. It may want a login of its own before it reads a message, which this agent does not have"
            )),
            error if error.is_retryable() => Self::Unreachable(error.to_string()),
            error => Self::Unusable(error.to_string()),
        }
    }
}

impl From<PackError> for MediationError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::TokenUnavailable(reason) => Self::TokenUnavailable(reason),
            PackError::Failed(error) if error.is_retryable => Self::Unreachable(error.reason),
            PackError::Failed(error) => Self::Unusable(error.reason),
        }
    }
}
