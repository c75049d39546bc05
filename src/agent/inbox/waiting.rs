//! How an envelope waits, and when it is given up.
//!
//! An envelope that only waits for us (a token, the store) waits without a limit of its own. One that waits for its
//! sender's document has a time limit, which begins when the document was first found to be unavailable. And one that a
//! token has worked on in vain has a limit of attempts, so that no message costs the token time for ever.

use super::{failure::Doubt, opening::Opening, state::Inbox};
use crate::{
    agent::{
        clock::{MAX_CLOCK_SKEW, Millis, now},
        metrics::UNOPENED,
        store::types::{Commit, Postponement},
    },
    secrets::HeldKey,
};

const SECOND: Millis = 1000;
/// The longest pause of an envelope that waits for a token or the store.
const LONGEST_PAUSE: Millis = 30 * SECOND;
/// The longest pause of an envelope that waits for its sender's document.
const LONGEST_PAUSE_FOR_SENDER: Millis = 15 * 60 * SECOND;
/// The longest pause of an envelope that a token has worked on.
const LONGEST_PAUSE_AFTER_WORK: Millis = 60 * 60 * SECOND;

impl Inbox {
    /// Postpones an envelope that waits for us. The pause grows with each attempt. `kind` is the message's type, if it
    /// is known.
    pub(super) async fn postpone(&self, opening: &Opening, kind: &str, reason: &str) {
        let pause = (SECOND << opening.envelope.tries.min(10)).min(LONGEST_PAUSE);
        self.postpone_for(opening, kind, reason, pause, Postponement::default()).await;
    }

    /// Postpones an envelope until the `created_time` of its message has come, at most for as long as clocks may differ.
    pub(super) async fn postpone_until(&self, opening: &Opening, kind: &str, reason: &str, created: Millis) {
        let pause = created.saturating_sub(now()).clamp(SECOND, MAX_CLOCK_SKEW);
        self.postpone_for(opening, kind, reason, pause, Postponement::default()).await;
    }

    /// Postpones an envelope that waits for us, and whose outer layer a token has opened. The pauses are long, since each
    /// attempt costs the token time again.
    pub(super) async fn postpone_after_work(&self, opening: &Opening, reason: &str) {
        let postponement = Postponement { attempted: true, ..Postponement::default() };
        self.postpone_for(opening, UNOPENED, reason, pause_after_work(opening), postponement).await;
    }

    /// Postpones an envelope whose sender's document is unavailable, or gives the envelope up. `worked` says whether a
    /// token has opened a layer of it, and `is_known` whether the sender has a connection.
    pub(super) async fn wait_for_sender(&self, opening: &Opening, reason: &str, worked: bool, is_known: bool) {
        let options = &self.parts.options;
        let time = now();
        let since = opening.envelope.unresolved_since.unwrap_or(time);
        let waited = time.saturating_sub(since).max(0);
        let is_stranger = opening.envelope.unresolved && !is_known;
        let limit = if is_stranger { options.wait_for_stranger } else { options.wait_for_sender };
        if waited >= limit || (worked && !is_known && opening.envelope.attempts + 1 >= options.max_attempts) {
            let reason = format!("{reason} (waited {} seconds for it)", waited / SECOND);
            return self.give_up(opening, UNOPENED, "unresolved", &reason).await;
        }
        let pause = match worked {
            true => pause_after_work(opening),
            false => (waited / 2).clamp(SECOND, LONGEST_PAUSE_FOR_SENDER),
        };
        // The last attempt is made when the time is over.
        let pause = pause.min(limit - waited).max(SECOND);
        let postponement = Postponement { attempted: worked, unresolved_since: Some(since), ..Postponement::default() };
        self.postpone_for(opening, UNOPENED, reason, pause, postponement).await;
    }

    /// Postpones an envelope whose worker has panicked, or gives the envelope up after [`InboxOptions::max_attempts`]
    /// attempts.
    ///
    /// [`InboxOptions::max_attempts`]: super::InboxOptions::max_attempts
    pub(super) async fn conclude_panic(&self, opening: &Opening) {
        let reason = "the agent failed while it handled the message: this is a bug in claviger";
        if opening.envelope.attempts + 1 >= self.parts.options.max_attempts {
            return self.give_up(opening, UNOPENED, "panicked", reason).await;
        }
        self.postpone_after_work(opening, reason).await;
    }

    async fn postpone_for(
        &self,
        opening: &Opening,
        kind: &str,
        reason: &str,
        pause: Millis,
        postponement: Postponement,
    ) {
        self.parts.metrics.message_handled(kind, "later");
        let id = match self.stored_id(opening).await {
            Ok(Some(id)) => id,
            Ok(None) => return,
            // The sender is told that the envelope is not stored.
            Err(error) => return tracing::warn!(%error, reason, "message neither opened nor stored"),
        };
        tracing::info!(envelope = id, tries = opening.envelope.tries + 1, reason, "message postponed");
        let postponement = Postponement { until: now() + pause, reason: reason.to_owned(), ..postponement };
        if let Err(error) = self.parts.store.inner().postpone(id, postponement).await {
            // The envelope is unchanged. The next search of the store finds it.
            tracing::warn!(envelope = id, %error, "envelope not updated");
        }
    }

    /// Refuses a message for good, and removes its envelope.
    pub(super) async fn refuse(&self, opening: &Opening, kind: &str, reason: &str) {
        self.give_up(opening, kind, "refused", reason).await;
    }

    /// Postpones an envelope that did not open although the token is in order, or gives it up after enough attempts.
    pub(super) async fn wait_in_doubt(&self, opening: &Opening, doubt: Doubt, reason: &str) {
        let held = self.parts.own_dids.secrets().keys().borrow().clone();
        let prompts = held.iter().any(HeldKey::asks_person);
        let id = match self.stored_id(opening).await {
            Ok(Some(id)) => id,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, reason, "message neither opened nor stored"),
        };
        let is_let_go = self.doubts.is_let_go(id, doubt, prompts, &self.parts.options, now());
        match doubt {
            _ if !is_let_go => self.postpone(opening, UNOPENED, reason).await,
            Doubt::NotOpened => self.refuse(opening, UNOPENED, reason).await,
            Doubt::Refused => {
                let reason = format!("{reason}; the cause is not known: the token works, and refused it for minutes");
                self.give_up(opening, UNOPENED, "unexplained", &reason).await;
            }
        }
    }

    /// Forgets the attempts to open an envelope.
    pub(super) fn forget_doubts(&self, opening: &Opening) {
        if let Some(id) = opening.id() {
            self.doubts.forget(id);
        }
    }

    /// Counts and logs a message that is refused.
    pub(super) fn note_refused(&self, opening: &Opening, kind: &str, result: &'static str, reason: &str) {
        self.parts.metrics.message_handled(kind, result);
        tracing::warn!(envelope = opening.id(), reason, "message refused");
    }

    /// Removes an envelope for good. `result` is the label in the metric.
    async fn give_up(&self, opening: &Opening, kind: &str, result: &'static str, reason: &str) {
        self.note_refused(opening, kind, result, reason);
        if let Err(error) = self.commit(opening, Commit::default()).await {
            tracing::warn!(envelope = opening.id(), %error, "envelope not removed");
        }
    }

    /// Deletes at most `limit` envelopes that arrived before `retention` milliseconds ago, and reports them. Returns how
    /// many were deleted.
    pub(in crate::agent) async fn expire_envelopes(&self, retention: Millis, limit: usize) -> usize {
        let expired = match self.parts.store.inner().expire_envelopes(now().saturating_sub(retention), limit).await {
            Ok(expired) => expired,
            Err(error) => {
                tracing::warn!(%error, "expired envelopes not deleted");
                return 0;
            }
        };
        for envelope in &expired {
            self.parts.metrics.message_handled(UNOPENED, "expired");
            let reason = envelope.problem.as_deref().unwrap_or("no token was ready to open it");
            let days = now().saturating_sub(envelope.received) / (24 * 60 * 60 * SECOND);
            tracing::error!(
                envelope = envelope.id,
                recipient = envelope.recipient,
                days,
                reason,
                "message expired unopened"
            );
        }
        expired.len()
    }
}

/// The pause grows with the attempts that a token has worked on: 4, 16, 64 seconds, and so on.
fn pause_after_work(opening: &Opening) -> Millis {
    (SECOND << (2 * opening.envelope.attempts + 2).min(20)).min(LONGEST_PAUSE_AFTER_WORK)
}
