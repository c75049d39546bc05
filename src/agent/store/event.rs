//! The events that a store keeps for the application.

use crate::agent::clock::Millis;

/// An event to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// When it happened.
    pub time: Millis,
    /// The kind: the name of an [`EventKind`](crate::agent::EventKind).
    pub kind: String,
    /// The data, a JSON object in clear text: names and reasons, never content.
    pub data: String,
}

/// An event in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The position among all events. Cursors grow, also over a restore of a backup.
    pub cursor: i64,
    /// When it happened.
    pub time: Millis,
    /// The kind. A later release may have written one that this release does not know.
    pub kind: String,
    /// The data, a JSON object.
    pub data: String,
}
