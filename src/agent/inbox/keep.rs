//! Brings an envelope into the store that is opened before it is stored.
//!
//! The effects of its message and its digest are committed in one transaction, and the peer gets its answer after that commit.
//! Whatever takes longer, or must wait, is stored like every other envelope.

use std::sync::atomic::Ordering;

use super::{
    opening::{Arrival, Opening, Stage},
    state::{Inbox, lock},
};
use crate::agent::store::{
    error::StoreError,
    types::{Commit, CommitOutcome, NewEnvelope, ReceiveOutcome},
};

/// What has become of an envelope that was opened before it was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Its message is handled or refused.
    Processed,
    /// It is stored, and its worker goes on.
    InProgress,
    /// It is stored, and waits for a worker.
    Waiting,
    /// The same envelope was stored or processed before.
    Known,
}

impl Inbox {
    /// Stores an envelope that was opened before it was stored, unless it is stored or processed by now.
    ///
    /// # Errors
    /// Those of [`Store::receive`](crate::agent::store::Store::receive).
    pub(super) async fn keep(&self, arrival: &Arrival) -> Result<Kept, StoreError> {
        let mut state = arrival.state.lock().await;
        if let Stage::Unstored(envelope) = &state.stage {
            let (stage, known) = match self.parts.store.inner().receive(NewEnvelope::clone(envelope)).await? {
                // What is handed over is being opened here: whoever commits first has handled it.
                ReceiveOutcome::Stored(id) | ReceiveOutcome::HandedOver(id) => (Stage::Stored(id), false),
                ReceiveOutcome::AlreadyPending(id) => (Stage::Stored(id), true),
                ReceiveOutcome::AlreadyProcessed => (Stage::Processed, true),
            };
            if let Stage::Stored(id) = stage {
                arrival.id.store(id, Ordering::Release);
                match state.has_worker {
                    // Another worker may have a copy.
                    true => state.is_listed = lock(&self.in_progress).insert(id),
                    false => self.note_backlog(),
                }
            }
            state.stage = stage;
            arrival.settled.cancel();
            if known {
                return Ok(Kept::Known);
            }
        }
        Ok(match (&state.stage, state.has_worker) {
            (Stage::Processed | Stage::Unstored(_), _) => Kept::Processed,
            (Stage::Stored(_), true) => Kept::InProgress,
            (Stage::Stored(_), false) => Kept::Waiting,
        })
    }

    /// Returns the id of an envelope in the store, and stores the envelope if it is not there. `None` if a copy of it was
    /// processed meanwhile.
    pub(super) async fn stored_id(&self, opening: &Opening) -> Result<Option<i64>, StoreError> {
        if let Some(arrival) = &opening.arrival {
            self.keep(arrival).await?;
        }
        let id = opening.id();
        // The span began before the envelope was stored.
        tracing::Span::current().record("envelope", id);
        Ok(id)
    }

    /// Commits what the message of an envelope does, and removes the envelope from the store if it is there.
    pub(super) async fn commit(&self, opening: &Opening, commit: Commit) -> Result<CommitOutcome, StoreError> {
        let Some(arrival) = &opening.arrival else {
            return self.parts.store.commit(Commit { envelope: Some(opening.envelope.id), ..commit }).await;
        };
        // While this is held, the envelope is not stored besides.
        let mut state = arrival.state.lock().await;
        let commit = match &state.stage {
            Stage::Unstored(envelope) => Commit { arrived: Some(envelope.clone()), ..commit },
            Stage::Stored(id) => Commit { envelope: Some(*id), ..commit },
            // A copy was handled or refused before.
            Stage::Processed => return Ok(CommitOutcome::Duplicate),
        };
        let outcome = self.parts.store.commit(commit).await.inspect_err(|_| self.arrivals.pause())?;
        if matches!(outcome, CommitOutcome::Committed | CommitOutcome::Duplicate) {
            state.stage = Stage::Processed;
            arrival.settled.cancel();
        }
        Ok(outcome)
    }

    /// Notes that the worker of an envelope has ended.
    pub(super) async fn end_opening(&self, opening: &Opening) {
        match &opening.arrival {
            None => _ = lock(&self.in_progress).remove(&opening.envelope.id),
            Some(arrival) => {
                let mut state = arrival.state.lock().await;
                state.has_worker = false;
                if let Some(id) = opening.id().filter(|_| std::mem::take(&mut state.is_listed)) {
                    lock(&self.in_progress).remove(&id);
                }
                arrival.settled.cancel();
                self.arrivals.remove(&arrival.digest);
            }
        }
    }
}
