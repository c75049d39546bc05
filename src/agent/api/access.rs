//! Access control of the API.
//!
//! On a Unix socket the kernel reports the caller's user id. On the loopback interface every process of the machine can
//! connect, and so can a page in a browser. So there a request needs a bearer token and a loopback `Host`, and must not
//! have an `Origin`.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener as StdTcp},
    os::unix::net::UnixListener as StdUnix,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use zeroize::Zeroizing;

use super::{error::ApiError, secret_file::read_secret_line};

/// A listening socket for applications.
pub enum ApiListener {
    /// A Unix socket.
    Unix(StdUnix),
    /// A TCP socket on the loopback interface.
    Loopback(StdTcp),
}

/// Who may use the API.
pub enum Access {
    /// Processes of the users with these ids.
    Users(Vec<u32>),
    /// Callers that send the token.
    Token(BearerToken),
}

/// A bearer token (RFC 6750).
#[derive(Clone)]
pub struct BearerToken(Arc<Zeroizing<String>>);

impl BearerToken {
    /// Reads a token: the first line of a file that only its owner may read.
    ///
    /// # Errors
    /// If the file cannot be read or is readable by others, or the token has fewer than 32 characters.
    pub fn read(path: &Path) -> io::Result<Self> {
        read_secret_line(path).map(|token| Self(Arc::new(token)))
    }

    fn matches(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, token) = value.split_once(' ').unwrap_or_default();
        scheme.eq_ignore_ascii_case("bearer") && bool::from(token.trim().as_bytes().ct_eq(self.0.as_bytes()))
    }
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
                UnixListener::from_std(listener).map(Listener::Unix)
            }
            Self::Loopback(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Listener::Loopback)
            }
        }
    }
}

/// An [`ApiListener`] in the form that Tokio needs.
pub(super) enum Listener {
    Unix(UnixListener),
    Loopback(TcpListener),
}

impl Listener {
    /// Accepts the next connection. Connections of users that may not use the Unix socket are closed and skipped.
    pub async fn accept(&self, access: &Access) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => loop {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                match access {
                    Access::Users(users) if !users.contains(&uid) => {
                        tracing::warn!(uid, "API connection refused: add the user to `users` in [api] to allow it");
                    }
                    _ => return Ok(Stream::Unix(stream)),
                }
            },
            Self::Loopback(listener) => Ok(Stream::Loopback(listener.accept().await?.0)),
        }
    }
}

impl Access {
    /// Adds the check of the bearer token to the routes, if callers must send a token.
    pub(super) fn protect(&self, router: Router) -> Router {
        match self {
            Self::Users(_) => router,
            Self::Token(token) => router.layer(middleware::from_fn_with_state(token.clone(), check_token)),
        }
    }
}

async fn check_token(State(token): State<BearerToken>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    // A page in a browser can send requests to this port (DNS rebinding, CSRF), but not without these headers.
    if headers.contains_key(header::ORIGIN) || !has_loopback_host(headers) {
        return ApiError::new(StatusCode::FORBIDDEN, "not-local", "the API is for programs on this machine only")
            .into_response();
    }
    if !token.matches(headers) {
        let reason = "the request needs an Authorization: Bearer header with the token of `token_file` in [api]";
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (challenge, ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", reason)).into_response();
    }
    next.run(request).await
}

fn has_loopback_host(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    names_loopback(match host.rfind(':') {
        // The colons of an IPv6 address are in brackets.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    })
}

/// Whether a host, without a port, is `localhost` or a loopback address.
pub(super) fn names_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A connection of an application, on the Unix socket or on the loopback interface.
pub(super) enum Stream {
    Unix(UnixStream),
    Loopback(TcpStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Loopback(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Loopback(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Loopback(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Loopback(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
