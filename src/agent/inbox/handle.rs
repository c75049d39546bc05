//! Handles an opened message, and commits the message's effects together.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tokio::{sync::oneshot, time::Duration};

use super::{return_route::ReturnRouteRequest, state::Inbox};
use crate::{
    agent::{
        canonical_did::canonical_did,
        clock::{MAX_CLOCK_SKEW, Millis, now, seconds_to_millis},
        protocol::{
            Effect, HandleError, Problem, Received, Transaction, acks, connections::update_connection,
            issued_invitation::record_acceptance, problem_limits,
        },
        return_routes::ReturnRoute,
        rotation::peer::{apply_from_prior, is_from_former_did},
        store::types::{Change, Commit, CommitOutcome, HandledMessage, PendingEnvelope},
    },
    did::did_of,
    didcomm::{Layer, Message, Provenance},
};

/// How many times in a row a message is handled if its records change meanwhile. Then the message is postponed.
const MAX_ATTEMPTS: usize = 10;
/// How long the connection may take to open the return route.
const RETURN_ROUTE_TIMEOUT: Duration = Duration::from_secs(1);

impl Inbox {
    /// Handles an opened message, or postpones it, or refuses it.
    pub(super) async fn handle(
        &self,
        envelope: &PendingEnvelope,
        message: Message,
        provenance: Provenance,
        return_route: Option<oneshot::Sender<ReturnRouteRequest>>,
    ) {
        let kind = &message.type_.clone();
        let received = match self.received(envelope, message, provenance) {
            Ok(received) => received,
            Err(reason) => return self.refuse(envelope, kind, reason).await,
        };
        let handled = match self.handled_message(&received) {
            Ok(handled) => handled,
            Err(reason) => return self.refuse(envelope, kind, reason).await,
        };
        let replied_sender = request_return_route(&received, return_route).await;
        for _ in 0..MAX_ATTEMPTS {
            let (effects, result) = match self.effects(&received, envelope.quota_checked).await {
                Ok(done) => done,
                Err(reason) => return self.postpone(envelope, kind, &reason).await,
            };
            let effects = match self.limit_replies(&received, effects).await {
                Ok(effects) => effects,
                Err(error) => return self.postpone(envelope, kind, &error.to_string()).await,
            };
            let changes = match self.parts.store.changes(&received, effects, self.parts.options.reply_lifetime) {
                Ok(changes) => changes,
                Err(error) => return self.postpone(envelope, kind, &error.to_string()).await,
            };
            let has_replies = changes.iter().any(|change| matches!(change, Change::Send(_)));
            let commit = Commit { envelope: Some(envelope.id), handled: Some(handled.clone()), changes };
            match self.parts.store.commit(commit).await {
                Ok(CommitOutcome::Committed) => {
                    self.parts.metrics.message_handled(kind, result);
                    if let Some(replied_sender) = replied_sender {
                        let _ = replied_sender.send(has_replies);
                    }
                    return;
                }
                Ok(CommitOutcome::Duplicate) => {
                    tracing::info!(id = received.message.id, "duplicate message ignored");
                    self.parts.metrics.message_handled(kind, "again");
                    return;
                }
                Ok(CommitOutcome::Conflict) => {}
                Err(error) => return self.postpone(envelope, kind, &error.to_string()).await,
            }
        }
        self.postpone(envelope, kind, "its records are changed concurrently again and again").await;
    }

    /// Returns the record that marks the message as handled, or the reason to refuse it as expired or too old.
    fn handled_message(&self, received: &Received) -> Result<HandledMessage, &'static str> {
        let message = &received.message;
        let time = now();
        let max_age = self.parts.options.max_age;
        let until = match (message.expires_time.map(seconds_to_millis), message.created_time.map(seconds_to_millis)) {
            (Some(expires), _) if expires.saturating_add(MAX_CLOCK_SKEW) <= time => {
                return Err("the message has expired");
            }
            (_, Some(created)) if created.saturating_add(max_age) <= time => return Err("the message is too old"),
            (Some(expires), Some(created)) => {
                expires.saturating_add(MAX_CLOCK_SKEW).min(created.saturating_add(max_age))
            }
            (Some(expires), None) => expires.saturating_add(MAX_CLOCK_SKEW),
            (None, Some(created)) => created.saturating_add(max_age),
            // A message without these times never becomes too old, so its id is remembered for ever.
            (None, None) => Millis::MAX,
        };
        let id = message.id.to_ascii_lowercase();
        // Anyone can use an id in a message without an authenticated sender. Such an id is bound to the content, so
        // that it does not block another message of the same id.
        let id = match &received.sender {
            Some(_) => id,
            None => format!("{id} {}", URL_SAFE_NO_PAD.encode(Sha256::digest(message.to_json()))),
        };
        Ok(HandledMessage {
            sender: received.sender.clone().unwrap_or_default(),
            recipient: received.recipient.clone(),
            message: id,
            until,
        })
    }

    /// Returns the effects of a message, and the metric's label of the result.
    ///
    /// # Errors
    /// The reason why the message cannot be handled now.
    async fn effects(&self, received: &Received, quota_checked: bool) -> Result<(Vec<Effect>, &'static str), String> {
        let mut tx = Transaction::new(received, &*self.parts.store, &self.parts.features);
        let problem = match self.apply_protocols(received, &mut tx).await {
            Ok(()) => {
                let effects = tx.effects();
                match self.check_quota(received, quota_checked, &effects).await.map_err(|error| error.to_string())? {
                    None => return Ok((effects, "done")),
                    Some(problem) => problem,
                }
            }
            Err(HandleError::Retry(reason)) => return Err(reason),
            Err(HandleError::Problem(problem)) => problem,
        };
        tracing::info!(id = received.message.id, kind = received.message.type_, %problem, "message has a problem");
        // A new transaction: the effects of the protocol are dropped.
        let mut tx = Transaction::new(received, &*self.parts.store, &self.parts.features);
        match self.report(received, &problem, &mut tx).await {
            Ok(()) => Ok((tx.effects(), "problem")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Applies the rules for every message and the message's protocol, in the order that the rules require.
    async fn apply_protocols(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        if is_from_former_did(received, tx).await? {
            tracing::info!(
                id = received.message.id,
                "message ignored: the sender has rotated from this DID or ended the relationship"
            );
            return Ok(());
        }
        if problem_limits::is_thread_closed(received, tx).await? {
            tracing::info!(id = received.message.id, "message ignored: its thread had too many problems");
            return Ok(());
        }
        apply_headers(received, tx).await?;
        record_acceptance(received, tx).await?;
        match self.parts.registry.find(&received.message.type_)? {
            Some(protocol) if received.sender.is_none() && !protocol.accepts_anonymous() => {
                tracing::info!(kind = received.message.type_, "message ignored: the sender is not authenticated");
                return Ok(());
            }
            Some(protocol) => protocol.handle(received, tx).await?,
            None => tx.deliver(),
        }
        acks::answer_ack_request(received, tx).await
    }

    /// Reports a problem with a message. The headers of the message take effect all the same, since the report is an
    /// answer: a peer that has rotated stops sending its `from_prior` once it gets an answer to its new DID.
    async fn report(
        &self,
        received: &Received,
        problem: &Problem,
        tx: &mut Transaction<'_>,
    ) -> Result<(), HandleError> {
        apply_headers(received, tx).await?;
        problem_limits::report_within_limits(received, problem, tx, &self.parts.options.problems).await
    }

    /// Determines the sender and the recipient of a message, once for all protocols.
    fn received(
        &self,
        envelope: &PendingEnvelope,
        message: Message,
        provenance: Provenance,
    ) -> Result<Received, &'static str> {
        if !provenance.encrypted {
            return Err("it is not encrypted");
        }
        let opened_by = provenance.layers.iter().rev().find_map(|layer| match layer {
            Layer::Authcrypt { kid, .. } | Layer::Anoncrypt { kid, .. } => did_of(kid),
            _ => None,
        });
        let did = opened_by.unwrap_or(&envelope.recipient);
        // A did:peer:4 has two names. The recipient gets the name that is the document's id.
        let document = self.parts.own_dids.document(did);
        let recipient = document.map_or_else(|| did.to_owned(), |document| document.id().to_owned());
        let sender = message.from.as_deref().filter(|_| provenance.authenticated);
        let sender = sender.map(|did| canonical_did(did).to_owned());
        Ok(Received { message, provenance, recipient, sender, time: envelope.received })
    }
}

/// Applies the headers that hold for a message of any protocol.
async fn apply_headers(received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
    apply_from_prior(received, tx).await?;
    update_connection(received, tx).await?;
    acks::record_acks(received, tx).await
}

/// Tells the connection that replies may go back on it, and waits up to one second until the return route is open.
/// Returns the sender of the channel that reports whether there are replies. `None` if the message requests no return
/// route, or the connection has ended.
async fn request_return_route(
    received: &Received,
    connection: Option<oneshot::Sender<ReturnRouteRequest>>,
) -> Option<oneshot::Sender<bool>> {
    let sender = received.sender.clone()?;
    let return_route = match received.message.return_route.as_deref() {
        Some("all") => ReturnRoute::All,
        Some("thread") => {
            let thread = received.message.return_route_thread.as_deref();
            ReturnRoute::Thread(thread.unwrap_or(received.message.thread()).to_owned())
        }
        _ => return None,
    };
    let (opened, opened_receiver) = oneshot::channel();
    let (replied_sender, replied) = oneshot::channel();
    connection?.send(ReturnRouteRequest { sender, return_route, opened, replied }).ok()?;
    let _ = tokio::time::timeout(RETURN_ROUTE_TIMEOUT, opened_receiver).await;
    Some(replied_sender)
}
