//! The public side: where peers deliver messages, over HTTP and WebSocket.
//!
//! Anyone may connect, so everything is bounded: connections in total and per address, the time for headers, for a body
//! and between requests, the size of headers and body, the bytes of all incoming messages together, and the messages
//! per second from an address.

mod admission;
mod context;
mod cors;
mod http;
mod options;
mod pages;
mod qr_codes;
mod tls;
mod websocket;
mod written;

pub use options::ServerOptions;
pub use tls::{ClientAuthorities, ServerTls, TlsError};

pub(super) use admission::{ConnectionLimiter, peer_address_prefix};
pub(super) use context::{ServerContext, SharedLimits};
pub(super) use qr_codes::QrCodes;

use std::{io, net::TcpListener as StdListener, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use context::PeerConnection;
use written::{ReportingStream, UnwrittenReplies};

/// The most bytes of a request's headers. hyper requires at least 8 KiB.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// The time limit for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long open connections may continue after shutdown. Then they are aborted.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A listening socket for peers.
pub struct Server {
    listener: StdListener,
    tls: Option<Arc<ServerTls>>,
}

impl Server {
    /// A server on a listening socket. Without `tls` it speaks plain HTTP, for use behind a proxy.
    pub fn new(listener: StdListener, tls: Option<Arc<ServerTls>>) -> Self {
        Self { listener, tls }
    }

    /// Serves until `shutdown`, then lets open requests finish for up to ten seconds.
    ///
    /// # Errors
    /// If the listening socket cannot be registered with the runtime.
    pub(super) async fn run(self, context: Arc<ServerContext>, shutdown: CancellationToken) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(self.listener)?;
        let mut tasks = JoinSet::new();
        loop {
            let (stream, address) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // For example, there are no free file descriptors. Connections that close free some.
                        tracing::warn!(%error, "connection not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            };
            let options = context.options();
            let (max_total, max_per_address) = (options.max_connections, options.max_connections_per_address);
            let prefix = peer_address_prefix(address.ip());
            let Some(permit) = context.limits.connections.admit(prefix, max_total, max_per_address) else {
                context.metrics.connection_rejected();
                continue;
            };
            let _ = stream.set_nodelay(true);
            set_unacknowledged_timeout(&stream, options.header_timeout);
            let connection = PeerConnection::new(context.clone(), address.ip(), permit);
            let unwritten = connection.unwritten.clone();
            let router = http::router(connection);
            let (context, tls, shutdown) = (context.clone(), self.tls.clone(), shutdown.clone());
            tasks.spawn(async move {
                match tls {
                    None => serve(stream, unwritten, router, &context, shutdown).await,
                    Some(tls) => {
                        if let Some(stream) = handshake(&tls, stream).await {
                            serve(stream, unwritten, router, &context, shutdown).await;
                        }
                    }
                }
            });
        }
        // A peer that connects from now on is refused, and retries later. If the socket stayed open, the peer would
        // wait in the backlog in vain.
        drop(listener);
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, all_ended).await;
        Ok(())
    }
}

/// Closes the connection if the peer acknowledges no data for this long, as a peer does that sends requests and does
/// not read the responses (tcp(7), `TCP_USER_TIMEOUT`).
#[cfg(target_os = "linux")]
pub(super) fn set_unacknowledged_timeout(stream: &TcpStream, timeout: Duration) {
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, millis) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT not set: a peer that does not read keeps its connection");
    }
}

/// On other systems the system's own timeout applies.
#[cfg(not(target_os = "linux"))]
pub(super) fn set_unacknowledged_timeout(_: &TcpStream, _: Duration) {}

async fn handshake(tls: &ServerTls, stream: TcpStream) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

async fn serve<I>(
    stream: I,
    unwritten: Arc<UnwrittenReplies>,
    router: Router,
    context: &ServerContext,
    shutdown: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(ReportingStream::new(stream, unwritten));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(context.options().header_timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(io, TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        }
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
