//! A protocol that panics costs the agent one message.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use claviger::{
    agent::{
        Agent, AgentOptions, OwnDocuments, Server,
        protocol::{HandleError, Protocol, Received, Transaction},
        store::{DeliveryQuery, SqliteOptions, SqliteStore, Store},
    },
    did::LocalResolver,
    didcomm::Message,
    keys::Curve,
    secrets::Keyring,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::Person;

const PIURI: &str = "https://example.org/fragile/1.0";

/// Panics at the message `break`, and delivers all others.
struct Fragile {
    panics: Arc<AtomicUsize>,
}

#[async_trait]
impl Protocol for Fragile {
    fn piuri(&self) -> &str {
        PIURI
    }

    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        if received.is("break") {
            self.panics.fetch_add(1, Ordering::SeqCst);
            panic!("a message of this test");
        }
        tx.deliver();
        Ok(())
    }
}

/// Posts a message, and returns the status line.
fn post(address: SocketAddr, packed: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head =
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/didcomm-encrypted+json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{packed}", packed.len()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_handling_panics_is_given_up_and_others_are_handled() {
    let alice = Person::new("alice", &[Curve::X25519], &[Curve::Ed25519]).await;
    let bob = Person::new("bob", &[Curve::X25519], &[Curve::Ed25519]).await;
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&folder.path().join("agent.db"), SqliteOptions::default()).unwrap());
    let documents = [&alice, &bob].map(|person| person.document.clone());
    let resolver = LocalResolver::new().with_documents(documents);
    let secrets = Keyring::start([bob.token.clone()]).await.unwrap();
    let own = OwnDocuments { created: vec![bob.document.clone()], ..OwnDocuments::default() };
    let panics = Arc::<AtomicUsize>::default();
    let mut options = AgentOptions::default();
    options.inbox.max_attempts = 2;
    let agent = Agent::builder(Arc::new(secrets), own, Arc::new(resolver), store.clone())
        .protocol(Fragile { panics: panics.clone() })
        .options(options)
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let running = {
        let (agent, shutdown) = (agent.clone(), shutdown.clone());
        tokio::spawn(async move { agent.run(vec![Server::new(listener, None)], shutdown).await })
    };

    let resolver = LocalResolver::new().with_documents([bob.document.clone()]);
    for name in ["break", "hold"] {
        let message = Message::build(Message::new_id(), format!("{PIURI}/{name}"), json!({})).from(&*alice.did);
        let message = message.to(&*bob.did).finalize();
        let packing = message.encrypt_to(&bob.did).from(&alice.did).forward(false);
        let packed = packing.pack(&resolver, &alice.identities).await.unwrap().0;
        let status = tokio::task::spawn_blocking(move || post(address, &packed)).await.unwrap();
        assert!(status.contains(" 202 "), "{status}");
    }
    let until = Instant::now() + Duration::from_secs(60);
    while store.usage().await.unwrap().envelopes > 0 {
        assert!(Instant::now() < until, "a message stays untouched after {panics:?} panics");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(panics.load(Ordering::SeqCst), 2);
    let query = DeliveryQuery { limit: 10, ..DeliveryQuery::default() };
    let delivered: Vec<_> = store.deliveries(query).await.unwrap().into_iter().map(|it| it.kind).collect();
    assert_eq!(delivered, [format!("{PIURI}/hold")]);
    let metrics = agent.metrics().await.unwrap();
    assert!(metrics.contains("result=\"panicked\"} 1"), "{metrics}");
    shutdown.cancel();
    running.await.unwrap().unwrap();
    store.close().await.unwrap();
}
