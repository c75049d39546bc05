//! Requests that list connections and end relationships.

use axum::{
    Json,
    extract::{
        Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{context::ApiContext, error::ApiError};

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
}

/// A page of the connections.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connections)]
pub(super) struct ConnectionPage {
    /// The connections. Each has `ours`, `theirs`, `since` in milliseconds since 1970, and what else is known.
    #[schema(value_type = Vec<Object>)]
    connections: Vec<Value>,
    /// `after` of the next page.
    cursor: String,
}

const MAX_LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 100;

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
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid("bad-request", format!("limit is 1 to {MAX_LIMIT}")));
    }
    let found = context.agent.connections(&query.after, limit).await?;
    let cursor = found.last().map_or(query.after, |(key, _)| key.clone());
    let connections = found.into_iter().map(|(_, connection)| json!(connection)).collect();
    Ok(Json(ConnectionPage { connections, cursor }))
}

/// A relationship to end.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndConnection {
    /// Our DID in the relationship.
    ours: String,
    /// The peer's DID.
    theirs: String,
    /// A JWT that proves the end, signed by a custodian with our DID's key (`claviger connections end`).
    from_prior: String,
}

/// Ends a relationship. The peer is told, and nothing is sent to it afterwards.
#[utoipa::path(
    post,
    path = "/v1/connections/end",
    operation_id = "end_connection",
    request_body = EndConnection,
    responses(
        (status = 202, description = "The relationship has ended. A message to the peer is in the outbox"),
        (status = 400, description = "The JWT does not prove the end, or there is no such relationship", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn end(
    State(context): State<ApiContext>,
    request: Result<Json<EndConnection>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(EndConnection { ours, theirs, from_prior }) = request?;
    context.agent.end_relationship(&ours, &theirs, &from_prior).await?;
    Ok(StatusCode::ACCEPTED)
}
