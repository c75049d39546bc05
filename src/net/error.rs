//! Errors of requests to servers.

use std::{error::Error, io, sync::Arc, time::Duration};

use super::guard::RefusedAddress;

/// Why a request was not sent, or got no response. Each error names the host at fault.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The URL is invalid, or of a kind that this agent does not request.
    #[error("the URL {url:?} is not requested: {reason}")]
    Url {
        /// The URL, shortened to 100 characters.
        url: String,
        /// What is wrong with the URL.
        reason: &'static str,
    },
    /// The guard refuses every address of the host.
    #[error("connections to {host} are refused: {}", refusal(.host, .source))]
    Refused {
        /// The host.
        host: String,
        /// The first refused address.
        source: RefusedAddress,
    },
    /// The host's name has no address, or the DNS does not answer.
    #[error("the name {host} cannot be resolved: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The host does not accept the connection.
    #[error("cannot connect to {host}: {source}")]
    Connect {
        /// The host.
        host: String,
        /// The error. If several addresses were tried, the error of the last address.
        source: Arc<io::Error>,
    },
    /// The TLS handshake failed: the host has no valid certificate, or no TLS version in common with this agent.
    #[error("the TLS handshake with {host} failed: {source}")]
    Tls {
        /// The host.
        host: String,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The host broke the connection, or violated the protocol.
    #[error("the connection to {host} broke: {source}")]
    Broken {
        /// The host.
        host: String,
        /// The error that broke the connection.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The host or this agent closed the WebSocket.
    #[error("the WebSocket to {host} is closed")]
    Closed {
        /// The host.
        host: String,
    },
    /// The host refused to open a WebSocket.
    #[error("{host} opens no WebSocket: it answers with status {status}")]
    WebSocketRefused {
        /// The host.
        host: String,
        /// The HTTP status of its response.
        status: u16,
    },
    /// The host redirects in a way that is not followed.
    #[error("a redirect by {host} is not followed: {reason}")]
    Redirect {
        /// The host.
        host: String,
        /// Why the redirect is not followed.
        reason: &'static str,
    },
    /// The response or the message is too large.
    #[error("{host} sends too much: the limit is {limit} bytes")]
    TooLarge {
        /// The host.
        host: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The host took too long.
    #[error("{host} did not answer within {limit:?}")]
    Timeout {
        /// The host.
        host: String,
        /// The time limit.
        limit: Duration,
    },
}

impl NetError {
    /// Whether a retry may help. It does not help against a bad URL, a refused address or a large response.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Refused { .. } | Self::TooLarge { .. } => false,
            // The operator of the host may repair a certificate, a name or a redirect.
            Self::Resolve { .. } | Self::Connect { .. } | Self::Tls { .. } | Self::Redirect { .. } => true,
            Self::Broken { .. } | Self::Closed { .. } | Self::Timeout { .. } => true,
            Self::WebSocketRefused { status, .. } => is_retryable_status(*status),
        }
    }

    /// Makes the error of a broken connection to `host`.
    pub(super) fn broken(host: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Broken { host: host.to_owned(), source: Arc::from(source.into()) }
    }

    /// Wraps an error of a library, with the texts of all its sources: hyper's own text contains none of them.
    pub(super) fn broken_by(host: &str, error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(error) = next {
            text = format!("{text}: {error}");
            next = error.source();
        }
        Self::broken(host, text)
    }

    /// Makes the error of a request that `host` did not answer within `limit`.
    pub(super) fn timeout(host: &str, limit: Duration) -> Self {
        Self::Timeout { host: host.to_owned(), limit }
    }

    /// Returns the `NetError` that another error wraps.
    pub(super) fn find_in(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found.clone());
            }
            next = error.source();
        }
        None
    }
}

/// Says why connections to a host are refused, without the address if that is the host.
fn refusal(host: &str, refused: &RefusedAddress) -> String {
    match host.parse() == Ok(refused.address) {
        true => format!("it is {}", refused.kind),
        false => format!("{} is {}", refused.address, refused.kind),
    }
}

/// Whether a retry after this HTTP status may succeed: the server is busy, or has a fault (RFC 9110 section 15).
pub fn is_retryable_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}
