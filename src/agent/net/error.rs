//! What may go wrong on the way to a server.

use std::{error::Error, io, sync::Arc, time::Duration};

use super::RefusedAddress;

/// Why a server was not asked, or did not answer. It names the host that is to blame.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The address is not one that this agent asks, by its form.
    #[error("{url:?} is not asked: {why}")]
    Url {
        /// The address, shortened.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The guard refuses what the host's name leads to.
    #[error("{host} is not asked: {source}; `allow_private` opens addresses")]
    Refused {
        /// The host.
        host: String,
        /// The address.
        source: RefusedAddress,
    },
    /// The host's name leads nowhere, or the DNS does not answer.
    #[error("the name {host} is not resolved: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The host does not take the connection.
    #[error("{host} is not reached: {source}")]
    Connect {
        /// The host.
        host: String,
        /// Why; of several addresses the last one's reason.
        source: Arc<io::Error>,
    },
    /// The host does not prove that it is the host, or speaks no TLS that this agent speaks.
    #[error("no TLS with {host}: {source}")]
    Tls {
        /// The host.
        host: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The host broke the connection, or the rules of its protocol.
    #[error("{host} broke off: {source}")]
    Broken {
        /// The host.
        host: String,
        /// How.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The host closed the WebSocket, or we did.
    #[error("the connection with {host} is closed")]
    Closed {
        /// The host.
        host: String,
    },
    /// The host did not open a WebSocket.
    #[error("{host} opens no WebSocket: it answers {status}")]
    NoWebSocket {
        /// The host.
        host: String,
        /// The status of its answer.
        status: u16,
    },
    /// The host sends us elsewhere in a way that is not followed.
    #[error("a redirect of {host} is not followed: {why}")]
    Redirect {
        /// The host.
        host: String,
        /// Why.
        why: &'static str,
    },
    /// The answer or message is longer than is read.
    #[error("{host} sends too much: at most {limit} bytes are read")]
    TooLarge {
        /// The host.
        host: String,
        /// The most that is read.
        limit: usize,
    },
    /// The host took too long.
    #[error("{host} took longer than {limit:?}")]
    Timeout {
        /// The host.
        host: String,
        /// What it had.
        limit: Duration,
    },
}

impl NetError {
    /// Whether trying again later may help. It does not where the address would have to be another one, or the answer.
    pub fn passes(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Refused { .. } | Self::TooLarge { .. } => false,
            // A certificate, a name or a redirect may be mended.
            Self::Resolve { .. } | Self::Connect { .. } | Self::Tls { .. } | Self::Redirect { .. } => true,
            Self::Broken { .. } | Self::Closed { .. } | Self::Timeout { .. } => true,
            Self::NoWebSocket { status, .. } => status_passes(*status),
        }
    }

    pub(super) fn broken(host: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Broken { host: host.to_owned(), source: Arc::from(source.into()) }
    }

    pub(super) fn timeout(host: &str, limit: Duration) -> Self {
        Self::Timeout { host: host.to_owned(), limit }
    }

    /// The error of ours below another, which only carries it.
    pub(super) fn within(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(ours) = error.downcast_ref::<Self>() {
                return Some(ours.clone());
            }
            next = error.source();
        }
        None
    }
}

/// Whether an answer with this status may be another one later: the server is busy, or has a fault (RFC 9110 section 15).
pub fn status_passes(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}
