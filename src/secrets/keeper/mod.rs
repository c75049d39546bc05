//! [`Secrets`](super::Secrets) across a process boundary.
//!
//! A PKCS#11 module lives in the memory of whoever loads it, with a software token's private keys. So a process of its
//! own, the [`Keeper`], has the module, the PIN and the sessions of one token, and the process on the network has a
//! [`KeeperClient`]: over a Unix socket it asks for what the trait can ask for, and for nothing else. The keeper holds
//! to the policy (`allow`, custody, rate), builds what is signed from what it is told to sign, and writes the audit.
//!
//! Two roles stand on the wire. [`Role::Agent`] uses keys. [`Role::Custodian`] makes, imports and deletes them, and locks
//! and unlocks the token; [`KeeperCustodian`] is its end, held by the command line only.
//!
//! Who starts keepers, and starts them again, is a [`Supervisor`]: a small process without secrets, begun before the
//! agent closes itself in.

mod answers;
mod audit;
mod client;
mod connection;
mod custodian;
mod errand;
mod frame;
mod link;
mod server;
mod supervisor;
mod wire;

pub use client::{Connect, KeeperClient};
pub use custodian::KeeperCustodian;
pub use server::{Ended, Keeper, KeeperOptions, refuse};
pub use supervisor::{Process, Supervisor, spawn, supervise};
pub use wire::Role;

use std::os::{fd::AsFd, unix::net::UnixStream};

/// Who is at the other end of a connection, as the kernel says (SO_PEERCRED, unix(7)): who made it, and not who has it
/// now. Of a pair of sockets, that is who made the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The user.
    pub uid: Option<u32>,
    /// The process.
    pub pid: Option<i32>,
}

impl Peer {
    fn of(stream: &UnixStream) -> Self {
        match rustix::net::sockopt::socket_peercred(stream.as_fd()) {
            Ok(peer) => Self { uid: Some(peer.uid.as_raw()), pid: Some(peer.pid.as_raw_nonzero().get()) },
            Err(error) => {
                tracing::warn!(%error, "SO_PEERCRED");
                Self { uid: None, pid: None }
            }
        }
    }
}
