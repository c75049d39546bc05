//! The options of the public side.

use std::time::Duration;

/// The limits and timeouts of the public side.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The most open connections. Default: 20,000.
    pub max_connections: usize,
    /// The most open connections from one address. Behind a proxy all peers have one address. Default: 1,000.
    pub max_connections_per_address: usize,
    /// The most messages per second from one address. Behind a proxy all peers have one address. Default: 0, no limit.
    pub max_messages_per_second: u32,
    /// The time limit for the headers of a request, and for an idle connection between requests. Default: 30 seconds.
    pub header_timeout: Duration,
    /// The time limit for a body, or for a message on a WebSocket. Default: 30 seconds.
    pub body_timeout: Duration,
    /// How long a response waits for a reply that may go back with it (`return_route`). Default: 5 seconds.
    pub return_route_timeout: Duration,
    /// The silence after which a WebSocket gets a ping. After three times this silence the WebSocket is closed.
    /// Default: 30 seconds.
    pub ping_interval: Duration,
    /// The URL by which peers reach this agent.
    pub public_url: Option<String>,
    /// The name of the agent's owner, on the pages of invitations.
    pub name: Option<String>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_connections_per_address: 1_000,
            max_messages_per_second: 0,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            return_route_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(30),
            public_url: None,
            name: None,
        }
    }
}
