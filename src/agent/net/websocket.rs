//! WebSockets as a client.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use hyper::Uri;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message as Frame,
        protocol::{WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{Connector, Guard, NetError, Roots};
use crate::agent::{SendError, Transport};

/// How long TLS and the handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a message may take.
const WRITE: Duration = Duration::from_secs(30);
/// What is read at once, and a message, at most, in bytes.
const BUFFER: usize = 8 * 1024;
const LARGEST: usize = 4_000_000;

/// Opens WebSockets to those who may be asked.
#[derive(Clone)]
pub struct WebSocketClient {
    connector: Connector,
    tls: Arc<rustls::ClientConfig>,
}

/// What a WebSocket runs on: TCP, or TLS on it.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl Io for TcpStream {}
impl Io for tokio_rustls::client::TlsStream<TcpStream> {}

/// An open WebSocket.
pub type Socket = WebSocketStream<Box<dyn Io>>;

impl WebSocketClient {
    /// One that connects as the guard lets it, and trusts these certificates.
    pub fn new(guard: Guard, roots: &Roots) -> Self {
        Self { connector: Connector::new(guard), tls: roots.config() }
    }

    /// Opens a WebSocket at a URL of ws or wss.
    ///
    /// # Errors
    /// If it is not connected to, or does not answer as a WebSocket.
    pub async fn connect(&self, url: &str) -> Result<Socket, NetError> {
        let wrong = |why| NetError::Url(url.chars().take(200).collect(), why);
        let uri: Uri = url.parse().map_err(|_| wrong("it is malformed"))?;
        let secure = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(wrong("its scheme is neither wss nor ws")),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let host = authority.ok_or_else(|| wrong("it has a user's name in it, or no host"))?.host().to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.connector.connect(&host, port).await?;
        let answer = |reason: String| NetError::Answer { host: host.clone(), reason };
        let open = async {
            let io: Box<dyn Io> = match secure {
                false => Box::new(stream),
                true => {
                    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                    let name = ServerName::try_from(bare).map_err(|_| wrong("its host has no name"))?;
                    let tls = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
                    Box::new(tls.map_err(|error| answer(error.to_string()))?)
                }
            };
            let config = WebSocketConfig::default()
                .read_buffer_size(BUFFER)
                .write_buffer_size(0)
                .max_message_size(Some(LARGEST))
                .max_frame_size(Some(LARGEST));
            let opened = client_async_with_config(url, io, Some(config)).await;
            opened.map(|(socket, _)| socket).map_err(|error| answer(error.to_string()))
        };
        tokio::time::timeout(HANDSHAKE, open).await.map_err(|_| NetError::Late(host.clone()))?
    }
}

#[async_trait]
impl Transport for WebSocketClient {
    fn schemes(&self) -> &[&str] {
        &["wss", "ws"]
    }

    /// One socket for one message. Nothing says that it was taken; but the other closes with another code than 1000 if it was
    /// not.
    async fn send(&self, uri: &str, packed: &str) -> Result<Vec<String>, SendError> {
        let failed =
            |error: NetError| SendError { passes: error.passes(), reason: error.to_string(), retry_after: None };
        let mut socket = self.connect(uri).await.map_err(failed)?;
        let write = async {
            socket.send(Frame::text(packed)).await?;
            socket.close(None).await?;
            while let Some(frame) = socket.next().await {
                if let Frame::Close(said) = frame? {
                    return Ok(said);
                }
            }
            Ok(None)
        };
        let written: Result<Result<_, tungstenite::Error>, _> = tokio::time::timeout(WRITE, write).await;
        match written {
            Ok(Ok(said)) => match said.filter(|said| said.code != CloseCode::Normal) {
                None => Ok(Vec::new()),
                Some(said) => Err(SendError {
                    reason: format!("{uri} closes with {}: {}", said.code, said.reason),
                    passes: said.code != CloseCode::Size,
                    retry_after: None,
                }),
            },
            Ok(Err(error)) => Err(SendError::passing(format!("{uri}: {error}"))),
            Err(_) => Err(SendError::passing(format!("{uri} takes nothing"))),
        }
    }
}
