//! What the request handlers of the API share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::agent::agent::Agent;

/// What the request handlers of the API share.
#[derive(Clone)]
pub(super) struct ApiContext {
    pub agent: Arc<Agent>,
    pub shutdown: CancellationToken,
}
