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

use super::{
    connect::Connector,
    error::NetError,
    guard::AddressGuard,
    ready::{ReadyConnection, ReadyConnections},
    target::{Origin, Target},
};

/// Connects to servers. Every outgoing connection of the agent is made here.
#[derive(Clone)]
pub struct Dialer {
    connector: Connector,
    /// The servers to which this dialer connects whatever their addresses are.
    named: Arc<[Origin]>,
    tls: TlsConnector,
    timeout: Duration,
    ready: ReadyConnections<Connection>,
}

/// An open connection that the next request to its origin uses. It is closed when this is dropped before.
#[must_use = "the connection is closed when this is dropped"]
pub struct Reached {
    _connection: ReadyConnection<Connection>,
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
        Self {
            connector: Connector::new(guard),
            named: Arc::default(),
            tls: TlsConnector::from(tls),
            timeout: Self::DEFAULT_TIMEOUT,
            ready: ReadyConnections::default(),
        }
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
        let connector = self.connector.with_guard(self.connector.guard().allow_private_only());
        Self { connector, ready: ReadyConnections::default(), ..self.clone() }
    }

    /// A dialer that connects to these servers also at private addresses. Use it only for requests to servers that the
    /// operator names, such as a webhook: a server that is named for one purpose is not open to strangers' URLs.
    #[must_use]
    pub fn allow_named(&self, servers: Vec<Origin>) -> Self {
        // A connection to such a server must not be taken for another request.
        Self { named: servers.into(), ready: ReadyConnections::default(), ..self.clone() }
    }

    /// Connects to the target's host before there is something to send. The next request of this dialer and its clones
    /// to the same origin uses the connection. `limit` bounds the time, if it is shorter than that of the dialer.
    ///
    /// # Errors
    /// The errors of [`dial`](Self::dial).
    pub async fn reach(&self, target: &Target, limit: Duration) -> Result<Reached, NetError> {
        let connection = self.connect(target, self.timeout.min(limit)).await?;
        Ok(Reached { _connection: self.ready.keep(target.origin(), connection) })
    }

    /// Connects to the target's host, or takes the connection that [`reach`](Self::reach) has made.
    ///
    /// # Errors
    /// The errors of [`Connector::connect`]; [`NetError::Tls`] if the TLS handshake fails.
    pub async fn dial(&self, target: &Target) -> Result<Connection, NetError> {
        match self.ready.take(&target.origin()) {
            Some(connection) => Ok(connection),
            None => self.connect(target, self.timeout).await,
        }
    }

    async fn connect(&self, target: &Target, limit: Duration) -> Result<Connection, NetError> {
        let (host, deadline) = (target.host(), Instant::now() + limit);
        let stream = match self.named.contains(&target.origin()) {
            true => {
                let connector = self.connector.with_guard(AddressGuard::for_named_servers());
                connector.connect(host, target.port(), limit).await?
            }
            false => self.connector.connect(host, target.port(), limit).await?,
        };
        if !target.is_secure() {
            return Ok(Connection::Plain(stream));
        }
        let failed = |source: io::Error| NetError::Tls { host: host.to_owned(), source: Arc::new(source) };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        let stream = timeout_at(deadline, self.tls.connect(name, stream)).await;
        let stream = stream.map_err(|_| NetError::timeout(host, limit))?.map_err(failed)?;
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
