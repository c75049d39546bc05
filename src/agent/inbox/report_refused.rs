//! Reports to the sender of a message that was opened and is refused which header is wrong.

use tokio::sync::oneshot;

use super::{opening::Opening, quota::needed_room, return_route::ReturnRouteRequest, state::Inbox};
use crate::{
    agent::{
        metrics::UNOPENED,
        protocol::{HandleError, Problem, Received, Transaction, connections::is_stranger, problem_limits},
        rotation::peer::reason_to_ignore,
        store::types::{Change, Commit, CommitOutcome, HandledMessage, PeerQuota, Stranger},
    },
    didcomm::RefusedMessage,
};

/// The problem code of a message with an invalid header.
const BAD_HEADER: &str = "e.m.msg.bad-header";
/// How many times a report is made if its records change meanwhile. Then the message is refused without a report.
const MAX_ATTEMPTS: usize = 10;

impl Inbox {
    /// Refuses a message that was opened, and reports its invalid header to the sender. The report has the limits of all
    /// problem reports, and of all replies to strangers.
    pub(super) async fn refuse_opened(
        &self,
        opening: &Opening,
        refused: RefusedMessage,
        reason: &str,
        return_route: Option<oneshot::Sender<ReturnRouteRequest>>,
    ) {
        self.forget_doubts(opening);
        let RefusedMessage { header, reason: fault, message, provenance, .. } = refused;
        let comment = "The header {1} of the message is not valid: {2}.";
        let problem = Problem::new(BAD_HEADER, comment).arg(header).arg(fault);
        let Ok(received) = self.received(&opening.envelope, message, provenance) else {
            return self.refuse(opening, UNOPENED, reason).await;
        };
        if self.is_from_blocked_peer(&received).await {
            return self.drop_blocked(opening, UNOPENED).await;
        }
        let handled = self.refused_mark(&received);
        let first_handling = self.request_return_route(opening, &received, &handled, return_route).await;
        let mut quota = PeerQuota::FREE;
        for _ in 0..MAX_ATTEMPTS {
            match self.commit_report(opening, &received, &handled, &problem, quota).await {
                Ok((CommitOutcome::Committed, has_replies)) => {
                    self.note_refused(opening, UNOPENED, "refused", reason);
                    if let Some(first_handling) = first_handling {
                        first_handling.finish(has_replies);
                    }
                    return;
                }
                Ok((CommitOutcome::Duplicate, _)) => return self.note_refused(opening, UNOPENED, "refused", reason),
                Ok((CommitOutcome::Conflict, _)) => {}
                Ok((CommitOutcome::NoRoom(exceeded), _)) => quota = exceeded,
                // The report of an old message is of no use.
                Ok((CommitOutcome::TooOld | CommitOutcome::DatedAhead, _)) => break,
                Err(error) => return self.postpone_after_work(opening, &error.to_string()).await,
            }
        }
        self.refuse(opening, UNOPENED, reason).await;
    }

    /// The mark that a message was refused, so that it is reported once. A message of the same id with valid headers has
    /// another mark, so the sender can correct its message and send it again.
    fn refused_mark(&self, received: &Received) -> HandledMessage {
        HandledMessage {
            sender: received.sender.clone().unwrap_or_default(),
            recipient: received.recipient.clone(),
            message: format!("{} refused", received.message.id.to_ascii_lowercase()),
            until: received.time.saturating_add(self.parts.options.max_age),
            received: received.time,
            earlier: Vec::new(),
        }
    }

    /// Removes the envelope, and puts the report into the outbox, unless a limit is reached. Returns also whether there is a
    /// report.
    async fn commit_report(
        &self,
        opening: &Opening,
        received: &Received,
        handled: &HandledMessage,
        problem: &Problem,
        quota: PeerQuota,
    ) -> Result<(CommitOutcome, bool), HandleError> {
        let mut tx = Transaction::new(received, &*self.parts.store, &self.parts.features);
        let is_stranger = is_stranger(received, &mut tx).await?;
        if reason_to_ignore(received, &mut tx).await?.is_none() {
            problem_limits::report_within_limits(received, problem, &mut tx, &self.parts.options.problems).await?;
        }
        let expects = tx.expects();
        let effects = self.limit_replies(received, is_stranger, quota, tx.effects());
        let room = needed_room(received, true, is_stranger, &effects);
        let changes = self.parts.store.changes(received, effects, self.parts.options.reply_lifetime)?;
        let changes = self.limit_lifetimes(changes, is_stranger);
        let has_replies = changes.iter().any(|change| matches!(change, Change::Send(_)));
        let did = received.sender.clone().unwrap_or_default();
        let commit = Commit {
            expects,
            room,
            handled: Some(handled.clone()),
            changes,
            stranger: is_stranger.then_some(Stranger { did, created: None }),
            ..Commit::default()
        };
        Ok((self.commit(opening, commit).await?, has_replies))
    }
}
