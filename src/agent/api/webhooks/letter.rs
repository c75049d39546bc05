//! Letters: what a webhook posts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::agent::{
    agent::Agent,
    api::{delivered::DeliveredMessage, event_payload::EventPayload, webhook::MESSAGE},
    clock::Millis,
    store::{Delivery, StoreError, StoredEvent},
};

/// A letter.
#[derive(Debug)]
pub(super) enum Letter {
    /// A message of the inbox.
    Message(Delivery),
    /// An event, and its id.
    Event(String, StoredEvent),
}

/// A letter as a dead letter keeps it: a message is in the inbox, and an event is kept with its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::agent::api) enum KeptLetter {
    /// A message of the inbox.
    Message {
        /// The id in the inbox.
        id: String,
        /// The message type.
        kind: String,
    },
    /// An event.
    Event {
        /// The `webhook-id`.
        id: String,
        /// When it happened.
        time: Millis,
        /// The kind.
        kind: String,
        /// The data, a JSON object.
        data: String,
    },
}

impl Letter {
    /// The letter for an event. Its id is the same for each attempt, and differs from those of other agents and of messages:
    /// a receiver may know letters by their ids.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the store is sealed.
    pub fn event(agent: &Agent, event: StoredEvent) -> Result<Self, StoreError> {
        let name = agent.store.hidden_key("webhook-event", &event.cursor.to_string())?;
        Ok(Self::Event(format!("event-{name}"), event))
    }

    /// The `webhook-id`, which is the same for each attempt.
    pub fn id(&self) -> &str {
        match self {
            Self::Message(delivery) => &delivery.id,
            Self::Event(id, _) => id,
        }
    }

    /// The body of a request.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn body(&self, agent: &Arc<Agent>) -> Result<Vec<u8>, StoreError> {
        let unusable =
            |error: serde_json::Error| StoreError::Unusable(format!("has a letter that is no JSON: {error}"));
        match self {
            Self::Message(delivery) => {
                let content = agent.content(delivery)?;
                let delivered = DeliveredMessage::all(agent, vec![(delivery.clone(), content)]).await?.pop();
                serde_json::to_vec(&delivered).map_err(unusable)
            }
            Self::Event(_, event) => serde_json::to_vec(&EventPayload::from(event.clone())).map_err(unusable),
        }
    }

    /// The letter for a dead letter.
    pub fn kept(&self) -> KeptLetter {
        match self {
            Self::Message(delivery) => KeptLetter::Message { id: delivery.id.clone(), kind: delivery.kind.clone() },
            Self::Event(id, StoredEvent { time, kind, data, .. }) => {
                KeptLetter::Event { id: id.clone(), time: *time, kind: kind.clone(), data: data.clone() }
            }
        }
    }
}

impl KeptLetter {
    /// The `webhook-id`.
    pub fn id(&self) -> &str {
        match self {
            Self::Message { id, .. } | Self::Event { id, .. } => id,
        }
    }

    /// The kind among the kinds of events.
    pub fn event(&self) -> &str {
        match self {
            Self::Message { .. } => MESSAGE,
            Self::Event { kind, .. } => kind,
        }
    }
}
