//! WebSocket as a client (RFC 6455): each frame one message (DIDComm v2.1 "WebSockets").

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

use super::{Connection, Dialer, NetError, Target, http};

/// How long a peer has to take leave.
const LEAVE: Duration = Duration::from_secs(2);
/// What is read at once. A connection has little to say most of the time.
const BUFFER: usize = 4096;

/// Opens WebSockets.
#[derive(Clone)]
pub struct WebSocketClient {
    dialer: Dialer,
    options: WebSocketOptions,
}

/// What an operator decides of WebSockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocketOptions {
    /// Whether those without TLS are refused.
    pub refuse_plain: bool,
    /// The longest message that is read: 1 MB.
    pub message: usize,
    /// How often the peer is asked whether it is there: every 30 seconds. After twice that in silence it is not.
    pub keep_alive: Duration,
    /// How long the peer has to take a message from us: 30 seconds.
    pub send_within: Duration,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        let half_a_minute = Duration::from_secs(30);
        Self { refuse_plain: false, message: 1_000_000, keep_alive: half_a_minute, send_within: half_a_minute }
    }
}

/// Sends messages by a WebSocket. A clone sends by the same.
#[derive(Clone)]
pub struct WebSocketSender {
    orders: mpsc::Sender<Order>,
    host: String,
}

/// Receives the messages of a WebSocket.
pub struct WebSocketReceiver {
    messages: mpsc::Receiver<Result<Bytes, NetError>>,
}

enum Order {
    Send(Message, oneshot::Sender<Result<(), NetError>>),
    Close,
}

impl WebSocketClient {
    /// One that dials by `dialer`.
    pub fn new(dialer: Dialer, options: WebSocketOptions) -> Self {
        Self { dialer, options }
    }

    /// The same for messages of up to so many bytes.
    #[must_use]
    pub fn with_message_limit(&self, bytes: usize) -> Self {
        Self { dialer: self.dialer.clone(), options: WebSocketOptions { message: bytes, ..self.options } }
    }

    /// A WebSocket with the server at a `wss` or `ws` URL. No redirect is followed.
    ///
    /// It lasts until a side closes it, or the receiver or the last sender is dropped. A task of its own serves it, so that
    /// the peer's pings are answered whatever the two are waiting for.
    ///
    /// # Errors
    /// Those of [`Dialer::dial`], [`NetError::Url`] and [`NetError::NoWebSocket`].
    pub async fn connect(&self, url: &str) -> Result<(WebSocketSender, WebSocketReceiver), NetError> {
        let target = Target::websocket(url)?;
        if !target.is_secure() && self.options.refuse_plain {
            return Err(NetError::Url { url: target.to_string(), why: "it is without TLS" });
        }
        let host = target.host().to_owned();
        let connection = self.dialer.dial(&target).await?;
        let limit = self.dialer.limit();
        let socket = timeout(limit, handshake(&target, connection, self.options.message)).await;
        let socket = socket.map_err(|_| NetError::timeout(&host, limit))??;
        let (order, orders) = mpsc::channel(1);
        let (message, messages) = mpsc::channel(1);
        tokio::spawn(serve(socket, orders, message, self.options, host.clone()));
        Ok((WebSocketSender { orders: order, host }, WebSocketReceiver { messages }))
    }
}

impl WebSocketSender {
    /// Sends one message, as text if it is that, and returns once the system took it. That is no proof that the peer has it;
    /// nor is a call that was given up one that it has not.
    ///
    /// # Errors
    /// [`NetError::Closed`], [`NetError::Timeout`] and [`NetError::Broken`]; all are the end of this WebSocket.
    pub async fn send(&self, message: impl Into<Bytes>) -> Result<(), NetError> {
        let message = message.into();
        let message = Utf8Bytes::try_from(message.clone()).map_or(Message::Binary(message), Message::Text);
        let closed = || NetError::Closed { host: self.host.clone() };
        let (done, is_done) = oneshot::channel();
        self.orders.send(Order::Send(message, done)).await.map_err(|_| closed())?;
        is_done.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Closes the WebSocket after what was sent.
    pub async fn close(&self) {
        // It fails if it is closed already.
        let _ = self.orders.send(Order::Close).await;
    }
}

impl WebSocketReceiver {
    /// The next message, or nothing if the WebSocket was closed in order.
    ///
    /// While it is not called, little is read: the peer has to wait. It may be given up and called again.
    ///
    /// # Errors
    /// [`NetError::TooLarge`], [`NetError::Timeout`] after a silence, and [`NetError::Broken`]; all are the end of this
    /// WebSocket.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, NetError> {
        self.messages.recv().await.transpose()
    }
}

type Socket = WebSocketStream<Connection>;

async fn handshake(target: &Target, connection: Connection, message: usize) -> Result<Socket, NetError> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(message))
        .max_frame_size(Some(message));
    let opened = async {
        let mut request = target.uri().into_client_request()?;
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(http::USER_AGENT));
        client_async_with_config(request, connection, Some(config)).await
    };
    opened.await.map(|(socket, _)| socket).map_err(|error| match error {
        Error::Http(answer) => {
            NetError::NoWebSocket { host: target.host().to_owned(), status: answer.status().as_u16() }
        }
        error => NetError::broken(target.host(), error),
    })
}

async fn serve(
    socket: Socket,
    mut orders: mpsc::Receiver<Order>,
    messages: mpsc::Sender<Result<Bytes, NetError>>,
    options: WebSocketOptions,
    host: String,
) {
    let (mut sink, mut stream) = socket.split();
    // Side by side: two peers that both write before they read would wait for each other.
    let end = tokio::select! {
        end = read(&mut stream, &messages, options, &host) => end,
        end = write(&mut sink, &mut orders, options, &host) => end,
    };
    drop(orders);
    let leave = async {
        sink.close().await?;
        // Until the peer closes too: to hang up with something unread would reset the connection, and perhaps lose what was
        // sent.
        while let Some(rest) = stream.next().await {
            rest?;
        }
        Ok::<_, Error>(())
    };
    // Who breaks off or does not answer is not waited for.
    if end.is_ok() {
        let _ = timeout(LEAVE, leave).await;
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
    let silence = 2 * options.keep_alive;
    // Room first: what nobody waits for is left with the peer.
    while let Ok(room) = messages.reserve().await {
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
                Some(Err(error)) => return Err(wrong(host, options, error)),
            }
        };
        room.send(Ok(message));
    }
    Ok(())
}

async fn write(
    sink: &mut SplitSink<Socket, Message>,
    orders: &mut mpsc::Receiver<Order>,
    options: WebSocketOptions,
    host: &str,
) -> Result<(), NetError> {
    let mut ping = interval_at(Instant::now() + options.keep_alive, options.keep_alive);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (message, done) = tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Send(message, done)) => (message, Some(done)),
                Some(Order::Close) | None => return Ok(()),
            },
            _ = ping.tick() => (Message::Ping(Bytes::new()), None),
        };
        let sent = match timeout(options.send_within, sink.send(message)).await {
            Err(_) => Err(NetError::timeout(host, options.send_within)),
            Ok(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => Err(NetError::Closed { host: host.to_owned() }),
            Ok(sent) => sent.map_err(|error| wrong(host, options, error)),
        };
        if let Some(done) = done {
            // Whoever sent it may have given up.
            let _ = done.send(sent.clone());
        }
        sent?;
    }
}

fn wrong(host: &str, options: WebSocketOptions, error: Error) -> NetError {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            NetError::TooLarge { host: host.to_owned(), limit: options.message }
        }
        error => NetError::broken(host, error),
    }
}
