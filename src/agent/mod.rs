//! The agent, which receives, stores, handles and sends messages. `claviger serve` runs an agent as a daemon.
//!
//! [`Agent::builder`] builds an agent, and [`Agent::run`] runs it. Every message is written to the
//! [`Store`](store::Store) before its sender gets an answer. The message is decrypted once a token is ready, and then
//! handed to its [`Protocol`](protocol::Protocol) or to the application. A message to send is stored before it is sent.

#[expect(clippy::module_inception, reason = "the file of the type `Agent`")]
mod agent;
pub mod api;
mod builder;
mod canonical_did;
mod clock;
mod error;
mod event;
mod inbox;
mod instrumented_secrets;
mod invitations;
mod known_peers;
mod mediation;
mod metrics;
mod options;
mod outbox;
mod outgoing_message;
mod own_dids;
mod peer_documents;
pub mod protocol;
mod published;
mod refused_documents;
mod return_routes;
mod rotation;
mod run;
mod sealed_store;
mod send;
mod server;
mod spans;
pub mod store;
mod store_key;

pub use agent::{Agent, ReadTokenStates, ReloadDocuments};
pub use builder::AgentBuilder;
pub use error::AgentError;
pub use event::Event;
pub use inbox::{InboxOptions, Refusal};
pub use invitations::{AcceptedInvitation, InvitationOptions};
pub use mediation::{
    CoordinationVersion, Mediation, MediationError, MediationOptions, Mediator, MediatorState, MediatorStatus,
    PickupVersion,
};
pub use metrics::TokenStates;
pub use options::AgentOptions;
pub use outbox::{OutboxOptions, SendError, SendFault, SendLimits, Transport, Transports};
pub use outgoing_message::{OutgoingMessage, new_message};
pub use own_dids::{OwnDids, OwnDocuments};
pub use refused_documents::{RefusedDid, UnprovedKey};
pub use rotation::{OwnRotation, RotationOutcome};
pub use sealed_store::DeliveryContent;
pub use server::{Server, ServerOptions, ServerTls, TlsError};
pub use spans::SPAN_TARGET;
