//! A received message, as protocols see it.

use super::problem::Problem;
use crate::{
    agent::clock::{MAX_CLOCK_SKEW, Millis, now, seconds_to_millis},
    didcomm::{Message, Provenance, same_name},
};

/// A message that was decrypted and verified.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// How the message was protected.
    pub provenance: Provenance,
    /// Our DID that the message was sent to.
    pub recipient: String,
    /// The authenticated sender's DID, in the short form for a did:peer:4. `None` if the sender is not authenticated.
    pub sender: Option<String>,
    /// When the message arrived, in milliseconds since 1970.
    pub time: Millis,
}

impl Received {
    /// Returns the `created_time` of the message. `None` if the message has none, or one that is further in the future than
    /// clocks may differ.
    pub(in crate::agent) fn created(&self) -> Option<Millis> {
        let created = self.message.created_time.map(seconds_to_millis)?;
        (created <= now().saturating_add(MAX_CLOCK_SKEW)).then_some(created)
    }

    /// Returns the name within the message type: `ping` of `https://didcomm.org/trust-ping/2.0/ping`. The name is empty
    /// if the type is malformed.
    pub fn name(&self) -> &str {
        self.message.message_type().map_or("", |kind| kind.message)
    }

    /// Whether the message has this name. Case and punctuation are ignored (v2.1 "Message Type URI").
    pub fn is(&self, name: &str) -> bool {
        same_name(self.name(), name)
    }

    /// Returns the problem to report if the protocol has no message of this name.
    pub fn unknown_type(&self) -> Problem {
        Problem::new("e.m.msg.unknown-type", "This protocol has no message {1}.").arg(self.name())
    }
}
