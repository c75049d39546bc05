//! The limits of a request.

use std::time::Duration;

/// The limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// The time limit for the whole request, including redirects and the response body. Default: 30 seconds.
    pub timeout: Duration,
    /// The largest response body, in bytes. Default: 1,000,000.
    pub max_response_bytes: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), max_response_bytes: 1_000_000 }
    }
}
