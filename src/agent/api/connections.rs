//! With whom the agent talks.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, Shared};
use crate::agent::protocol::connections::{CONNECTION, Connection};

/// Which connections.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Those behind this cursor.
    #[serde(default)]
    after: String,
    /// So many at most: 1 to 1000, 100 if it is not said.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    limit: Option<usize>,
}

/// Connections.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connections)]
pub(super) struct Page {
    /// Each with `ours`, `theirs`, `since` in milliseconds since 1970, and what else is known.
    #[schema(value_type = Vec<Object>)]
    connections: Vec<Value>,
    /// `after` of the next page.
    cursor: String,
}

const MOST: usize = 1000;
const USUAL: usize = 100;

/// With whom the agent talks, by DID of ours and of theirs.
#[utoipa::path(
    get,
    path = "/v1/connections",
    operation_id = "connections",
    params(Which),
    responses(
        (status = 200, description = "Connections", body = Page),
        (status = 400, description = "The question is wrong", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Page>, ApiError> {
    let Query(which) = which?;
    let limit = which.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::bad("bad-request", format!("limit is 1 to {MOST}")));
    }
    let found = shared.agent.books.list::<Connection>(CONNECTION, &which.after, limit).await?;
    let cursor = found.last().map_or(which.after, |(key, _)| key.clone());
    // How a change of our own DID is proved is the agent's business.
    let shown = |connection: Connection| json!(Connection { from_prior: None, ..connection });
    Ok(Json(Page { connections: found.into_iter().map(|(_, connection)| shown(connection)).collect(), cursor }))
}
