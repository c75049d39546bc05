//! The state that the request handlers of the public side share.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    admission::{ByteBudget, ConnectionLimiter, ConnectionPermit, MessageRateLimiter},
    options::ServerOptions,
    qr_codes::QrCodes,
    written::UnwrittenReplies,
};
use crate::agent::{
    inbox::Inbox, invitations::Invitations, metrics::Metrics, outbox::Outbox, own_dids::OwnDids,
    return_routes::ReturnRoutes,
};

/// The state that the handlers of all listening sockets share.
pub struct ServerContext {
    pub inbox: Arc<Inbox>,
    pub outbox: Arc<Outbox>,
    pub routes: Arc<ReturnRoutes>,
    pub own_dids: Arc<OwnDids>,
    pub invitations: Arc<Invitations>,
    pub metrics: Arc<Metrics>,
    pub limits: SharedLimits,
    pub qr_codes: QrCodes,
    /// The size of the largest accepted message, in bytes.
    pub max_message_bytes: usize,
    pub shutdown: CancellationToken,
    pub options: watch::Receiver<Arc<ServerOptions>>,
}

/// The limits of all listening sockets together.
#[derive(Default)]
pub struct SharedLimits {
    /// By the prefix of the peer's address.
    pub connections: ConnectionLimiter<IpAddr>,
    pub message_rate: MessageRateLimiter,
    pub bytes: Arc<ByteBudget>,
}

impl ServerContext {
    /// The options in force now.
    pub fn options(&self) -> Arc<ServerOptions> {
        self.options.borrow().clone()
    }
}

/// A peer's connection, as its handlers see it.
#[derive(Clone)]
pub struct PeerConnection {
    pub context: Arc<ServerContext>,
    pub address: IpAddr,
    pub unwritten: Arc<UnwrittenReplies>,
    /// Keeps the connection counted while any of its handlers runs. A WebSocket's handler outlives the HTTP connection.
    _permit: Arc<ConnectionPermit<IpAddr>>,
}

impl PeerConnection {
    /// A connection from `address` that was admitted with `permit`.
    pub fn new(context: Arc<ServerContext>, address: IpAddr, permit: ConnectionPermit<IpAddr>) -> Self {
        Self { context, address, unwritten: Arc::default(), _permit: Arc::new(permit) }
    }
}
