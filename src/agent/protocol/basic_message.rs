//! Basic message 2.0 (didcomm.org/basicmessage/2.0): a text from one person to another.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    handler::Protocol,
    problem::{HandleError, Problem},
    received::Received,
    transaction::Transaction,
};
use crate::didcomm::{Message, MessageBuilder};

/// The type of the message.
pub const MESSAGE: &str = "https://didcomm.org/basicmessage/2.0/message";

/// Hands basic messages to the application.
#[derive(Debug, Clone, Copy, Default)]
pub struct BasicMessage {
    /// Whether messages without an authenticated sender are handed over too, without a sender.
    pub accepts_anonymous: bool,
}

#[async_trait]
impl Protocol for BasicMessage {
    fn piuri(&self) -> &str {
        "https://didcomm.org/basicmessage/2.0"
    }

    fn roles(&self) -> &[&str] {
        &["sender", "receiver"]
    }

    fn accepts_anonymous(&self) -> bool {
        self.accepts_anonymous
    }

    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        if !received.is("message") {
            return Err(received.unknown_type().into());
        }
        if !received.message.body.get("content").is_some_and(Value::is_string) {
            return Err(Problem::new("e.m.msg.no-content", "The message has no text in body.content.").into());
        }
        // "The time the message is sent must be included."
        if received.message.created_time.is_none() {
            return Err(Problem::new("e.m.msg.no-created-time", "The message has no created_time.").into());
        }
        tx.deliver();
        Ok(())
    }
}

/// Begins a message. `lang` is the language of the text, and `time` the current time in seconds since 1970.
pub fn text(content: &str, lang: Option<&str>, time: u64) -> MessageBuilder {
    let message = Message::build(Message::new_id(), MESSAGE, json!({ "content": content })).created_time(time);
    match lang {
        Some(lang) => message.lang(lang),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::protocol::testing::{ALICE, Harness, from, from_with};

    /// The example of the specification.
    #[tokio::test]
    async fn a_text_is_delivered() {
        let harness = Harness::default();
        let mut eels = from(ALICE, MESSAGE, json!({}));
        eels.message = text("Your hovercraft is full of eels.", Some("en"), 1_547_577_721).from(ALICE).finalize();
        let json: Value = serde_json::from_str(&eels.message.to_json()).unwrap();
        assert_eq!(json["body"], json!({"content": "Your hovercraft is full of eels."}));
        assert_eq!((&json["lang"], &json["created_time"]), (&json!("en"), &json!(1_547_577_721)));
        let outcome = harness.handle(&BasicMessage::default(), &eels).await.unwrap();
        assert!(outcome.delivered && outcome.sent.is_empty());
    }

    #[tokio::test]
    async fn a_malformed_message_is_reported() {
        let harness = Harness::default();
        for body in [json!({}), json!({"content": 1}), json!({"content": null})] {
            let received = from_with(ALICE, MESSAGE, body, |message| message.created_time(1));
            assert_eq!(harness.problem(&BasicMessage::default(), &received).await, "e.m.msg.no-content");
        }
        let received = from(ALICE, MESSAGE, json!({"content": ""}));
        assert_eq!(harness.problem(&BasicMessage::default(), &received).await, "e.m.msg.no-created-time");
        let received = from(ALICE, "https://didcomm.org/basicmessage/2.0/receipt", json!({}));
        assert_eq!(harness.problem(&BasicMessage::default(), &received).await, "e.m.msg.unknown-type");
    }
}
