//! Requests that list connections.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{context::ApiContext, error::ApiError, page};
use crate::{
    agent::{agent::Agent, protocol::connections::Connection, store::StoreError},
    did::is_did,
};

/// A page of the connections.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionQuery {
    /// The cursor of the page before; without it, the first page.
    #[serde(default)]
    after: String,
    /// The size of the page: 1 to 1000, by default 100.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    limit: Option<usize>,
    /// Only connections with this peer. Its DID may be in any form, also one from which the peer has rotated.
    #[param(nullable = false)]
    peer: Option<String>,
    /// Only connections with the peers that this name stands for: a label in any case, or the short name of a DID, as
    /// `claviger` prints it. All are on one page. If they are with more than one peer, the name is ambiguous.
    #[param(nullable = false)]
    name: Option<String>,
}

/// A page of the connections.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connections)]
pub(super) struct ConnectionPage {
    /// The connections. Each has `ours`, `theirs`, `since` in milliseconds since 1970, and what else is known: `label` (the
    /// name that a person has given the peer), `calls_itself` (the name in the peer's profile, which nobody has verified),
    /// `blocked`, `stranger`, `ended` with `ended_by` (`us` or `peer`) and `peer_told`, `resumed`.
    #[schema(value_type = Vec<Object>)]
    connections: Vec<Value>,
    /// `after` of the next page.
    cursor: String,
}

/// The connections of the agent, by our DID and the peer's DID.
#[utoipa::path(
    get,
    path = "/v1/connections",
    operation_id = "connections",
    params(ConnectionQuery),
    responses(
        (status = 200, description = "Connections", body = ConnectionPage),
        (status = 400, description = "The query is invalid", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn list(
    State(context): State<ApiContext>,
    query: Result<Query<ConnectionQuery>, QueryRejection>,
) -> Result<Json<ConnectionPage>, ApiError> {
    let Query(query) = query?;
    let limit = page::limit(query.limit)?;
    let found = match (&query.peer, &query.name) {
        (None, None) => context.agent.connections(&query.after, limit).await?,
        (Some(peer), None) if is_did(peer) => context.agent.connections_with(peer, &query.after, limit).await?,
        (Some(_), None) => return Err(ApiError::invalid("bad-request", "peer is not a DID")),
        (None, Some(name)) => {
            let mut found = context.agent.connections_named(name).await?;
            found.retain(|(key, _)| *key > query.after);
            found
        }
        (Some(_), Some(_)) => return Err(ApiError::invalid("bad-request", "name either peer or name")),
    };
    let cursor = found.last().map_or(query.after, |(key, _)| key.clone());
    let connections = views(&context.agent, found).await?;
    Ok(Json(ConnectionPage { connections, cursor }))
}

/// Connections as the API shows them.
pub(super) async fn views(agent: &Agent, found: Vec<(String, Connection)>) -> Result<Vec<Value>, StoreError> {
    let mut views = Vec::with_capacity(found.len());
    for (_, connection) in found {
        let mut view = json!(connection);
        view["blocked"] = agent.is_blocked(&connection.peer_did).into();
        view["calls_itself"] = agent.name_of_its_own(&connection.peer_did).await?.into();
        views.push(view);
    }
    Ok(views)
}
