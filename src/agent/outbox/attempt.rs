//! One attempt to send one message: the routes of its peer, in turn.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    gate::Paused,
    origins::{Audience, OriginPermit},
    pack::{PackError, Prepared, Refetched},
    state::Outbox,
    transport::{SendError, SendFault, SendLimits},
};
use crate::{
    agent::{
        clock::{Millis, full_jitter, now},
        spans::SPAN_TARGET,
        store::{
            StoreError,
            types::{OutboxEntry, SendOutcome},
        },
    },
    didcomm::{Error, Route},
};

/// How long messages wait for a token, unless a key changes earlier.
const TOKEN_PAUSE: Duration = Duration::from_secs(5);
/// The first pause before an outcome is written again, and the longest pause.
const FIRST_WRITE_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_WRITE_PAUSE: Duration = Duration::from_secs(5);
/// The shortest pause before a peer without a usable endpoint is looked up again.
const UNUSABLE_PAUSE: Duration = Duration::from_secs(30);
/// The interval at which a message that waits for a permit is checked for a return route.
const ROUTE_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How often a peer may refuse a message for good while its document cannot be fetched again.
const MAX_UNCERTAIN_REFUSALS: u32 = 8;
/// The most bytes of the messages that a peer returns in its response.
const RETURNED_BYTES: usize = 1_000_000;
/// The most bytes of the reasons that are kept of one attempt.
const MAX_REASON: usize = 1000;

/// The result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The message was sent at this time, which is not recorded yet. `had_room`: it did not wait for its turn at the server, and
    /// waited longer for the server's answer than for our token.
    Sent { time: Millis, had_room: bool },
    /// The message will never be sent.
    Concluded,
    /// The message was not tried: the store is unavailable, or the agent shuts down.
    Deferred,
    /// No token can pack messages from the message's sender, for this reason. They wait for this long or until a key
    /// changes, and messages from other senders do not.
    TokenAway(Duration, String),
    /// This message waits for this long, and no other.
    Postponed(Duration),
    /// The peer is unreachable, or asks us to wait. The next attempt is after this pause. `is_refused`: the peer has answered,
    /// and may accept another message.
    PeerUnavailable { pause: Duration, problem: String, is_refused: bool },
}

/// Why an attempt did not send its message.
pub(super) enum Unsent {
    /// The message was not packed.
    NotPacked(PackError),
    /// No origin of the peer may be tried now.
    Paused(Paused),
    /// The message was tried, or no endpoint of the peer can be used.
    Failed(SendError),
    /// The agent shuts down, or while the message waited for a permit it has expired or the peer has connected.
    Abandoned,
}

/// What became of the routes that were tried.
#[derive(Default)]
struct Tried {
    reasons: Vec<String>,
    /// The shortest pause of a breaker.
    paused: Option<Paused>,
    retry_after: Option<Duration>,
    /// Whether a server may accept the message later, and whether one refused it for good.
    any_retryable: bool,
    any_refused: bool,
    /// Whether any server has answered.
    any_answer: bool,
    /// Whether any route was tried.
    any_route: bool,
}

impl Outbox {
    /// Tries to send one message once. The caller records that it was sent; other outcomes are recorded here. `failures` is the
    /// number of failures in a row if this attempt fails.
    pub(super) async fn attempt(&self, entry: &OutboxEntry, failures: u32, shutdown: &CancellationToken) -> Attempt {
        let begun = now();
        if begun >= entry.expires {
            self.record_outcome(entry, SendOutcome::Expired(begun), shutdown).await;
            return Attempt::Concluded;
        }
        let span = tracing::info_span!(target: SPAN_TARGET, "send", message = entry.message, tries = entry.tries);
        let unsent = match self.send(entry, shutdown).instrument(span).await {
            Ok(had_room) => return Attempt::Sent { time: now(), had_room },
            Err(unsent) => unsent,
        };
        // Full jitter: any time up to a maximum that doubles with each failure.
        let options = &self.parts.options;
        let backoff = |failures| full_jitter(options.first_pause, options.longest_pause, failures);
        match unsent {
            Unsent::Abandoned => Attempt::Deferred,
            Unsent::NotPacked(PackError::TokenUnavailable(reason)) => {
                self.parts.metrics.send_attempted(&entry.kind, "token-away");
                Attempt::TokenAway(TOKEN_PAUSE, reason)
            }
            Unsent::NotPacked(PackError::Failed(error)) if error.is_retryable && error.fault == SendFault::Own => {
                // Only this message: its tries count, not those of the peer.
                let pause = backoff(entry.tries.saturating_add(1));
                self.record_later(entry, begun, pause, error.reason, shutdown).await;
                Attempt::Postponed(pause)
            }
            Unsent::Paused(paused) => {
                let pause = paused.pause.max(backoff(failures));
                if entry.problem.is_none() {
                    self.record_later(entry, begun, pause, paused.problem.clone(), shutdown).await;
                }
                Attempt::PeerUnavailable { pause, problem: paused.problem, is_refused: false }
            }
            Unsent::NotPacked(PackError::Failed(error)) | Unsent::Failed(error) if error.is_retryable => {
                let shortest = error.retry_after.unwrap_or_default().min(options.longest_pause);
                let pause = backoff(failures).max(shortest);
                self.record_later(entry, begun, pause, error.reason.clone(), shutdown).await;
                let is_refused = error.fault == SendFault::Refused;
                Attempt::PeerUnavailable { pause, problem: error.reason, is_refused }
            }
            Unsent::NotPacked(PackError::Failed(error)) | Unsent::Failed(error) => {
                tracing::warn!(id = entry.message, reason = error.reason, "message not sent, and given up");
                self.record_outcome(entry, SendOutcome::Failed(now(), error.reason), shutdown).await;
                Attempt::Concluded
            }
        }
    }

    /// Sends a message on an open connection of the peer, or on the first of the peer's routes that accepts it. Returns
    /// `had_room` of [`Attempt::Sent`].
    async fn send(&self, entry: &OutboxEntry, shutdown: &CancellationToken) -> Result<bool, Unsent> {
        let prepared = self.prepare(entry).await.map_err(Unsent::NotPacked)?;
        self.parts.routes.settled(&entry.peer).await;
        if self.parts.routes.has_route(&entry.peer, &entry.thread) {
            // The messages on one connection follow one another in any case.
            return self.send_on_return_route(entry, &prepared).await.map(|()| false);
        }
        if self.is_own(&prepared) && self.accept_own(&prepared).await? {
            return Ok(false);
        }
        let routes = self.routes(&prepared).await.map_err(Unsent::NotPacked)?;
        let mut tried = Tried::default();
        let mut packed = None;
        for route in &routes.usable {
            match self.send_on(route, &prepared, &mut packed, entry, shutdown).await {
                Ok(had_room) => return Ok(had_room),
                Err(Unsent::Failed(error)) => tried.failed(error),
                Err(Unsent::Paused(paused)) => tried.paused(paused),
                Err(other) => return Err(other),
            }
        }
        for error in routes.unusable {
            tried.any_retryable |= error.is_retryable();
            tried.reasons.push(match error {
                Error::UnusableService { service, reason, .. } => {
                    let name = service.rsplit('#').next().unwrap_or_default();
                    format!("the peer's service {name:?} cannot be used: {reason}")
                }
                error => error.to_string(),
            });
        }
        // The peer may have moved, or replaced the keys that the message is encrypted to.
        if tried.any_route {
            tried.any_retryable |= match self.fetch_again(&prepared).await {
                Refetched::Changed => true,
                Refetched::NotNow => entry.tries < MAX_UNCERTAIN_REFUSALS,
                Refetched::Unchanged => false,
            };
        }
        Err(tried.unsent())
    }

    /// Hands a message from one of our DIDs to another to our own inbox. Returns false if the inbox does not take it: then
    /// it goes the way of all messages.
    async fn accept_own(&self, prepared: &Prepared) -> Result<bool, Unsent> {
        let _permit = self.origins.enter_any(Audience::Known).await;
        let packed = self.pack(prepared).await.map_err(Unsent::NotPacked)?;
        match self.parts.inbox.accept_own(packed.into_bytes()).await {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::info!(%error, "message to ourselves not accepted");
                Ok(false)
            }
        }
    }

    /// The connection of a peer that does not read has little room, and none of the permits.
    async fn send_on_return_route(&self, entry: &OutboxEntry, prepared: &Prepared) -> Result<(), Unsent> {
        let Some(slot) = self.parts.routes.slot(&entry.peer, &entry.thread).await else {
            return Err(Unsent::Failed(SendError::retryable(
                "the peer's connection has ended, or the peer does not read",
            )));
        };
        let permit = self.origins.enter_any(audience(entry)).await;
        if entry.to_stranger {
            self.reply_rate.wait().await;
        }
        let packed = self.pack(prepared).await.map_err(Unsent::NotPacked)?;
        let written = slot.send(packed);
        drop(permit);
        match written.await {
            true => Ok(()),
            false => Err(Unsent::Failed(SendError::retryable("the peer's connection has ended"))),
        }
    }

    /// Sends a message on one route. Returns `had_room` of [`Attempt::Sent`]. `packed` is the message for the peer alone,
    /// once it is packed: the other routes of the attempt need no token.
    async fn send_on(
        &self,
        route: &Route,
        prepared: &Prepared,
        packed: &mut Option<String>,
        entry: &OutboxEntry,
        shutdown: &CancellationToken,
    ) -> Result<bool, Unsent> {
        let uri = &route.service.service_endpoint;
        if route.is_queue() {
            return unusable("the peer fetches its messages (didcomm:transport/queue)");
        }
        let Some(transport) = self.parts.transports.for_uri(uri) else {
            let start: String = uri.chars().take(100).collect();
            return unusable(&format!("the peer's endpoint is {start:?}, which no transport serves"));
        };
        if let Err(error) = route.check(&self.resolver(entry.to_stranger)).await {
            return match error.is_retryable() {
                true => Err(Unsent::Failed(SendError::retryable(error.to_string()))),
                false => unusable(&error.to_string()),
            };
        }
        let permit = tokio::select! {
            permit = self.origins.enter(uri, audience(entry)) => permit.map_err(Unsent::Paused)?,
            () = shutdown.cancelled() => return Err(Unsent::Abandoned),
            () = self.return_route_opens(entry) => return Err(Unsent::Abandoned),
        };
        // The permit may have taken long.
        if now() >= entry.expires {
            return Err(Unsent::Abandoned);
        }
        let _reached = match permit.is_proven() {
            true => None,
            false => match transport.reach(uri, permit.reach_limit()).await {
                Ok(reached) => Some(reached),
                Err(error) => {
                    permit.conclude(&error);
                    return Err(Unsent::Failed(error));
                }
            },
        };
        let begun = Instant::now();
        let packed = match packed {
            Some(packed) => &*packed,
            None => {
                if entry.to_stranger {
                    self.reply_rate.wait().await;
                }
                packed.insert(self.pack(prepared).await.map_err(Unsent::NotPacked)?)
            }
        };
        let wrapped = match route.routing_keys.is_empty() {
            true => None,
            false => match self.wrap(packed, prepared, route).await {
                Ok(wrapped) => Some(wrapped),
                Err(error) => return unusable(&error.to_string()),
            },
        };
        let text = wrapped.as_deref().unwrap_or(packed);
        // A stranger who is answered has no reason to answer at once. A reply of it comes as any other message does.
        let returned_bytes = if entry.to_stranger { 0 } else { RETURNED_BYTES };
        let limits = SendLimits { time: permit.send_limit(), returned_bytes };
        let packing = begun.elapsed();
        let begun = Instant::now();
        let returned = match transport.send(uri, text, limits).await {
            Ok(returned) => returned,
            Err(error) => {
                permit.conclude(&error);
                return Err(Unsent::Failed(error));
            }
        };
        let had_room = permit.had_room() && begun.elapsed() > packing;
        permit.accepted();
        for returned in returned {
            // The peer may return what a stranger wrote, so the limits of all other messages apply.
            if let Err(error) = self.parts.inbox.accept(returned.into_bytes()).await {
                tracing::warn!(%error, "returned message not accepted");
            }
        }
        Ok(had_room)
    }

    /// Returns once the peer has opened a return route for a message.
    async fn return_route_opens(&self, entry: &OutboxEntry) {
        while !self.parts.routes.has_route(&entry.peer, &entry.thread) {
            tokio::time::sleep(ROUTE_CHECK_INTERVAL).await;
        }
    }

    async fn record_later(
        &self,
        entry: &OutboxEntry,
        begun: Millis,
        pause: Duration,
        reason: String,
        shutdown: &CancellationToken,
    ) {
        let next = begun.saturating_add(Millis::try_from(pause.as_millis()).unwrap_or(Millis::MAX));
        tracing::info!(id = entry.message, tries = entry.tries + 1, reason, "message not sent yet");
        self.record_outcome(entry, SendOutcome::Later(next, reason), shutdown).await;
    }

    /// Records the outcome of an attempt. Retries until the store accepts the outcome, because a lost outcome makes the
    /// agent send the message twice. An outcome is lost only if the agent ends while its disk is full. Then the
    /// receiver recognizes the message id and ignores the second copy. A store that is damaged, or refuses the outcome, is
    /// tried too: otherwise the message would be read again at once, and sent again and again.
    pub(super) async fn record_outcome(&self, entry: &OutboxEntry, outcome: SendOutcome, shutdown: &CancellationToken) {
        let result = match outcome {
            SendOutcome::Sent(_) => "sent",
            SendOutcome::Later(..) => "later",
            SendOutcome::Failed(..) => "failed",
            SendOutcome::Expired(_) => "expired",
        };
        self.parts.metrics.send_attempted(&entry.kind, result);
        let mut pause = FIRST_WRITE_PAUSE;
        while let Err(error) = self.store_outcome(entry, outcome.clone()).await {
            tracing::warn!(%error, "send outcome not recorded");
            // The pause is known without the store.
            let is_known = matches!(outcome, SendOutcome::Later(..)) && !error.is_retryable();
            if is_known || matches!(error, StoreError::Closed) {
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

impl OriginPermit {
    /// Tells the origin what an attempt to reach it or to send to it came to.
    fn conclude(self, error: &SendError) {
        match error.fault {
            SendFault::Unreachable => self.failed(&error.reason),
            SendFault::Refused => self.answered_with_error(&error.reason),
            SendFault::Unusable | SendFault::Own => {}
        }
    }
}

impl Tried {
    fn failed(&mut self, error: SendError) {
        match error.fault {
            SendFault::Unusable => {}
            _ if error.is_retryable => self.any_retryable = true,
            _ => self.any_refused = true,
        }
        self.any_route |= error.fault != SendFault::Unusable;
        self.any_answer |= error.fault == SendFault::Refused;
        self.retry_after = self.retry_after.max(error.retry_after);
        self.reasons.push(error.reason);
    }

    fn paused(&mut self, paused: Paused) {
        if self.paused.as_ref().is_none_or(|before| paused.pause < before.pause) {
            self.paused = Some(paused);
        }
    }

    /// Why no route has taken the message, with the reasons of all routes.
    fn unsent(self) -> Unsent {
        let mut reason = self.reasons.join("; ");
        if let Some((end, _)) = reason.char_indices().find(|(at, _)| *at >= MAX_REASON) {
            reason.truncate(end);
        }
        let fault = if self.any_answer { SendFault::Refused } else { SendFault::Unreachable };
        let later = |reason| SendError { fault, retry_after: self.retry_after, ..SendError::retryable(reason) };
        match self.paused {
            // Nothing was tried: the message does not count as tried either.
            Some(paused) if !self.any_route => Unsent::Paused(paused),
            Some(_) => Unsent::Failed(later(reason)),
            None if self.any_retryable => Unsent::Failed(later(reason)),
            None if self.any_refused => Unsent::Failed(SendError::permanent(reason)),
            None => {
                let reason = match reason.is_empty() {
                    true => "the peer's document names no endpoint for DIDComm v2",
                    false => &reason,
                };
                let reason = format!("{reason}: the message waits until the peer connects or has another endpoint");
                Unsent::Failed(SendError { retry_after: Some(UNUSABLE_PAUSE), ..SendError::unusable(reason) })
            }
        }
    }
}

fn audience(entry: &OutboxEntry) -> Audience {
    if entry.to_stranger { Audience::Stranger } else { Audience::Known }
}

fn unusable<T>(reason: &str) -> Result<T, Unsent> {
    Err(Unsent::Failed(SendError::unusable(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsent(errors: Vec<SendError>, paused: bool) -> Unsent {
        let mut tried = Tried::default();
        errors.into_iter().for_each(|error| tried.failed(error));
        if paused {
            tried.paused(Paused { pause: Duration::from_secs(1), problem: "no answer".to_owned() });
        }
        tried.unsent()
    }

    fn with_fault(fault: SendFault, is_retryable: bool) -> SendError {
        SendError { fault, is_retryable, ..SendError::retryable(format!("{fault:?}")) }
    }

    #[test]
    fn a_message_is_given_up_only_if_every_usable_route_refused_it() {
        let is_retryable = |unsent: Unsent| match unsent {
            Unsent::Failed(error) => error.is_retryable,
            _ => true,
        };
        let refused = || with_fault(SendFault::Refused, false);
        let passed_over = || SendError::unusable("no transport");
        assert!(!is_retryable(unsent(vec![refused()], false)));
        assert!(!is_retryable(unsent(vec![passed_over(), refused(), refused()], false)));
        assert!(is_retryable(unsent(vec![refused()], true)));
        assert!(is_retryable(unsent(vec![refused(), with_fault(SendFault::Unreachable, true)], false)));
        assert!(is_retryable(unsent(vec![passed_over()], false)));
        assert!(is_retryable(unsent(Vec::new(), false)));
    }

    #[test]
    fn reasons_of_all_routes_are_told_and_bounded() {
        let Unsent::Failed(error) = unsent(vec![SendError::unusable("one"), SendError::unusable("two")], false) else {
            panic!("nothing is paused")
        };
        assert!(error.reason.starts_with("one; two: the message waits"), "{}", error.reason);
        let Unsent::Failed(error) = unsent(vec![SendError::retryable("é".repeat(10_000))], false) else {
            panic!("nothing is paused")
        };
        assert_eq!(error.reason.len(), MAX_REASON);
        assert!(matches!(unsent(vec![SendError::unusable("one")], true), Unsent::Paused(_)));
    }
}
