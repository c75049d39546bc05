//! The state that the request handlers of the API share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::agent::agent::Agent;

/// The agent, and the token that ends open requests at shutdown.
#[derive(Clone)]
pub(super) struct ApiContext {
    pub agent: Arc<Agent>,
    pub shutdown: CancellationToken,
}
