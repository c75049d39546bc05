//! The sockets on which applications connect.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener as StdTcp},
    os::unix::net::UnixListener as StdUnix,
    path::Path,
    sync::Arc,
};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::{
    access::{Access, Credential},
    refusals::Refusals,
    remote::RemoteServer,
};
use crate::agent::server::ServerTls;

/// A listening socket for applications.
pub enum ApiListener {
    /// A Unix socket.
    Unix(StdUnix),
    /// A TCP socket on the loopback interface.
    Loopback(StdTcp),
    /// A TCP socket for applications on other machines. Without the authorities of clients
    /// ([`ServerTls::open_for_clients`]) it serves nobody.
    Remote(StdTcp, Arc<ServerTls>),
}

impl ApiListener {
    /// Listens on a Unix socket. A socket that an ended process has left at the path is replaced.
    ///
    /// # Errors
    /// If the path names a file that is no socket, another process listens on the socket, or the bind fails.
    pub fn unix(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        let with_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(with_path(io::Error::new(io::ErrorKind::AddrInUse, "another agent listens there")));
                }
                fs::remove_file(path).map_err(with_path)?;
            }
            Ok(_) => {
                return Err(with_path(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file that is no socket",
                )));
            }
            Err(_) => {}
        }
        let listener = StdUnix::bind(path).map_err(with_path)?;
        // Every user may connect. The kernel reports the user id, and each connection is checked by it.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(with_path)?;
        Ok(Self::Unix(listener))
    }

    /// Listens on an address of the loopback interface.
    ///
    /// # Errors
    /// If the address is not a loopback address, or is in use.
    pub fn loopback(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            let reason = format!("{address} is no address of the loopback interface: others could connect to it");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(Self::Loopback(StdTcp::bind(address)?))
    }

    /// Registers the socket with the async runtime.
    pub(super) fn into_async(self) -> io::Result<Listener> {
        match self {
            Self::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(UnixListener::from_std(listener)?, Refusals::default()))
            }
            Self::Loopback(listener) => Ok(Listener::Loopback(asynchronous(listener)?)),
            Self::Remote(listener, tls) => {
                Ok(Listener::Remote(asynchronous(listener)?, Arc::new(RemoteServer::new(tls))))
            }
        }
    }
}

fn asynchronous(listener: StdTcp) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// An [`ApiListener`] in the form that Tokio needs.
pub(super) enum Listener {
    Unix(UnixListener, Refusals),
    Loopback(TcpListener),
    Remote(TcpListener, Arc<RemoteServer>),
}

/// A connection, before anything was read from it.
pub(super) enum Incoming {
    /// The user id of the process that has connected.
    Unix(UnixStream, u32),
    Loopback(TcpStream),
    /// The address of the client, and the server for its connection.
    Remote(TcpStream, IpAddr, Arc<RemoteServer>),
}

impl Listener {
    /// Accepts the next connection. Connections of users that may not use the Unix socket are closed and skipped.
    pub async fn accept(&self, access: &Access) -> io::Result<Incoming> {
        match self {
            Self::Unix(listener, refusals) => loop {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                if access.find(&Credential::User(uid)).is_some() {
                    return Ok(Incoming::Unix(stream, uid));
                }
                refusals.log(&format!("user {uid}"), "the user is neither in `users` of [api] nor an [[api.user]]");
            },
            Self::Loopback(listener) => Ok(Incoming::Loopback(listener.accept().await?.0)),
            Self::Remote(listener, server) => {
                let (stream, address) = listener.accept().await?;
                Ok(Incoming::Remote(stream, address.ip().to_canonical(), server.clone()))
            }
        }
    }
}
