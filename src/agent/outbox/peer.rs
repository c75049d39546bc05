//! The task of one peer: sends what waits for it, and pauses when it is not there.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::Instrument;

use super::{Outbox, SendError, pack::NotPacked};
use crate::agent::{
    SPANS,
    clock::{full_jitter, now},
    store::{Millis, Outgoing, SendOutcome},
    told_to_end,
};

/// What a try came to, the mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tried {
    /// It is done with, one way or the other.
    Done,
    /// A token of ours is not ready.
    TokenAway,
    /// The peer is not there, or wants to be left alone for so long.
    PeerAway(Duration),
}

/// How long a token is waited for before it is tried again, unless it says before that it is back.
const TOKEN_PAUSE: Duration = Duration::from_secs(5);
/// What was tried in vain and is passed over meanwhile, so that one message does not keep the others.
const PASSED_OVER: usize = 100;

impl Outbox {
    pub(super) async fn serve(self: Arc<Self>, peer: String, bell: Arc<Notify>, mut shutdown: watch::Receiver<bool>) {
        // How often in a row the peer was not there, and what was tried meanwhile.
        let mut failures: u32 = 0;
        let mut tried: Vec<String> = Vec::new();
        while !*shutdown.borrow() {
            let at_once = if failures == 0 { self.options.at_once } else { 1 };
            let batch = match self.books.store().outgoing(&peer, &tried, at_once).await {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::warn!(%error, "the outbox cannot be read");
                    self.pause(Duration::from_secs(1), Tried::TokenAway, &peer, &bell, &mut shutdown).await;
                    continue;
                }
            };
            if batch.is_empty() && !tried.is_empty() {
                tried.clear();
                continue;
            }
            if batch.is_empty() {
                return self.leave(&peer).await;
            }
            let results = join_all(batch.iter().map(|outgoing| self.attempt(outgoing, failures + 1, &shutdown))).await;
            match results.iter().max() {
                None | Some(Tried::Done) => {
                    failures = 0;
                    tried.clear();
                }
                Some(Tried::TokenAway) => self.pause(TOKEN_PAUSE, Tried::TokenAway, &peer, &bell, &mut shutdown).await,
                Some(away @ Tried::PeerAway(pause)) => {
                    failures = failures.saturating_add(1);
                    tried.extend(batch.into_iter().map(|outgoing| outgoing.id));
                    if tried.len() > PASSED_OVER {
                        tried.clear();
                    }
                    self.pause(*pause, *away, &peer, &bell, &mut shutdown).await;
                }
            }
        }
    }

    /// Ends the task, unless something was put there meanwhile: with the entry gone, that rings for a new one.
    async fn leave(&self, peer: &str) {
        self.peers().remove(peer);
        match self.books.store().outgoing(peer, &[], 1).await {
            Ok(rest) if rest.is_empty() => {}
            _ => self.wake(peer),
        }
    }

    /// Full jitter: any time up to what doubles with each failure.
    fn backoff(&self, failures: u32) -> Duration {
        full_jitter(self.options.first_pause, self.options.longest_pause, failures)
    }

    /// A peer that is not there is not there for the next message either; so a bell counts only if there is a way back. A token
    /// may say that it is there again.
    async fn pause(
        &self,
        pause: Duration,
        why: Tried,
        peer: &str,
        bell: &Notify,
        shutdown: &mut watch::Receiver<bool>,
    ) {
        let until = Instant::now() + pause;
        let mut keys = self.ours.secrets().keys();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = told_to_end(shutdown) => return,
                Ok(()) = keys.changed(), if why == Tried::TokenAway => return,
                () = bell.notified() => if self.routes.leads_anywhere(peer) { return },
            }
        }
    }

    /// Tries one message once; `failures` counts this try, should it fail.
    async fn attempt(&self, outgoing: &Outgoing, failures: u32, shutdown: &watch::Receiver<bool>) -> Tried {
        let Ok(_permit) = self.in_all.acquire().await else { return Tried::TokenAway };
        let begun = now();
        if begun >= outgoing.expires {
            self.note(outgoing, SendOutcome::Expired(begun), shutdown).await;
            return Tried::Done;
        }
        let span = tracing::info_span!(target: SPANS, "send", message = outgoing.message, tries = outgoing.tries);
        let error = match self.send(outgoing).instrument(span).await {
            Ok(()) => {
                self.note(outgoing, SendOutcome::Sent(now()), shutdown).await;
                return Tried::Done;
            }
            Err(NotPacked::Token(why)) => {
                tracing::info!(id = outgoing.message, why, "a message waits to be packed");
                self.metrics.sent(&outgoing.kind, "token-away");
                return Tried::TokenAway;
            }
            Err(NotPacked::Other(error)) => error,
        };
        if !error.passes {
            tracing::warn!(id = outgoing.message, reason = error.reason, "a message cannot be sent");
            self.note(outgoing, SendOutcome::Failed(now(), error.reason), shutdown).await;
            return Tried::Done;
        }
        let pause = error.retry_after.unwrap_or_default().min(self.options.longest_pause).max(self.backoff(failures));
        let next = begun.saturating_add(Millis::try_from(pause.as_millis()).unwrap_or(Millis::MAX));
        tracing::info!(id = outgoing.message, tries = outgoing.tries + 1, reason = error.reason, "not sent yet");
        self.note(outgoing, SendOutcome::Later(next, error.reason), shutdown).await;
        Tried::PeerAway(pause)
    }

    /// On a connection that the peer holds open, or to where its document says.
    async fn send(&self, outgoing: &Outgoing) -> Result<(), NotPacked> {
        let back = self.routes.leads_to(&outgoing.peer, &outgoing.thread);
        let packed = self.pack(outgoing, back).await?;
        let other = |error| Err(NotPacked::Other(error));
        if back {
            return match self.routes.send(&outgoing.peer, &outgoing.thread, &packed.text).await {
                true => Ok(()),
                false => other(SendError::passing("the peer's connection has ended")),
            };
        }
        let Some(uri) = &packed.uri else {
            return other(SendError::passing(
                "the peer's document names no endpoint: it waits until the peer connects",
            ));
        };
        let Some(transport) = self.transports.of(uri) else {
            return other(SendError::lasting(format!("the peer's endpoint is {uri}, which no transport serves")));
        };
        let returned = transport.send(uri, &packed.text).await.map_err(NotPacked::Other)?;
        if let Some(inbox) = self.inbox.get().and_then(Weak::upgrade) {
            for packed in returned {
                if let Err(error) = inbox.take_fetched(packed.into_bytes()).await {
                    tracing::warn!(%error, "what came back is not taken");
                }
            }
        }
        Ok(())
    }

    /// Repeated until the store takes it: a message that was sent and is not noted would be sent twice. It is when the agent
    /// ends while its disk is full, and its receiver knows it by its id.
    async fn note(&self, outgoing: &Outgoing, outcome: SendOutcome, shutdown: &watch::Receiver<bool>) {
        let result = match outcome {
            SendOutcome::Sent(_) => "sent",
            SendOutcome::Later(..) => "later",
            SendOutcome::Failed(..) => "failed",
            SendOutcome::Expired(_) => "expired",
        };
        self.metrics.sent(&outgoing.kind, result);
        let mut pause = Duration::from_millis(50);
        let mut shutdown = shutdown.clone();
        while let Err(error) = self.books.store().sent(&outgoing.id, outcome.clone()).await {
            tracing::warn!(%error, "the store");
            if !error.passes() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = told_to_end(&mut shutdown) => return,
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}
