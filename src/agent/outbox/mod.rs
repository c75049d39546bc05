//! The outbox: sends the messages in the store, or records why a message was not sent.
//!
//! Each peer with waiting messages has a task of its own, so an unreachable peer delays no other (`peer_task.rs`). A
//! message whose token is away delays no message from another DID of ours. The tasks of peers with waiting messages start
//! once a token has unlocked the store. Later, a message to a peer without a task starts one. A task does not wait until the
//! store has recorded that a message was sent (`unrecorded.rs`).
//!
//! An attempt (`attempt.rs`) tries the routes of the peer's document in turn. A message is packed, which takes an operation
//! with a private key, only for a server that accepts the connection or has accepted a message before. Each server may
//! hold few permits until it has accepted messages, and is paused while it fails (`origins.rs`, `gate.rs`). Replies to strangers have
//! a rate of their own (`reply_rate.rs`). Messages expire whether or not they are tried (`expiry.rs`).
//!
//! All waiting messages for a peer are sent by one node of the store. A node to which the peer connects claims them
//! (`claims.rs`).

mod attempt;
mod claims;
mod events;
mod expiry;
mod gate;
mod http_transport;
mod left_out;
mod neighbourhood;
mod options;
mod origins;
mod pack;
mod peer_resolver;
mod peer_task;
mod reply_rate;
mod round;
mod state;
mod transport;
mod unrecorded;
mod waits;
mod wakeups;

pub(super) use claims::RouteCapacity;
pub use options::OutboxOptions;
pub(super) use pack::PackError;
pub(super) use state::{Outbox, OutboxParts};
pub use transport::{SendError, SendFault, SendLimits, Transport, Transports};
pub use waits::{Wait, WaitReason};
pub(super) use wakeups::PeerWakeups;
