//! Messages of blocked peers whose envelopes named no sender. The others are dropped on arrival.

use super::{accept::BLOCKED, opening::Opening, state::Inbox};
use crate::{
    agent::{canonical_did::canonical_did, protocol::Received, store::types::Commit},
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
        let provenance = &received.provenance;
        let is_proved = !provenance.warnings.contains(&Warning::UnauthenticatedFromPrior);
        let Some(prior) = provenance.from_prior.as_ref().filter(|_| is_proved) else { return false };
        let is_of_sender = prior.sub.as_deref().is_some_and(|sub| canonical_did(sub) == *sender);
        if !is_of_sender || !blocked.contains(&prior.iss) {
            return false;
        }
        match blocked.block_successor(sender).await {
            Ok(()) => {
                tracing::info!(peer = sender, former = prior.iss, "blocked peer has rotated: its new DID is blocked")
            }
            Err(error) => tracing::warn!(%error, peer = sender, "new DID of a blocked peer not blocked"),
        }
        true
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
