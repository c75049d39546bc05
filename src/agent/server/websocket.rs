//! Messages over WebSocket (DIDComm v2.1 "WebSockets"): one message per frame. The messages authenticate a peer; the
//! connection does not.

use std::{collections::HashMap, future, io::ErrorKind, pin::Pin, time::Duration};

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
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as SocketError, Message as Frame,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{admission::MeteredStream, context::PeerConnection};
use crate::agent::{
    inbox::{Refusal, ReturnRouteRequest},
    outbox::RouteCapacity,
    return_routes::{ReturnMessage, RouteGuard},
};

/// The bytes that are read at once. The number is small, since most WebSockets are idle.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// The most messages that wait for a peer that reads slowly.
const MAX_QUEUED_MESSAGES: usize = 4;
/// A peer that reads nothing for this long is disconnected. Its messages wait in the outbox.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the close handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The most peers that one WebSocket may open return routes for. A mediator sends for many peers.
const MAX_PEERS: usize = 1000;
/// The most messages of one WebSocket that wait for their return route. At this number reading stops while a token is
/// ready. While no token is ready, further messages are read and stored, but open no return route.
const MAX_PENDING: usize = 64;

/// Why a WebSocket is closed: the code and the text of the close frame.
type CloseReason = (CloseCode, &'static str);

const TOO_LARGE: CloseReason = (CloseCode::Size, "the message is too large");
const NO_ROOM: CloseReason = (CloseCode::Again, "too many bytes are being received at once");
const TIMED_OUT: CloseReason = (CloseCode::Policy, "the message did not arrive in time");
const TOO_MANY_MESSAGES: CloseReason = (CloseCode::Again, "too many messages from this address");
const NOT_STORED: CloseReason = (CloseCode::Again, "messages cannot be stored now");
const NOT_READY: CloseReason = (CloseCode::Again, "this DID is not ready yet");
const REFUSED: CloseReason = (CloseCode::Policy, "this agent refuses the message, and has not stored it");
const SHUTDOWN: CloseReason = (CloseCode::Restart, "the agent is shutting down");

/// Whether a request asks for a WebSocket (RFC 6455 section 4.2.1).
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let contains = |name, word: &str| {
        let value = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        value.split(',').any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    contains(header::UPGRADE, "websocket") && contains(header::CONNECTION, "upgrade")
}

/// Answers the handshake, and serves the WebSocket in a task of its own.
pub fn upgrade(connection: PeerConnection, mut request: Request) -> Response {
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
                let context = &connection.context;
                let max_bytes = context.max_message_bytes;
                let config = WebSocketConfig::default()
                    .read_buffer_size(READ_BUFFER_BYTES)
                    .write_buffer_size(0)
                    .max_write_buffer_size(2 * max_bytes + READ_BUFFER_BYTES)
                    .max_message_size(Some(max_bytes))
                    .max_frame_size(Some(max_bytes));
                let reservation = context.limits.bytes.reserve(connection.address);
                let io = MeteredStream::new(TokioIo::new(io), reservation, context.options().body_timeout);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                context.metrics.websockets_changed(1);
                Box::pin(Session::new(connection.clone()).run(socket)).await;
                context.metrics.websockets_changed(-1);
            }
            Err(error) => tracing::debug!(%error, "WebSocket not opened"),
        }
    });
    let switched = [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, key),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, switched).into_response()
}

/// The state of one WebSocket.
struct Session {
    connection: PeerConnection,
    /// The return routes that its messages have opened, by peer.
    routes: HashMap<String, RouteGuard>,
    replies: Replies,
}

/// The messages for the peers of a WebSocket. The queue takes 1.5 KB, and is made with the first return route: a WebSocket
/// that sends nothing has none.
#[derive(Default)]
struct Replies(Option<(mpsc::Sender<ReturnMessage>, mpsc::Receiver<ReturnMessage>)>);

impl Replies {
    fn sender(&mut self) -> mpsc::Sender<ReturnMessage> {
        self.0.get_or_insert_with(|| mpsc::channel(MAX_QUEUED_MESSAGES)).0.clone()
    }

    /// Returns the next message. Never returns before there is a return route.
    async fn next(&mut self) -> Option<ReturnMessage> {
        match &mut self.0 {
            Some((_, replies)) => replies.recv().await,
            None => future::pending().await,
        }
    }
}

/// Waits until the message is handled that has reserved a return route.
type Reserved = Pin<Box<dyn Future<Output = Settled> + Send>>;

/// Whether the message that has reserved this route to this peer was handled, and was no repetition.
struct Settled {
    peer: String,
    route: u64,
    is_handled: bool,
}

type Socket = WebSocketStream<MeteredStream<TokioIo<Upgraded>>>;

/// A classified frame, or the end of a WebSocket.
enum Incoming {
    Message(Vec<u8>),
    /// A ping or a pong, with the length of its payload.
    Control(usize),
    Ignored,
    /// The WebSocket ends: the peer has closed it, or the connection broke. The value is the reason that the peer is
    /// told, if there is one.
    End(Option<CloseReason>),
}

impl Session {
    fn new(connection: PeerConnection) -> Self {
        Self { connection, routes: HashMap::new(), replies: Replies::default() }
    }

    async fn run(mut self, mut socket: Socket) {
        let context = self.connection.context.clone();
        let ping_interval = context.options().ping_interval;
        let mut pending: FuturesUnordered<oneshot::Receiver<ReturnRouteRequest>> = FuturesUnordered::new();
        let mut reserved: FuturesUnordered<Reserved> = FuturesUnordered::new();
        let mut last_heard = Instant::now();
        let mut next_ping = last_heard + ping_interval;
        let close = loop {
            tokio::select! {
                frame = socket.next(), if pending.len() < MAX_PENDING || !context.inbox.can_open_messages() => {
                    last_heard = Instant::now();
                    match incoming(frame) {
                        Incoming::Message(packed) => {
                            // Boxed, since an idle WebSocket should not have room for it.
                            let accepted = Box::pin(self.accept_message(packed)).await;
                            socket.get_mut().message_done();
                            match accepted {
                                Ok(request) => pending.extend(Some(request).filter(|_| pending.len() < MAX_PENDING)),
                                Err(close) => break Some(close),
                            }
                        }
                        Incoming::Control(payload) => socket.get_mut().control_frame_done(payload),
                        Incoming::Ignored => {}
                        Incoming::End(close) => break close,
                    }
                }
                Some(request) = pending.next(), if !pending.is_empty() => if let Ok(request) = request {
                    reserved.push(self.reserve_route(request));
                },
                Some(settled) = reserved.next(), if !reserved.is_empty() => self.settle_route(&settled),
                Some(ReturnMessage { packed, written }) = self.replies.next() => {
                    let sent = send(&mut socket, Frame::text(packed)).await;
                    let _ = written.send(sent);
                    if !sent {
                        break None;
                    }
                }
                () = tokio::time::sleep_until(next_ping) => {
                    let silence = last_heard.elapsed();
                    if silence >= 3 * ping_interval {
                        break None;
                    }
                    if silence >= ping_interval && !send(&mut socket, Frame::Ping(Default::default())).await {
                        break None;
                    }
                    next_ping = Instant::now() + ping_interval;
                }
                () = context.shutdown.cancelled() => break Some(SHUTDOWN),
            }
        };
        self.routes.clear();
        let frame = close.map(|(code, reason)| CloseFrame { code, reason: reason.into() });
        let _ = timeout(CLOSE_TIMEOUT, socket.close(frame)).await;
    }

    /// Passes a message to the inbox. Returns the channel for the message's return-route request. The error is the
    /// reason to close the WebSocket: a WebSocket has no other answer, and the peer must not believe that a message was
    /// stored that was not.
    async fn accept_message(&self, packed: Vec<u8>) -> Result<oneshot::Receiver<ReturnRouteRequest>, CloseReason> {
        let PeerConnection { context, address, .. } = &self.connection;
        if !context.limits.message_rate.allows(*address, context.options().max_messages_per_second) {
            return Err(TOO_MANY_MESSAGES);
        }
        match context.inbox.accept_on_socket(packed).await {
            Ok(request) => Ok(request),
            Err(Refusal::Store(error)) => {
                tracing::warn!(reason = %error, "message not accepted");
                Err(NOT_STORED)
            }
            Err(Refusal::TooLarge(_)) => Err(TOO_LARGE),
            Err(refusal) => {
                tracing::debug!(reason = %refusal, "message not accepted");
                Err(if matches!(refusal, Refusal::NotForUs { may_be_own: true }) { NOT_READY } else { REFUSED })
            }
        }
    }

    /// Reserves a return route to the sender of a message on this WebSocket.
    fn reserve_route(&mut self, request: ReturnRouteRequest) -> Reserved {
        let ReturnRouteRequest { sender: peer, return_route, reserved, replied } = request;
        let mut route = 0;
        if self.routes.len() < MAX_PEERS || self.routes.contains_key(&peer) {
            let guard = self.connection.context.routes.reserve(&peer, return_route, self.replies.sender());
            route = guard.id();
            self.routes.insert(peer.clone(), guard);
        }
        let _ = reserved.send(());
        Box::pin(async move { Settled { peer, route, is_handled: replied.await.is_ok() } })
    }

    /// Opens a reserved route, or closes it.
    fn settle_route(&mut self, settled: &Settled) {
        let Some(route) = self.routes.get(&settled.peer).filter(|route| route.id() == settled.route) else { return };
        if settled.is_handled {
            route.open();
            self.connection.context.outbox.retry_now(&settled.peer, RouteCapacity::Many);
        } else {
            self.routes.remove(&settled.peer);
        }
    }
}

/// Classifies a frame or an error that was read from the WebSocket.
fn incoming(frame: Option<Result<Frame, SocketError>>) -> Incoming {
    match frame {
        Some(Ok(Frame::Text(text))) => Incoming::Message(text.as_bytes().to_vec()),
        Some(Ok(Frame::Binary(bytes))) => Incoming::Message(bytes.to_vec()),
        Some(Ok(Frame::Close(_))) | None => Incoming::End(None),
        Some(Ok(Frame::Ping(payload) | Frame::Pong(payload))) => Incoming::Control(payload.len()),
        Some(Ok(_)) => Incoming::Ignored,
        // Tell the sender. Otherwise it would assume that the message was stored.
        Some(Err(SocketError::Capacity(_))) => Incoming::End(Some(TOO_LARGE)),
        Some(Err(SocketError::Io(error))) if error.kind() == ErrorKind::QuotaExceeded => Incoming::End(Some(NO_ROOM)),
        Some(Err(SocketError::Io(error))) if error.kind() == ErrorKind::TimedOut => Incoming::End(Some(TIMED_OUT)),
        Some(Err(error)) => {
            tracing::debug!(%error, "WebSocket ended");
            Incoming::End(None)
        }
    }
}

/// Sends a frame within [`WRITE_TIMEOUT`]. Returns whether it was sent.
async fn send(socket: &mut Socket, frame: Frame) -> bool {
    matches!(timeout(WRITE_TIMEOUT, socket.send(frame)).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Returns the size of the future that a function returns.
    fn future_size<F>(_: impl Fn(Session, Socket) -> F) -> usize {
        size_of::<F>()
    }

    /// Ten thousand WebSockets may be idle. None has room for a message that is being accepted, or for replies.
    #[test]
    fn an_idle_websocket_is_small() {
        let session = future_size(Session::run);
        println!("a session takes {session} bytes");
        assert!(session <= 2048, "{session}");
        assert!(Replies::default().0.is_none());
    }

    #[tokio::test]
    async fn replies_wait_for_the_first_return_route() {
        let mut replies = Replies::default();
        assert!(replies.next().now_or_never().is_none());
        let (written, _) = oneshot::channel();
        let sender = replies.sender();
        sender.send(ReturnMessage { packed: "reply".to_owned(), written }).await.unwrap();
        assert_eq!(replies.next().await.unwrap().packed, "reply");
        // Its peers may be gone, and others may follow.
        drop(sender);
        assert!(replies.next().now_or_never().is_none());
    }
}
