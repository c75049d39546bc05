//! Transports, which send packed messages to URIs.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

/// Sends packed messages to URIs of certain schemes.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Returns the supported schemes in lower case, such as `https`.
    fn schemes(&self) -> &[&str];

    /// Sends a packed message. Returns the packed messages that the peer returned on the same connection.
    ///
    /// # Errors
    /// [`SendError`] says why the other side did not accept the message, and whether a retry may help.
    async fn send(&self, uri: &str, packed: &str) -> Result<Vec<String>, SendError>;
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SendError {
    /// What went wrong, and on which side.
    pub reason: String,
    /// Whether another attempt may succeed.
    pub is_retryable: bool,
    /// How long the peer asks us to wait.
    pub retry_after: Option<Duration>,
}

/// The transports of an agent.
#[derive(Clone, Default)]
pub struct Transports(Vec<Arc<dyn Transport>>);

impl Transports {
    /// Adds a transport. The first of several transports for a scheme is used.
    #[must_use]
    pub fn with(mut self, transport: impl Transport) -> Self {
        self.0.push(Arc::new(transport));
        self
    }

    /// Returns the transport for a URI.
    pub fn for_uri(&self, uri: &str) -> Option<&Arc<dyn Transport>> {
        let scheme = uri.split(':').next()?.to_ascii_lowercase();
        self.0.iter().find(|transport| transport.schemes().contains(&scheme.as_str()))
    }
}

impl SendError {
    /// A failure after which another attempt may succeed.
    pub fn retryable(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_retryable: true, retry_after: None }
    }

    /// A failure that would repeat.
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_retryable: false, retry_after: None }
    }
}
