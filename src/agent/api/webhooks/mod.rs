//! The webhooks. Each posts its letters with a worker of its own, so that none waits for another one's receiver.
//!
//! - `worker.rs` posts letters in their order, `resender.rs` posts dead letters again, and `post.rs` makes one attempt.
//! - `acceptance.rs` acknowledges a message once each webhook that wants it has accepted it.
//! - `dead_letters.rs` keeps the letters that were set aside.
//! - `running.rs` has the state of a webhook.
//!
//! Of several nodes that share a store, the one that leads posts.

mod acceptance;
mod dead_letters;
mod letter;
mod post;
mod resender;
mod running;
mod worker;

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::webhook::Webhook;
use crate::{
    agent::{agent::Agent, leading::Leading, store::StoreError},
    net::HttpClient,
};
use acceptance::Acceptance;
use dead_letters::DeadLetters;
use resender::{Resender, conclude};
use worker::Worker;

pub(super) use dead_letters::DeadLetter;
pub(super) use letter::KeptLetter;
pub(super) use running::{RunningWebhook, Status};

/// The webhooks of an agent, and their dead letters.
pub struct Webhooks {
    agent: Arc<Agent>,
    dead: Arc<DeadLetters>,
    running: Mutex<Running>,
}

struct Running {
    webhooks: Vec<Arc<RunningWebhook>>,
    acceptance: Arc<Acceptance>,
}

impl Webhooks {
    /// No webhooks yet.
    pub fn new(agent: Arc<Agent>) -> Self {
        let dead = Arc::new(DeadLetters::new(agent.clone()));
        let acceptance = Arc::new(Acceptance::new(agent.clone(), dead.clone(), []));
        Self { agent, dead, running: Mutex::new(Running { webhooks: Vec::new(), acceptance }) }
    }

    /// Replaces all webhooks. Returns the task of each, which posts letters while this node leads, until `stop`. The tasks of
    /// the webhooks before must have ended: two tasks would post the same letters.
    pub fn replace(
        &self,
        webhooks: Vec<(Webhook, HttpClient)>,
        stop: &CancellationToken,
    ) -> Vec<impl Future<Output = ()> + Send + 'static> {
        let settings = webhooks.iter().map(|(webhook, _)| webhook);
        let acceptance = Arc::new(Acceptance::new(self.agent.clone(), self.dead.clone(), settings));
        let webhooks: Vec<_> =
            webhooks.into_iter().map(|(webhook, client)| Arc::new(RunningWebhook::new(webhook, client))).collect();
        if self.posts_here() {
            self.agent.metrics.set_webhooks(webhooks.iter().map(|webhook| webhook.name()));
        }
        self.record_events(&webhooks);
        *self.lock() = Running { webhooks: webhooks.clone(), acceptance: acceptance.clone() };
        webhooks.into_iter().map(|webhook| self.task(webhook, acceptance.clone(), stop.clone())).collect()
    }

    /// Has the agent record what the webhooks post, besides what it was told to record when it was built.
    fn record_events(&self, webhooks: &[Arc<RunningWebhook>]) {
        let kinds = webhooks.iter().flat_map(|webhook| webhook.webhook.options().event_kinds());
        let of_webhooks = kinds.filter_map(|kind| kind.parse().ok());
        self.agent.record_events(self.agent.options.recorded_events.iter().copied().chain(of_webhooks));
    }

    fn task(
        &self,
        webhook: Arc<RunningWebhook>,
        acceptance: Arc<Acceptance>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (agent, dead) = (self.agent.clone(), self.dead.clone());
        let resender = Resender {
            agent: agent.clone(),
            webhook: webhook.clone(),
            acceptance: acceptance.clone(),
            dead: dead.clone(),
        };
        let mut leading = Leading::of(&**agent.store());
        async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = leading.begins() => {}
                }
                agent.metrics.begin_webhook(webhook.name());
                let worker = Worker::new(agent.clone(), webhook.clone(), acceptance.clone(), dead.clone());
                tokio::select! {
                    () = worker.run(stop.clone()) => return,
                    () = resender.run() => {}
                    // The node that leads now has read the position, perhaps, and writes it.
                    () = leading.ends() => {}
                }
                webhook.leave();
                dead.forget();
                agent.metrics.end_webhooks();
            }
        }
    }

    /// Whether this node posts to the webhooks.
    pub(super) fn posts_here(&self) -> bool {
        Leading::of(&**self.agent.store()).is_now()
    }

    /// The webhooks, in configured order.
    pub(super) fn list(&self) -> Vec<Arc<RunningWebhook>> {
        self.lock().webhooks.clone()
    }

    /// The webhook with this name.
    pub(super) fn get(&self, name: &str) -> Option<Arc<RunningWebhook>> {
        self.lock().webhooks.iter().find(|webhook| webhook.name() == name).cloned()
    }

    /// The dead letters.
    pub(super) fn dead_letters(&self) -> &DeadLetters {
        &self.dead
    }

    /// Drops a dead letter. For a message this counts as accepted by the webhook, if the webhook still exists.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub(super) async fn drop_letter(&self, dead: &DeadLetter) -> Result<(), StoreError> {
        let acceptance = self.lock().acceptance.clone();
        let message = match &dead.letter {
            KeptLetter::Message { id, .. } if self.get(&dead.webhook).is_some() => self.dead.message(id).await?,
            KeptLetter::Message { .. } | KeptLetter::Event { .. } => None,
        };
        tracing::info!(id = dead.id(), "dead letter is dropped");
        conclude(&acceptance, &self.dead, &dead.webhook, dead.letter.id(), message.as_ref()).await
    }

    /// Removes the dead letters of messages that the application has acknowledged.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub(super) async fn acknowledged(&self, messages: &[String]) -> Result<(), StoreError> {
        if !self.posts_here() {
            // The node that leads removes them from time to time.
            return Ok(());
        }
        // Without a webhook, nobody has read them yet.
        match self.dead.load().await {
            Ok(()) => self.dead.remove_messages(messages).await,
            // Messages are acknowledged while the store is sealed, too. The webhooks remove their dead letters later.
            Err(StoreError::Unavailable(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
