//! Requests that read the agent's state: tokens, and how much waits in the store.

use std::net::SocketAddr;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    context::ApiContext,
    error::ApiError,
    page::{self, PageQuery},
};
use crate::{
    agent::{
        refused_documents::RefusedDid,
        store::{StoreNode, Usage},
        token_report,
    },
    secrets::{Custody, HeldKey},
};

/// The state of the agent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// The version of the agent.
    version: &'static str,
    /// The addresses on which the agent listens for peers, health checks and metrics, and for applications on other
    /// machines.
    #[schema(value_type = Vec<String>)]
    listens: Vec<SocketAddr>,
    /// Whether a token is ready to decrypt messages. Without one, messages wait.
    token_ready: bool,
    /// Our DIDs that are refused: a key of the document is not proved, so the DID is not published, and messages to it
    /// are not accepted. `claviger key list` shows why a token does not serve a key.
    #[schema(value_type = Vec<Object>)]
    refused: Vec<RefusedDid>,
    /// Why the store cannot be read. Absent if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    store_problem: Option<String>,
    /// What waits in the store: envelopes to decrypt, deliveries for the application, outgoing messages. Times are in
    /// milliseconds since 1970. Absent if the store cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    waiting: Option<Usage>,
    /// The agents that share the store (`node` in `[store]`), oldest first. Absent if the store is this agent's alone, or cannot be
    /// read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    nodes: Vec<Node>,
}

/// An agent that shares the store with others.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Node {
    /// The name: `node` in `[store]`.
    name: String,
    /// The version of the agent.
    version: String,
    /// When the agent has joined the others, in milliseconds since 1970, by the clock of the store.
    since: i64,
    /// Whether the node does what only one may do: it talks to mediators, posts to webhooks, and deletes what has expired.
    leads: bool,
    /// Whether the node is the one that answers.
    this: bool,
}

impl From<StoreNode> for Node {
    fn from(StoreNode { name, version, since, is_this, leads, .. }: StoreNode) -> Self {
        Self { name, version, since, leads, this: is_this }
    }
}

/// The state of the agent.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "status",
    responses(
        (status = 200, description = "The state", body = Status)
    )
)]
pub(super) async fn status(State(context): State<ApiContext>) -> Json<Status> {
    let (waiting, nodes, store_problem) = match context.agent.store_figures().await {
        Ok((usage, nodes)) => (Some(usage), nodes.into_iter().map(Node::from).collect(), None),
        Err(error) => (None, Vec::new(), Some(error.to_string())),
    };
    let (listens, token_ready) = (context.listens.to_vec(), context.agent.is_token_ready());
    let refused = context.agent.own_dids().refused().to_vec();
    Json(Status { version: env!("CARGO_PKG_VERSION"), listens, token_ready, refused, store_problem, waiting, nodes })
}

/// A key in a token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenKey {
    /// The public key, as multikey.
    key: String,
    /// The token's name.
    token: String,
    /// The key's label in the token.
    label: Option<String>,
    /// `ready`, `away` or `locked`.
    state: &'static str,
    /// The custody tier of key agreements, which docs/custody.md describes; null for a key that only signs.
    #[schema(value_type = Option<String>)]
    custody: Option<Custody>,
    /// Whether an operation prompts a person for a PIN.
    asks_pin: bool,
    /// Whether an operation waits for a touch.
    asks_touch: bool,
}

/// A page of the keys in the tokens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TokenKeys)]
pub(super) struct KeyPage {
    /// The keys, token by token.
    keys: Vec<TokenKey>,
    /// `after` of the next page.
    cursor: String,
}

/// The keys that the tokens hold, and whether they are ready.
#[utoipa::path(
    get,
    path = "/v1/tokens",
    operation_id = "tokens",
    params(PageQuery),
    responses(
        (status = 200, description = "Keys", body = KeyPage),
        (status = 400, description = "The query is invalid", body = ApiError)
    )
)]
pub(super) async fn tokens(
    State(context): State<ApiContext>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<KeyPage>, ApiError> {
    let Query(query) = query?;
    // A key may be in several tokens, so the position is the cursor.
    let [after] = page::numbers(&query.after)?;
    let (start, limit) = (usize::try_from(after).unwrap_or(0), page::limit(query.limit)?);
    let held = context.agent.own_dids().secrets().keys().borrow().clone();
    let keys: Vec<TokenKey> = held.iter().skip(start).take(limit).map(TokenKey::from).collect();
    let cursor = match keys.len() {
        0 => query.after,
        count => (start + count).to_string(),
    };
    Ok(Json(KeyPage { keys, cursor }))
}

impl From<&HeldKey> for TokenKey {
    fn from(held: &HeldKey) -> Self {
        Self {
            key: held.public.to_string(),
            token: held.token.to_string(),
            label: held.label.clone(),
            state: token_report::state_name(held.state),
            custody: held.custody,
            asks_pin: held.asks_pin,
            asks_touch: held.asks_touch,
        }
    }
}
