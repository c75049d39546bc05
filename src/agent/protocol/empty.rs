//! Empty 1.0 (DIDComm v2.1 "The Empty Message"): headers without a body, such as an `ack`.

use async_trait::async_trait;

use super::{Fault, Protocol, Received, Turn};
use crate::didcomm::{Message, MessageType};

/// The type of the empty message.
pub const EMPTY: &str = "https://didcomm.org/empty/1.0/empty";

/// Does nothing: what the headers say is done for every message.
#[derive(Debug, Clone, Copy)]
pub struct Empty;

#[async_trait]
impl Protocol for Empty {
    fn piuri(&self) -> &str {
        "https://didcomm.org/empty/1.0"
    }

    /// An ending of a relationship is anonymous, and often empty otherwise.
    fn reads_anonymous(&self) -> bool {
        true
    }

    async fn handle(&self, _received: &Received, _turn: &mut Turn<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

/// Whether a message is the empty one.
pub(super) fn is_empty(message: &Message) -> bool {
    let empty = MessageType::parse(EMPTY);
    message.message_type().is_some_and(|kind| empty.is_some_and(|empty| kind.is(&empty)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::testing::{ALICE, World, from};

    #[tokio::test]
    async fn nothing_happens() {
        let outcome = World::default().handle(&Empty, &from(ALICE, EMPTY, json!({}))).await.unwrap();
        assert!(outcome.sent.is_empty() && !outcome.delivered && outcome.written.is_empty());
    }
}
