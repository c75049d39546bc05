//! Mediation, as the recipient: coordinate-mediation 2.0 and 3.0, messagepickup 3.0, message-pickup 4.0.
//!
//! An agent that peers cannot connect to has a DID whose service names a mediator's routing DID. Peers wrap each
//! message in a forward, and send the forward to the mediator. The agent fetches the messages: over a WebSocket as they
//! arrive, otherwise by polling. It acknowledges a message to the mediator once the message is in the store. A message
//! that is delivered twice is recognized by its digest.
//!
//! Mediators differ from the specifications, and from each other. `docs/protocols.md` lists what is known of them; the
//! mediator of the tests can behave like each.
//!
//! The conversation with a mediator has no state that must outlive the process. The conversation therefore bypasses the
//! inbox and the outbox, and an unanswered request is made again.

mod channel;
mod conversation;
mod delivered;
mod deliveries;
mod error;
mod exchange;
mod mediator;
mod options;
mod parts;
mod patience;
mod plan;
mod request;
mod rotation;
mod service;
mod session;
mod versions;

pub use error::MediationError;
pub use mediator::{Mediator, MediatorState, MediatorStatus};
pub use options::MediationOptions;
pub(super) use parts::MediationParts;
pub use service::Mediation;
pub use versions::{CoordinationVersion, PickupVersion};
