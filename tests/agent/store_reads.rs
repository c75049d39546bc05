//! What a message asks of the store, and that what the agent remembers instead is never wrong for long.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use claviger::{
    agent::{
        AgentOptions, ContactChange, Label, OutgoingMessage, SendError, SendLimits, Transport, Transports, new_message,
        protocol::{HandleError, Protocol, Received, Transaction},
        store::{Change, Commit, Record, SqliteOptions, UNREAD},
    },
    did::Service,
    didcomm::Message,
    keys::Curve,
};
use serde_json::json;

use crate::{
    running_agent::{Both, RunningAgent},
    support::Person,
    watched_store::{Calls, WatchedStore},
};

const PIURI: &str = "https://example.org/market/1.0";

/// Delivers all, and answers `ask`.
struct Market;

#[async_trait]
impl Protocol for Market {
    fn piuri(&self) -> &str {
        PIURI
    }

    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        tx.deliver();
        if received.is("ask") {
            tx.answer(&format!("{PIURI}/told"), json!({}), |message| message);
        }
        Ok(())
    }
}

/// Takes all messages.
struct Sink;

#[async_trait]
impl Transport for Sink {
    fn schemes(&self) -> &[&str] {
        &["sink"]
    }

    async fn send(&self, _uri: &str, _packed: &str, _limits: SendLimits) -> Result<Vec<String>, SendError> {
        Ok(Vec::new())
    }
}

struct Fixture {
    people: Both,
    running: RunningAgent,
    store: Arc<WatchedStore>,
    /// Whether the agent has a transport to Alice.
    sends: bool,
    folder: tempfile::TempDir,
}

impl Fixture {
    /// Starts Bob's agent.
    async fn start(limits: SqliteOptions, sends: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = Some(Service::didcomm("sink://alice", []));
        let alice = Person::with_service("alice", &[Curve::X25519], &[Curve::Ed25519], service).await;
        Self::start_in(folder, Both { alice, ..Both::new().await }, limits, sends).await
    }

    async fn start_in(folder: tempfile::TempDir, people: Both, limits: SqliteOptions, sends: bool) -> Self {
        let inner = RunningAgent::open_store(folder.path(), limits);
        let store = WatchedStore::new(inner.clone());
        let options = AgentOptions::default();
        let transports = if sends { Transports::default().with(Sink) } else { Transports::default() };
        let running = RunningAgent::start_with(&people, inner, store.clone(), Market, options, transports).await;
        Self { people, running, store, sends, folder }
    }

    /// Ends the agent, and starts it anew.
    async fn restart(self) -> Self {
        self.running.stop().await;
        Self::start_in(self.folder, self.people, SqliteOptions::default(), self.sends).await
    }

    /// Starts Bob's agent, to which Alice becomes known.
    async fn start_with_contact() -> Self {
        let fixture = Self::start(SqliteOptions::default(), true).await;
        fixture.receive("tell").await;
        fixture.make_known().await;
        fixture.receive("tell").await;
        fixture
    }

    async fn make_known(&self) {
        let label = Some(Some(Label::parse("Alice").unwrap()));
        let change = ContactChange { label, ..ContactChange::default() };
        self.running.agent.change_contact(&self.people.alice.did, &change).await.unwrap();
    }

    /// Receives a message of Alice. Returns the calls until it is handled and the answer is sent, and how many messages were
    /// delivered.
    async fn receive(&self, name: &str) -> (Calls, usize) {
        self.receive_with(name, |_| {}).await
    }

    async fn receive_with(&self, name: &str, change: fn(&mut Message)) -> (Calls, usize) {
        let before = self.running.deliveries().await.len();
        let packed = self.people.pack_with(&format!("{PIURI}/{name}"), change).await;
        self.store.take_calls();
        self.running.post_accepted(&packed).await;
        self.running.until_idle().await;
        self.until_sent().await;
        (self.store.take_calls(), self.running.deliveries().await.len() - before)
    }

    /// Like `receive`, for a message that is opened before it is stored. A busy machine may store it first.
    async fn receive_quickly(&self, name: &str) -> Calls {
        for _ in 0..50 {
            let (calls, delivered) = self.receive(name).await;
            assert_eq!(delivered, 1);
            if !calls.contains_key("receive") {
                return calls;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("all messages are stored first");
    }

    async fn until_sent(&self) {
        while self.sends && self.store.unwatched().usage().await.unwrap().outgoing > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The sealed record of a kind and key.
    async fn sealed(&self, kind: &str, key: &str) -> Record {
        let found = self.store.unwatched().record(kind, key).await.unwrap().expect("the record exists");
        Record { revision: UNREAD, ..found }
    }

    async fn sealed_connection(&self) -> Record {
        self.sealed("connection", &format!("{} {}", self.people.bob.did, self.people.alice.did)).await
    }

    fn write_elsewhere(&self, changes: impl Into<Vec<Change>>) {
        self.store.commit_elsewhere(Commit { changes: changes.into(), ..Commit::default() });
    }
}

fn calls(expected: impl IntoIterator<Item = (&'static str, u64)>) -> Calls {
    expected.into_iter().collect()
}

/// The table of what each kind of message asks of the store. A change here belongs into the decision record 0172.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_from_a_known_peer_reads_nothing() {
    let fixture = Fixture::start(SqliteOptions::default(), true).await;
    let reading = calls([("commit", 1), ("records_at", 1)]);
    fixture.receive("tell").await;
    // What a message writes is forgotten, and the next message reads it.
    assert_eq!(fixture.receive("tell").await.0.get("records_at"), Some(&1));
    fixture.make_known().await;
    assert_eq!(fixture.receive_quickly("tell").await, reading, "the first message after a change");
    for _ in 0..5 {
        assert_eq!(fixture.receive_quickly("tell").await, calls([("commit", 1)]));
    }

    // What the agent cannot take back, or does not remember.
    let (with_route, _) = fixture.receive_with("tell", |message| message.return_route = Some("all".to_owned())).await;
    assert_eq!(with_route, calls([("commit", 1), ("is_certainly_new", 1), ("receive", 1)]));
    let (with_parent, _) = fixture.receive_with("tell", |message| message.pthid = Some("parent".to_owned())).await;
    assert_eq!(with_parent.get("record"), Some(&1));

    // The answer is sent. Nothing compares what is sent with the store, so what is remembered is read again after a second.
    let answered = fixture.receive_quickly("ask").await;
    let sent = |reads| calls([("commit", 1), ("record_send_outcome", 1), ("records_at", reads)]);
    let without_search = |calls: &Calls| {
        let mut calls = calls.clone();
        assert!(calls.remove("outbox_entries").is_some());
        calls
    };
    assert!([0, 1].iter().any(|reads| without_zero(sent(*reads)) == without_search(&answered)), "{answered:?}");

    // A message of the application's.
    let message = new_message(&format!("{PIURI}/tell"), json!({})).from(&*fixture.people.bob.did);
    let message = OutgoingMessage::new(message.to(&*fixture.people.alice.did).finalize());
    fixture.running.agent.send(&message).await.unwrap();
    fixture.until_sent().await;
    fixture.store.take_calls();
    fixture.running.agent.send(&message).await.unwrap();
    fixture.until_sent().await;
    let calls = without_search(&fixture.store.take_calls());
    assert!([0, 1].iter().any(|reads| without_zero(sent(*reads)) == calls), "{calls:?}");
    fixture.running.stop().await;
}

fn without_zero(mut calls: Calls) -> Calls {
    calls.retain(|_, count| *count > 0);
    calls
}

/// The first message of a new stranger reads nothing. A stranger that has written before a restart of the agent is taken to be
/// new as well, until the commit says otherwise; a known peer is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_a_sender_is_new_is_not_read() {
    // Right after the start, and on a busy machine, a message is stored first.
    for attempt in 1.. {
        assert!(attempt < 20, "all messages are stored first");
        let wait = || tokio::time::sleep(Duration::from_millis(100 * attempt));
        let fixture = Fixture::start(SqliteOptions::default(), true).await;
        wait().await;
        let (new, delivered) = fixture.receive("tell").await;
        assert_eq!(delivered, 1);
        let fixture = fixture.restart().await;
        wait().await;
        let (again, delivered) = fixture.receive("tell").await;
        assert_eq!(delivered, 1);
        fixture.make_known().await;
        let fixture = fixture.restart().await;
        wait().await;
        let (known, delivered) = fixture.receive("tell").await;
        assert_eq!(delivered, 1);
        fixture.running.stop().await;
        if [&new, &again, &known].iter().all(|calls| !calls.contains_key("receive")) {
            assert_eq!(new, calls([("commit", 1)]));
            assert_eq!(again, calls([("commit", 2), ("records_at", 1)]));
            assert_eq!(known, calls([("commit", 1), ("records_at", 1)]));
            return;
        }
    }
}

/// Another process changes the connection between the read and the commit, or deletes it and makes it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_handled_again_if_what_is_remembered_has_changed() {
    let fixture = Fixture::start_with_contact().await;
    let connection = fixture.sealed_connection().await;
    let Record { kind, key, .. } = connection.clone();
    let anew = vec![Change::Delete { kind, key }, Change::Put(connection.clone())];
    for changes in [vec![Change::Put(connection)], anew] {
        fixture.receive_quickly("tell").await;
        fixture.write_elsewhere(changes);
        let (calls_made, delivered) = fixture.receive("tell").await;
        assert_eq!((delivered, calls_made["commit"], calls_made["records_at"]), (1, 2, 1), "{calls_made:?}");
        assert_eq!(fixture.receive_quickly("tell").await, calls([("commit", 1)]));
    }
    fixture.running.stop().await;
}

/// Another process ends the relationship, or blocks the peer, while a message of it is handled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_process_has_decided_about_a_peer_holds() {
    let fixture = Fixture::start_with_contact().await;
    let (agent, alice, bob) = (&fixture.running.agent, &fixture.people.alice.did, &fixture.people.bob.did);
    agent.end_relationship(bob, alice, None).await.unwrap();
    let ended = fixture.sealed_connection().await;
    agent.resume_relationship(bob, alice).await.unwrap();
    fixture.receive_quickly("tell").await;
    fixture.write_elsewhere([Change::Put(ended)]);
    for message in ["ask", "tell", "ask"] {
        let (calls, delivered) = fixture.receive(message).await;
        assert_eq!((delivered, calls.get("record_send_outcome")), (0, None));
    }
    agent.resume_relationship(bob, alice).await.unwrap();

    let block = async |blocked| {
        let change = ContactChange { blocked: Some(blocked), ..ContactChange::default() };
        agent.change_contact(alice, &change).await.unwrap();
    };
    block(true).await;
    let blocked = fixture.sealed("blocked", alice).await;
    block(false).await;
    fixture.receive_quickly("tell").await;
    fixture.write_elsewhere([Change::Put(blocked)]);
    let (calls_made, delivered) = fixture.receive("ask").await;
    // The second commit removes the envelope.
    assert_eq!((delivered, calls_made["commit"], agent.is_blocked(alice)), (0, 2, true));
    assert_eq!(fixture.receive("ask").await, (calls([]), 0), "the next message is dropped on arrival");
    fixture.running.stop().await;
}

/// The commit finds that too many replies wait, and the message is handled again without a reply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_beyond_the_quota_are_dropped() {
    let limits = SqliteOptions { max_replies_to: 2, ..SqliteOptions::default() };
    let fixture = Fixture::start(limits, false).await;
    for (message, waiting) in [("ask", 1), ("ask", 2), ("ask", 2), ("tell", 2), ("ask", 2)] {
        let (calls, delivered) = fixture.receive(message).await;
        assert_eq!((delivered, calls.get("peer_quota")), (1, None));
        assert_eq!(fixture.store.unwatched().usage().await.unwrap().outgoing, waiting);
    }
    fixture.running.stop().await;
}
