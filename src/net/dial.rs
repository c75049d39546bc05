//! Connections to servers, with TLS or without.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::client::legacy::connect::{Connected, Connection as LegacyConnection};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{connect::Connector, error::NetError, guard::AddressGuard, target::Target};

/// Connects to servers. Every outgoing connection of the agent is made here.
#[derive(Clone)]
pub struct Dialer {
    connector: Connector,
    tls: TlsConnector,
    timeout: Duration,
}

/// A connection to a server.
pub enum Connection {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Dialer {
    /// The default time limit for DNS lookup, connection and TLS handshake together.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

    /// A dialer with this guard and TLS configuration.
    pub fn new(guard: AddressGuard, tls: Arc<ClientConfig>) -> Self {
        Self { connector: Connector::new(guard), tls: TlsConnector::from(tls), timeout: Self::DEFAULT_TIMEOUT }
    }

    /// Sets the time limit for DNS lookup, connection and TLS handshake together.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The time limit for DNS lookup, connection and TLS handshake together.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A dialer that connects only to the addresses of the guard's `allow_private`.
    #[must_use]
    pub fn allow_private_only(&self) -> Self {
        Self { connector: Connector::new(self.connector.guard().allow_private_only()), ..self.clone() }
    }

    /// Connects to the target's host.
    ///
    /// # Errors
    /// The errors of [`Connector::connect`]; [`NetError::Tls`] if the TLS handshake fails.
    pub async fn dial(&self, target: &Target) -> Result<Connection, NetError> {
        let (host, deadline) = (target.host(), Instant::now() + self.timeout);
        let stream = self.connector.connect(host, target.port(), self.timeout).await?;
        if !target.is_secure() {
            return Ok(Connection::Plain(stream));
        }
        let failed = |source: io::Error| NetError::Tls { host: host.to_owned(), source: Arc::new(source) };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        let stream = timeout_at(deadline, self.tls.connect(name, stream)).await;
        let stream = stream.map_err(|_| NetError::timeout(host, self.timeout))?.map_err(failed)?;
        Ok(Connection::Tls(Box::new(stream)))
    }
}

/// hyper's pool needs no further information about a connection.
impl LegacyConnection for Connection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
