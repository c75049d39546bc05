//! The documents of our DIDs, which nodes share: what one node's agent has read in its folder, the others use.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use claviger::{
    agent::{
        Agent, AgentOptions, OwnDocuments, Server,
        store::{Change, Commit, Hint, Record, SqliteOptions, Store, UNREAD},
    },
    did::{Document, LocalResolver, Relationship, Service},
    didcomm::Message,
    keys::{Curve, PublicKey},
    secrets::Keyring,
};
use claviger_testkit::SoftToken;
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Market, PIURI, until};
use crate::{
    running_agent::{RunningAgent, post},
    support::Person,
    watched_store::WatchedStore,
};

const WEB: &str = "did:web:b.example";

/// A token that all nodes have, and the document of the DID that is in all folders.
struct Keys {
    token: SoftToken,
    agree: PublicKey,
    sign: PublicKey,
}

impl Keys {
    fn new() -> Self {
        let token = SoftToken::new("shared");
        let (agree, sign) = (token.make(Curve::X25519), token.make(Curve::Ed25519));
        Self { token, agree, sign }
    }

    /// A document with these keys, whose endpoint is at this path.
    fn document(&self, did: &str, path: &str) -> Document {
        let builder = Document::builder().method("key-1", &self.agree, &[Relationship::KeyAgreement]);
        let builder = builder.method("key-2", &self.sign, &[Relationship::Authentication]);
        builder.service(Service::didcomm(format!("https://b.example/{path}"), [])).build(did).unwrap()
    }

    fn first(&self) -> Document {
        self.document("did:example:first", "")
    }
}

/// A running agent, and what its folder has.
struct Node {
    agent: Arc<Agent>,
    folder: Arc<Mutex<OwnDocuments>>,
    address: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<std::io::Result<()>>,
    store: Arc<dyn Store>,
}

impl Node {
    /// Starts an agent with these documents in its folder. Without a token, its store stays sealed.
    async fn start(store: Arc<dyn Store>, token: Option<&SoftToken>, documents: Vec<Document>) -> Self {
        let secrets = Arc::new(Keyring::start(token.cloned()).await.unwrap());
        let own = OwnDocuments { created: documents, ..OwnDocuments::default() };
        let folder = Arc::new(Mutex::new(own.clone()));
        let read = folder.clone();
        let builder = Agent::builder(secrets, own, Arc::new(LocalResolver::new()), store.clone());
        let builder = builder.protocol(Market).options(AgentOptions::default());
        let agent = builder.on_reload(Box::new(move || Ok(read.lock().unwrap().clone()))).build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let running = {
            let (agent, shutdown) = (agent.clone(), shutdown.clone());
            tokio::spawn(async move { agent.run(vec![Server::new(listener, None)], shutdown).await })
        };
        Self { agent, folder, address, shutdown, running, store }
    }

    /// Changes the documents of the folder, and has the agent read them.
    async fn change(&self, documents: Vec<Document>, changed: Option<&str>) {
        self.folder.lock().unwrap().created = documents;
        self.agent.reload_dids(changed).await.unwrap();
    }

    fn knows(&self, did: &str) -> bool {
        self.agent.own_dids().find_did(did).is_some()
    }

    /// Waits until the node uses this document, and checks that it also publishes it.
    async fn until_uses(&self, document: &Document) {
        let own_dids = self.agent.own_dids();
        until("the document is used", async || own_dids.document(document.id()).as_ref() == Some(document)).await;
        let published = own_dids.published("b.example", "/.well-known/did.json").unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&published.text).unwrap(), *document.as_value());
    }

    async fn status(&self, packed: &str) -> String {
        let (address, packed) = (self.address, packed.to_owned());
        tokio::task::spawn_blocking(move || post(address, &packed)).await.unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
        self.store.close().await.unwrap();
    }
}

/// Packs a message of a stranger to one of our DIDs.
async fn packed_for(document: &Document) -> String {
    let alice = Person::new("alice", &[Curve::X25519], &[Curve::Ed25519]).await;
    let resolver = LocalResolver::new().with_documents([document.clone()]);
    let message = Message::build(Message::new_id(), format!("{PIURI}/tell"), json!({})).to(document.id()).finalize();
    message.encrypt_to(document.id()).forward(false).pack(&resolver, &alice.identities).await.unwrap().0
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;
    use crate::store::nodes::Shared;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_one_node_reads_all_nodes_use() {
        let Some(shared) = Shared::some() else { return };
        let keys = Keys::new();
        let (first, versions) = (keys.first(), ["one", "two", "three"].map(|path| keys.document(WEB, path)));
        let [one, two, three] = versions.clone();
        let start =
            async |name: &str, documents| Node::start(shared.node(name).await, Some(&keys.token), documents).await;
        let a = start("a", vec![first.clone()]).await;
        let b = start("b", vec![first.clone()]).await;
        until_read(&a).await;
        let packed = packed_for(&one).await;
        until("nobody has the DID", async || b.status(&packed).await.contains(" 404 ")).await;

        // The answer to the next request of the peer is never that the DID is not there.
        a.change(vec![first.clone(), one.clone()], None).await;
        let (begun, mut statuses) = (Instant::now(), Vec::new());
        until("the message is accepted", async || {
            statuses.push(b.status(&packed).await);
            statuses.last().unwrap().contains(" 202 ")
        })
        .await;
        assert!(statuses.iter().all(|status| status.contains(" 202 ") || status.contains(" 503 ")), "{statuses:?}");
        println!("accepted after {:?}", begun.elapsed());
        b.until_uses(&one).await;
        assert_eq!(a.agent.own_dids().dids()[0], b.agent.own_dids().dids()[0], "the newest comes first");

        // A change at either node, a stale file, and a change back.
        b.change(vec![first.clone(), one.clone()], None).await;
        a.change(vec![first.clone(), two.clone()], Some(WEB)).await;
        b.until_uses(&two).await;
        b.change(vec![first.clone(), one.clone()], None).await;
        b.until_uses(&two).await;
        a.until_uses(&two).await;
        b.change(vec![first.clone(), one.clone()], Some(WEB)).await;
        b.until_uses(&one).await;
        a.until_uses(&one).await;
        // A node that joins later, with an old file or with none.
        let c = start("c", vec![two.clone()]).await;
        c.until_uses(&one).await;
        assert!(c.knows(first.id()));

        // The DID is retired at one node. The others still have its file, and one has an older one.
        b.folder.lock().unwrap().retired = vec![format!("{:#}\n", one.as_value())];
        b.change(vec![first.clone()], None).await;
        for node in [&a, &b, &c] {
            until("the DID is retired", async || !node.knows(WEB)).await;
            assert!(node.agent.own_dids().published("b.example", "/.well-known/did.json").is_none());
        }
        a.change(vec![first.clone(), one.clone()], None).await;
        c.agent.reload_dids(None).await.unwrap();
        assert!([&a, &b, &c].iter().all(|node| !node.knows(WEB) && node.knows(first.id())));
        assert!(c.status(&packed_for(&one).await).await.contains(" 404 "));
        // It is made anew at that node.
        b.change(vec![first.clone(), three.clone()], None).await;
        for node in [&a, &b, &c] {
            node.until_uses(&three).await;
        }
        for node in [a, b, c] {
            node.stop().await;
        }
    }

    /// Two nodes change the document at once: all use the same one, and the change of the other is an older version.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nodes_that_write_at_once_agree() {
        let Some(shared) = Shared::some() else { return };
        let keys = Keys::new();
        let start =
            async |name: &str| Node::start(shared.node(name).await, Some(&keys.token), vec![keys.first()]).await;
        let nodes = [start("a").await, start("b").await];
        for round in 0..10 {
            let changes = nodes.iter().enumerate().map(|(node, it)| {
                let many =
                    (0..20).map(|number| keys.document(&format!("did:web:x{number}.example"), &format!("{node}")));
                let of_round = keys.document(WEB, &format!("{round}-{node}"));
                it.change(many.chain([keys.first(), of_round]).collect(), None)
            });
            futures_util::future::join_all(changes).await;
            let used = || nodes.each_ref().map(|node| node.agent.own_dids().document(WEB));
            until("both use the same", async || matches!(used(), [Some(a), Some(b)] if a == b)).await;
        }
        for node in nodes {
            node.stop().await;
        }
    }
}

/// Two nodes on one file, as [`WatchedStore`] plays them.
fn watched_store(folder: &tempfile::TempDir) -> Arc<WatchedStore> {
    WatchedStore::with_nodes(RunningAgent::open_store(folder.path(), SqliteOptions::default()), true)
}

/// Waits until a node has read the DIDs of the others. Before, it does not know that a DID is not ours.
async fn until_read(node: &Node) {
    let nobody = packed_for(&Keys::new().document("did:example:nobody", "")).await;
    until("the DIDs of the others are read", async || node.status(&nobody).await.contains(" 404 ")).await;
}

/// Strangers write to DIDs that nobody has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_for_unknown_dids_are_few() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, store) = (Keys::new(), watched_store(&folder));
    let node = Node::start(store.clone(), Some(&keys.token), vec![keys.first()]).await;
    until_read(&node).await;
    let packed = packed_for(&keys.document("did:example:nobody", "")).await;
    let (begun, before) = (Instant::now(), store.calls_of("record"));
    let mut posts = JoinSet::new();
    for _ in 0..300 {
        let (address, packed) = (node.address, packed.clone());
        posts.spawn_blocking(move || post(address, &packed));
    }
    let statuses = posts.join_all().await;
    // A busy machine may not answer all within a second.
    assert!(statuses.iter().all(|status| [" 404 ", " 503 "].iter().any(|it| status.contains(it))), "{statuses:?}");
    assert!(statuses.iter().any(|status| status.contains(" 404 ")), "{statuses:?}");
    let (looks, most) = (store.calls_of("record") - before, begun.elapsed().as_millis() as u64 / 50 + 2);
    println!("{looks} looks for 300 messages in {:?}", begun.elapsed());
    assert!(looks <= most, "{looks} of {most}");
    node.stop().await;
}

/// Whoever writes to the database has no token, and whoever has taken over an agent of another node has not our keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_documents_are_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, store) = (Keys::new(), watched_store(&folder));
    let node = Node::start(store.clone(), Some(&keys.token), vec![keys.first()]).await;
    until_read(&node).await;
    let foreign = Keys::new();
    // The agent of the other node has taken the documents in, and holds the store's key.
    let theirs = foreign.document(WEB, "theirs");
    let other = Node::start(store.clone(), Some(&keys.token), vec![theirs.clone()]).await;
    until_read(&other).await;
    let changed = || store.hint(&[Hint::Changed { kind: "own-dids".to_owned() }]);
    changed();
    let packed = packed_for(&theirs).await;
    until("the document is there", async || node.status(&packed).await.contains(" 503 ")).await;
    assert!(!node.knows(WEB) && !node.agent.own_dids().dids().contains(&WEB.to_owned()));
    assert!(node.agent.own_dids().published("b.example", "/.well-known/did.json").is_none());

    // Without the store's key, a record is not even read.
    let value =
        serde_json::to_vec(&json!({ "content": { "document": keys.document("did:web:x", "").as_value() } })).unwrap();
    let record = |kind: &str, key: &str| {
        let (kind, key, value) = (kind.to_owned(), key.to_owned(), value.clone());
        Change::Put(Record { kind, key, revision: UNREAD, value, expires: None })
    };
    let changes = vec![record("own-did", "did:web:x"), record("own-dids", "1")];
    store.unwatched().commit(Commit { changes, ..Commit::default() }).await.unwrap();
    changed();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(node.agent.reload_dids(None).await.unwrap_err().to_string().contains("damaged"));
    assert!(!node.knows("did:web:x") && node.knows(keys.first().id()));
    other.stop().await;
    node.shutdown.cancel();
    node.running.await.unwrap().unwrap();
}

/// While the store is sealed, or does not answer, it is not known which DIDs the other nodes have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_did_may_be_another_nodes_before_the_store_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, store) = (Keys::new(), watched_store(&folder));
    let node = Node::start(store.clone(), None, vec![keys.first()]).await;
    let unknown = packed_for(&keys.document("did:example:nobody", "")).await;
    until("the agent serves", async || node.status(&unknown).await.contains(" 503 ")).await;
    node.stop().await;
}
