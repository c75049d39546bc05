//! A protocol that panics costs the agent one message.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use claviger::agent::{
    AgentOptions,
    protocol::{HandleError, Protocol, Received, Transaction},
};

use crate::running_agent::{Both, RunningAgent};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_handling_panics_is_given_up_and_others_are_handled() {
    let people = Both::new().await;
    let folder = tempfile::tempdir().unwrap();
    let panics = Arc::<AtomicUsize>::default();
    let mut options = AgentOptions::default();
    options.inbox.max_attempts = 2;
    let running = RunningAgent::start(&people, folder.path(), Fragile { panics: panics.clone() }, options).await;
    for name in ["break", "hold"] {
        running.post_accepted(&people.pack(&format!("{PIURI}/{name}")).await).await;
    }
    running.until_idle().await;
    assert_eq!(panics.load(Ordering::SeqCst), 2);
    let delivered: Vec<_> = running.deliveries().await.into_iter().map(|it| it.kind).collect();
    assert_eq!(delivered, [format!("{PIURI}/hold")]);
    let metrics = running.agent.metrics().await;
    assert!(metrics.contains("result=\"panicked\"} 1"), "{metrics}");
    running.stop().await;
}
