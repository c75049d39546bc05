//! Who may use the API.
//!
//! On a Unix socket the kernel says whose process connects. On the loopback interface any process of the machine may, and so
//! may a page in a browser: there a bearer token is wanted, the `Host` has to be the loopback's, and an `Origin` is refused.

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

use super::error::ApiError;

/// A listening socket for applications.
pub enum ApiListener {
    /// A Unix socket.
    Unix(StdUnix),
    /// One of the loopback interface.
    Loopback(StdTcp),
}

/// Who may connect.
pub enum Access {
    /// Processes of these users.
    Users(Vec<u32>),
    /// Who knows the token.
    Token(BearerToken),
}

/// A bearer token (RFC 6750).
#[derive(Clone)]
pub struct BearerToken(Arc<Zeroizing<String>>);

/// A secret has so many characters at least.
const SHORTEST: usize = 32;

impl BearerToken {
    /// The first line of a file, which only its owner may read.
    ///
    /// # Errors
    /// If it cannot be read, is readable by others, or is shorter than 32 characters.
    pub fn read(path: &Path) -> io::Result<Self> {
        secret_line(path).map(|token| Self(Arc::new(token)))
    }

    fn is(&self, headers: &HeaderMap) -> bool {
        let said = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, token) = said.split_once(' ').unwrap_or_default();
        scheme.eq_ignore_ascii_case("bearer") && bool::from(token.trim().as_bytes().ct_eq(self.0.as_bytes()))
    }
}

/// The first line of a file, which only its owner may read: what two programs share.
pub(super) fn secret_line(path: &Path) -> io::Result<Zeroizing<String>> {
    use std::os::unix::fs::MetadataExt;
    let wrong = |said: &str| io::Error::new(io::ErrorKind::InvalidData, said);
    if fs::metadata(path)?.mode() & 0o077 != 0 {
        return Err(wrong("others may read it: chmod 600"));
    }
    let text = Zeroizing::new(fs::read_to_string(path)?);
    let secret = text.lines().next().unwrap_or_default().trim();
    if secret.len() < SHORTEST || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(
            "its first line is not a secret of 32 characters or more, as `openssl rand -hex 32` makes one",
        ));
    }
    Ok(Zeroizing::new(secret.to_owned()))
}

impl ApiListener {
    /// On a Unix socket that this process owns; one that an ended process has left is replaced.
    ///
    /// # Errors
    /// If something else is there, or someone listens there.
    pub fn unix(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(named(io::Error::new(io::ErrorKind::AddrInUse, "another agent listens there")));
                }
                fs::remove_file(path).map_err(named)?;
            }
            Ok(_) => return Err(named(io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and is no socket"))),
            Err(_) => {}
        }
        let listener = StdUnix::bind(path).map_err(named)?;
        // Who connects is looked at one by one: the kernel says who it is.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(named)?;
        Ok(Self::Unix(listener))
    }

    /// On an address of the loopback interface.
    ///
    /// # Errors
    /// If it is another's, or is taken.
    pub fn loopback(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            let said = format!("{address} is no address of the loopback interface: others could connect to it");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, said));
        }
        Ok(Self::Loopback(StdTcp::bind(address)?))
    }

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

pub(super) enum Listener {
    Unix(UnixListener),
    Loopback(TcpListener),
}

impl Listener {
    /// The next connection that may be served.
    pub async fn accept(&self, access: &Access) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => loop {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                match access {
                    Access::Users(users) if !users.contains(&uid) => {
                        tracing::warn!(uid, "a user who may not use the API has connected: see `users` in [api]");
                    }
                    _ => return Ok(Stream::Unix(stream)),
                }
            },
            Self::Loopback(listener) => Ok(Stream::Loopback(listener.accept().await?.0)),
        }
    }
}

impl Access {
    /// The routes, for those who may use them.
    pub(super) fn guard(&self, router: Router) -> Router {
        match self {
            Self::Users(_) => router,
            Self::Token(token) => router.layer(middleware::from_fn_with_state(token.clone(), check)),
        }
    }
}

async fn check(State(token): State<BearerToken>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    // A page that a browser shows may send requests to this port (DNS rebinding, CSRF); it cannot leave these out.
    if headers.contains_key(header::ORIGIN) || !is_loopback(headers) {
        return ApiError::new(StatusCode::FORBIDDEN, "not-local", "this is for programs of this machine")
            .into_response();
    }
    if !token.is(headers) {
        let said = "an Authorization: Bearer header with the token of `token_file` in [api] is wanted";
        let wanted = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (wanted, ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", said)).into_response();
    }
    next.run(request).await
}

fn is_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    names_loopback(match host.rfind(':') {
        // The colons of an address of IPv6 stand in brackets.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    })
}

/// Whether a host, without a port, is the loopback interface's.
pub(super) fn names_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A connection of either kind.
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
