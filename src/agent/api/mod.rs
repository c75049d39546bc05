//! The application's API: HTTP and JSON on a Unix socket, where the kernel reports the caller's user id, or on the
//! loopback interface with a bearer token.
//!
//! An application sends, reads and acknowledges messages, makes and accepts invitations, and reads the agent's state.
//! No function of the API signs, derives, wraps or decrypts data of the caller. A caller can send messages as the
//! agent, but cannot use a key in any other way.

mod access;
mod connections;
mod context;
mod delivered;
mod description;
mod dids;
mod error;
mod events;
mod inbox;
mod invitations;
mod mediators;
mod messages;
mod secret_file;
mod state;
mod webhook;
mod webhook_secret;

pub use access::{Access, ApiListener, BearerToken};
pub use description::openapi;
pub use error::ApiError;
pub use webhook::{Webhook, WebhookError};
pub use webhook_secret::InvalidWebhookSecret;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{delete, get, post},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::agent::Agent;
use context::ApiContext;

fn router(context: ApiContext, max_body_bytes: usize) -> Router {
    Router::new()
        .route("/v1/messages", post(messages::send))
        .route("/v1/messages/{id}", get(messages::status))
        .route("/v1/inbox", get(inbox::list))
        .route("/v1/inbox/acknowledge", post(inbox::acknowledge))
        .route("/v1/events", get(events::stream))
        .route("/v1/threads/{thread}", get(state::thread))
        .route("/v1/status", get(state::status))
        .route("/v1/tokens", get(state::tokens))
        .route("/v1/dids", get(dids::list))
        .route("/v1/dids/reload", post(dids::reload))
        .route("/v1/dids/rotate", post(dids::rotate))
        .route("/v1/dids/give-up", post(dids::give_up))
        .route("/v1/connections", get(connections::list))
        .route("/v1/connections/end", post(connections::end))
        .route("/v1/mediators", post(mediators::add).get(mediators::list))
        .route("/v1/mediators/leave", post(mediators::remove))
        .route("/v1/invitations", post(invitations::create).get(invitations::list))
        .route("/v1/invitations/{id}", delete(invitations::revoke))
        .route("/v1/invitations/accept", post(invitations::accept))
        .route("/openapi.json", get(|| async { ([("content-type", "application/json")], openapi()) }))
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .with_state(context)
}

/// The time limit for the headers of a request, and for an idle connection between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long open requests may continue after shutdown. Then they are aborted.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves applications until `shutdown`, then lets open requests finish for up to five seconds.
///
/// # Errors
/// If the listening socket cannot be registered with the runtime.
pub async fn serve(
    listener: ApiListener,
    access: Access,
    agent: Arc<Agent>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    // This leaves room for the largest message in base64 and JSON.
    let max_body_bytes = 2 * agent.max_message_bytes() + 64 * 1024;
    let router = router(ApiContext { agent, shutdown: shutdown.clone() }, max_body_bytes);
    let access = Arc::new(access);
    let listener = listener.into_async()?;
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept(&access) => accepted,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "API connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, shutdown) = (access.protect(router.clone()), shutdown.clone());
        tasks.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
    let all_ended = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, all_ended).await;
    Ok(())
}
