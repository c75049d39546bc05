//! Puts many messages into the outbox with few commits.

use super::{
    agent::Agent,
    caller_id::check_id,
    error::AgentError,
    outgoing_message::OutgoingMessage,
    send::{SentRequest, changed_again_and_again},
    store::types::{Change, CommitOutcome},
};
use crate::didcomm::Message;

/// A message that was put into the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Queued {
    /// The id of the outbox entry.
    pub id: String,
    /// Our DID that sends; `None` for an anonymous message.
    pub from: Option<String>,
}

/// Messages that are put into the outbox together, in their order. Each succeeds or fails by itself.
pub(super) struct Batch<'a> {
    agent: &'a Agent,
    /// The messages that the next commit puts into the outbox.
    pending: Vec<Pending>,
    results: Vec<Result<Queued, AgentError>>,
}

/// A checked message, and the changes that put it into the outbox.
struct Pending {
    /// The position of its result.
    position: usize,
    id: String,
    request: Option<SentRequest>,
    changes: Vec<Change>,
}

impl<'a> Batch<'a> {
    pub fn new(agent: &'a Agent) -> Self {
        Self { agent, pending: Vec::new(), results: Vec::new() }
    }

    /// Adds a message. `is_repeatable` tells whether its id is the caller's.
    pub async fn add(&mut self, outgoing: &OutgoingMessage, is_repeatable: bool) {
        let result = self.try_add(outgoing, is_repeatable).await;
        self.results.push(result);
    }

    /// Commits what is pending. Returns the results, in the order of the messages.
    pub async fn finish(mut self) -> Vec<Result<Queued, AgentError>> {
        self.commit().await;
        self.results
    }

    async fn try_add(&mut self, outgoing: &OutgoingMessage, is_repeatable: bool) -> Result<Queued, AgentError> {
        let agent = self.agent;
        let id = if is_repeatable { outgoing.message.id.clone() } else { Message::new_id() };
        let request = match is_repeatable {
            true => {
                check_id(&id)?;
                Some(SentRequest::of(outgoing)?)
            }
            false => None,
        };
        if self.pending.iter().any(|pending| pending.id == id) {
            self.commit().await;
        }
        if let Some(request) = &request
            && agent.was_sent(&id, request).await?
        {
            let from = match &outgoing.message.from {
                None if !outgoing.anonymous => agent.outbox_entry(&id).await?.map(|entry| entry.sender),
                from => from.clone(),
            };
            return Ok(Queued { id, from });
        }
        let request_as_made = outgoing;
        let outgoing = &*agent.with_sender(outgoing).await?;
        let own_did = agent.check_outgoing(outgoing)?;
        agent.check_recipient(outgoing, own_did.as_deref()).await?;
        let queued = Queued { id: id.clone(), from: outgoing.message.from.clone() };
        // The first message to a peer changes the connection, and other messages of the batch may change it too.
        if !agent.peer_changes(outgoing, own_did.as_deref()).await?.is_empty() {
            self.commit().await;
            return match is_repeatable {
                true => agent.send_once(request_as_made).await,
                false => agent.send(outgoing).await,
            }
            .map(|id| Queued { id, ..queued });
        }
        let changes = agent.message_changes(&id, outgoing, request.as_ref())?;
        self.pending.push(Pending { position: self.results.len(), id, request, changes });
        Ok(queued)
    }

    /// Commits the pending messages together; each by itself if one of them was sent by another request meanwhile.
    async fn commit(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return;
        }
        let store = &self.agent.store;
        let all = pending.iter().flat_map(|pending| pending.changes.iter().cloned()).collect();
        match store.commit_changes(all).await {
            Ok(CommitOutcome::Committed) => {}
            Ok(_) => {
                for pending in pending {
                    if let Err(error) = self.commit_one(&pending).await {
                        self.results[pending.position] = Err(error);
                    }
                }
            }
            Err(error) => {
                for pending in pending {
                    self.results[pending.position] = Err(AgentError::Store(error.clone()));
                }
            }
        }
    }

    async fn commit_one(&self, pending: &Pending) -> Result<(), AgentError> {
        if self.agent.store.commit_changes(pending.changes.clone()).await? == CommitOutcome::Committed {
            return Ok(());
        }
        match &pending.request {
            Some(request) if self.agent.was_sent(&pending.id, request).await? => Ok(()),
            _ => Err(changed_again_and_again()),
        }
    }
}
