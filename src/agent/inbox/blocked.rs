//! Messages of blocked peers whose envelopes named no sender. The others are dropped on arrival.

use super::{accept::BLOCKED, opening::Opening, state::Inbox};
use crate::{
    agent::{
        blocked_peers::BlockedPeer,
        canonical_did::canonical_did,
        protocol::{HandleError, Received, Transaction},
        store::types::Commit,
    },
    didcomm::Warning,
};

impl Inbox {
    /// Whether the sender of a message is blocked. A sender that has rotated from a blocked DID is blocked from now on, if there
    /// is room.
    pub(super) async fn is_from_blocked_peer(&self, received: &Received) -> bool {
        let Some(sender) = &received.sender else { return false };
        let blocked = &self.parts.blocked;
        if blocked.contains(sender) {
            return true;
        }
        let Some(former) = former_did(received).filter(|former| blocked.contains(former)) else { return false };
        match blocked.block_successor(sender).await {
            Ok(()) => tracing::info!(peer = sender, former, "blocked peer has rotated: its new DID is blocked"),
            Err(error) => tracing::warn!(%error, peer = sender, "new DID of a blocked peer not blocked"),
        }
        true
    }

    /// Whether the store says that the sender of a message is blocked, although [`is_from_blocked_peer`] did not know: it was
    /// blocked a moment ago, or by another process. `keys` are those of [`blocked_keys`], and their records were read ahead.
    ///
    /// [`is_from_blocked_peer`]: Self::is_from_blocked_peer
    ///
    /// # Errors
    /// [`HandleError::Retry`] if the store does not answer.
    pub(super) async fn is_blocked_meanwhile(
        &self,
        keys: Vec<String>,
        tx: &mut Transaction<'_>,
    ) -> Result<bool, HandleError> {
        let mut is_blocked = false;
        for key in keys {
            if tx.get::<BlockedPeer>(&key).await?.is_some() {
                self.parts.blocked.note(key);
                is_blocked = true;
            }
        }
        Ok(is_blocked)
    }

    /// Removes the envelope of a blocked peer. The peer is told nothing.
    pub(super) async fn drop_blocked(&self, opening: &Opening, kind: &str) {
        self.parts.metrics.message_handled(kind, BLOCKED);
        tracing::debug!(envelope = opening.id(), "message of a blocked peer dropped");
        if let Err(error) = self.commit(opening, Commit::default()).await {
            tracing::warn!(envelope = opening.id(), %error, "envelope not removed");
        }
    }
}

/// Returns the keys of the records that block the sender of a message, if there are any.
pub(super) fn blocked_keys(received: &Received) -> Vec<String> {
    let names = [received.sender.as_deref(), former_did(received)];
    names.into_iter().flatten().map(BlockedPeer::key).collect()
}

/// Returns the DID that the sender of a message has rotated from, as it has proved.
fn former_did(received: &Received) -> Option<&str> {
    let (sender, provenance) = (received.sender.as_deref()?, &received.provenance);
    let is_proved = !provenance.warnings.contains(&Warning::UnauthenticatedFromPrior);
    let prior = provenance.from_prior.as_ref().filter(|_| is_proved)?;
    let is_of_sender = prior.sub.as_deref().is_some_and(|sub| canonical_did(sub) == sender);
    is_of_sender.then_some(&*prior.iss)
}
