//! The application's requests about messages in the outbox: list, cancel and try them.

use super::{
    agent::Agent,
    clock::now,
    error::AgentError,
    outbox::Wait,
    store::{
        StoreError,
        types::{OutboxEntry, OutboxPosition, OutboxQuery, SendState, ThreadEntry, ThreadPosition},
    },
};

impl Agent {
    /// The outbox entry with this id, as [`send`](Self::send) returned it. `None` if it is unknown or was deleted.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn outbox_entry(&self, id: &str) -> Result<Option<OutboxEntry>, StoreError> {
        self.store.inner().outbox_entry(id).await
    }

    /// The messages of the outbox that `query` selects, without their content, each with its position.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn outbox(&self, query: OutboxQuery) -> Result<Vec<(OutboxPosition, OutboxEntry)>, StoreError> {
        self.store.inner().outbox(query).await
    }

    /// What a message in the outbox waits for. `None` if it does not wait.
    pub fn wait_of(&self, entry: &OutboxEntry) -> Option<Wait> {
        self.outbox.wait_of(entry)
    }

    /// Cancels a waiting message, and deletes its content. An attempt that is under way may still send it: then its state
    /// becomes [`Sent`](SendState::Sent). To cancel a message again changes nothing. Returns `None` if there is no such
    /// message.
    ///
    /// # Errors
    /// [`AgentError::NotWaiting`] if the message was sent or given up; [`AgentError::Store`] if the store fails.
    pub async fn cancel(&self, id: &str) -> Result<Option<OutboxEntry>, AgentError> {
        let store = self.store.inner();
        let Some(before) = store.outbox_entry(id).await? else { return Ok(None) };
        let time = now();
        if store.cancel_outgoing(id, time).await? {
            tracing::info!(id = before.message, "message cancelled");
            self.outbox.cancelled(&before);
            return Ok(Some(OutboxEntry { state: SendState::Cancelled, time, sealed: None, ..before }));
        }
        match store.outbox_entry(id).await? {
            Some(entry) if entry.state == SendState::Cancelled => Ok(Some(entry)),
            after => Err(not_waiting(&after.unwrap_or(before))),
        }
    }

    /// Tries a waiting message now, whatever pause its peer or the peer's server has. The other messages to the peer follow
    /// if it is sent. Returns `None` if there is no such message.
    ///
    /// # Errors
    /// [`AgentError::NotWaiting`] if the message was sent or given up; [`AgentError::Store`] if the store fails.
    pub async fn retry(&self, id: &str) -> Result<Option<OutboxEntry>, AgentError> {
        let Some(entry) = self.outbox_entry(id).await? else { return Ok(None) };
        if entry.state != SendState::Waiting {
            return Err(not_waiting(&entry));
        }
        self.outbox.try_now(&entry).await?;
        Ok(Some(entry))
    }

    /// At most `limit` messages of a thread that were delivered to the application or sent, after `after`, oldest first, each
    /// with its position.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn thread(
        &self,
        thread: &str,
        after: ThreadPosition,
        limit: usize,
    ) -> Result<Vec<(ThreadPosition, ThreadEntry)>, StoreError> {
        self.store.inner().thread_entries(thread, after, limit).await
    }
}

fn not_waiting(entry: &OutboxEntry) -> AgentError {
    AgentError::NotWaiting(match entry.state {
        SendState::Waiting | SendState::Sent => "the message was sent",
        SendState::Failed => "the message was given up, and its content is deleted: send it again under another id",
        SendState::Expired => "the message has expired, and its content is deleted: send it again under another id",
        SendState::Cancelled => "the message was cancelled, and its content is deleted: send it again under another id",
    })
}
