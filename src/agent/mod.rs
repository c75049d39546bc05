//! The daemon: an agent that loses nothing.
//!
//! [`Agent::builder`] puts it together, [`Agent::run`] has it work: what came is kept before its sender is told so, opened
//! when a token is ready, handed to its [`Protocol`] or to the application, and what is to be sent is
//! kept before it is sent. The [`Store`] is where all of that stands.

pub mod api;
mod books;
mod clock;
mod inbox;
mod invitations;
mod measured;
mod mediation;
mod metrics;
mod moves;
pub mod net;
mod ours;
mod outbox;
pub mod protocol;
mod rotation;
mod routes;
mod seal;
mod server;
pub mod store;

pub use books::{Content, Intent};
pub use inbox::{InboxOptions, Refusal};
pub use invitations::{Accepted, Wanted};
pub use mediation::{Coordination, Mediation, MediationError, MediationOptions, Mediator, Pickup, Reach};
pub use metrics::TokenStates;
pub use ours::{Ours, OwnDocuments};
pub use outbox::{OutboxOptions, SendError, Transport, Transports};
pub use rotation::{Moved, Rotated};
pub use server::{Server, ServerOptions, ServerTls, TlsError};

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
};

use crate::{did::Resolver, didcomm::Message, secrets::Secrets};
use books::Books;
use clock::now;
use inbox::Inbox;
use invitations::Invitations;
use measured::Measured;
use metrics::Metrics;
use net::{HttpClient, WebSocketClient};
use outbox::Outbox;
use protocol::{Features, NotAPiuri, Protocol, Registry};
use routes::Routes;
use store::{Change, Commit, Committed, Delivery, DeliveryQuery, Outgoing, Retention, Store, StoreError};

/// How an agent works.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Of what comes.
    pub inbox: InboxOptions,
    /// Of what is sent.
    pub outbox: OutboxOptions,
    /// Of what is fetched from mediators.
    pub mediation: MediationOptions,
    /// Of its public side.
    pub server: ServerOptions,
    /// How long things are kept.
    pub retention: Retention,
    /// Goal codes that it knows, for discover-features.
    pub goal_codes: Vec<String>,
}

/// A DIDComm agent.
pub struct Agent {
    books: Arc<Books>,
    ours: Arc<Ours>,
    inbox: Arc<Inbox>,
    outbox: Arc<Outbox>,
    routes: Arc<Routes>,
    metrics: Arc<Metrics>,
    invitations: Arc<Invitations>,
    mediation: Arc<Mediation>,
    resolver: Arc<dyn Resolver>,
    http: Option<HttpClient>,
    reload: Option<Reload>,
    tokens: Option<Tokens>,
    events: broadcast::Sender<Event>,
    options: AgentOptions,
    /// Of them what may change while it runs.
    server: watch::Sender<Arc<ServerOptions>>,
    retention: watch::Sender<Retention>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message is there for the application.
    Delivered(Delivery),
}

/// Reads the documents of our DIDs again, and has the tokens looked at for new keys.
pub type Reload = Box<dyn Fn() -> Result<OwnDocuments, String> + Send + Sync>;

/// Looks how the tokens are.
pub type Tokens = Box<dyn Fn() -> TokenStates + Send + Sync>;

/// Puts an [`Agent`] together.
#[must_use]
pub struct AgentBuilder {
    secrets: Arc<dyn Secrets>,
    documents: OwnDocuments,
    resolver: Arc<dyn Resolver>,
    store: Arc<dyn Store>,
    transports: Transports,
    http: Option<HttpClient>,
    sockets: Option<WebSocketClient>,
    reload: Option<Reload>,
    tokens: Option<Tokens>,
    protocols: Vec<Arc<dyn Protocol>>,
    options: AgentOptions,
}

/// Why a message is not put into the outbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// The caller's: the message cannot be sent.
    #[error("{0}")]
    Message(String),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Events that a slow reader may be behind; then it reads the inbox.
const EVENTS: usize = 1024;
/// How often a token is asked for the store's key, unless it says before that it is back.
const UNLOCK: Duration = Duration::from_secs(5);
/// The target of the agent's spans: a message that is opened and handled, one that is sent, an operation of a token. They have
/// ids, kinds and results, and no content.
pub const SPANS: &str = "claviger::spans";
/// How often what is past its time is forgotten, and how much at once.
const SWEEP: Duration = Duration::from_secs(60);
const SWEPT: usize = 1000;
/// How long is waited for tokens to show the keys of a new DID.
const NEW_KEYS: Duration = Duration::from_secs(10);

impl Agent {
    /// An agent with these DIDs of ours, whose keys `secrets` holds.
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
            sockets: None,
            reload: None,
            tokens: None,
            protocols: protocol::built_in(&protocol::Options::default()),
            options: AgentOptions::default(),
        }
    }

    /// Works until `shutdown` says so; then ends what was begun.
    ///
    /// # Errors
    /// If a listening socket cannot be used.
    pub async fn run(self: &Arc<Self>, servers: Vec<Server>, shutdown: watch::Receiver<bool>) -> io::Result<()> {
        let shared = Arc::new(server::Shared {
            inbox: self.inbox.clone(),
            outbox: self.outbox.clone(),
            routes: self.routes.clone(),
            ours: self.ours.clone(),
            invitations: self.invitations.clone(),
            metrics: self.metrics.clone(),
            budget: server::Budget::default(),
            hall: Arc::default(),
            max_bytes: self.options.inbox.limits.bytes,
            shutdown: shutdown.clone(),
            options: self.server.subscribe(),
        });
        let mut public = JoinSet::new();
        for server in servers {
            public.spawn(server.run(shared.clone(), shutdown.clone()));
        }
        let mut work = JoinSet::new();
        work.spawn(self.clone().unlock(shutdown.clone()));
        work.spawn(self.clone().sweep(shutdown.clone()));
        work.spawn(self.inbox.clone().work(shutdown.clone()));
        work.spawn(self.outbox.clone().work(shutdown.clone()));
        work.spawn(self.mediation.clone().work(shutdown.clone()));
        let mut result = Ok(());
        while let Some(ended) = public.join_next().await {
            if let Ok(Err(error)) = ended {
                result = Err(error);
            }
        }
        while work.join_next().await.is_some() {}
        result
    }

    /// Has a token open the store's seal, as soon as one is ready.
    async fn unlock(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        let mut said = String::new();
        let mut keys = self.ours.secrets().keys();
        while let Err(why) = self.books.unlock(&self.ours).await {
            if why != said {
                tracing::warn!("what lies in the store is sealed: {why}");
                said = why;
            }
            tokio::select! {
                () = told_to_end(&mut shutdown) => return,
                () = tokio::time::sleep(UNLOCK) => {}
                Ok(()) = keys.changed() => self.ours.refresh(),
            }
        }
        // A token that comes later has to open it too, when another is lost one day.
        loop {
            tokio::select! {
                () = told_to_end(&mut shutdown) => return,
                changed = keys.changed() => match changed {
                    Ok(()) => self.ours.refresh(),
                    Err(_) => return,
                },
            }
            if let Err(why) = self.books.unlock(&self.ours).await {
                tracing::info!("the store's key is not wrapped for the keys of today: {why}");
            }
        }
    }

    /// Forgets what is past its time.
    async fn sweep(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        loop {
            self.retire().await;
            let retention = *self.retention.borrow();
            match self.books.store().sweep(now(), &retention, SWEPT).await {
                // There is more.
                Ok(gone) if gone >= SWEPT => tokio::task::yield_now().await,
                Ok(_) => {
                    tokio::select! {
                        () = told_to_end(&mut shutdown) => return,
                        () = tokio::time::sleep(SWEEP) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "what is past its time stays in the store for now");
                    tokio::select! {
                        () = told_to_end(&mut shutdown) => return,
                        () = tokio::time::sleep(SWEEP) => {}
                    }
                }
            }
        }
    }

    /// Puts a message into the outbox: it is kept when this returns, and sent soon. Returns its id there.
    ///
    /// # Errors
    /// If it cannot be sent whatever happens, or cannot be kept.
    pub async fn send(&self, intent: &Intent) -> Result<String, NotSent> {
        let message = &intent.message;
        message.pack_plaintext().map_err(|error| NotSent::Message(error.to_string()))?;
        if message.to.as_ref().is_none_or(|to| to.len() != 1) {
            return Err(NotSent::Message("a message is for one DID: send it to each by itself".to_owned()));
        }
        if let Some(from) = &message.from
            && self.ours.document(from).is_none()
        {
            return Err(NotSent::Message(format!("{from} is none of our DIDs")));
        }
        if message.from.is_none() && (intent.sign || intent.protect_sender) {
            return Err(NotSent::Message("an anonymous message is neither signed nor has a sender to hide".to_owned()));
        }
        let (id, change) = self.books.outgoing(intent, self.options.outbox.life)?;
        self.commit(vec![change]).await?;
        Ok(id)
    }

    /// Makes changes that belong together.
    async fn commit(&self, changes: Vec<Change>) -> Result<Committed, StoreError> {
        let committed = self.books.store().commit(Commit { changes: changes.clone(), ..Commit::default() }).await?;
        if committed == Committed::Done {
            self.outbox.notice(&changes);
        }
        Ok(committed)
    }

    /// The application's messages, with their content as far as it was not acknowledged.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn deliveries(&self, query: DeliveryQuery) -> Result<Vec<(Delivery, Option<Content>)>, StoreError> {
        let deliveries = self.books.store().deliveries(query).await?;
        deliveries.into_iter().map(|delivery| Ok((delivery.clone(), self.books.content(&delivery)?))).collect()
    }

    /// The application has these: their content is forgotten. Returns how many there were.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn acknowledge(&self, ids: &[String]) -> Result<usize, StoreError> {
        self.books.store().acknowledge(ids).await
    }

    /// How far a message of the outbox is.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn sending(&self, id: &str) -> Result<Option<Outgoing>, StoreError> {
        self.books.store().sending(id).await
    }

    /// Reads our DIDs again: one was made while the agent runs.
    ///
    /// # Errors
    /// In words, if a document is damaged; then nothing changes.
    pub async fn reload(&self) -> Result<(), String> {
        let Some(reload) = &self.reload else { return Ok(()) };
        self.ours.replace(reload()?);
        self.retire().await;
        // A token that shows a new key says so soon.
        let mut keys = self.ours.secrets().keys();
        let shown = async {
            while !self.ours.missing().is_empty() && keys.changed().await.is_ok() {
                keys.borrow_and_update();
                self.ours.refresh();
            }
        };
        let _ = tokio::time::timeout(NEW_KEYS, shown).await;
        self.ours.refresh();
        // New keys have to open the store too.
        if self.books.is_unlocked()
            && let Err(why) = self.books.unlock(&self.ours).await
        {
            tracing::warn!(why, "the store's key is not wrapped for the new keys");
        }
        self.mediation.look_again();
        Ok(())
    }

    /// From now on these count: how much a stranger may take up, but for `public_url`, which invitations have said already,
    /// and how long things are kept.
    pub fn adjust(&self, server: ServerOptions, retention: Retention) {
        let public_url = self.options.server.public_url.clone();
        self.server.send_replace(Arc::new(ServerOptions { public_url, ..server }));
        self.retention.send_replace(retention);
    }

    /// Lets go of DIDs that have moved, and whose overlap is over.
    pub(in crate::agent) async fn retire(&self) {
        match self.books.list::<Rotated>(rotation::ROTATED, "", SWEPT).await {
            Ok(rotated) => {
                let over = |(did, rotated): (String, Rotated)| (rotated.until <= now()).then_some(did);
                if self.ours.retire(rotated.into_iter().filter_map(over).collect()) {
                    self.mediation.look_again();
                }
            }
            // Sealed: it is looked at again.
            Err(error) => tracing::debug!(%error, "which DIDs are retired is not known yet"),
        }
    }

    /// The mediators of this agent.
    pub fn mediation(&self) -> &Arc<Mediation> {
        &self.mediation
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Our DIDs.
    pub fn ours(&self) -> &Arc<Ours> {
        &self.ours
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.books.store()
    }

    /// Whether a token is there that opens messages, and has opened the store's seal.
    pub fn is_token_ready(&self) -> bool {
        self.inbox.is_ready()
    }

    /// The figures, as Prometheus reads them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn metrics(&self) -> Result<String, StoreError> {
        let tokens = self.tokens.as_ref().map(|tokens| tokens()).unwrap_or_default();
        Ok(self.metrics.text(&self.books.store().usage().await?, &tokens, now()))
    }

    /// A message of ours to a peer, made now.
    pub fn message(kind: &str, body: serde_json::Value) -> crate::didcomm::MessageBuilder {
        Message::build(Message::new_id(), kind, body).created_time(now().unsigned_abs() / 1000)
    }
}

/// Returns when it is time to end.
async fn told_to_end(shutdown: &mut watch::Receiver<bool>) {
    // Who would say so has gone: that is the same.
    let _ = shutdown.wait_for(|now| *now).await;
}

impl AgentBuilder {
    /// Adds a protocol; one of the application's comes before a built-in one for the same messages.
    pub fn protocol(mut self, protocol: impl Protocol) -> Self {
        self.protocols.push(Arc::new(protocol));
        self
    }

    /// How our DIDs are read again while it runs ([`Agent::reload`]).
    pub fn on_reload(mut self, reload: Reload) -> Self {
        self.reload = Some(reload);
        self
    }

    /// How the tokens are asked for their state, for the figures; without, there is none among them.
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// How short URLs of invitations are followed, and mediators asked; without, they are not.
    pub fn http(mut self, client: HttpClient) -> Self {
        self.http = Some(client);
        self
    }

    /// How mediators are listened to; without, they are asked by HTTP now and then.
    pub fn sockets(mut self, client: WebSocketClient) -> Self {
        self.sockets = Some(client);
        self
    }

    /// How messages are sent.
    pub fn transports(mut self, transports: Transports) -> Self {
        self.transports = transports;
        self
    }

    /// How it works.
    pub fn options(mut self, options: AgentOptions) -> Self {
        self.options = options;
        self
    }

    /// The agent.
    ///
    /// # Errors
    /// If the identifier of a protocol is none.
    pub fn build(self) -> Result<Arc<Agent>, NotAPiuri> {
        let Self { secrets, documents, resolver, store, transports, http, sockets, reload, tokens, protocols, options } =
            self;
        let registry = Arc::new(Registry::new(protocols)?);
        let metrics = Arc::new(Metrics::new(registry.clone()));
        let secrets = Arc::new(Measured { secrets, metrics: metrics.clone() });
        let books = Arc::new(Books::new(store));
        let ours = Arc::new(Ours::new(secrets, documents));
        let routes = Arc::new(Routes::default());
        let features = Features {
            protocols: registry.protocols(),
            goal_codes: options.goal_codes.clone(),
            headers: Vec::new(),
            max_receive_bytes: u64::try_from(options.inbox.limits.bytes).ok(),
        };
        let outbox = Arc::new(Outbox::new(
            books.clone(),
            ours.clone(),
            resolver.clone(),
            routes.clone(),
            transports,
            metrics.clone(),
            options.outbox.clone(),
        ));
        let (events, _) = broadcast::channel(EVENTS);
        let after = {
            let (outbox, events) = (outbox.clone(), events.clone());
            move |changes: &[Change]| {
                outbox.notice(changes);
                for change in changes {
                    if let Change::Deliver(delivery) = change {
                        // Nobody may listen.
                        let _ = events.send(Event::Delivered(delivery.clone()));
                    }
                }
            }
        };
        let inbox = Arc::new(Inbox::new(inbox::Parts {
            books: books.clone(),
            ours: ours.clone(),
            resolver: resolver.clone(),
            registry: registry.clone(),
            metrics: metrics.clone(),
            features,
            options: options.inbox.clone(),
            after: Box::new(after),
        }));
        outbox.hears(Arc::downgrade(&inbox));
        let parts = mediation::Parts {
            books: books.clone(),
            ours: ours.clone(),
            resolver: resolver.clone(),
            inbox: inbox.clone(),
            outbox: outbox.clone(),
            http: http.clone(),
            sockets,
        };
        let mediation = Arc::new(Mediation::new(parts, options.mediation.clone()));
        let public_url = options.server.public_url.clone();
        let invitations = Arc::new(Invitations { books: books.clone(), public_url });
        Ok(Arc::new(Agent {
            books,
            ours,
            inbox,
            outbox,
            routes,
            metrics,
            invitations,
            mediation,
            resolver,
            http,
            reload,
            tokens,
            events,
            server: watch::Sender::new(Arc::new(options.server.clone())),
            retention: watch::Sender::new(options.retention),
            options,
        }))
    }
}
