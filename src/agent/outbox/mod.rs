//! The outbox: sends the messages in the store, or records why a message was not sent.
//!
//! Each peer with waiting messages has a task of its own, so an unreachable peer delays no other. A missing token can
//! hold up all messages to a peer (`peer_task.rs`). The tasks of peers with waiting messages start once a token has
//! unlocked the store. Later, a message to a peer without a task starts one.

mod expiry;
mod http_transport;
mod options;
mod pack;
mod peer_task;
mod state;
mod transport;
mod wakeups;

pub use options::OutboxOptions;
pub(super) use pack::PackError;
pub(super) use state::{Outbox, OutboxParts};
pub use transport::{SendError, Transport, Transports};
pub(super) use wakeups::PeerWakeups;
