//! What there is: threads, DIDs, tokens, and how much waits.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiError, Shared};
use crate::{
    agent::store::{SendState, ThreadEntry, Usage},
    secrets::KeyState,
};

/// An entry of a thread.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Entry {
    /// `received` or `sent`.
    direction: &'static str,
    /// Its name in the inbox or in the outbox.
    id: String,
    /// The message's own id.
    message_id: String,
    /// Its type.
    #[serde(rename = "type")]
    kind: String,
    /// The other's DID; null for an anonymous sender.
    peer: Option<String>,
    /// When it came or was put into the outbox, in milliseconds since 1970.
    time: i64,
    /// Of a sent one how far it is; of a received one `waiting` until it is acknowledged, then `acknowledged`.
    state: &'static str,
}

/// A thread.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Thread {
    /// Oldest first.
    messages: Vec<Entry>,
}

/// Entries of a thread that are shown, at most.
const ENTRIES: usize = 1000;

impl From<ThreadEntry> for Entry {
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
                state: match it.state {
                    SendState::Waiting => "waiting",
                    SendState::Sent => "sent",
                    SendState::Failed => "failed",
                    SendState::Expired => "expired",
                },
            },
        }
    }
}

/// What came and what was sent in a thread, oldest first; what the application was given, and not what a protocol handled by
/// itself.
#[utoipa::path(
    get,
    path = "/v1/threads/{thread}",
    operation_id = "thread",
    params(("thread" = String, Path, description = "The thread's id")),
    responses(
        (status = 200, description = "Its messages; none if it is not known", body = Thread),
        (status = 400, description = "The id is not UTF-8", body = ApiError),
        (status = 503, description = "The store does not answer", body = ApiError)
    )
)]
pub(super) async fn thread(
    State(shared): State<Shared>,
    thread: Result<Path<String>, PathRejection>,
) -> Result<Json<Thread>, ApiError> {
    let Path(thread) = thread?;
    let entries = shared.agent.store().thread(&thread, ENTRIES).await?;
    Ok(Json(Thread { messages: entries.into_iter().map(Entry::from).collect() }))
}

/// How it stands with the agent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// The release.
    version: &'static str,
    /// Whether a token is there that opens messages; without, they wait.
    token_ready: bool,
    /// What waits: envelopes to be opened, deliveries for the application, outgoing messages; since when, in milliseconds
    /// since 1970.
    #[schema(value_type = Object)]
    waiting: Usage,
}

/// How it stands with the agent.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "status",
    responses(
        (status = 200, description = "How it stands", body = Status),
        (status = 503, description = "The store does not answer", body = ApiError)
    )
)]
pub(super) async fn status(State(shared): State<Shared>) -> Result<Json<Status>, ApiError> {
    let waiting = shared.agent.store().usage().await?;
    let token_ready = shared.agent.is_token_ready();
    Ok(Json(Status { version: env!("CARGO_PKG_VERSION"), token_ready, waiting }))
}

/// A key in a token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Key {
    /// Its public half, as multikey.
    key: String,
    /// The token's name.
    token: String,
    /// Its name in the token.
    label: Option<String>,
    /// `ready`, `away` or `locked`.
    state: &'static str,
    /// Whether an operation asks a person for a PIN.
    asks_pin: bool,
    /// Whether an operation asks a person for a touch.
    asks_touch: bool,
}

/// The keys that the tokens hold, and whether they are ready.
#[utoipa::path(get, path = "/v1/tokens", operation_id = "tokens", responses((status = 200, description = "Keys", body = Vec<Key>)))]
pub(super) async fn tokens(State(shared): State<Shared>) -> Json<Vec<Key>> {
    let held = shared.agent.ours().secrets().keys().borrow().clone();
    let keys = held.iter().map(|held| Key {
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
