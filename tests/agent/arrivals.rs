//! Which messages are opened before their envelopes are stored.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use claviger::{
    agent::{
        AgentOptions,
        protocol::{HandleError, Protocol, Received, Transaction},
        store::{Attribution, Commit, CommitOutcome, NewEnvelope, Store},
    },
    jose::{Envelope, Limits},
};

use crate::running_agent::{Both, RunningAgent};

const PIURI: &str = "https://example.org/patient/1.0";

/// Takes half a second for the message `slow`, and delivers all.
struct Patient;

#[async_trait]
impl Protocol for Patient {
    fn piuri(&self) -> &str {
        PIURI
    }

    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        if received.is("slow") {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        tx.deliver();
        Ok(())
    }
}

async fn start(people: &Both, folder: &tempfile::TempDir) -> RunningAgent {
    RunningAgent::start(people, folder.path(), Patient, AgentOptions::default()).await
}

/// Posts a new message, and returns how many transactions it took until nothing was pending.
async fn transactions(running: &RunningAgent, people: &Both, name: &str) -> u64 {
    let packed = people.pack(&format!("{PIURI}/{name}")).await;
    let before = running.store.commits();
    running.post_accepted(&packed).await;
    running.until_idle().await;
    running.store.commits() - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_opened_at_once_takes_one_transaction() {
    let (people, folder) = (Both::new().await, tempfile::tempdir().unwrap());
    let running = start(&people, &folder).await;
    // Until the digests in the store are read, and while the machine is too busy, envelopes are stored first.
    let mut least = u64::MAX;
    for _ in 0..50 {
        least = least.min(transactions(&running, &people, "quick").await);
        if least == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(least, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_takes_long_is_stored_and_answered() {
    let (people, folder) = (Both::new().await, tempfile::tempdir().unwrap());
    let running = start(&people, &folder).await;
    transactions(&running, &people, "quick").await;
    let packed = people.pack(&format!("{PIURI}/slow")).await;
    running.post_accepted(&packed).await;
    assert_eq!((running.pending().await, running.deliveries().await.len()), (1, 1));
    // A copy is answered, and changes nothing.
    running.post_accepted(&packed).await;
    assert_eq!(running.pending().await, 1);
    running.until_idle().await;
    running.post_accepted(&packed).await;
    assert_eq!((running.pending().await, running.deliveries().await.len()), (0, 2));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_envelope_costs_no_operation_also_after_a_restart() {
    let (people, folder) = (Both::new().await, tempfile::tempdir().unwrap());
    let running = start(&people, &folder).await;
    let mut packed = Vec::new();
    for _ in 0..5 {
        packed.push(people.pack(&format!("{PIURI}/quick")).await);
        running.post_accepted(packed.last().unwrap()).await;
    }
    running.until_idle().await;
    let before = running.operations().await;
    assert!(before >= 5.0, "{before}");
    for copy in &packed {
        running.post_accepted(copy).await;
    }
    running.until_idle().await;
    assert_eq!(running.operations().await, before);
    running.stop().await;

    let running = start(&people, &folder).await;
    // From now on, new envelopes are opened before they are stored.
    transactions(&running, &people, "quick").await;
    let before = running.operations().await;
    for copy in &packed {
        running.post_accepted(copy).await;
    }
    running.until_idle().await;
    assert_eq!(running.operations().await, before);
    assert_eq!(running.deliveries().await.len(), 6);
    running.stop().await;
}

/// Copies that arrive at once are opened once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_arrive_together_are_opened_once() {
    let (people, folder) = (Both::new().await, tempfile::tempdir().unwrap());
    let running = start(&people, &folder).await;
    transactions(&running, &people, "quick").await;
    for _ in 0..20 {
        let packed = people.pack(&format!("{PIURI}/quick")).await;
        let before = running.operations().await;
        let posts = futures_util::future::join_all((0..8).map(|_| running.post_accepted(&packed)));
        posts.await;
        running.until_idle().await;
        assert_eq!(running.operations().await - before, 1.0);
    }
    assert_eq!(running.deliveries().await.len(), 21);
    running.stop().await;
}

/// The memory for digests is limited, so an envelope may look new that was processed long ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_that_was_processed_long_ago_does_nothing() {
    let (people, folder) = (Both::new().await, tempfile::tempdir().unwrap());
    let running = start(&people, &folder).await;
    transactions(&running, &people, "quick").await;
    let packed = people.pack(&format!("{PIURI}/slow")).await;
    let Envelope::Encrypted(jwe) = Envelope::parse(packed.as_bytes(), &Limits::default()).unwrap() else { panic!() };
    let envelope = NewEnvelope {
        packed: packed.clone().into_bytes(),
        digest: jwe.digest(),
        recipient: people.bob.did.clone(),
        sender: None,
        received: 0,
        attribution: Attribution::Fetched,
        keys: Vec::new(),
    };
    let processed = Commit { arrived: Some(Arc::new(envelope)), ..Commit::default() };
    assert_eq!(running.store.commit(processed).await.unwrap(), CommitOutcome::Committed);
    running.post_accepted(&packed).await;
    // The worker has ended when another message of this kind is handled.
    transactions(&running, &people, "slow").await;
    let threads: Vec<_> = running.deliveries().await.into_iter().map(|it| it.kind).collect();
    assert_eq!(threads, [format!("{PIURI}/quick"), format!("{PIURI}/slow")]);
    running.stop().await;
}

/// Connections that are closed at once leave no envelope behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_closed_connections_are_handled_once() {
    let (people, folder) = (Both::new().await, tempfile::tempdir().unwrap());
    let running = start(&people, &folder).await;
    transactions(&running, &people, "quick").await;
    for round in 0..40 {
        let name = if round % 10 == 0 { "slow" } else { "quick" };
        let packed = people.pack(&format!("{PIURI}/{name}")).await;
        running.post_and_leave(&packed).await;
        running.post_and_leave(&packed).await;
        running.post_accepted(&packed).await;
    }
    running.until_idle().await;
    let delivered = running.deliveries().await;
    let messages: HashSet<_> = delivered.iter().map(|delivery| &delivery.message).collect();
    assert_eq!((delivered.len(), messages.len()), (41, 41));
    running.stop().await;
}
