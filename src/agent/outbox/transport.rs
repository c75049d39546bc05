//! How a packed message gets to a URI.

use std::sync::Arc;

use async_trait::async_trait;

/// A way to send a packed message.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// The schemes of the URIs that it serves, in lower case, as `https`.
    fn schemes(&self) -> &[&str];

    /// Sends a packed message; returns what came back on the same connection, packed too.
    ///
    /// # Errors
    /// Why it was not taken over there.
    async fn send(&self, uri: &str, packed: &str) -> Result<Vec<String>, SendError>;
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SendError {
    /// What went wrong, and at whose end.
    pub reason: String,
    /// Whether trying again may help.
    pub passes: bool,
    /// The peer wants to be left alone for so long.
    pub retry_after: Option<std::time::Duration>,
}

/// The transports of an agent.
#[derive(Clone, Default)]
pub struct Transports(Vec<Arc<dyn Transport>>);

impl Transports {
    /// Adds one; of two for a scheme the first serves.
    #[must_use]
    pub fn with(mut self, transport: impl Transport) -> Self {
        self.0.push(Arc::new(transport));
        self
    }

    /// The one for a URI.
    pub fn of(&self, uri: &str) -> Option<&Arc<dyn Transport>> {
        let scheme = uri.split(':').next()?.to_ascii_lowercase();
        self.0.iter().find(|transport| transport.schemes().contains(&scheme.as_str()))
    }
}

impl SendError {
    /// One that may pass.
    pub fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), passes: true, retry_after: None }
    }

    /// One that will not.
    pub fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), passes: false, retry_after: None }
    }
}
