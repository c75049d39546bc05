//! Posts dead letters again, if the operator asks for it. Each gets one attempt, whatever its webhook waits for.

use std::sync::Arc;

use super::{
    acceptance::Acceptance,
    dead_letters::{DeadLetter, DeadLetters},
    letter::{KeptLetter, Letter},
    post::post,
    running::RunningWebhook,
    worker::retry,
};
use crate::agent::{
    agent::Agent,
    clock::now,
    store::{Delivery, StoreError, StoredEvent},
};

/// Posts the dead letters of a webhook again.
pub(super) struct Resender {
    pub agent: Arc<Agent>,
    pub webhook: Arc<RunningWebhook>,
    pub acceptance: Arc<Acceptance>,
    pub dead: Arc<DeadLetters>,
}

impl Resender {
    /// Posts dead letters as they are asked for, for ever.
    pub async fn run(&self) {
        loop {
            let id = self.webhook.next_resend().await;
            retry(|| self.resend(&id)).await;
            self.webhook.resent(&id);
        }
    }

    /// Makes one attempt. A letter that is accepted is no dead letter any more.
    async fn resend(&self, id: &str) -> Result<(), StoreError> {
        let Some(dead) = self.dead.get(id).await? else { return Ok(()) };
        let letter = match dead.letter.clone() {
            KeptLetter::Message { id, .. } => match self.dead.message(&id).await? {
                Some(message) => Letter::Message(message),
                // It was acknowledged or deleted meanwhile.
                None => return self.dead.remove(&dead.webhook, &id).await,
            },
            // A letter that was set aside is behind its webhook, which does not need the cursor any more.
            KeptLetter::Event { id, time, kind, data } => {
                Letter::Event(id, StoredEvent { cursor: 0, time, kind, data })
            }
        };
        let body = letter.body(&self.agent).await?;
        let RunningWebhook { webhook, client, .. } = &*self.webhook;
        match post(webhook, client, letter.id(), body).await {
            Ok(()) => {
                self.agent.metrics.webhook_answered(self.webhook.name(), "accepted");
                tracing::info!(id, "dead letter is accepted");
                let message = match &letter {
                    Letter::Message(message) => Some(message),
                    Letter::Event(..) => None,
                };
                retry(|| conclude(&self.acceptance, &self.dead, &dead.webhook, letter.id(), message)).await;
            }
            Err(failure) => {
                self.agent.metrics.webhook_answered(self.webhook.name(), failure.fault.name());
                tracing::info!(id, reason = failure.problem, "dead letter is not accepted");
                let (status, problem, time) = (failure.status, &failure.problem, now());
                let failed = |dead: &mut DeadLetter| {
                    dead.attempts = dead.attempts.saturating_add(1);
                    (dead.status, dead.problem, dead.time) = (status, problem.clone(), time);
                };
                retry(|| self.dead.record_failure(id, failed)).await;
            }
        }
        Ok(())
    }
}

/// Removes a dead letter that is accepted or dropped. First the letter, then the acknowledgement: another webhook that
/// accepts the message meanwhile sees one of the two.
pub(super) async fn conclude(
    acceptance: &Acceptance,
    dead: &DeadLetters,
    webhook: &str,
    letter: &str,
    message: Option<&Delivery>,
) -> Result<(), StoreError> {
    dead.remove(webhook, letter).await?;
    match message {
        Some(message) => acceptance.acknowledge(webhook, message).await,
        None => Ok(()),
    }
}
