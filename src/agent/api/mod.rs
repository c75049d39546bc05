//! The application's side: HTTP and JSON on a Unix socket, whose peer the kernel names, or on the loopback interface with a
//! bearer token.
//!
//! An application sends, reads and acknowledges messages, makes invitations and accepts them, and looks at what there is.
//! Nothing here signs, derives, wraps or decrypts what its caller brings: who may use it speaks as the agent and is no
//! nearer to a key.

mod access;
mod connections;
mod description;
mod dids;
mod error;
mod events;
mod inbox;
mod invitations;
mod mediators;
mod messages;
mod state;
mod webhook;

pub use access::{Access, ApiListener, BearerToken};
pub use description::openapi;
pub use error::ApiError;
pub use webhook::Webhook;

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
use tokio::{sync::watch, task::JoinSet};

use super::{Agent, told_to_end};

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Shared {
    agent: Arc<Agent>,
    shutdown: watch::Receiver<bool>,
}

fn router(shared: Shared, body: usize) -> Router {
    Router::new()
        .route("/v1/messages", post(messages::send))
        .route("/v1/messages/{id}", get(messages::status))
        .route("/v1/inbox", get(inbox::list))
        .route("/v1/inbox/acknowledge", post(inbox::acknowledge))
        .route("/v1/events", get(events::follow))
        .route("/v1/threads/{thread}", get(state::thread))
        .route("/v1/status", get(state::status))
        .route("/v1/tokens", get(state::tokens))
        .route("/v1/dids", get(dids::list))
        .route("/v1/dids/reload", post(dids::reload))
        .route("/v1/dids/rotate", post(dids::rotate))
        .route("/v1/dids/give-up", post(dids::give_up))
        .route("/v1/connections", get(connections::list))
        .route("/v1/connections/end", post(dids::end))
        .route("/v1/mediators", post(mediators::adopt).get(mediators::list))
        .route("/v1/mediators/leave", post(mediators::leave))
        .route("/v1/invitations", post(invitations::create).get(invitations::list))
        .route("/v1/invitations/{id}", delete(invitations::revoke))
        .route("/v1/invitations/accept", post(invitations::accept))
        .route("/openapi.json", get(|| async { ([("content-type", "application/json")], openapi()) }))
        .fallback(error::nothing_here)
        .method_not_allowed_fallback(error::not_so)
        .layer(DefaultBodyLimit::max(body))
        .with_state(shared)
}

/// A request's headers may take so long; an application that is idle is let go of after it.
const HEADERS: Duration = Duration::from_secs(60);

/// Serves applications until it is told to end.
///
/// # Errors
/// If the socket cannot be used.
pub async fn serve(
    listener: ApiListener,
    access: Access,
    agent: Arc<Agent>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    // A message of the largest size in base64 and JSON.
    let body = 2 * agent.options.inbox.limits.bytes + 64 * 1024;
    let router = router(Shared { agent, shutdown: shutdown.clone() }, body);
    let access = Arc::new(access);
    let listener = listener.into_async()?;
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = told_to_end(&mut shutdown) => break,
            accepted = listener.accept(&access) => accepted,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "an application's connection is not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (router, mut shutdown) = (access.guard(router.clone()), shutdown.clone());
        tasks.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = told_to_end(&mut shutdown) => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
    let rest = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(5), rest).await;
    Ok(())
}
