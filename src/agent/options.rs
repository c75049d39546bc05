//! The options of an agent.

use super::{
    inbox::InboxOptions, mediation::MediationOptions, outbox::OutboxOptions, server::ServerOptions, store::Retention,
};

/// The options of an agent.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Receiving messages.
    pub inbox: InboxOptions,
    /// Sending messages.
    pub outbox: OutboxOptions,
    /// Fetching messages from mediators.
    pub mediation: MediationOptions,
    /// The public side.
    pub server: ServerOptions,
    /// How long data stays in the store.
    pub retention: Retention,
    /// The goal codes that discover-features discloses.
    pub goal_codes: Vec<String>,
}
