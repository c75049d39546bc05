//! The error of the requests that an application makes to the agent.

use super::store::error::StoreError;

/// Why a request of the application failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The request is invalid, and would be refused again.
    #[error("{0}")]
    Invalid(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
