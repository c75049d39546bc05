//! [`Secrets`](super::Secrets) across a process boundary.
//!
//! A PKCS#11 module lives in the memory of the process that loads it, and so do the private keys of a software token.
//! Therefore a process of its own, the [`Keeper`], has the module, the PIN and the sessions of one token. The process
//! on the network has a [`KeeperClient`], which can ask the keeper over a Unix socket only for the operations of the
//! trait. The keeper enforces the policy (`allow`, custody, rate), builds what is signed, and writes the audit log.
//!
//! A connection has one of two roles. [`Role::Agent`] uses keys. [`Role::Custodian`] also makes, imports and deletes
//! keys, and locks and unlocks the token. The command line has this role, through [`KeeperCustodian`].
//!
//! A [`Supervisor`] starts keepers and replaces those that ended. It is a small process without secrets, started before
//! the agent enters its sandbox.
//!
//! # When a keeper or its token is away
//!
//! If a keeper's token goes out of service, the keeper's keyring probes the token. The keeper tells its clients about
//! each change. A keeper ends if its token fails for so long that a new process is tried, if its module hangs, or if its module is
//! exhausted (`renewal.rs`). The client then connects to its successor, with back-off. Until then requests fail at once with
//! [`TokenError::Away`](super::TokenError::Away), which is retryable.

mod audit;
mod child_process;
mod client;
mod client_connection;
mod client_session;
mod connector;
mod custodian;
mod descriptor;
mod frame;
mod monotonic_clock;
mod operation;
mod options;
mod peer_credentials;
mod reconnect;
mod renewal;
mod response_batch;
mod served_token;
mod server;
mod server_connection;
mod supervisor;
mod watchdog;
mod wire;
mod wire_types;

pub use audit::{
    AUDIT_HEAD, AuditFinding, AuditHash, AuditHead, AuditReport, AuditVerifier, AuditedFile, InvalidAuditHash,
    audit_files,
};
pub use child_process::{ChildProcess, end_as_failing, is_failing, spawn_on_socket};
pub use client::KeeperClient;
pub use connector::KeeperConnector;
pub use custodian::KeeperCustodian;
pub use options::KeeperOptions;
pub use peer_credentials::PeerCredentials;
pub use renewal::{FailedKeepers, renewal_wait};
pub use server::{Keeper, KeeperExit, refuse_connection};
pub use supervisor::{Supervisor, supervise};
pub use wire::Role;
