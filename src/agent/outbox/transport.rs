//! Transports, which send packed messages to URIs.

use std::{any::Any, sync::Arc, time::Duration};

use async_trait::async_trait;

/// Sends packed messages to URIs of certain schemes.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Returns the supported schemes in lower case, such as `https`.
    fn schemes(&self) -> &[&str];

    /// Connects to the other side within `limit`, before there is something to send: a message is packed with a private
    /// key only for a peer that can be reached. The next [`send`](Self::send) uses the connection, which is closed if the
    /// returned value is dropped before. The default implementation does not connect.
    ///
    /// # Errors
    /// [`SendError`] says why the other side cannot be reached.
    async fn reach(&self, _uri: &str, _limit: Duration) -> Result<Box<dyn Any + Send>, SendError> {
        Ok(Box::new(()))
    }

    /// Sends a packed message. Returns the packed messages that the peer returned on the same connection.
    ///
    /// # Errors
    /// [`SendError`] says why the other side did not accept the message, and whether a retry may help.
    async fn send(&self, uri: &str, packed: &str, limits: SendLimits) -> Result<Vec<String>, SendError>;
}

/// What the other side may take of us while a message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendLimits {
    /// The time until the other side has accepted the message.
    pub time: Duration,
    /// The most bytes of returned messages, all together. More are ignored.
    pub returned_bytes: usize,
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SendError {
    /// What went wrong, and on which side.
    pub reason: String,
    /// Whether another attempt may succeed.
    pub is_retryable: bool,
    /// Which kind of fault it is.
    pub fault: SendFault,
    /// How long the peer asks us to wait.
    pub retry_after: Option<Duration>,
}

/// The kinds of faults at which a message is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendFault {
    /// The endpoint cannot be used at all: its URI is invalid, or connections to its address are refused.
    Unusable,
    /// The other side cannot be reached, or did not answer in time.
    Unreachable,
    /// The other side answered, and did not accept the message.
    Refused,
    /// A fault of our own.
    Own,
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
    /// A failure of our own after which another attempt may succeed.
    pub fn retryable(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_retryable: true, fault: SendFault::Own, retry_after: None }
    }

    /// A failure of our own that would repeat.
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self { is_retryable: false, ..Self::retryable(reason) }
    }

    /// An endpoint that cannot be used, unless the peer changes its document.
    pub fn unusable(reason: impl Into<String>) -> Self {
        Self { fault: SendFault::Unusable, ..Self::retryable(reason) }
    }
}
