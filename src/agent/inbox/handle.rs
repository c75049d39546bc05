//! Handles an opened message, and commits the message's effects together.

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::{
    blocked::blocked_keys,
    opening::Opening,
    quota::{exceeded_quota, needed_room},
    return_route::ReturnRouteRequest,
    state::Inbox,
};
use crate::{
    agent::{
        blocked_peers::BlockedPeer,
        canonical_did::canonical_did,
        clock::{MAX_CLOCK_SKEW, Millis, seconds_to_millis},
        protocol::{
            Effect, HandleError, Problem, Received, RecordType, Transaction, acks,
            connections::{Connection, created_by_stranger, find_connection, is_stranger, update_connection},
            issued_invitation::record_acceptance,
            problem_limits::{self, ClosedThread},
            text::{TOO_LONG_NAME, has_too_long_name},
        },
        rotation::{
            own::OwnRotation,
            peer::{PeerRotation, apply_from_prior, reason_to_ignore},
        },
        store::types::{
            Change, Commit, CommitOutcome, Expectation, HandledMessage, PeerQuota, PendingEnvelope, Stranger,
        },
    },
    did::did_of,
    didcomm::{Layer, Message, Provenance, Warning},
    encoding::to_base64url,
};

/// How many times in a row a message is handled if its records change meanwhile. Then the message is postponed.
const MAX_ATTEMPTS: usize = 10;

/// What a message does.
struct Handling {
    effects: Vec<Effect>,
    /// The records that the effects rely on.
    expects: Vec<Expectation>,
    /// The label of the metric.
    result: &'static str,
    is_stranger: bool,
    /// The names in [`HandledMessage::earlier`].
    earlier: Vec<(String, String)>,
    /// See [`Commit::created_by_stranger`].
    created_by_stranger: Option<Millis>,
}

/// Why a message cannot be handled now.
enum NotNow {
    /// The store has failed, or a protocol asks for another attempt.
    Failed(String),
    /// The sender is not authenticated, and there is no room for more unread messages of such senders.
    NoRoom,
    /// The sender is blocked.
    Blocked,
}

impl Inbox {
    /// Handles an opened message, or postpones it, or refuses it.
    pub(super) async fn handle(
        &self,
        opening: &Opening,
        message: Message,
        provenance: Provenance,
        return_route: Option<oneshot::Sender<ReturnRouteRequest>>,
    ) {
        let kind = &message.type_.clone();
        let received = match self.received(&opening.envelope, message, provenance) {
            Ok(received) => received,
            Err(reason) => return self.refuse(opening, kind, reason).await,
        };
        if self.is_from_blocked_peer(&received).await {
            return self.drop_blocked(opening, kind).await;
        }
        let handled = match self.handled_message(&received) {
            Ok(handled) => handled,
            Err(reason) => return self.refuse(opening, kind, reason).await,
        };
        let first_handling = self.request_return_route(opening, &received, &handled, return_route).await;
        let (quota_checked, mut quota, mut is_optimistic) = (opening.envelope.quota_checked, PeerQuota::FREE, true);
        for _ in 0..MAX_ATTEMPTS {
            let handling = match self.effects(&received, quota_checked, quota, is_optimistic).await {
                Ok(handling) => handling,
                Err(NotNow::Blocked) => {
                    // A peer that has rotated is blocked under its new DID too.
                    self.is_from_blocked_peer(&received).await;
                    return self.drop_blocked(opening, kind).await;
                }
                // Perhaps the reason is what is remembered, and no commit would find that out.
                Err(NotNow::Failed(_)) if is_optimistic => {
                    is_optimistic = false;
                    continue;
                }
                Err(NotNow::Failed(reason)) => return self.postpone(opening, kind, &reason).await,
                Err(NotNow::NoRoom) => {
                    return self.postpone_after_work(opening, "no room for unread messages without a sender").await;
                }
            };
            let Handling { effects, expects, result, is_stranger, earlier, created_by_stranger } = handling;
            let effects = self.limit_replies(&received, is_stranger, quota, effects);
            let room = needed_room(&received, quota_checked, is_stranger, &effects);
            let ends_connection = received.provenance.from_prior.is_some() && ends_known_connection(&effects);
            let changes = match self.parts.store.changes(&received, effects, self.parts.options.reply_lifetime) {
                Ok(changes) => self.limit_lifetimes(changes, is_stranger),
                Err(error) => return self.postpone(opening, kind, &error.to_string()).await,
            };
            let has_replies = changes.iter().any(|change| matches!(change, Change::Send(_)));
            let handled = HandledMessage { earlier, ..handled.clone() };
            let stranger = is_stranger
                .then(|| Stranger { did: received.sender.clone().unwrap_or_default(), created: received.created() });
            let handled = Some(handled);
            let commit = Commit { expects, room, handled, changes, stranger, created_by_stranger, ..Commit::default() };
            match self.commit(opening, commit).await {
                Ok(CommitOutcome::Committed) => {
                    self.parts.metrics.message_handled(kind, result);
                    if ends_connection {
                        self.parts.known_peers.forget();
                    }
                    if let Some(first_handling) = first_handling {
                        first_handling.finish(has_replies);
                    }
                    return;
                }
                Ok(CommitOutcome::Duplicate) => {
                    tracing::info!(id = received.message.id, "duplicate message ignored");
                    self.parts.metrics.message_handled(kind, "again");
                    return;
                }
                Ok(CommitOutcome::TooOld) => {
                    return self.refuse(opening, kind, "the message is too old for a stranger's").await;
                }
                Ok(CommitOutcome::DatedAhead) => {
                    let created = received.created().unwrap_or(0);
                    return self.postpone_until(opening, kind, "its created_time is in the future", created).await;
                }
                Ok(CommitOutcome::Conflict) => is_optimistic = false,
                Ok(CommitOutcome::NoRoom(exceeded)) => quota = exceeded,
                Err(error) => return self.postpone(opening, kind, &error.to_string()).await,
            }
        }
        self.postpone(opening, kind, "its records are changed concurrently again and again").await;
    }

    /// Returns the record that marks the message as handled, or the reason to refuse it as expired or too old. The time
    /// of arrival decides: a message that was accepted in time is not lost because it waited for a token.
    fn handled_message(&self, received: &Received) -> Result<HandledMessage, &'static str> {
        let message = &received.message;
        let time = received.time;
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
            // A message without these times never becomes too old, so its id is remembered for ever: that of a
            // stranger's as long as there is room.
            (None, None) => Millis::MAX,
        };
        let id = message.id.to_ascii_lowercase();
        // Anyone can use an id in a message without an authenticated sender. Such an id is bound to the content, so
        // that it does not block another message of the same id.
        let id = match &received.sender {
            Some(_) => id,
            None => format!("{id} {}", to_base64url(Sha256::digest(message.to_json()))),
        };
        Ok(HandledMessage {
            sender: received.sender.clone().unwrap_or_default(),
            recipient: received.recipient.clone(),
            message: id,
            until,
            received: time,
            earlier: Vec::new(),
        })
    }

    /// Determines what a message does. `is_optimistic` says whether it relies on what the agent remembers of the sender.
    ///
    /// # Errors
    /// [`NotNow`] if the message cannot be handled now.
    async fn effects(
        &self,
        received: &Received,
        quota_checked: bool,
        quota: PeerQuota,
        is_optimistic: bool,
    ) -> Result<Handling, NotNow> {
        let text = |error: HandleError| NotNow::Failed(error.to_string());
        let mut tx = Transaction::new(received, &*self.parts.store, &self.parts.features);
        if is_optimistic {
            tx = tx.optimistic();
        }
        let blocked = blocked_keys(received);
        read_common_records(received, &blocked, &mut tx).await.map_err(text)?;
        if self.is_blocked_meanwhile(blocked, &mut tx).await.map_err(text)? {
            return Err(NotNow::Blocked);
        }
        let earlier = earlier_names(received, &mut tx, self.parts.options.max_age).await.map_err(text)?;
        let created_by_stranger = created_by_stranger(received, &mut tx).await.map_err(text)?;
        for (sender, recipient) in &earlier {
            if tx.was_handled(sender, recipient).await.map_err(text)? {
                tracing::info!(id = received.message.id, "duplicate message ignored: it came under another DID before");
                // The rotation that the message tells of takes effect all the same.
                apply_headers(received, &mut tx).await.map_err(text)?;
                let is_stranger = is_stranger(received, &mut tx).await.map_err(text)?;
                let (expects, effects, earlier) = (tx.expects(), tx.effects(), Vec::new());
                return Ok(Handling { effects, expects, result: "again", is_stranger, earlier, created_by_stranger });
            }
        }
        let problem = match self.apply_protocols(received, &mut tx).await {
            Ok(()) => {
                let is_stranger = is_stranger(received, &mut tx).await.map_err(text)?;
                let (expects, effects) = (tx.expects(), tx.take_effects());
                let room = needed_room(received, quota_checked, is_stranger, &effects);
                match exceeded_quota(room.as_ref(), quota) {
                    None => {
                        let result = "done";
                        return Ok(Handling { effects, expects, result, is_stranger, earlier, created_by_stranger });
                    }
                    // Nobody can be told, and the message was accepted.
                    Some(_) if received.sender.is_none() => return Err(NotNow::NoRoom),
                    Some(problem) => problem,
                }
            }
            Err(HandleError::Retry(reason)) => return Err(NotNow::Failed(reason)),
            Err(HandleError::Problem(problem)) => problem,
        };
        tracing::info!(id = received.message.id, kind = received.message.type_, %problem, "message has a problem");
        // The effects of the protocol are dropped.
        tx.take_effects();
        self.report(received, &problem, &mut tx).await.map_err(text)?;
        let is_stranger = is_stranger(received, &mut tx).await.map_err(text)?;
        let (expects, effects) = (tx.expects(), tx.effects());
        Ok(Handling { effects, expects, result: "problem", is_stranger, earlier, created_by_stranger })
    }

    /// Applies the rules for every message and the message's protocol, in the order that the rules require.
    async fn apply_protocols(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        if let Some(reason) = reason_to_ignore(received, tx).await? {
            tracing::info!(id = received.message.id, peer = received.sender, reason, "message ignored");
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
    pub(super) fn received(
        &self,
        envelope: &PendingEnvelope,
        message: Message,
        provenance: Provenance,
    ) -> Result<Received, &'static str> {
        if !provenance.encrypted {
            return Err("it is not encrypted");
        }
        if has_too_long_name(&message) {
            return Err(TOO_LONG_NAME);
        }
        let opened_by = provenance.layers.iter().rev().find_map(|layer| match layer {
            Layer::Authcrypt { kid, .. } | Layer::Anoncrypt { kid, .. } => did_of(kid),
            _ => None,
        });
        let did = opened_by.unwrap_or(&envelope.recipient);
        // A did:peer:4 has two names. The recipient gets the name that is the document's id.
        let recipient = self.parts.own_dids.find_did(did).unwrap_or_else(|| did.to_owned());
        let sender = message.from.as_deref().filter(|_| provenance.authenticated);
        let sender = sender.map(|did| canonical_did(did).into_owned());
        Ok(Received { message, provenance, recipient, sender, time: envelope.received })
    }
}

/// Whether effects end the connection with a peer that is no stranger.
fn ends_known_connection(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| match effect {
        Effect::Put { kind, value, .. } if kind == Connection::KIND => {
            Connection::deserialize(value).is_ok_and(|connection| connection.ended.is_some() && !connection.stranger)
        }
        _ => false,
    })
}

/// Reads the records that every message of an authenticated sender needs, in one request. `blocked` are the keys of
/// [`blocked_keys`].
async fn read_common_records(
    received: &Received,
    blocked: &[String],
    tx: &mut Transaction<'_>,
) -> Result<(), HandleError> {
    let (Some(sender), Some(thread)) = (&received.sender, ClosedThread::key(received)) else { return Ok(()) };
    let connection = Connection::key(&received.recipient, sender);
    let mut rare = vec![(ClosedThread::KIND, &*thread)];
    rare.extend(blocked.iter().map(|key| (BlockedPeer::KIND, &**key)));
    tx.read_ahead(&[(Connection::KIND, &connection), (PeerRotation::KIND, &connection)], &rare).await
}

/// Applies the headers that hold for a message of any protocol.
async fn apply_headers(received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
    apply_from_prior(received, tx).await?;
    update_connection(received, tx).await?;
    acks::record_acks(received, tx).await
}

/// Returns the other pairs of sender and recipient under which a copy of the message may have come within `max_age`
/// milliseconds: before the sender has rotated to its DID, or we to ours. A peer that got no answer sends its message
/// again, and from or to the new DID if there was a rotation meanwhile.
async fn earlier_names(
    received: &Received,
    tx: &mut Transaction<'_>,
    max_age: Millis,
) -> Result<Vec<(String, String)>, HandleError> {
    let Some(sender) = &received.sender else { return Ok(Vec::new()) };
    let is_recent = |time: Millis| time.saturating_add(max_age) > received.time;
    let connection = find_connection(received, tx).await?;
    let mut senders = vec![sender.clone()];
    // The message itself may tell of the rotation.
    let provenance = &received.provenance;
    let is_proved = !provenance.warnings.contains(&Warning::UnauthenticatedFromPrior);
    if let Some(prior) = provenance.from_prior.as_ref().filter(|prior| is_proved && prior.sub.is_some()) {
        senders.push(canonical_did(&prior.iss).into_owned());
    }
    read_last_rotations(received, connection.as_ref(), tx).await?;
    if let Some(previous) = connection.as_ref().and_then(|connection| connection.previous_dids.last()) {
        let rotation = tx.get::<PeerRotation>(&Connection::key(&received.recipient, previous)).await?;
        if rotation.is_some_and(|rotation| is_recent(rotation.time)) && !senders.contains(previous) {
            senders.push(previous.clone());
        }
    }
    let mut recipients = vec![received.recipient.clone()];
    if let Some(previous) = connection.and_then(|connection| connection.previous_own_did) {
        let rotation = tx.get::<OwnRotation>(&previous).await?;
        if rotation.is_some_and(|rotation| is_recent(rotation.time)) {
            recipients.push(previous);
        }
    }
    let pairs = senders.iter().flat_map(|sender| recipients.iter().map(move |to| (sender.clone(), to.clone())));
    // The first pair is that of the message.
    Ok(pairs.skip(1).collect())
}

/// Reads the last rotations of both sides, in one request, if there were rotations.
async fn read_last_rotations(
    received: &Received,
    connection: Option<&Connection>,
    tx: &mut Transaction<'_>,
) -> Result<(), HandleError> {
    let Some(connection) = connection else { return Ok(()) };
    let key_with = |peer: &str| Connection::key(&received.recipient, peer);
    let (key, of_peer) = (key_with(&connection.peer_did), connection.previous_dids.last().map(|did| key_with(did)));
    let of_peer = of_peer.as_deref().map(|key| (PeerRotation::KIND, key));
    let of_us = connection.previous_own_did.as_deref().map(|key| (OwnRotation::KIND, key));
    if of_peer.is_none() && of_us.is_none() {
        return Ok(());
    }
    // With the connection, so that they are remembered as those of a known peer.
    let places: Vec<_> = [Some((Connection::KIND, &*key)), of_peer, of_us].into_iter().flatten().collect();
    tx.read_ahead(&places, &[]).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        agent::protocol::{
            empty::EMPTY,
            testing::{Harness, NOW, OWN_DID, anonymous},
        },
        didcomm::PriorDid,
    };

    /// A stranger that ends its connections again and again has the agent forget nothing of other peers.
    #[tokio::test]
    async fn the_end_of_a_strangers_connection_is_told_apart() {
        let peer = "did:peer:0peer";
        let (kid, iat) = (format!("{peer}#1"), Some(NOW / 1000));
        for stranger in [false, true] {
            let harness = Harness::default();
            let connection = Connection { stranger, ..Connection::new(OWN_DID, peer, NOW) };
            harness.set(&Connection::key(OWN_DID, peer), &connection);
            let mut received = anonymous(EMPTY, json!({}));
            received.provenance.from_prior = Some(PriorDid { iss: peer.to_owned(), sub: None, iat, kid: kid.clone() });
            let mut tx = harness.begin(&received);
            apply_from_prior(&received, &mut tx).await.unwrap();
            assert_eq!(ends_known_connection(&tx.effects()), !stranger);
        }
    }
}
