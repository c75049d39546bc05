//! Records what becomes of messages, and the events that tell it.

use serde_json::{Value, json};

use super::state::Outbox;
use crate::agent::{
    clock::now,
    event::EventKind,
    recorded_events::new_event,
    store::{
        Change, EventOfExpired, NewEvent, StoreError,
        types::{OutboxEntry, SendOutcome},
    },
};

impl Outbox {
    /// Records the outcome of an attempt, with its event if somebody wants it.
    pub(super) async fn store_outcome(&self, entry: &OutboxEntry, outcome: SendOutcome) -> Result<(), StoreError> {
        let store = &self.parts.store;
        let event = self.event_of(entry, &outcome);
        let told = event.clone().map(Change::Event);
        store.inner().record_send_outcome(&entry.id, outcome, event).await?;
        store.tell(told.as_slice());
        Ok(())
    }

    /// Marks at most `limit` messages whose time to send is over as expired, with their events.
    pub(super) async fn store_expired(&self, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        let store = &self.parts.store;
        let event: EventOfExpired = match store.recorded_events().contains(EventKind::MessageExpired) {
            true => event_of_expired,
            false => |_| None,
        };
        let expired = store.inner().expire_outgoing(now(), limit, event).await?;
        let told: Vec<_> = expired.iter().filter_map(event).map(Change::Event).collect();
        store.tell(&told);
        Ok(expired)
    }

    /// The event of an outcome. Automatic messages have none.
    fn event_of(&self, entry: &OutboxEntry, outcome: &SendOutcome) -> Option<NewEvent> {
        let (kind, problem) = match outcome {
            SendOutcome::Sent(_) => (EventKind::MessageSent, None),
            SendOutcome::Later(..) => return None,
            SendOutcome::Failed(_, reason) => (EventKind::MessageFailed, Some(&**reason)),
            SendOutcome::Expired(_) => (EventKind::MessageExpired, entry.problem.as_deref()),
        };
        let is_wanted = entry.by_application && self.parts.store.recorded_events().contains(kind);
        is_wanted.then(|| new_event(kind, data(entry, problem)))
    }
}

/// The event of a message that expires untried.
fn event_of_expired(entry: &OutboxEntry) -> Option<NewEvent> {
    let event = || new_event(EventKind::MessageExpired, data(entry, entry.problem.as_deref()));
    entry.by_application.then(event)
}

/// The names of a message, as in the outbox of the API.
fn data(entry: &OutboxEntry, problem: Option<&str>) -> Value {
    let from = Some(&entry.sender).filter(|sender| !sender.is_empty());
    json!({
        "id": entry.id, "message_id": entry.message, "thread": entry.thread, "type": entry.kind, "from": from,
        "to": entry.peer, "problem": problem
    })
}
