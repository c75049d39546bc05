//! Requests that read and acknowledge received messages.

use axum::{
    Json,
    extract::{
        Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{context::ApiContext, delivered::DeliveredMessage, error::ApiError};
use crate::agent::store::DeliveryQuery;

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

const MAX_LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 100;

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
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid("bad-request", format!("limit is 1 to {MAX_LIMIT}")));
    }
    let deliveries = DeliveryQuery {
        after: query.after,
        thread: query.thread,
        kind: query.kind,
        sender: query.sender,
        acknowledged: query.acknowledged,
        limit,
        max_bytes: Some(context.agent.max_page_bytes()),
    };
    let found = context.agent.deliveries(deliveries).await?;
    let messages: Vec<DeliveredMessage> =
        found.into_iter().map(|(delivery, content)| DeliveredMessage::new(delivery, content)).collect();
    let cursor = messages.last().map_or(query.after, DeliveredMessage::cursor);
    Ok(Json(InboxPage { messages, cursor }))
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
    if ids.len() > MAX_LIMIT {
        return Err(ApiError::invalid("bad-request", format!("a request acknowledges at most {MAX_LIMIT} messages")));
    }
    Ok(Json(Acknowledged { acknowledged: context.agent.acknowledge(&ids).await? }))
}
