//! The one way out.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower_service::Service;

use super::{Guard, NetError};

/// How long one address may take, and all of a host's.
const ONE: Duration = Duration::from_secs(5);
const ALL: Duration = Duration::from_secs(10);

/// Connects to hosts, as far as the guard lets it.
#[derive(Debug, Clone)]
pub struct Connector {
    guard: Guard,
}

impl Connector {
    /// One with this guard.
    pub fn new(guard: Guard) -> Self {
        Self { guard }
    }

    /// Connects to a host, whose addresses are tried in turn. A literal address is looked at like any other.
    ///
    /// # Errors
    /// If none may be, or can be, connected to.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, NetError> {
        let late = |_| NetError::Late(host.to_owned());
        tokio::time::timeout(ALL, self.try_each(host, port)).await.map_err(late)?
    }

    async fn try_each(&self, host: &str, port: u16) -> Result<TcpStream, NetError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let found = tokio::net::lookup_host((bare, port)).await;
        let found = found.map_err(|source| NetError::Name { host: host.to_owned(), source })?;
        let unreached = |reason: String| NetError::Unreached { host: host.to_owned(), reason };
        let mut failure = None;
        for address in found {
            let result = match self.guard.allows(address.ip()) {
                false => Err(NetError::Refused { host: host.to_owned(), address: address.ip() }),
                true => self.try_one(address).await.map_err(|error| unreached(error.to_string())),
            };
            match result {
                Ok(stream) => return Ok(stream),
                // One that was tried says more than one that was not.
                Err(NetError::Refused { .. }) if failure.is_some() => {}
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| unreached("it has no address".to_owned())))
    }

    async fn try_one(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream =
            tokio::time::timeout(ONE, TcpStream::connect(address)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        // What was connected, and not what was asked for.
        if !self.guard.allows(stream.peer_addr()?.ip()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A connection of hyper's.
pub struct Guarded(TcpStream);

/// What the HTTP client asks for connections.
impl Service<Uri> for Connector {
    type Response = TokioIo<Guarded>;
    type Error = NetError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NetError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let host = uri.host().ok_or_else(|| NetError::Url(uri.to_string(), "it has no host"))?;
            let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
            let stream = connector.connect(host, uri.port_u16().unwrap_or(usual)).await?;
            Ok(TokioIo::new(Guarded(stream)))
        })
    }
}

impl Connection for Guarded {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
