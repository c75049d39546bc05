//! Serves one connection of an application.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::access::{Access, Caller, Session};
use crate::agent::metrics::Metrics;

/// The time limit for the headers of a request, and for an idle connection between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves connections, with the checks of [`Session`].
#[derive(Clone)]
pub struct ConnectionServer {
    pub router: Router,
    pub access: Access,
    pub metrics: Arc<Metrics>,
    pub shutdown: CancellationToken,
}

impl ConnectionServer {
    /// Serves the connection of a caller until one side closes it, or the caller loses the rights that it is using. After
    /// `shutdown`, an open request may end.
    pub async fn serve<I>(self, stream: I, caller: Caller)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { router, access, shutdown, metrics: _ } = self;
        let session = Arc::new(Session::new(caller, access));
        let of_requests = session.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(of_requests.clone());
            router.clone().call(request)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // The session notices changes from its first poll on, which is before the first request.
            biased;
            () = session.withdrawn() => tracing::info!("API connection closed: its caller has lost its rights"),
            _ = connection.as_mut() => {}
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}
