//! Reads messages and recorded events from the store, in their order and without gaps.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::response::sse::Event;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{
    delivered::DeliveredMessage,
    event_payload::EventPayload,
    event_selection::{EventPosition, MESSAGE, Selection},
};
use crate::agent::{
    agent::Agent,
    event::Event as AgentEvent,
    store::{DeliveryQuery, StoreError, StoredEvent},
};

/// The most messages, and the most recorded events, that are read from the store at once, and the most bytes of messages.
const PAGE_SIZE: usize = 100;
const PAGE_BYTES: usize = 256 * 1024;
/// The interval at which the store is read if there is no event.
const READ_INTERVAL: Duration = Duration::from_secs(15);

/// A reader of events. An event of the agent only triggers the next read.
pub(super) struct EventReader {
    pub agent: Arc<Agent>,
    pub events: broadcast::Receiver<AgentEvent>,
    pub shutdown: CancellationToken,
    pub selection: Selection,
    /// The position after the last event that was returned.
    pub position: EventPosition,
    /// What was read and not returned yet.
    pub messages: VecDeque<DeliveredMessage>,
    pub recorded: VecDeque<StoredEvent>,
}

impl EventReader {
    /// Returns the next event; none if the agent ends.
    pub async fn next(&mut self) -> Option<Event> {
        while self.messages.is_empty() && self.recorded.is_empty() {
            // One of the two may wait for a token while the other goes on.
            let read = [self.read_messages().await, self.read_recorded().await];
            for error in read.into_iter().filter_map(Result::err) {
                tracing::debug!(%error, "events wait for the store");
            }
            if !self.messages.is_empty() || !self.recorded.is_empty() {
                break;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                _ = self.events.recv() => {}
                () = tokio::time::sleep(READ_INTERVAL) => {}
            }
        }
        let is_earlier = |message: &DeliveredMessage, event: &StoredEvent| message.received() <= event.time;
        let takes_message = match (self.messages.front(), self.recorded.front()) {
            (Some(message), Some(event)) => is_earlier(message, event),
            (message, _) => message.is_some(),
        };
        // Serialization does not fail: a message was parsed from JSON.
        if takes_message {
            let message = self.messages.pop_front()?;
            self.position.message = message.cursor();
            return self.event(MESSAGE).json_data(&message).ok();
        }
        let event = self.recorded.pop_front()?;
        self.position.event = event.cursor;
        let kind = event.kind.clone();
        self.event(&kind).json_data(EventPayload::from(event)).ok()
    }

    fn event(&self, kind: &str) -> Event {
        Event::default().event(kind).id(self.position.id(&self.selection))
    }

    async fn read_messages(&mut self) -> Result<(), StoreError> {
        if !self.selection.messages {
            return Ok(());
        }
        let (limit, max_bytes) = (PAGE_SIZE, Some(PAGE_BYTES));
        let query = DeliveryQuery { after: self.position.message, limit, max_bytes, ..DeliveryQuery::default() };
        let found = self.agent.deliveries(query).await?;
        if !found.is_empty() {
            self.messages = DeliveredMessage::all(&self.agent, found).await?.into();
        }
        Ok(())
    }

    async fn read_recorded(&mut self) -> Result<(), StoreError> {
        if !self.selection.kinds.is_empty() {
            let found = self.agent.store().events(self.position.event, &self.selection.kinds, PAGE_SIZE);
            self.recorded = found.await?.into();
        }
        Ok(())
    }
}
