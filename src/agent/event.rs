//! The events that an application can subscribe to.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An event of the agent.
///
/// An event says only that something happened. It has no content, and nothing whose size a peer chooses, so that events
/// that wait for a slow subscriber take little memory. The subscriber reads the store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message was delivered to the application. [`Agent::deliveries`](super::Agent::deliveries) returns it.
    Delivered {
        /// The id of the delivery.
        id: String,
    },
    /// Something else was recorded. [`Store::events`](super::store::Store::events) returns it.
    Recorded,
}

/// What an event in the store tells. A received message is not among them: the inbox has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
#[non_exhaustive]
pub enum EventKind {
    /// The endpoint of a peer, or of its mediator, has accepted a message of the application.
    MessageSent,
    /// A message of the application cannot be sent.
    MessageFailed,
    /// A message of the application was not sent before it expired.
    MessageExpired,
    /// A peer that was not known is a contact now.
    ConnectionMade,
    /// A connection with a contact has ended.
    ConnectionEnded,
    /// A peer has answered an invitation of ours.
    InvitationUsed,
    /// A contact has moved to another DID.
    PeerRotated,
    /// One of our DIDs was replaced.
    DidRotated,
    /// A token is ready, away or locked, and was not before.
    TokenChanged,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::MessageSent,
        Self::MessageFailed,
        Self::MessageExpired,
        Self::ConnectionMade,
        Self::ConnectionEnded,
        Self::InvitationUsed,
        Self::PeerRotated,
        Self::DidRotated,
        Self::TokenChanged,
    ];

    /// The name in the API, in the settings and in the store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessageSent => "message.sent",
            Self::MessageFailed => "message.failed",
            Self::MessageExpired => "message.expired",
            Self::ConnectionMade => "connection.made",
            Self::ConnectionEnded => "connection.ended",
            Self::InvitationUsed => "invitation.used",
            Self::PeerRotated => "peer.rotated",
            Self::DidRotated => "did.rotated",
            Self::TokenChanged => "token.changed",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is no kind of events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there are no events of the kind {kind:?}; the kinds are {}", EventKind::ALL.map(EventKind::name).join(", "))]
pub struct UnknownEventKind {
    kind: String,
}

impl FromStr for EventKind {
    type Err = UnknownEventKind;

    fn from_str(text: &str) -> Result<Self, UnknownEventKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownEventKind { kind: text.to_owned() })
    }
}

impl TryFrom<String> for EventKind {
    type Error = UnknownEventKind;

    fn try_from(text: String) -> Result<Self, UnknownEventKind> {
        text.parse()
    }
}

impl From<EventKind> for &'static str {
    fn from(kind: EventKind) -> Self {
        kind.name()
    }
}
