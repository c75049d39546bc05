//! What the handlers share.

use super::guard::Guard;
use crate::cli::agent_client::AgentClient;

/// The API whose answers are shown, and who may see them.
pub struct App {
    pub client: AgentClient,
    pub guard: Guard,
}
