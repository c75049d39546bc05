//! The WebSocket client (RFC 6455): one message per frame (DIDComm v2.1 "WebSockets").

use std::time::Duration;

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use hyper::{
    body::Bytes,
    header::{HeaderValue, USER_AGENT},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message, Utf8Bytes, client::IntoClientRequest, error::CapacityError, protocol::WebSocketConfig,
    },
};

use super::{
    dial::{Connection, Dialer, Reached},
    error::NetError,
    http,
    target::Target,
};

/// How long the peer may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most bytes that are read at once. It is small because most connections are idle.
const READ_BUFFER_BYTES: usize = 4096;

/// Opens WebSockets to servers.
#[derive(Clone)]
pub struct WebSocketClient {
    dialer: Dialer,
    options: WebSocketOptions,
}

/// The settings for WebSockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocketOptions {
    /// Whether URLs without TLS are refused.
    pub refuse_plain: bool,
    /// The largest received message, in bytes. Default: 1,000,000.
    pub max_message_bytes: usize,
    /// The interval at which the peer gets a ping. A connection that is silent for twice this interval is closed.
    /// Default: 30 seconds.
    pub ping_interval: Duration,
    /// How long the peer may take to accept a message. Default: 30 seconds.
    pub send_timeout: Duration,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        Self {
            refuse_plain: false,
            max_message_bytes: 1_000_000,
            ping_interval: Duration::from_secs(30),
            send_timeout: Duration::from_secs(30),
        }
    }
}

/// Sends messages on a WebSocket. Clones use the same WebSocket.
#[derive(Clone)]
pub struct WebSocketSender {
    commands: mpsc::Sender<Command>,
    host: String,
}

/// Receives messages from a WebSocket.
pub struct WebSocketReceiver {
    messages: mpsc::Receiver<Result<Bytes, NetError>>,
}

/// A command to the task that serves a WebSocket.
enum Command {
    Send(Message, oneshot::Sender<Result<(), NetError>>),
    Close,
}

impl WebSocketClient {
    /// Makes a client whose connections are made by `dialer`.
    pub fn new(dialer: Dialer, options: WebSocketOptions) -> Self {
        Self { dialer, options }
    }

    /// A client with another limit for received messages, in bytes.
    #[must_use]
    pub fn with_message_limit(&self, bytes: usize) -> Self {
        Self { dialer: self.dialer.clone(), options: WebSocketOptions { max_message_bytes: bytes, ..self.options } }
    }

    /// Connects to the server of a URL within `limit`, before there is something to send. The next WebSocket to the
    /// server uses the connection.
    ///
    /// # Errors
    /// [`NetError`] if the URL is not requested, or the server does not accept the connection.
    pub async fn reach(&self, url: &str, limit: Duration) -> Result<Reached, NetError> {
        let target = Target::websocket(url)?;
        self.check(&target)?;
        self.dialer.reach(&target, limit).await
    }

    fn check(&self, target: &Target) -> Result<(), NetError> {
        match !target.is_secure() && self.options.refuse_plain {
            true => Err(NetError::Url { url: target.to_string(), reason: "it is without TLS" }),
            false => Ok(()),
        }
    }

    /// Opens a WebSocket to the server at a `wss` or `ws` URL. No redirect is followed.
    ///
    /// The WebSocket lasts until either side closes it, or the receiver or the last sender is dropped. A task serves
    /// the WebSocket, so pings are answered while nobody sends or receives.
    ///
    /// # Errors
    /// The errors of [`Dialer::dial`]; [`NetError::Url`] for an invalid URL; [`NetError::WebSocketRefused`] if the
    /// server refuses the handshake; [`NetError::Timeout`] or [`NetError::Broken`] if the handshake fails otherwise.
    pub async fn connect(&self, url: &str) -> Result<(WebSocketSender, WebSocketReceiver), NetError> {
        let target = Target::websocket(url)?;
        self.check(&target)?;
        let host = target.host().to_owned();
        let connection = self.dialer.dial(&target).await?;
        let limit = self.dialer.timeout();
        let socket = timeout(limit, handshake(&target, connection, self.options.max_message_bytes)).await;
        let socket = socket.map_err(|_| NetError::timeout(&host, limit))??;
        let (command_sender, commands) = mpsc::channel(1);
        let (message_sender, messages) = mpsc::channel(1);
        tokio::spawn(serve(socket, commands, message_sender, self.options, host.clone()));
        Ok((WebSocketSender { commands: command_sender, host }, WebSocketReceiver { messages }))
    }
}

impl WebSocketSender {
    /// Sends one message: as text if it is UTF-8, else as binary. Returns once the message is passed to the operating
    /// system. That does not prove that the peer has received the message. A cancelled call may still send its message.
    ///
    /// # Errors
    /// [`NetError::Closed`] if the WebSocket is closed, [`NetError::Timeout`] if the peer does not accept the message
    /// in time, and [`NetError::Broken`]. Each of these errors ends the WebSocket.
    pub async fn send(&self, message: impl Into<Bytes>) -> Result<(), NetError> {
        let message = message.into();
        let message = Utf8Bytes::try_from(message.clone()).map_or(Message::Binary(message), Message::Text);
        let closed = || NetError::Closed { host: self.host.clone() };
        let (sent, result) = oneshot::channel();
        self.commands.send(Command::Send(message, sent)).await.map_err(|_| closed())?;
        result.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Closes the WebSocket once all messages are sent.
    pub async fn close(&self) {
        // This fails if the WebSocket is closed already.
        let _ = self.commands.send(Command::Close).await;
    }
}

impl WebSocketReceiver {
    /// Returns the next message, or `None` once the WebSocket is closed by a close frame.
    ///
    /// Little is read ahead, so the peer has to wait while nobody calls this. The call may be cancelled and repeated.
    ///
    /// # Errors
    /// [`NetError::TooLarge`] for a message beyond the limit, [`NetError::Timeout`] if the peer is silent for too long,
    /// and [`NetError::Broken`]. Each of these errors ends the WebSocket.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, NetError> {
        self.messages.recv().await.transpose()
    }
}

type Socket = WebSocketStream<Connection>;

async fn handshake(target: &Target, connection: Connection, max_message_bytes: usize) -> Result<Socket, NetError> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(max_message_bytes))
        .max_frame_size(Some(max_message_bytes));
    let opened = async {
        let mut request = target.uri().into_client_request()?;
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(http::USER_AGENT));
        client_async_with_config(request, connection, Some(config)).await
    };
    opened.await.map(|(socket, _)| socket).map_err(|error| match error {
        Error::Http(response) => {
            NetError::WebSocketRefused { host: target.host().to_owned(), status: response.status().as_u16() }
        }
        error => NetError::broken(target.host(), error),
    })
}

async fn serve(
    socket: Socket,
    mut commands: mpsc::Receiver<Command>,
    messages: mpsc::Sender<Result<Bytes, NetError>>,
    options: WebSocketOptions,
    host: String,
) {
    let (mut sink, mut stream) = socket.split();
    // Read and write concurrently: two peers that both write before they read would wait for each other for ever.
    let end = tokio::select! {
        end = read(&mut stream, &messages, options, &host) => end,
        end = write(&mut sink, &mut commands, options, &host) => end,
    };
    drop(commands);
    let closing = async {
        sink.close().await?;
        // Read until the peer closes too. Closing a connection with unread data resets it, which may discard sent
        // messages.
        while let Some(rest) = stream.next().await {
            rest?;
        }
        Ok::<_, Error>(())
    };
    // Do not wait for a peer that broke the connection or is silent.
    if end.is_ok() {
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
    drop((sink, stream));
    if let Err(error) = end {
        let _ = messages.send(Err(error)).await;
    }
}

async fn read(
    stream: &mut SplitStream<Socket>,
    messages: &mpsc::Sender<Result<Bytes, NetError>>,
    options: WebSocketOptions,
    host: &str,
) -> Result<(), NetError> {
    let silence = 2 * options.ping_interval;
    // Wait for room first: a message that nobody receives stays with the peer.
    while let Ok(slot) = messages.reserve().await {
        let message = loop {
            let next = tokio::select! {
                next = timeout(silence, stream.next()) => next,
                () = messages.closed() => return Ok(()),
            };
            match next.map_err(|_| NetError::timeout(host, silence))? {
                None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => return Ok(()),
                Some(Ok(Message::Text(text))) => break text.into(),
                Some(Ok(Message::Binary(bytes))) => break bytes,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(socket_error(host, options, error)),
            }
        };
        slot.send(Ok(message));
    }
    Ok(())
}

async fn write(
    sink: &mut SplitSink<Socket, Message>,
    commands: &mut mpsc::Receiver<Command>,
    options: WebSocketOptions,
    host: &str,
) -> Result<(), NetError> {
    let mut ping = interval_at(Instant::now() + options.ping_interval, options.ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (message, done) = tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Send(message, done)) => (message, Some(done)),
                Some(Command::Close) | None => return Ok(()),
            },
            _ = ping.tick() => (Message::Ping(Bytes::new()), None),
        };
        let sent = match timeout(options.send_timeout, sink.send(message)).await {
            Err(_) => Err(NetError::timeout(host, options.send_timeout)),
            Ok(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => Err(NetError::Closed { host: host.to_owned() }),
            Ok(sent) => sent.map_err(|error| socket_error(host, options, error)),
        };
        if let Some(done) = done {
            // The sender may have been cancelled.
            let _ = done.send(sent.clone());
        }
        sent?;
    }
}

fn socket_error(host: &str, options: WebSocketOptions, error: Error) -> NetError {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            NetError::TooLarge { host: host.to_owned(), limit: options.max_message_bytes }
        }
        error => NetError::broken(host, error),
    }
}
