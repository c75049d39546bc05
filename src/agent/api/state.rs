//! Requests that read the agent's state: threads, tokens, and how much waits in the store.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{context::ApiContext, error::ApiError, messages::state_name};
use crate::{
    agent::{
        refused_documents::RefusedDid,
        store::{ThreadEntry, Usage},
    },
    secrets::KeyState,
};

/// A message of a thread.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ThreadMessage {
    /// `received` or `sent`.
    direction: &'static str,
    /// The id in the inbox or the outbox.
    id: String,
    /// The id of the message.
    message_id: String,
    /// The message type.
    #[serde(rename = "type")]
    kind: String,
    /// The peer's DID; null for an anonymous sender.
    peer: Option<String>,
    /// When the message was received or put into the outbox, in milliseconds since 1970.
    time: i64,
    /// Of a sent message: its state in the outbox. Of a received message: `waiting`, then `acknowledged`.
    state: &'static str,
}

/// The messages of a thread.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Thread {
    /// The messages, oldest first.
    messages: Vec<ThreadMessage>,
}

/// The most messages of a thread in a response.
const MAX_THREAD_MESSAGES: usize = 1000;

impl From<ThreadEntry> for ThreadMessage {
    fn from(entry: ThreadEntry) -> Self {
        match entry {
            ThreadEntry::Received(it) => Self {
                direction: "received",
                id: it.id,
                message_id: it.message,
                kind: it.kind,
                peer: Some(it.sender).filter(|sender| !sender.is_empty()),
                time: it.received,
                state: if it.sealed.is_some() { "waiting" } else { "acknowledged" },
            },
            ThreadEntry::Sent(it) => Self {
                direction: "sent",
                id: it.id,
                message_id: it.message,
                kind: it.kind,
                peer: Some(it.peer),
                time: it.created,
                state: state_name(it.state),
            },
        }
    }
}

/// The messages of a thread that were delivered to the application or sent, oldest first. A message that a protocol
/// handled by itself is not among them.
#[utoipa::path(
    get,
    path = "/v1/threads/{thread}",
    operation_id = "thread",
    params(("thread" = String, Path, description = "The id of the thread")),
    responses(
        (status = 200, description = "The messages; none of an unknown thread", body = Thread),
        (status = 400, description = "The id is not UTF-8", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn thread(
    State(context): State<ApiContext>,
    thread: Result<Path<String>, PathRejection>,
) -> Result<Json<Thread>, ApiError> {
    let Path(thread) = thread?;
    let entries = context.agent.thread(&thread, MAX_THREAD_MESSAGES).await?;
    Ok(Json(Thread { messages: entries.into_iter().map(ThreadMessage::from).collect() }))
}

/// The state of the agent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// The version of the agent.
    version: &'static str,
    /// Whether a token is ready to decrypt messages. Without one, messages wait.
    token_ready: bool,
    /// Our DIDs that are refused: a key of the document is not proved, so the DID is not published, and messages to it
    /// are not accepted. `claviger key list` shows why a token does not serve a key.
    #[schema(value_type = Vec<Object>)]
    refused: Vec<RefusedDid>,
    /// What waits in the store: envelopes to decrypt, deliveries for the application, outgoing messages. Times are in
    /// milliseconds since 1970.
    #[schema(value_type = Object)]
    waiting: Usage,
}

/// The state of the agent.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "status",
    responses(
        (status = 200, description = "The state", body = Status),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn status(State(context): State<ApiContext>) -> Result<Json<Status>, ApiError> {
    let waiting = context.agent.usage().await?;
    let token_ready = context.agent.is_token_ready();
    let refused = context.agent.own_dids().refused().to_vec();
    Ok(Json(Status { version: env!("CARGO_PKG_VERSION"), token_ready, refused, waiting }))
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
    /// Whether an operation prompts a person for a PIN.
    asks_pin: bool,
    /// Whether an operation waits for a touch.
    asks_touch: bool,
}

/// The keys that the tokens hold, and whether they are ready.
#[utoipa::path(get, path = "/v1/tokens", operation_id = "tokens", responses((status = 200, description = "Keys", body = Vec<TokenKey>)))]
pub(super) async fn tokens(State(context): State<ApiContext>) -> Json<Vec<TokenKey>> {
    let held = context.agent.own_dids().secrets().keys().borrow().clone();
    let keys = held.iter().map(|held| TokenKey {
        key: held.public.to_string(),
        token: held.token.to_string(),
        label: held.label.clone(),
        state: match held.state {
            KeyState::Ready => "ready",
            KeyState::Away => "away",
            KeyState::Locked => "locked",
        },
        asks_pin: held.asks_pin,
        asks_touch: held.asks_touch,
    });
    Json(keys.collect())
}
