//! The quota of a sender: how many unread messages of one sender are kept, and how many replies wait for one peer.
//!
//! [`Inbox::accept`] asks a sender that exceeds its quota to retry later, so nothing is lost. Only opened messages
//! count, so nobody can exhaust the quota of another sender. The checks in this file are made after the message is
//! opened, because the envelope hid its sender or was fetched.

use super::state::Inbox;
use crate::{
    agent::{
        canonical_did::canonical_did,
        protocol::{
            Effect, Problem, Received, discover_features::DISCLOSE, report_message::PROBLEM_REPORT,
            trust_ping::PING_RESPONSE,
        },
        store::{error::StoreError, types::Change},
    },
    did::did_of,
    didcomm::{Layer, MessageType},
};

impl Inbox {
    /// Checks the sender's quota for a message to the application. Returns the problem to report if the quota is
    /// exceeded. `quota_checked` says whether the quota was checked on arrival. A message whose sender was checked on
    /// arrival is delivered in any case, since the sender was told that the message was accepted.
    pub(super) async fn check_quota(
        &self,
        received: &Received,
        quota_checked: bool,
        is_stranger: bool,
        effects: &[Effect],
    ) -> Result<Option<Problem>, StoreError> {
        if !effects.contains(&Effect::Deliver) || (quota_checked && names_sender(received)) {
            return Ok(None);
        }
        let sender = received.sender.as_deref().unwrap_or_default();
        if self.parts.store.inner().peer_quota(sender, is_stranger).await?.may_deliver {
            return Ok(None);
        }
        let comment = "There is no room for more of your messages until those before are read; send it again later.";
        Ok(Some(Problem::new("e.m.me.res.storage", comment)))
    }

    /// Drops the replies to a message if too many messages already wait to be sent to its sender, or to all strangers.
    pub(super) async fn limit_replies(
        &self,
        received: &Received,
        is_stranger: bool,
        mut effects: Vec<Effect>,
    ) -> Result<Vec<Effect>, StoreError> {
        let Some(sender) = &received.sender else { return Ok(effects) };
        let is_send = |effect: &Effect| matches!(effect, Effect::Send(_));
        if effects.iter().any(is_send) && !self.parts.store.inner().peer_quota(sender, is_stranger).await?.may_reply {
            // A stranger can cause this often.
            match is_stranger {
                true => tracing::debug!(id = received.message.id, "replies dropped: too many wait for strangers"),
                false => tracing::warn!(
                    id = received.message.id,
                    peer = sender,
                    "replies dropped: too many messages wait for the peer"
                ),
            }
            self.parts.metrics.replies_dropped();
            effects.retain(|effect| !is_send(effect));
        }
        Ok(effects)
    }

    /// Marks the replies to a stranger, and shortens the life of replies that are of no use later.
    pub(super) fn limit_lifetimes(&self, mut changes: Vec<Change>, is_stranger: bool) -> Vec<Change> {
        for change in &mut changes {
            if let Change::Send(entry) = change {
                entry.to_stranger = is_stranger;
                if is_stranger || is_momentary(&entry.kind) {
                    let until = entry.created.saturating_add(self.parts.options.momentary_lifetime);
                    entry.expires = entry.expires.min(until);
                }
            }
        }
        changes
    }
}

/// Whether a reply of this type says how things are now, and is of no use later.
fn is_momentary(kind: &str) -> bool {
    let Some(kind) = MessageType::parse(kind) else { return false };
    let momentary = [PING_RESPONSE, DISCLOSE, PROBLEM_REPORT];
    momentary.into_iter().filter_map(MessageType::parse).any(|other| kind.is_compatible_with(&other))
}

/// Whether the outermost envelope names the sender of the message, and not a mediator that carried it.
fn names_sender(received: &Received) -> bool {
    let Some(Layer::Authcrypt { skid, .. }) = received.provenance.layers.first() else { return false };
    did_of(skid).is_some_and(|did| received.sender.as_deref() == Some(&*canonical_did(did)))
}
