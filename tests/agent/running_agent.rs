//! An agent in this process: Bob's, to whom Alice writes.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use claviger::{
    agent::{
        Agent, AgentBuilder, AgentOptions, OwnDocuments, Server, Transports,
        protocol::Protocol,
        store::{Delivery, DeliveryQuery, SqliteOptions, SqliteStore, Store},
    },
    did::LocalResolver,
    didcomm::Message,
    keys::Curve,
    secrets::Keyring,
};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::Person;

/// Alice and Bob, with their keys in software tokens.
pub struct Both {
    pub alice: Person,
    pub bob: Person,
}

impl Both {
    pub async fn new() -> Self {
        let person = async |name| Person::new(name, &[Curve::X25519], &[Curve::Ed25519]).await;
        Self { alice: person("alice").await, bob: person("bob").await }
    }

    /// Packs a message of Alice's for Bob.
    pub async fn pack(&self, kind: &str) -> String {
        self.pack_with(kind, |_| {}).await
    }

    /// Packs a message of Alice's for Bob, after `change` has changed it.
    pub async fn pack_with(&self, kind: &str, change: fn(&mut Message)) -> String {
        let resolver = LocalResolver::new().with_documents([self.bob.document.clone()]);
        let message = Message::build(Message::new_id(), kind, json!({})).from(&*self.alice.did);
        let mut message = message.to(&*self.bob.did).finalize();
        change(&mut message);
        let packing = message.encrypt_to(&self.bob.did).from(&self.alice.did).forward(false);
        packing.pack(&resolver, &self.alice.identities).await.unwrap().0
    }
}

/// Bob's agent while it runs.
pub struct RunningAgent {
    pub agent: Arc<Agent>,
    pub store: Arc<SqliteStore>,
    address: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<io::Result<()>>,
}

impl RunningAgent {
    /// Starts the agent with its store in a folder.
    pub async fn start(people: &Both, folder: &Path, protocol: impl Protocol, options: AgentOptions) -> Self {
        let store = Self::open_store(folder, SqliteOptions::default());
        Self::start_with(people, store.clone(), store, protocol, options, Transports::default()).await
    }

    pub fn open_store(folder: &Path, options: SqliteOptions) -> Arc<SqliteStore> {
        Arc::new(SqliteStore::open(&folder.join("agent.db"), options).unwrap())
    }

    /// Starts the agent with transports, and with a store that is `store` or wraps it.
    pub async fn start_with(
        people: &Both,
        store: Arc<SqliteStore>,
        wrapped: Arc<dyn Store>,
        protocol: impl Protocol,
        options: AgentOptions,
        transports: Transports,
    ) -> Self {
        let build = |builder: AgentBuilder| builder.protocol(protocol).options(options).transports(transports);
        Self::start_built(people, store, wrapped, build).await
    }

    /// Starts the agent as `build` makes it, with a store that is `store` or wraps it.
    pub async fn start_built(
        people: &Both,
        store: Arc<SqliteStore>,
        wrapped: Arc<dyn Store>,
        build: impl FnOnce(AgentBuilder) -> AgentBuilder,
    ) -> Self {
        let documents = [&people.alice, &people.bob].map(|person| person.document.clone());
        let resolver = Arc::new(LocalResolver::new().with_documents(documents));
        let secrets = Arc::new(Keyring::start([people.bob.token.clone()]).await.unwrap());
        let own = OwnDocuments { created: vec![people.bob.document.clone()], ..OwnDocuments::default() };
        let agent = build(Agent::builder(secrets, own, resolver, wrapped)).build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = {
            let (agent, shutdown) = (agent.clone(), shutdown.clone());
            tokio::spawn(async move { agent.run(vec![Server::new(listener, None)], shutdown).await })
        };
        Self { agent, store, address, shutdown, running }
    }

    /// The URL at which the agent takes WebSockets.
    pub fn websocket_url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// Posts a message, and returns the status line.
    pub async fn post(&self, packed: &str) -> String {
        post_to(self.address, packed).await
    }

    /// Posts a message that must be accepted.
    pub async fn post_accepted(&self, packed: &str) {
        let status = self.post(packed).await;
        assert!(status.contains(" 202 "), "{status}");
    }

    /// Posts a message, and closes the connection without waiting for the answer.
    pub async fn post_and_leave(&self, packed: &str) {
        let (address, packed) = (self.address, packed.to_owned());
        tokio::task::spawn_blocking(move || send_post(address, &packed)).await.unwrap();
    }

    pub async fn pending(&self) -> u64 {
        self.store.usage().await.unwrap().envelopes
    }

    /// Returns once no envelope is pending.
    pub async fn until_idle(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.pending().await > 0 {
            assert!(Instant::now() < until, "a message stays untouched");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn deliveries(&self) -> Vec<Delivery> {
        self.store.deliveries(DeliveryQuery { limit: 100, ..DeliveryQuery::default() }).await.unwrap()
    }

    /// How many operations with private keys the agent has made.
    pub async fn operations(&self) -> f64 {
        let metrics = self.agent.metrics().await;
        let counts = metrics.lines().filter(|line| line.starts_with("claviger_token_operations_total"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
        self.store.close().await.unwrap();
    }
}

/// Posts a message to an agent, and returns the status line.
pub async fn post_to(address: SocketAddr, packed: &str) -> String {
    let packed = packed.to_owned();
    tokio::task::spawn_blocking(move || post(address, &packed)).await.unwrap()
}

/// Like [`post_to`], outside a runtime.
pub fn post(address: SocketAddr, packed: &str) -> String {
    let mut stream = send_post(address, packed);
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response.lines().next().unwrap_or_default().to_owned()
}

fn send_post(address: SocketAddr, packed: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let head =
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/didcomm-encrypted+json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{packed}", packed.len()).unwrap();
    stream
}
