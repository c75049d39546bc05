//! The state that the request handlers of the API share.

use std::{net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::webhooks::Webhooks;
use crate::agent::agent::Agent;

/// The agent, its webhooks, and the token that ends open requests at shutdown.
#[derive(Clone)]
pub(super) struct ApiContext {
    pub agent: Arc<Agent>,
    pub webhooks: Arc<Webhooks>,
    /// The addresses on which the process listens, but that of the API on this machine.
    pub listens: Arc<[SocketAddr]>,
    pub shutdown: CancellationToken,
}
