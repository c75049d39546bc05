//! Messages by WebSocket (DIDComm v2.1 "WebSockets"): one message a frame. Who a peer is, its messages say and not the socket.

use std::{collections::HashMap, io::ErrorKind, sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{SinkExt, StreamExt, stream::FuturesUnordered};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as SocketError, Message as Frame,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{Shared, http::Connection, weighed::Weighed};
use crate::agent::{
    inbox::{Fate, Refusal},
    routes::{OpenRoute, Returning},
    told_to_end,
};

/// What is read at once, in bytes: small, as most sockets are quiet.
const BUFFER: usize = 4 * 1024;
/// Messages that wait for a slow reader.
const WAITING: usize = 4;
/// A reader that takes nothing for so long is let go of; its messages wait in the outbox.
const WRITE: Duration = Duration::from_secs(10);
/// Peers that one socket may speak for: a mediator has many.
const PEERS: usize = 1000;
/// Malformed messages after which a socket is closed.
const PATIENCE: usize = 10;
/// Messages of one socket that are being handled, at most: then it is not read from, unless a token is away. What comes
/// beyond that is kept, and opens no way back.
const UNDER_WAY: usize = 64;

const TOO_LARGE: (CloseCode, &str) = (CloseCode::Size, "the message is too large");
const NO_ROOM: (CloseCode, &str) = (CloseCode::Again, "too much comes in at once");
const LATE: (CloseCode, &str) = (CloseCode::Policy, "the message did not arrive in time");

/// Whether a request asks for a WebSocket (RFC 6455 section 4.2.1).
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let says = |name, word: &str| {
        let value = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        value.split(',').any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    says(header::UPGRADE, "websocket") && says(header::CONNECTION, "upgrade")
}

/// Switches to it.
pub(super) fn answer(connection: Connection, mut request: Request) -> Response {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let version = request.headers().get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let (Some(key), true) = (key.and_then(|key| HeaderValue::from_str(&key).ok()), version) else {
        let version = [(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))];
        return (StatusCode::BAD_REQUEST, version, "this is no WebSocket handshake (RFC 6455)\n").into_response();
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(io) => {
                let max = connection.shared.max_bytes;
                let config = WebSocketConfig::default()
                    .read_buffer_size(BUFFER)
                    .write_buffer_size(0)
                    .max_write_buffer_size(2 * max + BUFFER)
                    .max_message_size(Some(max))
                    .max_frame_size(Some(max));
                let burden = connection.shared.hall.enter(connection.address);
                let io = Weighed::new(TokioIo::new(io), burden, connection.shared.options().body_time);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                connection.shared.metrics.sockets(1);
                Box::pin(Session::new(connection.clone()).run(socket)).await;
                connection.shared.metrics.sockets(-1);
            }
            Err(error) => tracing::debug!(%error, "a WebSocket was not opened"),
        }
    });
    let switched = [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, key),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, switched).into_response()
}

/// One socket.
struct Session {
    connection: Connection,
    /// The ways back that its messages have opened, by peer.
    ways: HashMap<String, OpenRoute>,
    back: mpsc::Sender<Returning>,
    returning: mpsc::Receiver<Returning>,
    malformed: usize,
}

type Socket = WebSocketStream<Weighed<TokioIo<Upgraded>>>;

impl Session {
    fn new(connection: Connection) -> Self {
        let (back, returning) = mpsc::channel(WAITING);
        Self { connection, ways: HashMap::new(), back, returning, malformed: 0 }
    }

    async fn run(mut self, mut socket: Socket) {
        let shared = self.connection.shared.clone();
        let mut shutdown = shared.shutdown.clone();
        let ping = shared.options().ping;
        let mut under_way: FuturesUnordered<oneshot::Receiver<Fate>> = FuturesUnordered::new();
        let mut heard = Instant::now();
        let mut next_ping = heard + ping;
        let close = loop {
            tokio::select! {
                frame = socket.next(), if under_way.len() < UNDER_WAY || !shared.inbox.is_ready() => {
                    heard = Instant::now();
                    let message = match frame {
                        Some(Ok(Frame::Text(text))) => text.as_bytes().to_vec(),
                        Some(Ok(Frame::Binary(bytes))) => bytes.to_vec(),
                        Some(Ok(Frame::Close(_))) | None => break None,
                        Some(Ok(Frame::Ping(payload) | Frame::Pong(payload))) => {
                            socket.get_mut().control(payload.len());
                            continue;
                        }
                        Some(Ok(_)) => continue,
                        // The sender is told: else it takes the message for kept.
                        Some(Err(SocketError::Capacity(_))) => break Some(TOO_LARGE),
                        Some(Err(SocketError::Io(error))) if error.kind() == ErrorKind::QuotaExceeded => break Some(NO_ROOM),
                        Some(Err(SocketError::Io(error))) if error.kind() == ErrorKind::TimedOut => break Some(LATE),
                        Some(Err(error)) => {
                            tracing::debug!(%error, "a WebSocket ended");
                            break None;
                        }
                    };
                    let taken = self.take(message).await;
                    socket.get_mut().whole();
                    match taken {
                        Ok(told) => under_way.extend(told.filter(|_| under_way.len() < UNDER_WAY)),
                        Err(close) => break Some(close),
                    }
                }
                Some(told) = under_way.next(), if !under_way.is_empty() => if let Ok(fate) = told {
                    self.open_way(fate);
                },
                Some(Returning { packed, written }) = self.returning.recv() => {
                    let sent = tokio::time::timeout(WRITE, socket.send(Frame::text(packed))).await;
                    let sent = matches!(sent, Ok(Ok(())));
                    let _ = written.send(sent);
                    if !sent {
                        break None;
                    }
                }
                () = tokio::time::sleep_until(next_ping) => {
                    let quiet = heard.elapsed();
                    if quiet >= 3 * ping {
                        break None;
                    }
                    if quiet >= ping {
                        let asked = tokio::time::timeout(WRITE, socket.send(Frame::Ping(Default::default()))).await;
                        if !matches!(asked, Ok(Ok(()))) {
                            break None;
                        }
                    }
                    next_ping = Instant::now() + ping;
                }
                () = told_to_end(&mut shutdown) => break Some((CloseCode::Restart, "the agent ends")),
            }
        };
        self.ways.clear();
        let frame = close.map(|(code, reason)| CloseFrame { code, reason: reason.into() });
        let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(frame)).await;
    }

    /// Takes a message over; or says why the socket is closed. There is no other way to tell the peer: what it hears nothing
    /// of it may take for kept only while the socket is open.
    async fn take(&mut self, packed: Vec<u8>) -> Result<Option<oneshot::Receiver<Fate>>, (CloseCode, &'static str)> {
        let Connection { shared, address, .. } = &self.connection;
        if !shared.budget.allows(*address, shared.options().rate_per_address) {
            return Err((CloseCode::Again, "too many messages from one address"));
        }
        match shared.inbox.take(packed).await {
            Ok(told) => Ok(Some(told)),
            Err(Refusal::Store(error)) => {
                tracing::warn!(%error, "a message is refused");
                Err((CloseCode::Again, "messages cannot be kept now"))
            }
            Err(Refusal::TooLarge(_)) => Err(TOO_LARGE),
            Err(refusal) => {
                tracing::debug!(%refusal, "a message is not taken");
                self.malformed += 1;
                match self.malformed > PATIENCE {
                    true => Err((CloseCode::Policy, "too many messages that are not for this agent")),
                    false => Ok(None),
                }
            }
        }
    }

    /// The sender of a message may be answered here from now on.
    fn open_way(&mut self, fate: Fate) {
        let shared: &Arc<Shared> = &self.connection.shared;
        if self.ways.len() < PEERS || self.ways.contains_key(&fate.sender) {
            let way = shared.routes.open(&fate.sender, fate.return_route, self.back.clone());
            self.ways.insert(fate.sender.clone(), way);
        }
        let _ = fate.go.send(());
        shared.outbox.wake_waiting(&fate.sender);
    }
}
