//! The tasks of the outbox: one for each peer, which sends its messages and pauses while the peer is unreachable.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{pack::PackError, state::Outbox, transport::SendError};
use crate::agent::{
    clock::{Millis, full_jitter, now},
    spans::SPAN_TARGET,
    store::types::{OutboxEntry, SendOutcome},
};

/// The result of an attempt, in ascending order. The largest of several results decides whether the peer's task pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Attempt {
    /// The message was sent, or will never be sent.
    Concluded,
    /// The message was not tried: a token or the store is unavailable, or the agent shuts down. The entry is not
    /// skipped, so `concurrent_per_peer` such messages hold up all later messages to the peer, even messages from DIDs
    /// of ours whose token is ready.
    Deferred,
    /// The peer is unreachable, or asks us to wait. The next attempt is after this pause.
    PeerUnavailable(Duration),
}

/// How long the task waits for a token, unless a key changes earlier.
const TOKEN_PAUSE: Duration = Duration::from_secs(5);
/// How long the task waits after a failure of the store.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// The most failed messages that a task skips until it has tried the others. Skipping keeps one message from blocking
/// the others.
const MAX_SKIPPED: usize = 100;
/// The first pause before an outcome is written again, and the longest pause.
const FIRST_WRITE_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_WRITE_PAUSE: Duration = Duration::from_secs(5);

impl Outbox {
    /// Sends messages until `shutdown` is cancelled, and then completes the running attempts.
    pub async fn work(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        // Nothing can be packed before a token unlocks the store.
        tokio::select! {
            () = self.parts.store.unlocked() => {}
            () = shutdown.cancelled() => return,
        }
        loop {
            match self.parts.store.inner().outbox_peers().await {
                Ok(peers) => break peers.iter().for_each(|peer| self.parts.wakeups.wake(peer)),
                Err(error) => tracing::warn!(%error, "outbox not read"),
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
        loop {
            for (peer, wakeup) in self.parts.wakeups.take_new() {
                tasks.spawn(self.clone().serve_peer(peer, wakeup, shutdown.clone()));
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.parts.wakeups.added() => {}
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "outbox task panicked");
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn serve_peer(self: Arc<Self>, peer: String, wakeup: Arc<Notify>, shutdown: CancellationToken) {
        // How many times in a row the peer was unreachable, and the messages that failed during that time.
        let mut failures: u32 = 0;
        let mut skipped: Vec<String> = Vec::new();
        while !shutdown.is_cancelled() {
            let limit = if failures == 0 { self.parts.options.concurrent_per_peer } else { 1 };
            let batch = match self.parts.store.inner().outbox_entries(&peer, &skipped, limit).await {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::warn!(%error, "outbox not read");
                    self.pause(STORE_PAUSE, Attempt::Deferred, &peer, &wakeup, &shutdown).await;
                    continue;
                }
            };
            if batch.is_empty() && !skipped.is_empty() {
                skipped.clear();
                continue;
            }
            if batch.is_empty() {
                return self.end_task(&peer).await;
            }
            let attempts = join_all(batch.iter().map(|entry| self.attempt(entry, failures + 1, &shutdown))).await;
            match attempts.iter().max() {
                None | Some(Attempt::Concluded) => {
                    failures = 0;
                    skipped.clear();
                }
                Some(Attempt::Deferred) => {
                    self.pause(TOKEN_PAUSE, Attempt::Deferred, &peer, &wakeup, &shutdown).await;
                }
                Some(attempt @ Attempt::PeerUnavailable(pause)) => {
                    failures = failures.saturating_add(1);
                    skipped.extend(batch.into_iter().map(|entry| entry.id));
                    if skipped.len() > MAX_SKIPPED {
                        skipped.clear();
                    }
                    self.pause(*pause, *attempt, &peer, &wakeup, &shutdown).await;
                }
            }
        }
    }

    /// Ends a peer's task. If a message for the peer was added meanwhile, a new task is started.
    async fn end_task(&self, peer: &str) {
        self.parts.wakeups.remove(peer);
        match self.parts.store.inner().outbox_entries(peer, &[], 1).await {
            Ok(rest) if rest.is_empty() => {}
            _ => self.parts.wakeups.wake(peer),
        }
    }

    /// Waits until the pause is over. A wakeup announces a new message or a new return route; only a return route ends
    /// the pause. A change of the keys ends the pause of a deferred message.
    async fn pause(&self, pause: Duration, reason: Attempt, peer: &str, wakeup: &Notify, shutdown: &CancellationToken) {
        let until = Instant::now() + pause;
        let mut keys = self.parts.own_dids.secrets().keys();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = shutdown.cancelled() => return,
                Ok(()) = keys.changed(), if reason == Attempt::Deferred => return,
                () = wakeup.notified() => if self.parts.routes.has_any_route(peer) { return },
            }
        }
    }

    /// Tries to send one message once. `failures` is the number of failures in a row if this attempt fails.
    async fn attempt(&self, entry: &OutboxEntry, failures: u32, shutdown: &CancellationToken) -> Attempt {
        let Ok(_permit) = self.permits.acquire().await else { return Attempt::Deferred };
        let begun = now();
        if begun >= entry.expires {
            self.record_outcome(entry, SendOutcome::Expired(begun), shutdown).await;
            return Attempt::Concluded;
        }
        let span = tracing::info_span!(target: SPAN_TARGET, "send", message = entry.message, tries = entry.tries);
        let error = match self.send(entry).instrument(span).await {
            Ok(()) => {
                self.record_outcome(entry, SendOutcome::Sent(now()), shutdown).await;
                return Attempt::Concluded;
            }
            Err(PackError::TokenUnavailable(reason)) => {
                tracing::info!(id = entry.message, reason, "message waits for a token");
                self.parts.metrics.send_attempted(&entry.kind, "token-away");
                return Attempt::Deferred;
            }
            Err(PackError::Failed(error)) => error,
        };
        if !error.is_retryable {
            tracing::warn!(id = entry.message, reason = error.reason, "message not sent, and given up");
            self.record_outcome(entry, SendOutcome::Failed(now(), error.reason), shutdown).await;
            return Attempt::Concluded;
        }
        // Full jitter: any time up to a maximum that doubles with each failure.
        let options = &self.parts.options;
        let backoff = full_jitter(options.first_pause, options.longest_pause, failures);
        let pause = error.retry_after.unwrap_or_default().min(options.longest_pause).max(backoff);
        let next = begun.saturating_add(Millis::try_from(pause.as_millis()).unwrap_or(Millis::MAX));
        tracing::info!(id = entry.message, tries = entry.tries + 1, reason = error.reason, "message not sent yet");
        self.record_outcome(entry, SendOutcome::Later(next, error.reason), shutdown).await;
        Attempt::PeerUnavailable(pause)
    }

    /// Sends a message on an open connection of the peer, or to the endpoint in the peer's document.
    async fn send(&self, entry: &OutboxEntry) -> Result<(), PackError> {
        let on_return_route = self.parts.routes.has_route(&entry.peer, &entry.thread);
        let packed = self.pack(entry, on_return_route).await?;
        let failed = |error| Err(PackError::Failed(error));
        if on_return_route {
            return match self.parts.routes.send(&entry.peer, &entry.thread, &packed.text).await {
                true => Ok(()),
                false => failed(SendError::retryable("the peer's connection has ended")),
            };
        }
        let Some(uri) = &packed.uri else {
            return failed(SendError::retryable(
                "the peer's document names no endpoint: the message waits until the peer connects",
            ));
        };
        let Some(transport) = self.parts.transports.for_uri(uri) else {
            return failed(SendError::permanent(format!("the peer's endpoint is {uri}, which no transport serves")));
        };
        for returned in transport.send(uri, &packed.text).await.map_err(PackError::Failed)? {
            if let Err(error) = self.parts.inbox.accept_fetched(returned.into_bytes()).await {
                tracing::warn!(%error, "returned message not accepted");
            }
        }
        Ok(())
    }

    /// Records the outcome of an attempt. Retries until the store accepts the outcome, because a lost outcome makes the
    /// agent send the message twice. An outcome is lost only if the agent ends while its disk is full. Then the
    /// receiver recognizes the message id and ignores the second copy.
    async fn record_outcome(&self, entry: &OutboxEntry, outcome: SendOutcome, shutdown: &CancellationToken) {
        let result = match outcome {
            SendOutcome::Sent(_) => "sent",
            SendOutcome::Later(..) => "later",
            SendOutcome::Failed(..) => "failed",
            SendOutcome::Expired(_) => "expired",
        };
        self.parts.metrics.send_attempted(&entry.kind, result);
        let mut pause = FIRST_WRITE_PAUSE;
        while let Err(error) = self.parts.store.inner().record_send_outcome(&entry.id, outcome.clone()).await {
            tracing::warn!(%error, "send outcome not recorded");
            if !error.is_retryable() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_WRITE_PAUSE);
        }
    }
}
