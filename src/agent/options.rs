//! The options of an agent.

use super::{
    inbox::InboxOptions, mediation::MediationOptions, outbox::OutboxOptions,
    protocol::discover_features::DisclosurePolicy, server::ServerOptions, store::Retention,
};

/// The options of an agent.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// How messages are received.
    pub inbox: InboxOptions,
    /// How messages are sent.
    pub outbox: OutboxOptions,
    /// How messages are fetched from mediators.
    pub mediation: MediationOptions,
    /// The limits and timeouts of the public side.
    pub server: ServerOptions,
    /// How long data stays in the store.
    pub retention: Retention,
    /// The goal codes that discover-features discloses.
    pub goal_codes: Vec<String>,
    /// The features that discover-features discloses, and the peers that get them.
    pub disclosure: DisclosurePolicy,
}
