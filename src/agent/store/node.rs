//! Nodes: agents that share one store.
//!
//! A store that only one agent can use has no nodes. [`SqliteStore`](super::SqliteStore) is one; `PostgresStore` has nodes if
//! its options name this one.

use crate::agent::clock::Millis;

/// Something that another node has done, and that this one may wait for. A hint may be missing after a failure of the store:
/// the store then tells [`Hint::Anything`] once it works again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Messages wait to be sent to a peer.
    Outgoing {
        /// The peer, as in [`OutboxEntry::peer`](super::OutboxEntry::peer).
        peer: String,
        /// Whether this node sends them.
        is_here: bool,
    },
    /// A message was delivered to the application.
    Delivered {
        /// The id of the delivery.
        id: String,
    },
    /// An event was recorded.
    Recorded,
    /// A record of this kind was written or deleted.
    Changed {
        /// The kind of the record.
        kind: String,
    },
    /// Envelopes wait to be opened by this node, because the node that had received them has ended, or cannot open them.
    Pending,
    /// This node has not heard of the others for a while: anything may have changed.
    Anything,
}

/// The function that is called with hints. It must return soon.
pub type HintListener = Box<dyn Fn(&[Hint]) + Send + Sync>;

/// A node, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreNode {
    /// The number of the node. It grows with each start of an agent, and is never given again.
    pub number: i64,
    /// The name of the node.
    pub name: String,
    /// The version of the node's release.
    pub version: String,
    /// When the node has joined, in milliseconds since 1970, by the store's clock.
    pub since: Millis,
    /// Whether the node is this one.
    pub is_this: bool,
    /// Whether the node does what only one may do. The others take it over if the node ends.
    pub leads: bool,
}
