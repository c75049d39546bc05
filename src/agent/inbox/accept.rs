//! Accepts envelopes: checks them without a token, and stores them, or has them opened first.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tracing::Instrument;

use super::{
    arrivals::Arrived,
    keep::Kept,
    opening::{Arrival, Opening},
    refusal::Refusal,
    return_route::ReturnRouteRequest,
    state::{Inbox, Job},
};
use crate::{
    agent::{
        canonical_did::canonical_did,
        clock::now,
        protocol::connections::Connection,
        shared_dids::CatchUp,
        store::{
            error::StoreError,
            types::{Attribution, NewEnvelope, PendingEnvelope, ReceiveOutcome, ready_hash},
        },
    },
    did::did_of,
    jose::{Envelope, JoseError},
    secrets::KeyState,
};

/// Our DID and the sender's DID, from an envelope's unverified header, and the digest by which a repeated envelope is
/// recognized.
struct Addresses {
    recipient: String,
    /// The hashes of our keys that the envelope is encrypted to.
    keys: Vec<i64>,
    /// Whether a token has one of these keys ready.
    opens_here: bool,
    sender: Option<String>,
    digest: [u8; 32],
}

/// How long the answer to a POST may wait for the message to be opened. After that, the envelope is stored.
const OPENING_TIME: Duration = Duration::from_millis(20);
/// The largest envelope that is opened before it is stored, in bytes: until it is handled, it is in memory twice.
const MAX_OPENED_FIRST: usize = 64 * 1024;

/// The most keys of ours that are noted of an envelope.
const MAX_KEYS: usize = 16;

/// The value of the metrics' label for the messages of blocked peers.
pub(super) const BLOCKED: &str = "blocked";

/// What became of an envelope that a mediator has delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// The envelope is stored.
    Stored,
    /// The envelope was stored before, or names a blocked peer as its sender and is dropped.
    Known,
    /// The envelope is not stored, for this reason. Later there may be room.
    NoRoomYet(String),
}

/// Who has brought an envelope.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Its sender, or anyone else who can connect, by POST.
    Post,
    /// The same on a WebSocket.
    Socket,
    /// A mediator of ours.
    Mediator,
    /// This agent.
    Own,
}

impl Inbox {
    /// Accepts an envelope that came by POST. When this returns, the envelope is stored or its message is handled, and the sender
    /// need not send it again. If the token is quick, the message is opened first, so that its effects are committed
    /// together with the digest of the envelope. An envelope of a blocked peer is dropped: no token, no disk and no network
    /// is used for it, and the peer gets the same answer.
    ///
    /// Once the message is opened, the returned channel yields the message's request for a return route. Without such a
    /// request the channel is closed.
    ///
    /// # Errors
    /// [`Refusal`] says why the envelope was refused. Nothing of the envelope is stored then.
    pub async fn accept(self: &Arc<Self>, packed: Vec<u8>) -> Result<oneshot::Receiver<ReturnRouteRequest>, Refusal> {
        self.store_envelope(packed, Origin::Post).await.map(|(_, requested)| requested)
    }

    /// Accepts an envelope that came on a WebSocket. The envelope is stored first, since the next one waits meanwhile.
    ///
    /// # Errors
    /// The errors of [`Inbox::accept`].
    pub async fn accept_on_socket(
        self: &Arc<Self>,
        packed: Vec<u8>,
    ) -> Result<oneshot::Receiver<ReturnRouteRequest>, Refusal> {
        self.store_envelope(packed, Origin::Socket).await.map(|(_, requested)| requested)
    }

    /// Accepts an envelope that a mediator of ours has delivered. Its sender cannot be asked to send it again later, and a
    /// refusal would block the envelopes behind it. So the sender's quota is checked when the message is opened. An
    /// envelope whose sender's document is unavailable takes the room of such envelopes, and is not stored if there is no
    /// room: the mediator keeps what is not acknowledged.
    ///
    /// # Errors
    /// The errors of [`Inbox::accept`].
    pub async fn accept_delivered(self: &Arc<Self>, packed: Vec<u8>) -> Result<Acceptance, Refusal> {
        self.store_envelope(packed, Origin::Mediator).await.map(|(acceptance, _)| acceptance)
    }

    /// Accepts an envelope from one of our DIDs to another.
    ///
    /// # Errors
    /// The errors of [`Inbox::accept`].
    pub async fn accept_own(self: &Arc<Self>, packed: Vec<u8>) -> Result<(), Refusal> {
        self.store_envelope(packed, Origin::Own).await.map(drop)
    }

    async fn store_envelope(
        self: &Arc<Self>,
        packed: Vec<u8>,
        origin: Origin,
    ) -> Result<(Acceptance, oneshot::Receiver<ReturnRouteRequest>), Refusal> {
        self.try_store_envelope(packed, origin)
            .await
            .inspect_err(|refusal| self.parts.metrics.message_received(refusal.label()))
    }

    async fn try_store_envelope(
        self: &Arc<Self>,
        packed: Vec<u8>,
        origin: Origin,
    ) -> Result<(Acceptance, oneshot::Receiver<ReturnRouteRequest>), Refusal> {
        let Addresses { recipient, keys, opens_here, sender, digest } = self.check_recipients(&packed).await?;
        let (return_route, requested) = oneshot::channel();
        if sender.as_deref().is_some_and(|sender| self.parts.blocked.contains(sender)) {
            self.parts.metrics.message_received(BLOCKED);
            return Ok((Acceptance::Known, requested));
        }
        let canonical = sender.as_deref().map(canonical_did);
        let named = sender.as_deref().zip(canonical.as_deref());
        let attribution = match origin {
            Origin::Post | Origin::Socket => self.attribute(&recipient, named).await,
            Origin::Mediator => match self.attribute(&recipient, named).await {
                Attribution::Resolvable { .. } => Attribution::Fetched,
                attribution => attribution,
            },
            Origin::Own => Attribution::Fetched,
        };
        let may_wait = origin == Origin::Mediator && attribution != Attribution::Fetched;
        let sender = named
            .filter(|_| matches!(origin, Origin::Post | Origin::Socket))
            .map(|(_, canonical)| canonical.to_owned());
        let quota_checked = sender.is_some();
        let received = now();
        let may_open_first = origin == Origin::Post
            && matches!(attribution, Attribution::Resolvable { .. })
            && packed.len() <= MAX_OPENED_FIRST
            && opens_here
            && self.opens_soon();
        let (stored, named) = (packed.clone(), recipient.clone());
        let envelope = NewEnvelope { packed: stored, digest, recipient: named, sender, received, attribution, keys };
        let pending = PendingEnvelope { packed, recipient, received, quota_checked, ..PendingEnvelope::default() };
        let kept = match self.arrivals.note(envelope, may_open_first) {
            Arrived::New(arrival) => {
                let inbox = self.clone();
                to_the_end(async move { inbox.open_first(pending, arrival, return_route).await }).await
            }
            Arrived::InProgress(arrival) => {
                let inbox = self.clone();
                to_the_end(async move { inbox.keep(&arrival).await.map(|_| Kept::Known) }).await
            }
            Arrived::StoreFirst(envelope) => self.store_first(envelope, pending, return_route).await,
        };
        let acceptance = match kept {
            // The peer repeats the envelope, probably because it did not get the first answer.
            Ok(Kept::Known) => {
                self.parts.metrics.message_received("again");
                tracing::debug!("envelope received again");
                Acceptance::Known
            }
            Ok(kept) => {
                self.parts.metrics.message_received("taken");
                if kept == Kept::Waiting {
                    self.note_backlog();
                }
                Acceptance::Stored
            }
            Err(StoreError::Full(reason)) if may_wait => {
                self.parts.metrics.message_received("not-kept");
                Acceptance::NoRoomYet(reason)
            }
            Err(error) => return Err(error.into()),
        };
        Ok((acceptance, requested))
    }

    /// Stores an envelope, and then has a worker open it.
    async fn store_first(
        &self,
        envelope: NewEnvelope,
        pending: PendingEnvelope,
        return_route: oneshot::Sender<ReturnRouteRequest>,
    ) -> Result<Kept, StoreError> {
        let id = match self.parts.store.inner().receive(envelope).await? {
            ReceiveOutcome::Stored(id) => id,
            // Another node opens it.
            ReceiveOutcome::HandedOver(_) => return Ok(Kept::InProgress),
            ReceiveOutcome::AlreadyPending(_) | ReceiveOutcome::AlreadyProcessed => return Ok(Kept::Known),
        };
        let opening = Opening::stored(PendingEnvelope { id, ..pending });
        let queued = self.enqueue(Job { opening, return_route: Some(return_route) });
        Ok(if queued.is_ok() { Kept::InProgress } else { Kept::Waiting })
    }

    /// Has a worker open an envelope, and stores the envelope if that takes long or fails.
    async fn open_first(
        &self,
        pending: PendingEnvelope,
        arrival: Arc<Arrival>,
        return_route: oneshot::Sender<ReturnRouteRequest>,
    ) -> Result<Kept, StoreError> {
        let opening = Opening::unstored(pending, arrival.clone());
        match self.enqueue(Job { opening, return_route: Some(return_route) }) {
            Ok(()) if tokio::time::timeout(OPENING_TIME, arrival.settled.cancelled()).await.is_err() => {
                self.arrivals.pause()
            }
            Ok(()) => {}
            Err(job) => self.end_opening(&job.opening).await,
        }
        self.keep(&arrival).await
    }

    /// Makes every [`check`](Self::check). A DID that this node does not know may have been made at another one a moment ago.
    async fn check_recipients(&self, packed: &[u8]) -> Result<Addresses, Refusal> {
        let shared_dids = &self.parts.shared_dids;
        let version = shared_dids.version();
        let refusal = match self.check(packed) {
            Err(refusal @ Refusal::NotForUs { may_be_own: false }) => refusal,
            checked => return checked,
        };
        match shared_dids.catch_up(version).await {
            CatchUp::Nothing => Err(refusal),
            CatchUp::More => self.check(packed),
            CatchUp::Unknown => Err(Refusal::NotForUs { may_be_own: true }),
        }
    }

    /// Makes every check that needs no private key. Returns our DID among the recipients and our keys, and the sender's DID if
    /// the header names one.
    fn check(&self, packed: &[u8]) -> Result<Addresses, Refusal> {
        let limit = self.parts.options.limits.bytes;
        if packed.len() > limit {
            return Err(Refusal::TooLarge(limit));
        }
        let Envelope::Encrypted(jwe) = Envelope::parse(packed, &self.parts.options.limits)? else {
            return Err(Refusal::NotEncrypted);
        };
        let own_dids = &self.parts.own_dids;
        let held = own_dids.secrets().keys().borrow().clone();
        let (mut recipient, mut keys, mut opens_here) = (None, Vec::new(), false);
        let (mut wrong_curve, mut may_be_own) = (None, false);
        for kid in jwe.recipient_kids() {
            if !opens_here {
                own_dids.look_for(kid);
            }
            let Some((did, key)) = own_dids.recipient(kid) else {
                may_be_own |= did_of(kid).is_some_and(|did| own_dids.may_be_own(did));
                continue;
            };
            if key.curve() == jwe.ephemeral_key().curve() {
                recipient.get_or_insert(did);
                opens_here |= held.get(&key).is_some_and(|held| held.state == KeyState::Ready);
                if keys.len() < MAX_KEYS {
                    keys.push(ready_hash(&key.to_multikey()));
                }
                continue;
            }
            wrong_curve = Some(JoseError::CurveMismatch {
                kid: kid.to_owned(),
                curve: key.curve(),
                expected: jwe.ephemeral_key().curve(),
            });
        }
        let Some(recipient) = recipient else {
            return Err(wrong_curve.map_or(Refusal::NotForUs { may_be_own }, Refusal::Malformed));
        };
        let sender = jwe.sender_kid().and_then(did_of).map(str::to_owned);
        Ok(Addresses { recipient, keys, opens_here, sender, digest: jwe.digest() })
    }

    /// Determines whose room an envelope takes. The sender is a claim, since the envelope is not opened yet: its DID as
    /// named, and in the canonical form.
    async fn attribute(&self, recipient: &str, sender: Option<(&str, &str)>) -> Attribution {
        let Some((sender, canonical)) = sender else { return Attribution::Resolvable { connection: None } };
        let connection = Connection::key(recipient, canonical);
        // Resolving such a DID would cost more than the lookups of the others.
        let contains_its_document = canonical.len() != sender.len()
            || ["did:key:", "did:peer:0", "did:peer:2"].iter().any(|method| sender.starts_with(method));
        let is_known = contains_its_document || self.parts.own_dids.find_did(sender).is_some();
        match is_known || self.parts.resolver.resolve_offline(sender).await.is_some() {
            true => Attribution::Resolvable { connection: Some(connection) },
            false => Attribution::Unresolvable { connection },
        }
    }
}

/// Completes a task also if the caller stops waiting, as that of a closed connection does. Otherwise the store could have an
/// envelope, and its worker not know it.
async fn to_the_end(task: impl Future<Output = Result<Kept, StoreError>> + Send + 'static) -> Result<Kept, StoreError> {
    let task = tokio::spawn(task.in_current_span());
    task.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
}
