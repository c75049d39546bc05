//! The server of `[ops]`: health checks and metrics.
//!
//! `/ready` succeeds when the store accepts messages, even if no token is ready: messages then wait in the store, and
//! the load balancer keeps this node. It fails if every DID of ours is refused, and names the DIDs that are.

use std::{net::TcpListener, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use claviger::agent::{Agent, RefusedDid, store::StoreNode};
use tokio_util::sync::CancellationToken;

/// How long the store may take to answer. A store that takes longer is not ready.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Serves health checks and metrics until `shutdown`. A failure is logged, and ends the task.
pub async fn serve(listener: TcpListener, agent: Arc<Agent>, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/live", get(|| async { "alive\n" }))
        .route("/ready", get(ready))
        .route("/ready/token", get(token))
        .route("/metrics", get(metrics))
        .with_state(agent);
    let listener = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
    let served = match listener {
        Ok(listener) => axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "health checks and metrics are not served");
    }
}

async fn ready(State(agent): State<Arc<Agent>>) -> Response {
    let probe = async {
        agent.store().probe_write().await?;
        agent.nodes().await
    };
    match tokio::time::timeout(TIMEOUT, probe).await {
        Ok(Ok(nodes)) => {
            let own_dids = agent.own_dids();
            let refused = own_dids.refused();
            let is_any_served = refused.is_empty() || !own_dids.dids().is_empty();
            let status = if is_any_served { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, readiness(is_any_served, &refused, &nodes)).into_response()
        }
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: the store does not answer\n").into_response(),
    }
}

/// The text of `/ready`: names this node, if it shares the store with others, and the DIDs that are refused, each with its keys
/// that are not proved.
fn readiness(is_any_served: bool, refused: &[RefusedDid], nodes: &[StoreNode]) -> String {
    let mut text = if is_any_served { "ready\n" } else { "not ready: each DID is refused\n" }.to_owned();
    for StoreNode { name, leads, .. } in nodes.iter().filter(|node| node.is_this) {
        let leads = if *leads { ", which leads" } else { "" };
        text += &format!("node: {name}{leads}\n");
    }
    for key in refused.iter().flat_map(|refused| &refused.keys) {
        text += &format!("DID refused: {} is not proved: {}\n", key.id, key.why);
    }
    text
}

async fn token(State(agent): State<Arc<Agent>>) -> Response {
    let (status, mut text) = match agent.is_token_ready() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no token is ready: messages wait\n".to_owned()),
    };
    // Some may not be ready although others are.
    for (token, problem) in agent.tokens().iter().filter_map(|token| Some((token, token.problem.as_ref()?))) {
        text += &format!("{}: {}\n", token.name, problem.reason);
    }
    (status, text).into_response()
}

async fn metrics(State(agent): State<Arc<Agent>>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPENMETRICS)], agent.metrics().await).into_response()
}
