//! Applications on other machines, which show a certificate in the TLS handshake.
//!
//! Anyone can connect to the port. What a stranger can occupy is bounded apart from what clients have: its connections
//! ([`Strangers`]) and the time of a handshake. A client has a bound of its own.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::Response,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::server::TlsStream;

use super::{
    access::{Caller, ClientCertificate, Credential, Session},
    connection::ConnectionServer,
    error::ApiError,
    refusals::Refusals,
    strangers::{Place, Strangers},
};
use crate::agent::server::{ConnectionLimiter, ServerTls, set_unacknowledged_timeout};

/// The time limit for a handshake, and then for the request of a client that is not listed.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for the body of a request, and for data that the client does not acknowledge.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The most connections of all clients together, and of one client.
const MAX_CONNECTIONS: usize = 1024;
const MAX_CONNECTIONS_PER_CLIENT: usize = 64;

/// Serves the connections of one port.
pub struct RemoteServer {
    tls: Arc<ServerTls>,
    strangers: Strangers,
    clients: ConnectionLimiter<String>,
    refusals: Refusals,
}

impl RemoteServer {
    /// A server whose clients have certificates of the authorities in `tls`.
    pub fn new(tls: Arc<ServerTls>) -> Self {
        Self {
            tls,
            strangers: Strangers::default(),
            clients: ConnectionLimiter::default(),
            refusals: Refusals::default(),
        }
    }

    /// Gives a place to a new connection. The connection that loses its place for that is closed.
    pub fn enter(&self, address: IpAddr) -> Place {
        self.strangers.enter(address)
    }

    /// Serves a connection from this address.
    pub async fn serve(&self, stream: TcpStream, address: IpAddr, place: Place, server: ConnectionServer) {
        let _ = stream.set_nodelay(true);
        set_unacknowledged_timeout(&stream, BODY_TIMEOUT);
        let accepted = tokio::select! {
            () = place.lost() => {
                server.metrics.api_connection_rejected();
                return tracing::debug!(%address, "API connection closed: newer ones took its place");
            }
            accepted = timeout(STRANGER_TIMEOUT, self.tls.acceptor().accept(stream)) => accepted,
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.report(&server, address, &format!("TLS handshake failed: {error}")),
            Err(_) => {
                server.metrics.api_connection_rejected();
                return tracing::debug!(%address, "API connection closed: no TLS handshake in time");
            }
        };
        let certificate = Arc::new(certificate(&stream));
        let caller = Caller::Remote(certificate.clone(), self.tls.clone());
        let Some(client) = server.access.find(&Credential::Certificate(certificate.clone())) else {
            self.report(&server, address, &certificate.why_unlisted());
            // Its request gets an answer that says so.
            tokio::select! {
                () = place.lost() => {}
                _ = timeout(STRANGER_TIMEOUT, server.serve(stream, caller)) => {}
            }
            return;
        };
        drop(place);
        let permit = self.clients.admit(client.name.clone(), MAX_CONNECTIONS, MAX_CONNECTIONS_PER_CLIENT);
        let Some(_permit) = permit else {
            return self.report(&server, address, &format!("the client {:?} has too many connections", client.name));
        };
        server.serve(stream, caller).await;
    }

    /// Counts a refused connection, and logs why.
    fn report(&self, server: &ConnectionServer, address: IpAddr, reason: &str) {
        server.metrics.api_connection_rejected();
        self.refusals.log(&address.to_string(), reason);
    }
}

fn certificate(stream: &TlsStream<TcpStream>) -> ClientCertificate {
    ClientCertificate::new(stream.get_ref().1.peer_certificates().unwrap_or_default())
}

/// Reads the body of a request from another machine, of at most `max_bytes`, within a time limit.
pub async fn read_body(
    State(max_bytes): State<usize>,
    Extension(session): Extension<Arc<Session>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !session.is_remote() {
        return Ok(next.run(request).await);
    }
    let (head, body) = request.into_parts();
    let Ok(body) = timeout(BODY_TIMEOUT, to_bytes(body, max_bytes)).await else {
        return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "bad-request", "the body did not arrive in time"));
    };
    let body = body.map_err(|_| {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "bad-request", "the body is too large, or has an end too early")
    })?;
    Ok(next.run(Request::from_parts(head, Body::from(body))).await)
}
