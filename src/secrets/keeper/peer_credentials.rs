//! The process at the other end of a Unix socket.

use std::os::{fd::AsFd, unix::net::UnixStream};

/// The process at the other end of a connection, as the kernel reports it (SO_PEERCRED, unix(7)).
///
/// This is the process that made the connection. It may have passed the connection to another process. For a pair of
/// sockets it is the process that made the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The user id.
    pub uid: Option<u32>,
    /// The process id.
    pub pid: Option<i32>,
}

impl PeerCredentials {
    /// Reads the credentials of the peer. If the kernel does not report them, logs a warning and leaves both
    /// members empty.
    pub(super) fn of(stream: &UnixStream) -> Self {
        match rustix::net::sockopt::socket_peercred(stream.as_fd()) {
            Ok(peer) => Self { uid: Some(peer.uid.as_raw()), pid: Some(peer.pid.as_raw_nonzero().get()) },
            Err(error) => {
                tracing::warn!(%error, "cannot read the peer's credentials (SO_PEERCRED)");
                Self { uid: None, pid: None }
            }
        }
    }
}
