//! The quota of a sender: how many unread messages of one sender are kept, and how many replies wait for one peer.
//!
//! [`Inbox::accept`] asks a sender that exceeds its quota to retry later, so nothing is lost. Only opened messages
//! count, so nobody can exhaust the quota of another sender. The checks in this file are made after the message is
//! opened, because the envelope hid its sender or was fetched. A message is handled as if there were room; the commit checks it,
//! and if there is none, the message is handled again within the quota.

use super::state::Inbox;
use crate::{
    agent::{
        canonical_did::canonical_did,
        protocol::{
            Effect, Problem, Received, discover_features::DISCLOSE, report_message::PROBLEM_REPORT,
            trust_ping::PING_RESPONSE,
        },
        store::types::{Change, NeededRoom, PeerQuota},
    },
    did::did_of,
    didcomm::{Layer, MessageType},
};

impl Inbox {
    /// Drops the replies to a message if `quota`, that of its sender, has no room for them.
    pub(super) fn limit_replies(
        &self,
        received: &Received,
        is_stranger: bool,
        quota: PeerQuota,
        mut effects: Vec<Effect>,
    ) -> Vec<Effect> {
        let Some(sender) = &received.sender else { return effects };
        if effects.iter().any(is_send) && !quota.may_reply {
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
        effects
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

/// Returns the problem to report if the quota of the sender has no room for the message.
pub(super) fn exceeded_quota(room: Option<&NeededRoom>, quota: PeerQuota) -> Option<Problem> {
    let comment = "There is no room for more of your messages until those before are read; send it again later.";
    let is_exceeded = room.is_some_and(|room| room.to_deliver) && !quota.may_deliver;
    is_exceeded.then(|| Problem::new("e.m.me.res.storage", comment))
}

/// Returns the room that the effects of a message need, which the commit checks. `quota_checked` says whether the quota for
/// messages was checked on arrival. A message whose sender was checked on arrival is delivered in any case, since the sender
/// was told that the message was accepted.
pub(super) fn needed_room(
    received: &Received,
    quota_checked: bool,
    is_stranger: bool,
    effects: &[Effect],
) -> Option<NeededRoom> {
    let to_deliver = effects.contains(&Effect::Deliver) && !(quota_checked && names_sender(received));
    let to_reply = received.sender.is_some() && effects.iter().any(is_send);
    let peer = received.sender.clone().unwrap_or_default();
    (to_deliver || to_reply).then_some(NeededRoom { peer, is_stranger, to_deliver, to_reply })
}

fn is_send(effect: &Effect) -> bool {
    matches!(effect, Effect::Send(_))
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
