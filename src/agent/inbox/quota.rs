//! What one sender may leave here (threats.md "queue flooding").
//!
//! Who has left too much is told at the door to come again: nothing is lost, and nobody is charged with what others send in its
//! name, since only what was opened counts. This is about what the door cannot see or say: who sent a message whose sender is
//! hidden from those who carry it, or that was fetched; and how many replies wait for who does not take them.

use super::Inbox;
use crate::{
    agent::{
        ours::canonical,
        protocol::{Effect, Problem, Received},
        store::StoreError,
    },
    did::did_of,
    didcomm::Layer,
};

impl Inbox {
    /// The problem, if a message for the application was taken only because the door did not look at whose it is. One that
    /// passed the door is delivered, whatever came of its sender since: it was said to be taken.
    pub(super) async fn overcharge(
        &self,
        received: &Received,
        charged: bool,
        effects: &[Effect],
    ) -> Result<Option<Problem>, StoreError> {
        if !effects.contains(&Effect::Deliver) || (charged && was_named(received)) {
            return Ok(None);
        }
        let sender = received.theirs.as_deref().unwrap_or_default();
        if self.parts.books.store().room(sender).await?.unread {
            return Ok(None);
        }
        let comment = "There is no room for more of your messages until those before are read; send it again later.";
        Ok(Some(Problem::new("e.m.me.res.storage", comment)))
    }

    /// Without the replies to a sender for whom too many wait already.
    pub(super) async fn answerable(
        &self,
        received: &Received,
        mut effects: Vec<Effect>,
    ) -> Result<Vec<Effect>, StoreError> {
        let Some(theirs) = &received.theirs else { return Ok(effects) };
        let is_send = |effect: &Effect| matches!(effect, Effect::Send(_));
        if effects.iter().any(is_send) && !self.parts.books.store().room(theirs).await?.unsent {
            tracing::warn!(
                id = received.message.id,
                peer = theirs,
                "not answered: too many messages wait for this peer"
            );
            effects.retain(|effect| !is_send(effect));
        }
        Ok(effects)
    }
}

/// Whether the envelope itself said who sent it, and not who carried it.
fn was_named(received: &Received) -> bool {
    let Some(Layer::Authcrypt { skid, .. }) = received.provenance.layers.first() else { return false };
    did_of(skid).map(canonical) == received.theirs.as_deref()
}
