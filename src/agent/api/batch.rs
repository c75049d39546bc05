//! Requests that send many messages at once.

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    context::ApiContext,
    error::{ApiError, ErrorBody},
    messages::{NewMessage, QueuedMessage},
};
use crate::agent::send_batch::Batch;

/// Messages to send.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBatch {
    /// The messages, at most 1000, each as in a request to /v1/messages. They are put into the outbox in this order. One that does
    /// not have that form is refused alone.
    // Each is parsed on its own, so the values of one message at a time are in memory.
    #[schema(value_type = Vec<serde_json::Value>, max_items = 1000)]
    messages: Vec<Box<RawValue>>,
}

/// What came of each message.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchResults {
    /// The results, in the order of the messages.
    results: Vec<BatchResult>,
}

/// What came of one message: `message` or `error`, as if it had been sent alone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchResult {
    /// The status that a request with this message alone gets: 202 if the message is stored.
    status: u16,
    /// The stored message.
    message: Option<QueuedMessage>,
    /// Why the message was refused.
    error: Option<ErrorBody>,
}

/// The most messages of a batch.
const MAX_MESSAGES: usize = 1000;

impl From<Result<QueuedMessage, ApiError>> for BatchResult {
    fn from(result: Result<QueuedMessage, ApiError>) -> Self {
        match result {
            Ok(message) => Self { status: 202, message: Some(message), error: None },
            Err(error) => {
                let (status, error) = error.into_parts();
                Self { status: status.as_u16(), message: None, error: Some(error) }
            }
        }
    }
}

/// Puts messages into the outbox, with a result for each. The messages that are accepted are stored when this responds. A message
/// that is refused stops no other. With an `id` in each message, the request can be repeated.
#[utoipa::path(
    post,
    path = "/v1/batches",
    operation_id = "send_batch",
    request_body = NewBatch,
    responses(
        (status = 200, description = "What came of each message", body = BatchResults),
        (status = 400, description = "There are too many messages", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError)
    )
)]
pub(super) async fn send(
    State(context): State<ApiContext>,
    batch: Result<Json<NewBatch>, JsonRejection>,
) -> Result<Json<BatchResults>, ApiError> {
    let Json(NewBatch { messages }) = batch?;
    if messages.len() > MAX_MESSAGES {
        return Err(ApiError::invalid("bad-request", format!("a batch has at most {MAX_MESSAGES} messages")));
    }
    let mut batch = Batch::new(&context.agent);
    let mut parsed = Vec::new();
    for message in messages {
        let read = NewMessage::read(&message).and_then(NewMessage::into_outgoing);
        parsed.push(match read {
            Ok((outgoing, is_repeatable)) => {
                batch.add(&outgoing, is_repeatable).await;
                Ok((outgoing.message.id.clone(), outgoing.message.thread().to_owned()))
            }
            Err(error) => Err(error),
        });
    }
    let mut queued = batch.finish().await.into_iter();
    let results = parsed.into_iter().map(|parsed| {
        let (message_id, thread) = parsed?;
        // Each message that was parsed has a result.
        let queued = queued.next().ok_or_else(|| ApiError::not_found("the message has no result"))??;
        Ok(QueuedMessage { id: queued.id, message_id, thread, from: queued.from })
    });
    Ok(Json(BatchResults { results: results.map(BatchResult::from).collect() }))
}
