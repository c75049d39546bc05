//! What a commit relies on. It is made only if all of that holds at the time of the commit.

/// A record that was read, or found absent, for a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// The record's kind.
    pub kind: String,
    /// The record's key.
    pub key: String,
    /// The revision that was read; 0 if there was no such record.
    pub revision: i64,
}

/// The room that the changes of a commit take from the quota of a peer
/// ([`Store::peer_quota`](super::Store::peer_quota)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededRoom {
    /// The peer; empty for senders that are not authenticated.
    pub peer: String,
    /// Whether the peer is a stranger.
    pub is_stranger: bool,
    /// Whether the commit delivers a message of the peer.
    pub to_deliver: bool,
    /// Whether the commit sends a reply to the peer.
    pub to_reply: bool,
}

/// Whether a peer is within its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerQuota {
    /// Whether more messages of the peer may be delivered to the application.
    pub may_deliver: bool,
    /// Whether more replies may wait to be sent to the peer.
    pub may_reply: bool,
}

impl PeerQuota {
    /// The quota of a peer that is far from its limits.
    pub const FREE: Self = Self { may_deliver: true, may_reply: true };

    /// Whether there is this room.
    pub fn has(self, room: &NeededRoom) -> bool {
        (self.may_deliver || !room.to_deliver) && (self.may_reply || !room.to_reply)
    }
}
