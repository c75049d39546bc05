//! Requests that read the messages of a thread.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    context::ApiContext,
    error::ApiError,
    outbox::MessageState,
    page::{self, PageQuery},
};
use crate::agent::store::{ThreadEntry, ThreadPosition};

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
    /// `after` of the next page.
    cursor: String,
}

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
                state: MessageState::from(it.state).name(),
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
    params(("thread" = String, Path, description = "The id of the thread"), PageQuery),
    responses(
        (status = 200, description = "The messages; none of an unknown thread", body = Thread),
        (status = 400, description = "The id is not UTF-8, or the query is invalid", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn thread(
    State(context): State<ApiContext>,
    thread: Result<Path<String>, PathRejection>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Thread>, ApiError> {
    let (Path(thread), Query(query)) = (thread?, query?);
    let [time, is_sent, sequence] = page::numbers(&query.after)?;
    let after = ThreadPosition { time, is_sent: is_sent != 0, sequence };
    let found = context.agent.thread(&thread, after, page::limit(query.limit)?).await?;
    let cursor = found
        .last()
        .map_or(query.after, |(last, _)| format!("{}.{}.{}", last.time, u8::from(last.is_sent), last.sequence));
    let messages = found.into_iter().map(|(_, entry)| ThreadMessage::from(entry)).collect();
    Ok(Json(Thread { messages, cursor }))
}
