//! Many messages of a thread whose first message cannot be sent: other threads pass them, and they are not read again and again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use claviger::{
    agent::{
        AgentOptions, OutgoingMessage, SendError, SendFault, SendLimits, Transport, Transports, WaitReason,
        new_message,
        protocol::{HandleError, Protocol, Received, Transaction},
        store::{OutboxEntry, SendState, SqliteOptions},
    },
    did::Service,
    keys::Curve,
    secrets::TokenError,
};
use serde_json::json;

use crate::{
    running_agent::{Both, RunningAgent},
    support::Person,
    watched_store::WatchedStore,
};

const PIURI: &str = "https://example.org/market/1.0";
/// The messages of the thread.
const MANY: usize = 150;

/// Takes all messages.
struct Market;

#[async_trait]
impl Protocol for Market {
    fn piuri(&self) -> &str {
        PIURI
    }

    async fn handle(&self, _: &Received, _: &mut Transaction<'_>) -> Result<(), HandleError> {
        Ok(())
    }
}

/// The way to Alice: counts the attempts.
#[derive(Clone, Default)]
struct Line {
    is_down: Arc<AtomicBool>,
    attempts: Arc<AtomicUsize>,
}

#[async_trait]
impl Transport for Line {
    fn schemes(&self) -> &[&str] {
        &["line"]
    }

    async fn send(&self, _uri: &str, _packed: &str, _limits: SendLimits) -> Result<Vec<String>, SendError> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        match self.is_down.load(Ordering::SeqCst) {
            true => Err(SendError { fault: SendFault::Unreachable, ..SendError::retryable("the line is down") }),
            false => Ok(Vec::new()),
        }
    }
}

/// Bob's agent.
struct Fixture {
    people: Both,
    running: RunningAgent,
    store: Arc<WatchedStore>,
    line: Line,
    _folder: tempfile::TempDir,
}

impl Fixture {
    async fn start(first_pause: Duration, longest_pause: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = Some(Service::didcomm("line://alice", []));
        let alice = Person::with_service("alice", &[Curve::X25519], &[Curve::Ed25519], service).await;
        let people = Both { alice, ..Both::new().await };
        let inner = RunningAgent::open_store(folder.path(), SqliteOptions::default());
        let store = WatchedStore::new(inner.clone());
        let mut options = AgentOptions::default();
        (options.outbox.first_pause, options.outbox.longest_pause) = (first_pause, longest_pause);
        options.outbox.longest_origin_pause = longest_pause.min(options.outbox.longest_origin_pause);
        let line = Line::default();
        let transports = Transports::default().with(line.clone());
        let running = RunningAgent::start_with(&people, inner, store.clone(), Market, options, transports).await;
        let fixture = Self { people, running, store, line, _folder: folder };
        // Now the store is unlocked.
        fixture.running.post_accepted(&fixture.people.pack(&format!("{PIURI}/tell")).await).await;
        fixture.running.until_idle().await;
        fixture
    }

    /// Writes to Alice in this thread. Returns the id in the outbox.
    async fn send(&self, thread: &str) -> String {
        let message = new_message(&format!("{PIURI}/tell"), json!({})).from(&*self.people.bob.did);
        let message = message.to(&*self.people.alice.did).thid(thread).finalize();
        self.running.agent.send(&OutgoingMessage::new(message)).await.unwrap()
    }

    /// Writes to Alice in this thread, and has the token refuse the message. A token that has not answered a moment ago is asked
    /// again, so this may take several messages. Returns the id in the outbox.
    async fn postponed(&self, thread: &str) -> String {
        for _ in 0..20 {
            self.people.bob.token.fail_next(1, TokenError::Refused("a test".to_owned()));
            let id = self.send(thread).await;
            let is_tried = |entry: OutboxEntry| entry.state != SendState::Waiting || entry.problem.is_some();
            until("the message is tried", async || is_tried(self.entry(&id).await)).await;
            if self.entry(&id).await.state == SendState::Waiting {
                return id;
            }
        }
        panic!("the token is asked again each time");
    }

    async fn entry(&self, id: &str) -> OutboxEntry {
        self.running.agent.outbox_entry(id).await.unwrap().unwrap()
    }

    async fn until_sent(&self, ids: &[String]) {
        for id in ids {
            until("the messages are sent", async || self.entry(id).await.state == SendState::Sent).await;
        }
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The token has refused the first message, which waits for hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_thread_passes_many_messages_behind_a_postponed_one() {
    let hours = Duration::from_secs(1_000_000);
    let fixture = Fixture::start(hours, hours).await;
    let first = fixture.postponed("a").await;
    let before = fixture.line.attempts.load(Ordering::SeqCst);
    let mut of_thread = vec![first.clone()];
    for _ in 0..MANY {
        of_thread.push(fixture.send("a").await);
    }
    let other = fixture.send("b").await;
    fixture.until_sent(&[other]).await;
    fixture.store.take_calls();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let reads = fixture.store.calls_of("outbox_entries");
    assert!(reads < 10, "{reads} reads while nothing happens");
    assert_eq!(fixture.line.attempts.load(Ordering::SeqCst), before + 1);
    let wait = fixture.running.agent.wait_of(&fixture.entry(&first).await).unwrap();
    assert_eq!(wait.reason, WaitReason::Token);
    // Somebody asks for an attempt. The others follow.
    fixture.running.agent.retry(&first).await.unwrap();
    fixture.until_sent(&of_thread).await;
    fixture.running.stop().await;
}

/// The first message would wait for hours, and is cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_does_not_wait_for_a_cancelled_message() {
    let hours = Duration::from_secs(1_000_000);
    let fixture = Fixture::start(hours, hours).await;
    let first = fixture.postponed("a").await;
    let next = fixture.send("a").await;
    let other = fixture.send("b").await;
    fixture.until_sent(&[other]).await;
    assert_eq!(fixture.entry(&next).await.state, SendState::Waiting);
    fixture.running.agent.cancel(&first).await.unwrap();
    fixture.until_sent(&[next]).await;
    fixture.running.stop().await;
}

/// A table is damaged, or the database's role may not change it. What is sent can be read all the same, as if it waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_sent_once_if_the_store_refuses_to_record_it() {
    let fixture = Fixture::start(Duration::from_millis(50), Duration::from_millis(50)).await;
    fixture.store.refuse_outcomes(true);
    let ids = [fixture.send("a").await, fixture.send("a").await];
    let attempts = || fixture.line.attempts.load(Ordering::SeqCst);
    until("the messages are sent", async || attempts() >= 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(attempts(), 2);
    assert_eq!(fixture.entry(&ids[0]).await.state, SendState::Waiting);
    fixture.store.refuse_outcomes(false);
    fixture.until_sent(&ids).await;
    assert_eq!(attempts(), 2);
    fixture.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_after_a_failure_reads_few_messages() {
    let fixture = Fixture::start(Duration::from_millis(50), Duration::from_millis(50)).await;
    fixture.line.is_down.store(true, Ordering::SeqCst);
    let mut ids = Vec::new();
    for _ in 0..MANY {
        ids.push(fixture.send("a").await);
    }
    let other = fixture.send("b").await;
    until("the other thread is tried", async || fixture.entry(&other).await.tries > 0).await;
    fixture.store.take_calls();
    let tries = async || fixture.entry(&ids[0]).await.tries;
    let before = tries().await;
    until("the first one is tried again", async || tries().await >= before + 10).await;
    let reads = fixture.store.calls_of("outbox_entries");
    assert!(reads < 100, "{reads} reads for ten attempts of each");
    fixture.line.is_down.store(false, Ordering::SeqCst);
    ids.push(other);
    fixture.until_sent(&ids).await;
    fixture.running.stop().await;
}
