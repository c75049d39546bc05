//! A received message as the application gets it: in the inbox, as an event, and by the webhook.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::agent::{
    agent::Agent,
    sealed_store::DeliveryContent,
    store::{Delivery, StoreError},
};

/// A message for the application.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveredMessage {
    /// The id in the inbox, by which the message is acknowledged.
    id: String,
    /// The position in the inbox.
    cursor: i64,
    /// When the message was received, in milliseconds since 1970.
    received: i64,
    /// The authenticated sender's DID; null for an anonymous message.
    sender: Option<String>,
    /// The name that a person has given the sender (its label); null without one.
    label: Option<String>,
    /// Our DID.
    recipient: String,
    /// The id of the message.
    message_id: String,
    /// The thread of the message.
    thread: String,
    /// The message type.
    #[serde(rename = "type")]
    kind: String,
    /// The message; null once it is acknowledged.
    #[schema(value_type = Option<Object>)]
    message: Value,
    /// How the message was protected, and notes on its attachments; null once it is acknowledged.
    #[schema(value_type = Option<Object>)]
    provenance: Value,
}

impl DeliveredMessage {
    /// Deliveries, each with its content, if the content is not deleted.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn all(
        agent: &Agent,
        deliveries: Vec<(Delivery, Option<DeliveryContent>)>,
    ) -> Result<Vec<Self>, StoreError> {
        let peers = deliveries.iter().map(|(it, _)| (&*it.recipient, &*it.sender)).filter(|(_, it)| !it.is_empty());
        let labels = agent.labels(peers).await?;
        let all = deliveries.into_iter().map(|(delivery, content)| {
            let label = labels.get(&(delivery.recipient.clone(), delivery.sender.clone())).cloned();
            Self::new(delivery, content, label)
        });
        Ok(all.collect())
    }

    fn new(delivery: Delivery, content: Option<DeliveryContent>, label: Option<String>) -> Self {
        let (message, provenance) = match content {
            Some(content) => (json!(content.message), content.provenance),
            None => (Value::Null, Value::Null),
        };
        Self {
            id: delivery.id,
            cursor: delivery.cursor,
            received: delivery.received,
            sender: Some(delivery.sender).filter(|sender| !sender.is_empty()),
            label,
            recipient: delivery.recipient,
            message_id: delivery.message,
            thread: delivery.thread,
            kind: delivery.kind,
            message,
            provenance,
        }
    }

    /// When the message was received, in milliseconds since 1970.
    pub fn received(&self) -> i64 {
        self.received
    }

    /// The position in the inbox.
    pub fn cursor(&self) -> i64 {
        self.cursor
    }
}
