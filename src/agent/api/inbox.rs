//! Requests that read and acknowledge received messages.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{context::ApiContext, delivered::DeliveredMessage, error::ApiError, page};
use crate::agent::{canonical_did::canonical_did, store::DeliveryQuery};

/// Which messages to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct InboxQuery {
    /// The cursor of the page before, or of a message; without it, or with 0, the first page.
    #[serde(default)]
    after: i64,
    /// The most messages of the page: 1 to 1000, by default 100. A page of large messages has fewer (`max_page_bytes` in
    /// `[api]`). Only an empty page is the last one.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    limit: Option<usize>,
    /// Only messages of this thread.
    thread: Option<String>,
    /// Only messages of this type.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Only messages of this sender.
    sender: Option<String>,
    /// Also acknowledged messages, whose content is deleted.
    #[serde(default)]
    acknowledged: bool,
}

/// A page of messages for the application.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Inbox)]
pub(super) struct InboxPage {
    /// The messages, in the order they were received.
    messages: Vec<DeliveredMessage>,
    /// `after` of the next page.
    cursor: i64,
}

/// The messages to acknowledge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledge {
    /// The ids of the messages in the inbox; at most 1000.
    #[schema(max_items = 1000)]
    ids: Vec<String>,
}

/// The number of acknowledged messages.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Acknowledged {
    /// The number of messages that were not acknowledged before.
    acknowledged: usize,
}

/// The most messages that a request acknowledges.
const MAX_ACKNOWLEDGED: usize = 1000;
/// The fewest characters of an id that name a message.
const MIN_ID: usize = 4;

/// The messages for the application, in the order they were received. A message is listed until it is acknowledged.
#[utoipa::path(
    get,
    path = "/v1/inbox",
    operation_id = "inbox",
    params(InboxQuery),
    responses(
        (status = 200, description = "Messages", body = InboxPage),
        (status = 400, description = "The query is invalid", body = ApiError),
        (status = 409, description = "`after` is no cursor of this store, which was restored from a backup: start from the beginning", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn list(
    State(context): State<ApiContext>,
    query: Result<Query<InboxQuery>, QueryRejection>,
) -> Result<Json<InboxPage>, ApiError> {
    let Query(query) = query?;
    let limit = page::limit(query.limit)?;
    let deliveries = DeliveryQuery {
        after: query.after,
        thread: query.thread,
        kind: query.kind,
        sender: query.sender.map(|sender| canonical_did(&sender).into_owned()),
        acknowledged: query.acknowledged,
        limit,
        max_bytes: Some(context.agent.max_page_bytes()),
    };
    let found = context.agent.deliveries(deliveries).await?;
    let messages = DeliveredMessage::all(&context.agent, found).await?;
    let cursor = messages.last().map_or(query.after, DeliveredMessage::cursor);
    Ok(Json(InboxPage { messages, cursor }))
}

/// One message for the application, acknowledged or not.
#[utoipa::path(
    get,
    path = "/v1/inbox/{id}",
    operation_id = "received",
    params(("id" = String, Path, description = "The id in the inbox, or its beginning of at least 4 characters if no other id begins so")),
    responses(
        (status = 200, description = "The message", body = DeliveredMessage),
        (status = 400, description = "The id is too short, or several ids begin so", body = ApiError),
        (status = 404, description = "There is no such message, or it was deleted", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn get(
    State(context): State<ApiContext>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<DeliveredMessage>, ApiError> {
    let Path(id) = id?;
    if id.len() < MIN_ID {
        return Err(ApiError::invalid("bad-request", format!("an id has at least {MIN_ID} characters")));
    }
    let found = context.agent.deliveries_by_id(&id, 2).await?;
    if found.len() > 1 {
        return Err(ApiError::invalid("bad-request", format!("several ids begin with {id}: write more of the id")));
    }
    let mut found = DeliveredMessage::all(&context.agent, found).await?;
    let not_found = || ApiError::not_found("there is no such message in the inbox, or it was deleted");
    Ok(Json(found.pop().ok_or_else(not_found)?))
}

/// Acknowledges messages: their content is deleted.
#[utoipa::path(
    post,
    path = "/v1/inbox/acknowledge",
    operation_id = "acknowledge",
    request_body = Acknowledge,
    responses(
        (status = 200, description = "The messages are acknowledged", body = Acknowledged),
        (status = 400, description = "The request is invalid", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn acknowledge(
    State(context): State<ApiContext>,
    request: Result<Json<Acknowledge>, JsonRejection>,
) -> Result<Json<Acknowledged>, ApiError> {
    let Json(Acknowledge { ids }) = request?;
    if ids.len() > MAX_ACKNOWLEDGED {
        return Err(ApiError::invalid(
            "bad-request",
            format!("a request acknowledges at most {MAX_ACKNOWLEDGED} messages"),
        ));
    }
    let acknowledged = context.agent.acknowledge(&ids).await?;
    context.webhooks.acknowledged(&ids).await?;
    Ok(Json(Acknowledged { acknowledged }))
}
