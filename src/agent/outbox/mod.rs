//! The outbox: sends the messages in the store, or records why a message was not sent.
//!
//! Each peer with waiting messages has a task of its own, so an unreachable peer delays no other. The tasks begin when
//! the agent starts, and when a message is put into the outbox.

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
