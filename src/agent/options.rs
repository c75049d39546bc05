//! The options of an agent.

use std::collections::BTreeSet;

use super::{
    event::EventKind, inbox::InboxOptions, mediation::MediationOptions, outbox::OutboxOptions,
    protocol::discover_features::DisclosurePolicy, server::ServerOptions, store::Retention,
};
use crate::keys::PublicKey;

/// The options of an agent.
#[derive(Debug, Clone)]
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
    /// The key agreement keys that tokens of other nodes hold, each of which has a token of its own: the store's key is wrapped
    /// for them, and accepted from them. Default: none.
    pub store_keys: Vec<PublicKey>,
    /// The kinds of events that are recorded. Default: all but [`EventKind::MessageSent`], which costs a row for each message.
    pub recorded_events: BTreeSet<EventKind>,
    /// The goal codes that discover-features discloses.
    pub goal_codes: Vec<String>,
    /// The features that discover-features discloses, and the peers that get them.
    pub disclosure: DisclosurePolicy,
    /// The most bytes of messages in one page of the API's inbox, so that one request takes little memory. A larger
    /// message is a page of its own. Default: 4 MiB.
    pub max_page_bytes: usize,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            inbox: InboxOptions::default(),
            outbox: OutboxOptions::default(),
            mediation: MediationOptions::default(),
            server: ServerOptions::default(),
            retention: Retention::default(),
            store_keys: Vec::new(),
            recorded_events: EventKind::ALL.into_iter().filter(|kind| *kind != EventKind::MessageSent).collect(),
            goal_codes: Vec::new(),
            disclosure: DisclosurePolicy::default(),
            max_page_bytes: 4 * 1024 * 1024,
        }
    }
}
