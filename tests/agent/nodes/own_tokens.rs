//! Two agents on one database, each with a token of its own, and a key of each token in one DID document.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use claviger::{
    agent::{
        Agent, AgentOptions, OwnDocuments, SendError, SendLimits, Server, Transport, Transports,
        store::{Change, Commit, DeliveryQuery, PostgresStore, Record, Store, StoreLimits},
    },
    did::{Document, LocalResolver, Relationship, Service},
    didcomm::{Layer, Message},
    jose::{self, Recipient},
    keys::{Curve, PublicKey},
    secrets::{Context, Keyring},
};
use claviger_testkit::SoftToken;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Market, PIURI, until};
use crate::{running_agent::post_to, store::postgres::Location, support::Person};

const DID: &str = "did:example:bob";
const PING: &str = "https://didcomm.org/trust-ping/2.0/ping";

/// Takes all messages, and keeps them.
#[derive(Clone, Default)]
struct Mailbox(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Transport for Mailbox {
    fn schemes(&self) -> &[&str] {
        &["sink"]
    }

    async fn send(&self, _uri: &str, packed: &str, _limits: SendLimits) -> Result<Vec<String>, SendError> {
        self.0.lock().unwrap().push(packed.to_owned());
        Ok(Vec::new())
    }
}

/// Bob's DID with a key of each token, and Alice.
struct Cluster {
    location: Location,
    tokens: [SoftToken; 2],
    agree: [PublicKey; 2],
    document: Document,
    alice: Person,
    /// What Alice has received.
    mailbox: Mailbox,
}

impl Cluster {
    async fn new() -> Option<Self> {
        let location = Location::shared()?;
        let tokens = ["a", "b"].map(SoftToken::new);
        let [agree, sign] = [Curve::X25519, Curve::Ed25519].map(|curve| tokens.each_ref().map(|it| it.make(curve)));
        let mut builder = Document::builder();
        for (name, agree, sign) in [("a", &agree[0], &sign[0]), ("b", &agree[1], &sign[1])] {
            builder = builder.method(&format!("agree-{name}"), agree, &[Relationship::KeyAgreement]);
            builder = builder.method(&format!("sign-{name}"), sign, &[Relationship::Authentication]);
        }
        let document = builder.build(DID).unwrap();
        let service = Some(Service::didcomm("sink://alice", []));
        let alice = Person::with_service("alice", &[Curve::X25519], &[Curve::Ed25519], service).await;
        Some(Self { location, tokens, agree, document, alice, mailbox: Mailbox::default() })
    }

    fn resolver(&self) -> LocalResolver {
        LocalResolver::new().with_documents([self.document.clone(), self.alice.document.clone()])
    }

    /// Starts a node with its token. It names these keys of other nodes.
    async fn start(&self, node: usize, store_keys: &[PublicKey]) -> Node {
        let options = self.location.options().as_node(["a", "b"][node]).unwrap();
        let store = Arc::new(PostgresStore::open(options, StoreLimits::default()).await.unwrap());
        let keyring = Keyring::start([self.tokens[node].clone()]).await.unwrap();
        let own = OwnDocuments { created: vec![self.document.clone()], ..OwnDocuments::default() };
        let options = AgentOptions { store_keys: store_keys.to_vec(), ..AgentOptions::default() };
        let agent = Agent::builder(Arc::new(keyring), own, Arc::new(self.resolver()), store.clone());
        let agent = agent.protocol(Market).options(options);
        let agent = agent.transports(Transports::default().with(self.mailbox.clone())).build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (running, ends) = (agent.clone(), shutdown.clone());
        let running = tokio::spawn(async move { running.run(vec![Server::new(listener, None)], ends).await });
        Node { agent, store, address, shutdown, running }
    }

    /// Packs a message of Alice's for all of Bob's keys, or for one of them.
    async fn pack(&self, kind: &str, to: &str) -> (String, String) {
        let message = Message::build(Message::new_id(), kind, json!({})).from(&*self.alice.did).to(DID).finalize();
        let packing = message.encrypt_to(to).from(&self.alice.did).forward(false);
        let packed = packing.pack(&self.resolver(), &self.alice.identities).await.unwrap().0;
        (message.id, packed)
    }

    /// The keys with which Bob's nodes have encrypted the answers to these messages to Alice.
    async fn answered_with(&self, ids: &[String]) -> Vec<String> {
        let mut keys = Vec::new();
        until("the answers are sent", async || self.mailbox.0.lock().unwrap().len() >= ids.len()).await;
        let received = std::mem::take(&mut *self.mailbox.0.lock().unwrap());
        for packed in received {
            let (message, provenance) = self.alice.unpack(&packed, &self.resolver()).await.unwrap();
            assert!(ids.iter().any(|id| Some(id) == message.thid.as_ref()), "{message:?}");
            let sender = provenance.layers.iter().find_map(|layer| match layer {
                Layer::Authcrypt { skid, .. } => Some(skid.clone()),
                _ => None,
            });
            keys.push(sender.unwrap());
        }
        assert_eq!(keys.len(), ids.len(), "each is answered once");
        keys.sort();
        keys
    }
}

struct Node {
    agent: Arc<Agent>,
    store: Arc<PostgresStore>,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<std::io::Result<()>>,
}

impl Node {
    async fn until_ready(&self) {
        until("the token is ready", async || self.agent.is_token_ready()).await;
    }

    async fn accepts(&self, packed: &str) {
        let status = post_to(self.address, packed).await;
        assert!(status.contains(" 202 "), "{status}");
    }

    /// A node hears a moment later what another one has done.
    async fn until_pending(&self, count: u64) {
        until("so many wait", async || self.store.usage().await.unwrap().envelopes == count).await;
    }

    async fn delivered(&self) -> Vec<String> {
        let query = DeliveryQuery { limit: 100, acknowledged: true, ..DeliveryQuery::default() };
        self.store.deliveries(query).await.unwrap().into_iter().map(|delivery| delivery.message).collect()
    }

    async fn until_delivered(&self, mut ids: Vec<String>) {
        until("the messages are delivered", async || self.delivered().await.len() >= ids.len()).await;
        let mut delivered = self.delivered().await;
        ids.sort();
        delivered.sort();
        assert_eq!(delivered, ids, "each is delivered once");
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
        self.store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_does_what_its_token_can_do() {
    let Some(cluster) = Cluster::new().await else { return };
    // Both begin with an empty database: the token of the older one may not be ready yet.
    let (a, b) = (cluster.start(0, &cluster.agree).await, cluster.start(1, &cluster.agree).await);
    a.until_ready().await;
    b.until_ready().await;
    let tell = format!("{PIURI}/tell");
    let [only_a, only_b] = ["a", "b"].map(|name| format!("{DID}#agree-{name}"));
    let (mut told, mut pings) = (Vec::new(), Vec::new());
    for node in [&a, &b] {
        for to in [DID, &only_a, &only_b] {
            for (kind, ids) in [(&*tell, &mut told), (PING, &mut pings)] {
                let (id, packed) = cluster.pack(kind, to).await;
                ids.push(id);
                node.accepts(&packed).await;
            }
        }
    }
    b.until_delivered(told.clone()).await;
    let keys = cluster.answered_with(&pings).await;
    assert!(keys.iter().all(|key| [&only_a, &only_b].contains(&key)) && keys.contains(&only_b), "{keys:?}");
    a.until_pending(0).await;

    // The token of a is away: b leads, does what waits at a, and what a accepts.
    until("a leads", async || *a.store.leads().borrow()).await;
    cluster.tokens[0].set_away(true);
    let begun = Instant::now();
    let mut pings = Vec::new();
    for (kind, ids) in [(&*tell, &mut told), (PING, &mut pings)] {
        let (id, packed) = cluster.pack(kind, DID).await;
        ids.push(id);
        a.accepts(&packed).await;
    }
    let (id, waits) = cluster.pack(&tell, &only_a).await;
    b.accepts(&waits).await;
    b.until_delivered(told.clone()).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(cluster.answered_with(&pings).await, [&*only_b]);
    until("b leads", async || *b.store.leads().borrow() && !*a.store.leads().borrow()).await;
    let (quick, packed) = cluster.pack(&tell, DID).await;
    told.push(quick);
    a.accepts(&packed).await;
    a.until_delivered(told.clone()).await;
    // What is for its key alone waits for it.
    a.until_pending(1).await;
    cluster.tokens[0].set_away(false);
    told.push(id);
    b.until_delivered(told).await;
    until("a leads again", async || *a.store.leads().borrow()).await;
    a.stop().await;
    b.stop().await;
}

/// Each of both nodes must name the other's key, and whoever writes to the database cannot make up for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_key_is_taken_from_named_keys_only() {
    let Some(cluster) = Cluster::new().await else { return };
    let [k1, k2] = cluster.agree.clone();
    let wrapped = async |node: &Node| {
        let record = node.store.record("store-key", "1").await.unwrap().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
        (value["wrapped"].as_array().unwrap().len(), record)
    };
    let is_sealed = async |node: &Node| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        !node.agent.is_token_ready()
    };
    // a does not name b's key.
    let a = cluster.start(0, &[]).await;
    a.until_ready().await;
    let b = cluster.start(1, std::slice::from_ref(&k1)).await;
    assert!(is_sealed(&b).await);
    assert_eq!(wrapped(&a).await.0, 1);
    // A copy for b by a key that b does not name: that of a stranger who can write to the database.
    let (_, record) = wrapped(&a).await;
    let mallory = SoftToken::new("mallory");
    let evil = mallory.make(Curve::X25519);
    let keyring = Keyring::start([mallory]).await.unwrap();
    let ((skid, kid), cx) = ((evil.to_string(), k2.to_string()), Context::default());
    let copy = jose::authcrypt(&[7; 32], &skid, &evil, &[Recipient { kid: &kid, key: &k2 }], &keyring, &cx).await;
    let value = json!({ "wrapped": [copy.unwrap()] }).to_string().into_bytes();
    let put = async |value: Vec<u8>, revision| {
        let change = Change::Put(Record { value, revision, ..record.clone() });
        a.store.commit(Commit { changes: vec![change], ..Commit::default() }).await.unwrap();
    };
    put(value, record.revision).await;
    assert!(is_sealed(&b).await, "b has taken a stranger's store key");
    put(record.value.clone(), wrapped(&a).await.1.revision).await;
    // a is started again and names b's key. b opens the store as soon as it hears of that, and has a copy of its own then.
    a.stop().await;
    let a = cluster.start(0, &[k1.clone(), k2.clone()]).await;
    a.until_ready().await;
    let begun = Instant::now();
    b.until_ready().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    until("b has a copy", async || wrapped(&a).await.0 == 3).await;
    let (id, packed) = cluster.pack(&format!("{PIURI}/tell"), &format!("{DID}#agree-b")).await;
    b.accepts(&packed).await;
    a.until_delivered(vec![id]).await;
    b.stop().await;
    a.stop().await;
    // a names it no longer: its copies go, and b would be sealed.
    let a = cluster.start(0, &[]).await;
    a.until_ready().await;
    until("the copies are removed", async || wrapped(&a).await.0 == 1).await;
    let b = cluster.start(1, &[k1]).await;
    assert!(is_sealed(&b).await);
    b.stop().await;
    a.stop().await;
}
