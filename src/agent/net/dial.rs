//! A connection with a server, by TLS or in the clear.

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

use super::{Connector, Guard, NetError, Target};

/// Dials servers: every connection of the agent to the outside comes from here.
#[derive(Clone)]
pub struct Dialer {
    connector: Connector,
    tls: TlsConnector,
    within: Duration,
}

/// A connection with a server.
pub enum Connection {
    /// In the clear.
    Plain(TcpStream),
    /// By TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Dialer {
    /// How long name, connection and TLS together may take.
    pub const WITHIN: Duration = Duration::from_secs(10);

    /// One with this guard and TLS.
    pub fn new(guard: Guard, tls: Arc<ClientConfig>) -> Self {
        Self { connector: Connector::new(guard), tls: TlsConnector::from(tls), within: Self::WITHIN }
    }

    /// The same with another time for name, connection and TLS together.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// How long name, connection and TLS together may take.
    pub fn limit(&self) -> Duration {
        self.within
    }

    /// One that dials only what the guard's `allow_private` opens.
    pub fn opened_only(&self) -> Self {
        Self { connector: Connector::new(self.connector.guard().opened_only()), ..self.clone() }
    }

    /// A connection with the target's host.
    ///
    /// # Errors
    /// Those of [`Connector::connect`], and [`NetError::Tls`].
    pub async fn dial(&self, target: &Target) -> Result<Connection, NetError> {
        let (host, deadline) = (target.host(), Instant::now() + self.within);
        let stream = self.connector.connect(host, target.port(), self.within).await?;
        if !target.is_secure() {
            return Ok(Connection::Plain(stream));
        }
        let broken = |source: io::Error| NetError::Tls { host: host.to_owned(), source: Arc::new(source) };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| broken(io::Error::other(error)))?;
        let stream = timeout_at(deadline, self.tls.connect(name, stream)).await;
        let stream = stream.map_err(|_| NetError::timeout(host, self.within))?.map_err(broken)?;
        Ok(Connection::Tls(Box::new(stream)))
    }
}

/// With what hyper's pool has to know: nothing.
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
