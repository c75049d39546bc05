//! The options of mediation.

use std::time::Duration;

/// How messages are fetched from mediators.
#[derive(Debug, Clone)]
pub struct MediationOptions {
    /// Whether to use the mediator's WebSocket, if it has one. Default: true.
    pub websocket: bool,
    /// The interval at which a mediator without live delivery is asked for messages. Default: 30 seconds.
    pub poll_interval: Duration,
    /// The most bytes that a mediator may send at once, in one delivery. Not less than four messages of the largest
    /// accepted size. Default: 16,000,000.
    pub max_delivery_bytes: usize,
}

impl Default for MediationOptions {
    fn default() -> Self {
        Self { websocket: true, poll_interval: Duration::from_secs(30), max_delivery_bytes: 16_000_000 }
    }
}
