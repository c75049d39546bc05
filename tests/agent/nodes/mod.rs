//! An agent that shares its store with another node, which the store plays: hints, messages that wait at the other node, and
//! what only the leading node does.

mod claims;
mod own_dids;
#[cfg(feature = "postgres")]
mod own_tokens;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use claviger::{
    agent::{
        AgentError, AgentOptions, ContactChange, Event, MediationOptions, MediatorState, OutgoingMessage, OwnDocuments,
        SendError, SendLimits, Transport, Transports, WaitReason,
        api::{Webhook, WebhookOptions, Webhooks},
        new_message,
        protocol::{HandleError, Protocol, Received, Transaction},
        store::{Change, Commit, Hint, Record, SendState, SqliteOptions, UNREAD},
    },
    did::{LocalResolver, Service},
    didcomm::Message,
    keys::Curve,
    net::{WebSocketClient, WebSocketOptions},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::{
    net::server::{Authority, Server, response},
    running_agent::{Both, RunningAgent},
    support::Person,
    watched_store::WatchedStore,
};

const PIURI: &str = "https://example.org/market/1.0";
/// How long something that must not happen is waited for.
const A_WHILE: Duration = Duration::from_millis(500);

/// Delivers all.
struct Market;

#[async_trait]
impl Protocol for Market {
    fn piuri(&self) -> &str {
        PIURI
    }

    async fn handle(&self, _: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        tx.deliver();
        Ok(())
    }
}

/// Takes all messages, and counts them.
#[derive(Clone, Default)]
struct Sink(Arc<AtomicUsize>);

#[async_trait]
impl Transport for Sink {
    fn schemes(&self) -> &[&str] {
        &["sink"]
    }

    async fn send(&self, _uri: &str, _packed: &str, _limits: SendLimits) -> Result<Vec<String>, SendError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Vec::new())
    }
}

/// Bob's agent, one of two nodes.
struct Fixture {
    people: Both,
    running: RunningAgent,
    store: Arc<WatchedStore>,
    sent: Sink,
    /// Whether the documents that the agent reads again have Bob's.
    serves_bob: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    /// Starts the agent. Alice has this endpoint.
    async fn start(leads: bool, endpoint: Option<&str>) -> Self {
        Self::start_with(leads, endpoint, AgentOptions::default()).await
    }

    async fn start_with(leads: bool, endpoint: Option<&str>, options: AgentOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = endpoint.map(|uri| Service::didcomm(uri, []));
        let alice = Person::with_service("alice", &[Curve::X25519], &[Curve::Ed25519], service).await;
        let people = Both { alice, ..Both::new().await };
        let inner = RunningAgent::open_store(folder.path(), SqliteOptions::default());
        let store = WatchedStore::with_nodes(inner.clone(), leads);
        let (sent, authority) = (Sink::default(), Authority::new());
        let serves_bob = Arc::new(AtomicBool::new(true));
        let (serves, document) = (serves_bob.clone(), people.bob.document.clone());
        let reload = move || {
            let created = if serves.load(Ordering::SeqCst) { vec![document.clone()] } else { Vec::new() };
            Ok(OwnDocuments { created, ..OwnDocuments::default() })
        };
        let websockets = WebSocketClient::new(authority.dialer(), WebSocketOptions::default());
        let running = RunningAgent::start_built(&people, inner, store.clone(), |builder| {
            let builder =
                builder.protocol(Market).options(options).transports(Transports::default().with(sent.clone()));
            builder.mediators(authority.client(), websockets).on_reload(Box::new(reload))
        });
        let running = running.await;
        let fixture = Self { people, running, store, sent, serves_bob, _folder: folder };
        // Now the store is unlocked, and all tasks run.
        fixture.receive().await;
        fixture
    }

    /// Has Alice write to Bob, and returns once the message is handled.
    async fn receive(&self) {
        self.running.post_accepted(&self.people.pack(&format!("{PIURI}/tell")).await).await;
        self.running.until_idle().await;
    }

    /// Writes to Alice while the other node sends the messages for her. Returns the id in the outbox.
    async fn send_elsewhere(&self) -> String {
        self.store.send_elsewhere(&self.people.alice.did, true);
        let message = new_message(&format!("{PIURI}/tell"), json!({})).from(&*self.people.bob.did);
        let outgoing =
            OutgoingMessage { hold: true, ..OutgoingMessage::new(message.to(&*self.people.alice.did).finalize()) };
        self.running.agent.send(&outgoing).await.unwrap()
    }

    async fn state_of(&self, id: &str) -> SendState {
        self.running.agent.outbox_entry(id).await.unwrap().unwrap().state
    }

    async fn until_sent(&self, id: &str) {
        until("the message is sent", async || self.state_of(id).await == SendState::Sent).await;
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The next event that is not about a message which this agent has received itself.
async fn next_event(events: &mut broadcast::Receiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(60), events.recv()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_node_that_has_ended_are_sent_here() {
    let fixture = Fixture::start(true, Some("sink://alice")).await;
    let agent = &fixture.running.agent;
    let id = fixture.send_elsewhere().await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(fixture.sent.0.load(Ordering::SeqCst), 0, "the other node sends it");
    let wait = agent.wait_of(&agent.outbox_entry(&id).await.unwrap().unwrap()).unwrap();
    assert_eq!((wait.reason, wait.problem, wait.next_try), (WaitReason::OtherNode, None, None));
    // The other node ends.
    let peer = fixture.people.alice.did.clone();
    fixture.store.send_elsewhere(&peer, false);
    fixture.store.hint(&[Hint::Outgoing { peer, is_here: true }]);
    fixture.until_sent(&id).await;

    // The same if the hint is lost.
    let id = fixture.send_elsewhere().await;
    fixture.store.send_elsewhere(&fixture.people.alice.did, false);
    fixture.store.hint(&[Hint::Anything]);
    fixture.until_sent(&id).await;
    fixture.running.stop().await;
}

/// The task of a peer has read that no message waits, and ends. Meanwhile there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_comes_while_the_task_of_its_peer_ends_is_sent() {
    let fixture = Fixture::start(true, Some("sink://alice")).await;
    let (alice, bob) = (&fixture.people.alice.did, &fixture.people.bob.did);
    let read = fixture.store.hold_empty_read();
    fixture.store.hint(&[Hint::Outgoing { peer: alice.clone(), is_here: true }]);
    read.wait().await;
    let message = new_message(&format!("{PIURI}/tell"), json!({})).from(&**bob).to(&**alice).finalize();
    let id = fixture.running.agent.send(&OutgoingMessage::new(message)).await.unwrap();
    read.wait().await;
    fixture.until_sent(&id).await;
    fixture.running.stop().await;
}

/// The node that has ended served a DID whose document is not here yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_did_that_this_node_lacks_wait_for_it() {
    let fixture = Fixture::start(true, Some("sink://alice")).await;
    let agent = &fixture.running.agent;
    let id = fixture.send_elsewhere().await;
    fixture.serves_bob.store(false, Ordering::SeqCst);
    agent.reload_dids(None).await.unwrap();
    let peer = fixture.people.alice.did.clone();
    fixture.store.send_elsewhere(&peer, false);
    fixture.store.hint(&[Hint::Outgoing { peer, is_here: true }]);
    let problem = async || {
        let wait = agent.wait_of(&agent.outbox_entry(&id).await.unwrap().unwrap());
        wait.and_then(|wait| wait.problem).unwrap_or_default()
    };
    until("the message waits for the DID", async || problem().await.contains("does not serve")).await;
    assert_eq!((fixture.state_of(&id).await, fixture.sent.0.load(Ordering::SeqCst)), (SendState::Waiting, 0));
    fixture.serves_bob.store(true, Ordering::SeqCst);
    agent.reload_dids(None).await.unwrap();
    fixture.until_sent(&id).await;
    fixture.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_hear_of_what_the_other_node_delivers() {
    let fixture = Fixture::start(false, None).await;
    let mut events = fixture.running.agent.events();
    fixture.store.hint(&[Hint::Delivered { id: "theirs".to_owned() }, Hint::Recorded]);
    assert_eq!(next_event(&mut events).await, Event::Delivered { id: "theirs".to_owned() });
    assert_eq!(next_event(&mut events).await, Event::Recorded);
    fixture.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_the_other_node_blocks_and_unblocks_are_known() {
    let fixture = Fixture::start(false, None).await;
    let (agent, alice) = (&fixture.running.agent, &fixture.people.alice.did);
    let block = async |blocked| {
        let change = ContactChange { blocked: Some(blocked), ..ContactChange::default() };
        agent.change_contact(alice, &change).await.unwrap();
    };
    block(true).await;
    let record = fixture.store.unwatched().record("blocked", alice).await.unwrap().unwrap();
    block(false).await;
    let changed = || fixture.store.hint(&[Hint::Changed { kind: "blocked".to_owned() }]);
    let commit_elsewhere = async |change| {
        let commit = Commit { changes: vec![change], ..Commit::default() };
        fixture.store.unwatched().commit(commit).await.unwrap();
    };
    let Record { kind, key, .. } = record.clone();
    commit_elsewhere(Change::Put(Record { revision: UNREAD, ..record })).await;
    assert!(!agent.is_blocked(alice));
    changed();
    until("the peer is blocked", async || agent.is_blocked(alice)).await;
    commit_elsewhere(Change::Delete { kind, key }).await;
    // The person does not see what this node remembers: the peer is blocked anew.
    block(true).await;
    changed();
    tokio::time::sleep(A_WHILE).await;
    assert!(agent.is_blocked(alice));
    let delete = Change::Delete { kind: "blocked".to_owned(), key: alice.clone() };
    commit_elsewhere(delete).await;
    changed();
    until("the peer is not blocked", async || !agent.is_blocked(alice)).await;
    fixture.running.stop().await;
}

/// The other node ends the relationship. What this node remembers of the peer must not hide that from the application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relationship_that_the_other_node_ends_is_ended_here() {
    let fixture = Fixture::start(false, Some("sink://alice")).await;
    let (agent, alice, bob) = (&fixture.running.agent, &fixture.people.alice.did, &fixture.people.bob.did);
    let send = async || {
        let message = new_message(&format!("{PIURI}/tell"), json!({})).from(&**bob).to(&**alice).finalize();
        agent.send(&OutgoingMessage::new(message)).await
    };
    send().await.unwrap();
    agent.end_relationship(bob, alice, None).await.unwrap();
    let record = fixture.store.unwatched().record("connection", &format!("{bob} {alice}")).await.unwrap().unwrap();
    agent.resume_relationship(bob, alice).await.unwrap();
    // The second one finds the peer in memory.
    send().await.unwrap();
    send().await.unwrap();
    let changes = vec![Change::Put(Record { revision: UNREAD, ..record })];
    fixture.store.unwatched().commit(Commit { changes, ..Commit::default() }).await.unwrap();
    send().await.unwrap();
    fixture.store.hint(&[Hint::Changed { kind: "connection".to_owned() }]);
    until("the end is known", async || matches!(send().await, Err(AgentError::ConnectionEnded { .. }))).await;
    fixture.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leading_node_alone_deletes_what_has_expired() {
    let fixture = Fixture::start(false, None).await;
    let swept = || ["delete_expired", "expire_envelopes", "expire_outgoing"].map(|it| fixture.store.calls_of(it));
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(swept(), [0; 3]);
    fixture.store.lead(true);
    until("the node sweeps", async || swept().iter().all(|calls| *calls > 0)).await;
    let metrics = fixture.running.agent.metrics().await;
    for line in ["claviger_node_info{node=\"ours\",version=\"1.2.3\"} 1", "claviger_leads 1", "claviger_nodes 2"] {
        assert!(metrics.lines().any(|other| other == line), "{line}");
    }
    fixture.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leading_node_alone_posts_to_webhooks() {
    let fixture = Fixture::start(false, None).await;
    let receiver = Server::http(|_| async { response(204, "") }).await;
    let webhooks = Webhooks::new(fixture.running.agent.clone());
    let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned().into();
    let webhook = Webhook::new(&receiver.url("/"), secret, WebhookOptions::default()).unwrap();
    let stop = CancellationToken::new();
    let tasks = webhooks.replace(vec![(webhook, Authority::new().client())], &stop);
    let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    let posted = async |count| until("the letters are posted", async || receiver.request_count() == count).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(receiver.request_count(), 0);
    // What was delivered before.
    fixture.store.lead(true);
    posted(1).await;
    fixture.receive().await;
    posted(2).await;
    until("the letters are acknowledged", async || fixture.running.deliveries().await.is_empty()).await;
    fixture.store.lead(false);
    tokio::time::sleep(Duration::from_millis(100)).await;
    fixture.receive().await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(receiver.request_count(), 2, "the other node posts");
    fixture.store.lead(true);
    posted(3).await;
    stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    fixture.running.stop().await;
}

/// Alice is Bob's mediator, and has no messages for him.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leading_node_alone_asks_a_mediator_for_messages() {
    // The mediator is known once the server has its port.
    let mediator: Arc<Mutex<Option<Arc<EmptyMediator>>>> = Arc::default();
    let answering = mediator.clone();
    let server = Server::http(move |request| {
        let mediator = answering.lock().unwrap().clone();
        async move {
            let packed = request.into_body().collect().await.unwrap().to_bytes();
            match mediator {
                Some(mediator) => response(200, mediator.answer(&packed).await),
                None => response(503, ""),
            }
        }
    });
    let server = server.await;
    let poll_interval = Duration::from_millis(50);
    let mediation = MediationOptions { websocket: false, poll_interval, ..MediationOptions::default() };
    let options = AgentOptions { mediation, ..AgentOptions::default() };
    let fixture = Fixture::start_with(false, Some(&server.url("/")), options).await;
    let (alice, bob) = (&fixture.people.alice, &fixture.people.bob);
    let fetches = Arc::<AtomicUsize>::default();
    let documents = [alice.document.clone(), bob.document.clone()];
    *mediator.lock().unwrap() = Some(Arc::new(EmptyMediator {
        identities: alice.identities.clone(),
        resolver: LocalResolver::new().with_documents(documents),
        fetches: fetches.clone(),
    }));
    let fetched = || fetches.load(Ordering::SeqCst);
    let agent = &fixture.running.agent;
    agent.mediation().add(&alice.did, &bob.did).await.unwrap();
    let state = async || agent.mediation().list().await.unwrap().pop().unwrap().state;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!((fetched(), state().await), (0, MediatorState::OtherNode));
    fixture.store.lead(true);
    until("messages are fetched", async || fetched() > 2).await;
    assert_eq!(state().await, MediatorState::Polling);
    fixture.store.lead(false);
    until("the conversation ends", async || state().await == MediatorState::OtherNode).await;
    let before = fetched();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(fetched(), before, "the other node fetches them");
    fixture.store.lead(true);
    until("messages are fetched again", async || fetched() > before).await;
    fixture.running.stop().await;
}

/// A mediator that grants all, and has nothing to deliver.
struct EmptyMediator {
    identities: claviger::didcomm::Identities,
    resolver: LocalResolver,
    fetches: Arc<AtomicUsize>,
}

impl EmptyMediator {
    async fn answer(&self, packed: &[u8]) -> String {
        let packed = std::str::from_utf8(packed).unwrap();
        let (request, _) =
            Message::unpack(packed, &self.resolver, &self.identities, &Default::default()).await.unwrap();
        let (piuri, name) = request.type_.rsplit_once('/').unwrap();
        let (name, body): (&str, Value) = match name {
            "queries" => ("disclose", json!({ "disclosures": [] })),
            "mediate-request" => ("mediate-grant", json!({ "routing_did": ["did:example:alice"] })),
            "recipient-update" => ("recipient-update-response", json!({ "updated": [] })),
            "delivery-request" => {
                self.fetches.fetch_add(1, Ordering::SeqCst);
                ("status", json!({ "message_count": 0 }))
            }
            other => panic!("the agent sends {other}"),
        };
        let (from, to) = ("did:example:alice", request.from.unwrap());
        let answer = Message::build(Message::new_id(), format!("{piuri}/{name}"), body).thid(&request.id);
        let answer = answer.from(from).to(&to).finalize();
        let packing = answer.encrypt_to(&to).from(from).forward(false);
        packing.pack(&self.resolver, &self.identities).await.unwrap().0
    }
}
