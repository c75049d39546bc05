//! A message that the agent sends.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clock::now;
use crate::didcomm::{Message, MessageBuilder};

/// A message to send, and how to protect it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutgoingMessage {
    /// The message.
    pub message: Message,
    /// Whether to sign the message, so that the recipient can prove to others who wrote it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sign: bool,
    /// Whether to hide the sender from mediators.
    #[serde(default, skip_serializing_if = "is_false")]
    pub protect_sender: bool,
    /// Whether a message without `from` has no sender. Otherwise [`Agent::send`](super::Agent::send) chooses our DID.
    #[serde(default, skip_serializing_if = "is_false")]
    pub anonymous: bool,
    /// Whether the message may wait for a peer that has neither an endpoint nor a connection with us: until it connects, and
    /// asks for its messages (`return_route`). This is no content of the message.
    #[serde(skip)]
    pub hold: bool,
}

impl OutgoingMessage {
    /// Makes an outgoing message that is not signed, and whose sender mediators can see.
    pub fn new(message: Message) -> Self {
        Self { message, sign: false, protect_sender: false, anonymous: false, hold: false }
    }
}

/// Begins a message of type `kind` with a new id and the current time as its `created_time`.
pub fn new_message(kind: &str, body: Value) -> MessageBuilder {
    Message::build(Message::new_id(), kind, body).created_time(now().unsigned_abs() / 1000)
}

fn is_false(value: &bool) -> bool {
    !value
}
