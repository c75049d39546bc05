//! The limits for each peer address and in total: connections, messages per second, and bytes in memory.
//!
//! The limits for an address count by its prefix (`address.rs`), so that a peer does not get more by using more of its
//! IPv6 addresses.

mod address;
mod bytes;
mod connections;
mod message_rate;
mod metered_stream;

pub use address::peer_address_prefix;
pub use bytes::{ByteBudget, ByteReservation};
pub use connections::{ConnectionLimiter, ConnectionPermit};
pub use message_rate::MessageRateLimiter;
pub use metered_stream::MeteredStream;
