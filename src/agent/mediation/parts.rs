//! The parts of the agent that mediation uses.

use std::sync::Arc;

use crate::{
    agent::{inbox::Inbox, known_peers::KnownPeers, outbox::Outbox, own_dids::OwnDids, sealed_store::SealedStore},
    did::Resolver,
    net::{HttpClient, WebSocketClient},
};

/// The parts of the agent that mediation uses.
pub struct MediationParts {
    pub store: Arc<SealedStore>,
    pub known_peers: Arc<KnownPeers>,
    pub own_dids: Arc<OwnDids>,
    pub resolver: Arc<dyn Resolver>,
    pub inbox: Arc<Inbox>,
    pub outbox: Arc<Outbox>,
    pub http: Option<HttpClient>,
    pub websockets: Option<WebSocketClient>,
}
