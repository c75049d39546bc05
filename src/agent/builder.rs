//! Builds an agent from its parts.

use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use super::{
    agent::{Agent, RefreshKeys, ReloadDocuments},
    blocked_peers::BlockedPeers,
    committer::CommitListener,
    event::Event,
    hints::hint_listener,
    inbox::{Inbox, InboxParts},
    instrumented_secrets::InstrumentedSecrets,
    invitations::Invitations,
    known_peers::KnownPeers,
    mediation::{Mediation, MediationParts},
    metrics::Metrics,
    options::AgentOptions,
    outbox::{Outbox, OutboxParts, PeerWakeups, Transports},
    own_dids::{OwnDids, OwnDocuments},
    peer_documents::PeerDocuments,
    protocol::{self, Features, InvalidPiuri, Protocol, Registry},
    return_routes::ReturnRoutes,
    rotation::own::OwnRotations,
    sealed_store::SealedStore,
    shared_dids::SharedDids,
    stale::Stale,
    store::{Change, Store},
    token_report::ReadTokenStates,
};
use crate::{
    did::Resolver,
    net::{HttpClient, WebSocketClient},
    secrets::Secrets,
};

/// Builds an [`Agent`].
#[must_use]
pub struct AgentBuilder {
    secrets: Arc<dyn Secrets>,
    documents: OwnDocuments,
    resolver: Arc<dyn Resolver>,
    store: Arc<dyn Store>,
    transports: Transports,
    http: Option<HttpClient>,
    mediators: Option<(HttpClient, WebSocketClient)>,
    reload_documents: Option<ReloadDocuments>,
    refresh_keys: Option<RefreshKeys>,
    read_token_states: Option<ReadTokenStates>,
    protocols: Vec<Arc<dyn Protocol>>,
    options: AgentOptions,
}

/// How many events are buffered for a slow subscriber. A subscriber that falls further behind loses events, and must
/// read the store.
const EVENT_BUFFER: usize = 1024;

impl Agent {
    /// Returns a builder. `secrets` makes the agent's private-key operations, `documents` are the documents of its
    /// DIDs, `resolver` resolves the DIDs of peers, and `store` keeps messages and records.
    pub fn builder(
        secrets: Arc<dyn Secrets>,
        documents: OwnDocuments,
        resolver: Arc<dyn Resolver>,
        store: Arc<dyn Store>,
    ) -> AgentBuilder {
        AgentBuilder {
            secrets,
            documents,
            resolver,
            store,
            transports: Transports::default(),
            http: None,
            mediators: None,
            reload_documents: None,
            refresh_keys: None,
            read_token_states: None,
            protocols: Vec::new(),
            options: AgentOptions::default(),
        }
    }
}

impl AgentBuilder {
    /// Adds a protocol. It replaces a built-in protocol of the same name and major version, with all its messages.
    pub fn protocol(mut self, protocol: impl Protocol) -> Self {
        self.protocols.push(Arc::new(protocol));
        self
    }

    /// Sets how [`Agent::reload_dids`] reads the documents of our DIDs.
    pub fn on_reload(mut self, reload: ReloadDocuments) -> Self {
        self.reload_documents = Some(reload);
        self
    }

    /// Sets how the tokens are searched for the keys of DIDs that another agent on the same store has made. Without it, a key is
    /// searched for when it is used.
    pub fn refresh_keys(mut self, refresh: RefreshKeys) -> Self {
        self.refresh_keys = Some(refresh);
        self
    }

    /// Sets how the metrics read the states of the tokens. Without it, the metrics contain no token states.
    pub fn read_token_states(mut self, read: ReadTokenStates) -> Self {
        self.read_token_states = Some(read);
        self
    }

    /// Sets the HTTP client that fetches invitations from short URLs. Without it, invitations at short URLs are refused.
    pub fn http(mut self, client: HttpClient) -> Self {
        self.http = Some(client);
        self
    }

    /// Sets the clients that talk to our mediators. Without them, no mediator can be used.
    pub fn mediators(mut self, http: HttpClient, websockets: WebSocketClient) -> Self {
        self.mediators = Some((http, websockets));
        self
    }

    /// Sets the transports for outgoing messages. Without them, messages go out on return routes only.
    pub fn transports(mut self, transports: Transports) -> Self {
        self.transports = transports;
        self
    }

    /// Sets the options. Without this call, the default options apply.
    pub fn options(mut self, options: AgentOptions) -> Self {
        self.options = options;
        self
    }

    /// Builds the agent.
    ///
    /// # Errors
    /// If the identifier of a protocol is invalid.
    pub fn build(self) -> Result<Arc<Agent>, InvalidPiuri> {
        let Self { http, options, .. } = self;
        let mut protocols =
            protocol::built_in(&options.disclosure, &options.inbox.problems, options.inbox.accept_anonymous);
        protocols.extend(self.protocols);
        let registry = Arc::new(Registry::new(protocols)?);
        let metrics = Arc::new(Metrics::new(registry.clone()));
        let secrets = Arc::new(InstrumentedSecrets { secrets: self.secrets, metrics: metrics.clone() });
        let (events, _) = broadcast::channel(EVENT_BUFFER);
        let wakeups = Arc::<PeerWakeups>::default();
        let store = SealedStore::new(self.store, commit_listener(wakeups.clone(), events.clone()));
        let store = Arc::new(store.trust(options.store_keys.clone()));
        store.recorded_events().set(options.recorded_events.iter().copied());
        let resolver: Arc<dyn Resolver> = Arc::new(PeerDocuments { resolver: self.resolver, store: store.clone() });
        let known_peers = Arc::new(KnownPeers::new(store.clone()));
        let blocked = Arc::new(BlockedPeers::new(store.clone()));
        let own_dids = Arc::new(OwnDids::new(secrets, self.documents.clone()));
        let routes = Arc::new(ReturnRoutes::default());
        let stale = Arc::<Stale>::default();
        let shared_dids = Arc::new(SharedDids::new(store.clone(), own_dids.clone(), stale.clone(), self.documents));
        store.inner().listen(hint_listener(wakeups.clone(), routes.clone(), events.clone(), stale.clone()));
        let features = Features {
            protocols: registry.protocols(),
            goal_codes: options.goal_codes.clone(),
            headers: Vec::new(),
            max_receive_bytes: u64::try_from(options.inbox.limits.bytes).ok(),
        };
        let inbox = Arc::new(Inbox::new(InboxParts {
            store: store.clone(),
            own_dids: own_dids.clone(),
            shared_dids: shared_dids.clone(),
            resolver: resolver.clone(),
            registry,
            metrics: metrics.clone(),
            blocked: blocked.clone(),
            known_peers: known_peers.clone(),
            features,
            options: options.inbox.clone(),
        }));
        let message_lifetime = options.outbox.message_lifetime;
        let outbox = Arc::new(Outbox::new(OutboxParts {
            store: store.clone(),
            own_dids: own_dids.clone(),
            resolver: resolver.clone(),
            routes: routes.clone(),
            transports: self.transports,
            metrics: metrics.clone(),
            blocked: blocked.clone(),
            wakeups,
            inbox: inbox.clone(),
            options: options.outbox.clone(),
        }));
        let parts = MediationParts {
            store: store.clone(),
            known_peers: known_peers.clone(),
            own_dids: own_dids.clone(),
            resolver: resolver.clone(),
            inbox: inbox.clone(),
            outbox: outbox.clone(),
            http: self.mediators.as_ref().map(|(http, _)| http.clone()),
            websockets: self.mediators.map(|(_, websockets)| websockets),
        };
        let mediation = Arc::new(Mediation::new(parts, options.mediation.clone()));
        let invitations = Arc::new(Invitations {
            store: store.clone(),
            known_peers: known_peers.clone(),
            own_dids: own_dids.clone(),
            resolver: resolver.clone(),
            blocked: blocked.clone(),
            http,
            public_url: options.server.public_url.clone(),
            message_lifetime,
        });
        let on_retired = {
            let mediation = mediation.clone();
            Box::new(move || mediation.notify_changed())
        };
        let rotations = OwnRotations {
            store: store.clone(),
            own_dids: own_dids.clone(),
            resolver: resolver.clone(),
            blocked: blocked.clone(),
            message_lifetime,
            on_retired,
        };
        Ok(Arc::new(Agent {
            store,
            known_peers,
            blocked,
            resolver,
            own_dids,
            inbox,
            outbox,
            routes,
            metrics,
            invitations,
            rotations,
            mediation,
            shared_dids,
            reload_documents: self.reload_documents,
            refresh_keys: self.refresh_keys,
            read_token_states: self.read_token_states,
            events,
            stale,
            server: watch::Sender::new(Arc::new(options.server.clone())),
            retention: watch::Sender::new(options.retention),
            options,
        }))
    }
}

/// Returns the function that is called after each commit. The function wakes the outbox for new messages, and sends
/// subscribers an event for each delivery, and each event that was recorded.
fn commit_listener(wakeups: Arc<PeerWakeups>, events: broadcast::Sender<Event>) -> CommitListener {
    Box::new(move |changes| {
        wakeups.wake_for(changes);
        for change in changes {
            // Sending fails if there is no subscriber.
            let _ = match change {
                Change::Deliver(delivery) => events.send(Event::Delivered { id: delivery.id.clone() }),
                Change::Event(_) => events.send(Event::Recorded),
                _ => continue,
            };
        }
    })
}
