//! Empty 1.0 (DIDComm v2.1 "The Empty Message"): a message that has only headers, such as `ack`.

use async_trait::async_trait;

use super::{handler::Protocol, problem::HandleError, received::Received, transaction::Transaction};
use crate::didcomm::{Message, MessageType};

/// The type of the empty message.
pub const EMPTY: &str = "https://didcomm.org/empty/1.0/empty";

/// Handles the empty message, which has no effect of its own. The agent applies the headers of every message.
#[derive(Debug, Clone, Copy)]
pub struct Empty;

#[async_trait]
impl Protocol for Empty {
    fn piuri(&self) -> &str {
        "https://didcomm.org/empty/1.0"
    }

    /// The message that ends a relationship is anonymous, and often empty.
    fn accepts_anonymous(&self) -> bool {
        true
    }

    async fn handle(&self, _received: &Received, _tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        Ok(())
    }
}

/// Whether a message is the empty message.
pub(super) fn is_empty(message: &Message) -> bool {
    let empty = MessageType::parse(EMPTY);
    message.message_type().is_some_and(|kind| empty.is_some_and(|empty| kind.is_compatible_with(&empty)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::testing::{ALICE, Harness, from};

    #[tokio::test]
    async fn an_empty_message_has_no_effect() {
        let outcome = Harness::default().handle(&Empty, &from(ALICE, EMPTY, json!({}))).await.unwrap();
        assert!(outcome.sent.is_empty() && !outcome.delivered && outcome.written.is_empty());
    }
}
