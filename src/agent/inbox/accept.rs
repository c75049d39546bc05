//! Accepts envelopes: checks them without a token, and stores them.

use tokio::sync::oneshot;

use super::{
    refusal::Refusal,
    return_route::ReturnRouteRequest,
    state::{Inbox, Job},
};
use crate::{
    agent::{
        canonical_did::canonical_did,
        clock::now,
        protocol::connections::Connection,
        store::types::{Attribution, NewEnvelope, PendingEnvelope, ReceiveOutcome},
    },
    did::did_of,
    jose::{Envelope, JoseError},
};

/// Our DID and the sender's DID, from an envelope's unverified header, and the digest by which a repeated envelope is
/// recognized.
struct Addresses {
    recipient: String,
    sender: Option<String>,
    digest: [u8; 32],
}

impl Inbox {
    /// Accepts an envelope. When this returns, the envelope is stored, and the sender need not send it again.
    ///
    /// Once the message is opened, the returned channel yields the message's request for a return route. Without such a
    /// request the channel is closed.
    ///
    /// # Errors
    /// [`Refusal`] says why the envelope was refused. Nothing of the envelope is stored then.
    pub async fn accept(&self, packed: Vec<u8>) -> Result<oneshot::Receiver<ReturnRouteRequest>, Refusal> {
        self.store_envelope(packed, true)
            .await
            .inspect_err(|refusal| self.parts.metrics.message_received(refusal.label()))
    }

    /// Accepts an envelope that was fetched. The sender of the envelope cannot be asked to send it again later, and a
    /// refusal would block the envelopes behind it. So the sender's quota is checked when the message is opened.
    ///
    /// # Errors
    /// The errors of [`Inbox::accept`].
    pub async fn accept_fetched(&self, packed: Vec<u8>) -> Result<oneshot::Receiver<ReturnRouteRequest>, Refusal> {
        self.store_envelope(packed, false)
            .await
            .inspect_err(|refusal| self.parts.metrics.message_received(refusal.label()))
    }

    async fn store_envelope(
        &self,
        packed: Vec<u8>,
        check_quota: bool,
    ) -> Result<oneshot::Receiver<ReturnRouteRequest>, Refusal> {
        let Addresses { recipient, sender, digest } = self.check(&packed)?;
        let named = sender.as_deref().filter(|_| check_quota).map(|did| (did, canonical_did(did)));
        let attribution = match check_quota {
            true => self.attribute(&recipient, named).await,
            false => Attribution::Fetched,
        };
        let sender = named.map(|(_, canonical)| canonical.to_owned());
        let quota_checked = sender.is_some();
        let received = now();
        let envelope =
            NewEnvelope { packed: packed.clone(), digest, recipient: recipient.clone(), sender, received, attribution };
        let (return_route, requested) = oneshot::channel();
        match self.parts.store.inner().receive(envelope).await? {
            ReceiveOutcome::Stored(id) => {
                self.parts.metrics.message_received("taken");
                let envelope =
                    PendingEnvelope { id, packed, recipient, received, quota_checked, ..PendingEnvelope::default() };
                if !self.enqueue(Job { envelope, return_route: Some(return_route) }) {
                    self.note_backlog();
                }
            }
            // The peer repeats the envelope, probably because it did not get the first answer.
            ReceiveOutcome::AlreadyPending(_) | ReceiveOutcome::AlreadyProcessed => {
                self.parts.metrics.message_received("again");
                tracing::debug!("envelope received again");
            }
        }
        Ok(requested)
    }

    /// Makes every check that needs no private key. Returns our DID among the recipients, and the sender's DID if the
    /// header names one.
    fn check(&self, packed: &[u8]) -> Result<Addresses, Refusal> {
        let limit = self.parts.options.limits.bytes;
        if packed.len() > limit {
            return Err(Refusal::TooLarge(limit));
        }
        let Envelope::Encrypted(jwe) = Envelope::parse(packed, &self.parts.options.limits)? else {
            return Err(Refusal::NotEncrypted);
        };
        let (mut wrong_curve, mut may_be_own) = (None, false);
        for kid in jwe.recipient_kids() {
            let Some((did, key)) = self.parts.own_dids.recipient(kid) else {
                may_be_own |= did_of(kid).is_some_and(|did| self.parts.own_dids.may_be_own(did));
                continue;
            };
            if key.curve() == jwe.ephemeral_key().curve() {
                let sender = jwe.sender_kid().and_then(did_of).map(str::to_owned);
                return Ok(Addresses { recipient: did, sender, digest: jwe.digest() });
            }
            wrong_curve = Some(JoseError::CurveMismatch {
                kid: kid.to_owned(),
                curve: key.curve(),
                expected: jwe.ephemeral_key().curve(),
            });
        }
        Err(wrong_curve.map_or(Refusal::NotForUs { may_be_own }, Refusal::Malformed))
    }

    /// Determines whose room an envelope takes. The sender is a claim, since the envelope is not opened yet: its DID as
    /// named, and in the canonical form.
    async fn attribute(&self, recipient: &str, sender: Option<(&str, &str)>) -> Attribution {
        let Some((sender, canonical)) = sender else { return Attribution::Resolvable { connection: None } };
        let connection = Connection::key(recipient, canonical);
        // Resolving such a DID would cost more than the lookups of the others.
        let contains_its_document = canonical != sender
            || ["did:key:", "did:peer:0", "did:peer:2"].iter().any(|method| sender.starts_with(method));
        match contains_its_document || self.parts.resolver.resolve_offline(sender).await.is_some() {
            true => Attribution::Resolvable { connection: Some(connection) },
            false => Attribution::Unresolvable { connection },
        }
    }
}
