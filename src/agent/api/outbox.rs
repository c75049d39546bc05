//! Requests that list, show, cancel and retry messages in the outbox.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{context::ApiContext, error::ApiError, page};
use crate::agent::{
    agent::Agent,
    canonical_did::canonical_did,
    outbox::WaitReason,
    store::{OutboxEntry, OutboxPosition, OutboxQuery, SendState},
};

/// The state of a message in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MessageState {
    /// The message is tried until it is sent, cancelled, or given up.
    Waiting,
    /// The endpoint of the peer or of its mediator has accepted the message, or it was written to the peer's connection.
    Sent,
    /// The message cannot be sent.
    Failed,
    /// The message was not sent before it expired.
    Expired,
    /// The application has cancelled the message.
    Cancelled,
}

/// What a waiting message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WaitsFor {
    /// A token with a key of our DID; or the first token since the start, which opens the store.
    Token,
    /// The peer, its mediator or its DID document cannot be reached, or does not accept messages now.
    Peer,
    /// Nothing is in the way: the message is being sent, or is sent after those before it.
    Turn,
    /// Another node of the store, which sends the message. What the message waits for there, that node tells.
    OtherNode,
}

/// A message in the outbox.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OutgoingStatus {
    /// The id of the outbox entry.
    id: String,
    /// The id of the message.
    message_id: String,
    /// The thread of the message.
    thread: String,
    /// The message type.
    #[serde(rename = "type")]
    kind: String,
    /// Our DID; null for an anonymous message.
    from: Option<String>,
    /// The recipient's DID.
    to: String,
    /// The name that a person has given the recipient (its label); null without one, or while the store is sealed.
    label: Option<String>,
    state: MessageState,
    /// Of a waiting message: what it waits for. Null in another state.
    waits_for: Option<WaitsFor>,
    /// Of a waiting message: when it is tried next, at the earliest, in milliseconds since 1970. Null if it is tried as soon as
    /// possible, or an event decides, such as the return of a token.
    next_try: Option<i64>,
    /// Why the message was not sent, or waits.
    problem: Option<String>,
    /// The number of attempts.
    tries: u32,
    /// When the message was put into the outbox, in milliseconds since 1970.
    created: i64,
    /// When the state was reached, in milliseconds since 1970. Of a waiting message, the time that its last attempt has set for
    /// the next one; before its first attempt, `created`.
    time: i64,
    /// When the message is given up, in milliseconds since 1970.
    expires: i64,
}

/// Which messages to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct OutboxPageQuery {
    /// The cursor of the page before; without it, the first page.
    #[serde(default)]
    after: String,
    /// The size of the page: 1 to 1000, by default 100.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    limit: Option<usize>,
    /// Only messages in this state.
    #[param(nullable = false)]
    state: Option<MessageState>,
    /// Only messages for this DID.
    #[param(nullable = false)]
    to: Option<String>,
}

/// A page of the outbox.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Outbox)]
pub(super) struct OutboxPage {
    /// The messages, oldest first.
    messages: Vec<OutgoingStatus>,
    /// `after` of the next page.
    cursor: String,
}

impl From<SendState> for MessageState {
    fn from(state: SendState) -> Self {
        match state {
            SendState::Waiting => Self::Waiting,
            SendState::Sent => Self::Sent,
            SendState::Failed => Self::Failed,
            SendState::Expired => Self::Expired,
            SendState::Cancelled => Self::Cancelled,
        }
    }
}

impl MessageState {
    /// The name of the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<MessageState> for SendState {
    fn from(state: MessageState) -> Self {
        match state {
            MessageState::Waiting => Self::Waiting,
            MessageState::Sent => Self::Sent,
            MessageState::Failed => Self::Failed,
            MessageState::Expired => Self::Expired,
            MessageState::Cancelled => Self::Cancelled,
        }
    }
}

impl From<WaitReason> for WaitsFor {
    fn from(reason: WaitReason) -> Self {
        match reason {
            WaitReason::Token => Self::Token,
            WaitReason::Peer => Self::Peer,
            WaitReason::Turn => Self::Turn,
            WaitReason::OtherNode => Self::OtherNode,
        }
    }
}

impl OutgoingStatus {
    async fn all(agent: &Agent, entries: Vec<OutboxEntry>) -> Vec<Self> {
        let peers = entries.iter().map(|entry| (&*entry.sender, &*entry.peer));
        // The outbox is also listed while the store is sealed.
        let labels = agent.labels(peers).await.unwrap_or_default();
        let all = entries.into_iter().map(|entry| {
            let label = labels.get(&(entry.sender.clone(), entry.peer.clone())).cloned();
            Self::new(agent, entry, label)
        });
        all.collect()
    }

    fn new(agent: &Agent, entry: OutboxEntry, label: Option<String>) -> Self {
        let wait = agent.wait_of(&entry);
        let (waits_for, next_try, problem) = match wait {
            Some(wait) => (Some(wait.reason.into()), wait.next_try, wait.problem),
            None => (None, None, entry.problem),
        };
        Self {
            id: entry.id,
            message_id: entry.message,
            thread: entry.thread,
            kind: entry.kind,
            from: Some(entry.sender).filter(|sender| !sender.is_empty()),
            to: entry.peer,
            label,
            state: entry.state.into(),
            waits_for,
            next_try,
            problem,
            tries: entry.tries,
            created: entry.created,
            time: entry.time,
            expires: entry.expires,
        }
    }
}

/// The messages in the outbox: those that wait, and those that were sent or given up within the days that the store keeps its
/// history (`history_days`).
#[utoipa::path(
    get,
    path = "/v1/messages",
    operation_id = "outbox",
    params(OutboxPageQuery),
    responses(
        (status = 200, description = "Messages, oldest first", body = OutboxPage),
        (status = 400, description = "The query is invalid", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn list(
    State(context): State<ApiContext>,
    query: Result<Query<OutboxPageQuery>, QueryRejection>,
) -> Result<Json<OutboxPage>, ApiError> {
    let Query(query) = query?;
    let [created, sequence] = page::numbers(&query.after)?;
    let found = context.agent.outbox(OutboxQuery {
        after: OutboxPosition { created, sequence },
        state: query.state.map(SendState::from),
        peer: query.to.map(|did| canonical_did(&did).into_owned()),
        limit: page::limit(query.limit)?,
    });
    let found = found.await?;
    let cursor = found.last().map_or(query.after, |(last, _)| format!("{}.{}", last.created, last.sequence));
    let entries = found.into_iter().map(|(_, entry)| entry).collect();
    let messages = OutgoingStatus::all(&context.agent, entries).await;
    Ok(Json(OutboxPage { messages, cursor }))
}

/// The state of a message in the outbox.
#[utoipa::path(
    get,
    path = "/v1/messages/{id}",
    operation_id = "sending",
    params(("id" = String, Path, description = "The id of the outbox entry")),
    responses(
        (status = 200, description = "The state of the message", body = OutgoingStatus),
        (status = 400, description = "The id is not UTF-8", body = ApiError),
        (status = 404, description = "There is no such message, or it was deleted", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn status(
    State(context): State<ApiContext>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<OutgoingStatus>, ApiError> {
    let Path(id) = id?;
    found(&context.agent, context.agent.outbox_entry(&id).await?).await
}

/// Cancels a waiting message, and deletes its content. An attempt that is under way may still send it: then its state becomes
/// `sent`. To cancel a message again changes nothing.
#[utoipa::path(
    post,
    path = "/v1/messages/{id}/cancel",
    operation_id = "cancel",
    params(("id" = String, Path, description = "The id of the outbox entry")),
    responses(
        (status = 200, description = "The message is cancelled", body = OutgoingStatus),
        (status = 400, description = "The id is not UTF-8", body = ApiError),
        (status = 404, description = "There is no such message, or it was deleted", body = ApiError),
        (status = 409, description = "The message was sent or given up before", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn cancel(
    State(context): State<ApiContext>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<OutgoingStatus>, ApiError> {
    let Path(id) = id?;
    found(&context.agent, context.agent.cancel(&id).await?).await
}

/// Tries a waiting message now, whatever pause its peer or the peer's server has. The other messages to the peer follow if it is
/// sent.
#[utoipa::path(
    post,
    path = "/v1/messages/{id}/retry",
    operation_id = "retry",
    params(("id" = String, Path, description = "The id of the outbox entry")),
    responses(
        (status = 202, description = "The message is tried soon", body = OutgoingStatus),
        (status = 400, description = "The id is not UTF-8", body = ApiError),
        (status = 404, description = "There is no such message, or it was deleted", body = ApiError),
        (status = 409, description = "The message was sent or given up", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn retry(
    State(context): State<ApiContext>,
    id: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<OutgoingStatus>), ApiError> {
    let Path(id) = id?;
    Ok((StatusCode::ACCEPTED, found(&context.agent, context.agent.retry(&id).await?).await?))
}

async fn found(agent: &Agent, entry: Option<OutboxEntry>) -> Result<Json<OutgoingStatus>, ApiError> {
    let found = OutgoingStatus::all(agent, entry.into_iter().collect()).await.pop();
    let not_found = || ApiError::not_found("there is no such message in the outbox, or it was deleted");
    found.map(Json).ok_or_else(not_found)
}
