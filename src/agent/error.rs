//! Why the agent refused a request of the application.

use super::store::error::StoreError;

/// Why the agent refused a request of the application.
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
