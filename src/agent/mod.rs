//! The agent, which receives, stores, handles and sends messages. `claviger serve` runs an agent as a daemon.
//!
//! [`Agent::builder`] builds an agent, and [`Agent::run`] runs it. Every message is written to the
//! [`Store`](store::Store) before its sender gets an answer. The message is decrypted once a token is ready, and then
//! handed to its [`Protocol`](protocol::Protocol) or to the application. A message to send is stored before it is sent.

#[expect(clippy::module_inception, reason = "the file of the type `Agent`")]
mod agent;
pub mod api;
mod blocked_peers;
mod builder;
mod caller_id;
mod canonical_did;
mod clock;
mod committer;
mod contacts;
mod error;
mod event;
mod give_label;
mod hints;
mod inbox;
mod instrumented_secrets;
mod invitations;
mod known_peers;
mod label;
mod leading;
mod mediation;
mod metrics;
mod node_metrics;
mod options;
mod outbox;
mod outbox_requests;
mod outgoing_message;
mod own_dids;
mod peer_connections;
mod peer_documents;
mod peer_names;
pub mod protocol;
mod published;
mod recent_digests;
mod recipient_check;
mod record_cache;
mod recorded_events;
mod refused_documents;
mod repeatable;
mod return_routes;
mod rotation;
mod run;
mod sealed_store;
mod secret_file;
mod send;
mod send_batch;
mod server;
mod shared_dids;
mod shown_keys;
mod spans;
mod stale;
pub mod store;
mod store_key;
mod token_events;
mod token_report;
mod unlock;

pub use agent::{Agent, RefreshKeys, ReloadDocuments};
pub use blocked_peers::BlockedPeer;
pub use builder::AgentBuilder;
pub use contacts::ContactChange;
pub use error::{AgentError, ReloadError};
pub use event::{Event, EventKind, UnknownEventKind};
pub use inbox::{InboxOptions, Refusal};
pub use invitations::{AcceptedInvitation, InvitationOptions};
pub use label::{InvalidLabel, Label, is_misleading};
pub use mediation::{
    CoordinationVersion, Mediation, MediationError, MediationOptions, Mediator, MediatorState, MediatorStatus,
    PickupVersion,
};
pub use options::AgentOptions;
pub use outbox::{OutboxOptions, SendError, SendFault, SendLimits, Transport, Transports, Wait, WaitReason};
pub use outgoing_message::{OutgoingMessage, new_message};
pub use own_dids::{OwnDids, OwnDocuments};
pub use refused_documents::{RefusedDid, UnprovedKey};
pub use rotation::{OwnRotation, RotationOutcome};
pub use sealed_store::DeliveryContent;
pub use server::{ClientAuthorities, Server, ServerOptions, ServerTls, TlsError};
pub use spans::SPAN_TARGET;
pub use token_report::{OpeningWaits, ReadTokenStates, TokenProblem, TokenReport};
