//! The error of the requests that an application makes to the agent.

use super::store::error::StoreError;

/// Why a request of the application failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The request is invalid, and would be refused again.
    #[error("{0}")]
    Invalid(String),
    /// Another message was sent under this id ([`Agent::send_once`](super::Agent::send_once)).
    #[error("another message was sent under the id {0}")]
    IdTaken(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
