//! The application's API: HTTP and JSON on a Unix socket, where the kernel reports the caller's user id, or on the
//! loopback interface with a bearer token. From another machine, with TLS and a certificate of the caller.
//!
//! An application sends, reads and acknowledges messages, makes and accepts invitations, and reads the agent's state.
//! No function of the API signs, derives, wraps or decrypts data of the caller. A caller can send messages as the
//! agent, but cannot use a key in any other way.

mod access;
mod batch;
mod connection;
mod connections;
mod contacts;
mod context;
mod delivered;
mod description;
mod dids;
mod error;
mod event_payload;
mod event_reader;
mod event_selection;
mod events;
mod inbox;
mod invitations;
mod listener;
mod mediators;
mod messages;
mod metrics;
mod outbox;
mod page;
mod refusals;
mod remote;
mod state;
mod strangers;
mod threads;
mod tokens;
mod webhook;
mod webhook_requests;
mod webhook_secret;
mod webhooks;

pub use access::{Access, BearerToken, ClientName, Identity, InvalidClientName, InvalidPermission, Permissions, Scope};
pub use description::openapi;
pub use error::ApiError;
pub use listener::ApiListener;
pub use webhook::{MESSAGE, Webhook, WebhookError, WebhookOptions};
pub use webhook_secret::InvalidWebhookSecret;
pub use webhooks::Webhooks;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
    routing::{delete, get, post},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::agent::Agent;
use access::{Caller, authenticate, require_scope};
use connection::ConnectionServer;
use context::ApiContext;
use listener::Incoming;

fn router(context: ApiContext, max_body_bytes: usize) -> Router {
    Router::new()
        .route("/v1/messages", post(messages::send).get(outbox::list))
        .route("/v1/batches", post(batch::send))
        .route("/v1/messages/{id}", get(outbox::status))
        .route("/v1/messages/{id}/cancel", post(outbox::cancel))
        .route("/v1/messages/{id}/retry", post(outbox::retry))
        .route("/v1/inbox", get(inbox::list))
        .route("/v1/inbox/{id}", get(inbox::get))
        .route("/v1/inbox/acknowledge", post(inbox::acknowledge))
        .route("/v1/events", get(events::stream))
        .route("/v1/events/recorded", get(events::recorded))
        .route("/v1/threads/{thread}", get(threads::thread))
        .route("/v1/status", get(state::status))
        .route("/v1/tokens", get(state::tokens))
        .route("/v1/metrics", get(metrics::metrics))
        .route("/v1/tokens/status", get(tokens::status))
        .route("/v1/dids", get(dids::list))
        .route("/v1/dids/reload", post(dids::reload))
        .route("/v1/dids/rotate", post(dids::rotate))
        .route("/v1/dids/give-up", post(dids::give_up))
        .route("/v1/connections", get(connections::list).patch(contacts::change).delete(contacts::delete))
        .route("/v1/connections/end", post(contacts::end))
        .route("/v1/connections/resume", post(contacts::resume))
        .route("/v1/blocked", get(contacts::blocked))
        .route("/v1/mediators", post(mediators::add).get(mediators::list))
        .route("/v1/mediators/leave", post(mediators::remove))
        .route("/v1/invitations", post(invitations::create).get(invitations::list))
        .route("/v1/invitations/{id}", delete(invitations::revoke))
        .route("/v1/invitations/accept", post(invitations::accept))
        .route("/v1/webhooks", get(webhook_requests::list))
        .route("/v1/webhooks/{name}/resume", post(webhook_requests::resume))
        .route("/v1/dead-letters", get(webhook_requests::dead_letters))
        .route("/v1/dead-letters/{id}", delete(webhook_requests::drop_letter))
        .route("/v1/dead-letters/{id}/resend", post(webhook_requests::resend))
        // These layers cover the routes above. `Scope::of` tells the scope that each of them needs.
        .route_layer(from_fn_with_state(max_body_bytes, remote::read_body))
        .route_layer(from_fn(require_scope))
        .route("/openapi.json", get(|| async { ([("content-type", "application/json")], openapi()) }))
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .layer(from_fn(authenticate))
        .with_state(context)
}

/// How long open requests may continue after shutdown. Then they are aborted.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves applications until `shutdown`, then lets open requests finish for up to five seconds. `webhooks` are the
/// agent's, and `listens` are the addresses on which the process listens but that of the API on this machine, for the status.
///
/// # Errors
/// If the listening socket cannot be registered with the runtime.
pub async fn serve(
    listener: ApiListener,
    access: Access,
    agent: Arc<Agent>,
    webhooks: Arc<Webhooks>,
    listens: Vec<SocketAddr>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    // This leaves room for the largest message in base64 and JSON.
    let max_body_bytes = 2 * agent.max_message_bytes() + 64 * 1024;
    let metrics = agent.metrics.clone();
    let context = ApiContext { agent, webhooks, listens: listens.into(), shutdown: shutdown.clone() };
    let router = router(context, max_body_bytes);
    let listener = listener.into_async()?;
    let server = ConnectionServer { router, access, metrics, shutdown };
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = server.shutdown.cancelled() => break,
            accepted = listener.accept(&server.access) => accepted,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        let server = server.clone();
        match accepted {
            Ok(Incoming::Unix(stream, user)) => drop(tasks.spawn(server.serve(stream, Caller::User(user)))),
            Ok(Incoming::Loopback(stream)) => drop(tasks.spawn(server.serve(stream, Caller::Loopback))),
            Ok(Incoming::Remote(stream, address, remote)) => {
                let place = remote.enter(address);
                tasks.spawn(async move { remote.serve(stream, address, place, server).await });
            }
            Err(error) => {
                tracing::warn!(%error, "API connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let all_ended = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, all_ended).await;
    Ok(())
}
