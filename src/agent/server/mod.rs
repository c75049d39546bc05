//! The public side: where peers bring messages, over HTTP and WebSocket.
//!
//! Everyone may connect, so everything is bounded: connections in all and of one address, the time for headers, for a body
//! and between requests, the size of both, what is on its way in all together, and how often an address may bring something.

mod doors;
mod hall;
mod http;
mod page;
mod tls;
mod websocket;
mod weighed;

pub use tls::{ServerTls, TlsError};

use std::{io, net::TcpListener as StdListener, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    inbox::Inbox, invitations::Invitations, metrics::Metrics, ours::Ours, outbox::Outbox, routes::Routes, told_to_end,
};
pub(super) use doors::Budget;
use doors::Doors;
pub(super) use hall::Hall;

/// How much a stranger may take up.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections in all: 20,000.
    pub connections: usize,
    /// Connections of one address: 1,000. Behind a proxy all have one.
    pub per_address: usize,
    /// Messages a second from one address, at most; 0 for no limit. Behind a proxy all have one address.
    pub rate_per_address: u32,
    /// How long headers may take, and how long a connection may be idle between requests: 30 seconds.
    pub header_time: Duration,
    /// How long a body may take: 30 seconds.
    pub body_time: Duration,
    /// How long an answer waits for replies that may go back with it: 5 seconds.
    pub return_time: Duration,
    /// How often a quiet WebSocket is asked whether it is there: 30 seconds. It is closed if it does not answer twice.
    pub ping: Duration,
    /// The URL by which peers reach this agent.
    pub public_url: Option<String>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections: 20_000,
            per_address: 1_000,
            rate_per_address: 0,
            header_time: Duration::from_secs(30),
            body_time: Duration::from_secs(30),
            return_time: Duration::from_secs(5),
            ping: Duration::from_secs(30),
            public_url: None,
        }
    }
}

/// What the handlers share.
pub(super) struct Shared {
    pub inbox: Arc<Inbox>,
    pub outbox: Arc<Outbox>,
    pub routes: Arc<Routes>,
    pub ours: Arc<Ours>,
    pub invitations: Arc<Invitations>,
    pub metrics: Arc<Metrics>,
    pub budget: Budget,
    pub hall: Arc<Hall>,
    /// The size of a message, at most.
    pub max_bytes: usize,
    pub shutdown: watch::Receiver<bool>,
    pub options: watch::Receiver<Arc<ServerOptions>>,
}

impl Shared {
    /// Those that count now.
    pub fn options(&self) -> Arc<ServerOptions> {
        self.options.borrow().clone()
    }
}

/// The headers of a request, at most, in bytes; hyper wants no less than 8 KiB.
const HEADERS: usize = 16 * 1024;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A listening socket for peers.
pub struct Server {
    listener: StdListener,
    tls: Option<Arc<ServerTls>>,
}

impl Server {
    /// One on a socket that listens, in the clear behind a proxy, or with a certificate of its own.
    pub fn new(listener: StdListener, tls: Option<Arc<ServerTls>>) -> Self {
        Self { listener, tls }
    }

    /// Serves until it is told to end; then lets those finish that have begun, for a while.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub(super) async fn run(self, shared: Arc<Shared>, mut shutdown: watch::Receiver<bool>) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(self.listener)?;
        let doors = Doors::default();
        let mut tasks = JoinSet::new();
        loop {
            let (stream, address) = tokio::select! {
                () = told_to_end(&mut shutdown) => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, say: some will be free again.
                        tracing::warn!(%error, "a connection is not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            };
            let options = shared.options();
            let Some(entered) = doors.enter(address.ip(), options.connections, options.per_address) else {
                shared.metrics.turned_away();
                continue;
            };
            let _ = stream.set_nodelay(true);
            let_go_of_the_deaf(&stream, options.header_time);
            let router = http::router(shared.clone(), address.ip(), entered);
            let (shared, tls, shutdown) = (shared.clone(), self.tls.clone(), shutdown.clone());
            tasks.spawn(async move {
                match tls {
                    None => serve(TokioIo::new(stream), router, &shared, shutdown).await,
                    Some(tls) => {
                        if let Some(stream) = handshake(&tls, stream).await {
                            serve(TokioIo::new(stream), router, &shared, shutdown).await;
                        }
                    }
                }
            });
        }
        // Who comes now is refused, and tries again later; in the queue of a socket that is open he would wait for nothing.
        drop(listener);
        let rest = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(10), rest).await;
        Ok(())
    }
}

/// One who reads nothing of what it asked for is let go of, as one is who asks for nothing (tcp(7), `TCP_USER_TIMEOUT`).
#[cfg(target_os = "linux")]
fn let_go_of_the_deaf(stream: &TcpStream, time: Duration) {
    let time = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, time) {
        tracing::debug!(%error, "a connection whose other end reads nothing stays open");
    }
}

/// Elsewhere the system's own time for that has to do.
#[cfg(not(target_os = "linux"))]
fn let_go_of_the_deaf(_: &TcpStream, _: Duration) {}

async fn handshake(tls: &ServerTls, stream: TcpStream) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

async fn serve<I>(io: I, router: Router, shared: &Shared, mut shutdown: watch::Receiver<bool>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.options().header_time)
        .max_buf_size(HEADERS)
        .serve_connection(io, TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            }
        }
        () = told_to_end(&mut shutdown) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
