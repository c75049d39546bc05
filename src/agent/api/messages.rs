//! Requests that send messages, and that read the state of a message in the outbox.

use axum::{
    Json,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{context::ApiContext, error::ApiError};
use crate::{
    agent::{
        outgoing_message::{OutgoingMessage, new_message},
        store::{OutboxEntry, SendState},
    },
    didcomm::{Message, MessageError},
    json::bounded_object,
};

/// A message to send.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMessage {
    /// An id of the caller, for the message and for its entry in the outbox: 1 to 64 lower-case letters, digits, and
    /// characters of `-._~`, such as a UUID. With it the request can be repeated: the message is sent once. Without it,
    /// the agent chooses an id, and each request sends a message.
    #[schema(min_length = 1, max_length = 64)]
    id: Option<String>,
    /// The recipient's DID.
    to: String,
    /// Our DID that sends the message. Without it, the message is anonymous.
    from: Option<String>,
    /// The message type.
    #[serde(rename = "type")]
    kind: String,
    /// The body: an object with at most 20,000 JSON values.
    #[serde(default, deserialize_with = "bounded_object")]
    body: Map<String, Value>,
    /// Further headers, such as `thid`, `pthid`, `lang`, `please_ack`, `expires_time`, `attachments`.
    #[serde(default, deserialize_with = "bounded_object")]
    headers: Map<String, Value>,
    /// Whether to sign the message, so that the recipient can prove to others who wrote it.
    #[serde(default)]
    sign: bool,
    /// Whether to hide the sender from mediators.
    #[serde(default)]
    protect_sender: bool,
}

/// A message that was put into the outbox.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueuedMessage {
    /// The id of the outbox entry.
    id: String,
    /// The id of the message.
    message_id: String,
    /// The thread of the message.
    thread: String,
}

/// The state of a message in the outbox.
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
    /// `waiting`, `sent`, `failed` or `expired`.
    state: &'static str,
    /// The number of attempts.
    tries: u32,
    /// When the message was put into the outbox, in milliseconds since 1970.
    created: i64,
    /// When the next attempt is made or the last one ended, in milliseconds since 1970.
    time: i64,
    /// When the message is given up, in milliseconds since 1970.
    expires: i64,
    /// Why the message has not been sent.
    problem: Option<String>,
}

/// The name of a send state in the API.
pub(super) fn state_name(state: SendState) -> &'static str {
    match state {
        SendState::Waiting => "waiting",
        SendState::Sent => "sent",
        SendState::Failed => "failed",
        SendState::Expired => "expired",
    }
}

impl From<OutboxEntry> for OutgoingStatus {
    fn from(entry: OutboxEntry) -> Self {
        Self {
            id: entry.id,
            message_id: entry.message,
            thread: entry.thread,
            kind: entry.kind,
            from: Some(entry.sender).filter(|sender| !sender.is_empty()),
            to: entry.peer,
            state: state_name(entry.state),
            tries: entry.tries,
            created: entry.created,
            time: entry.time,
            expires: entry.expires,
            problem: entry.problem,
        }
    }
}

/// Puts a message into the outbox. It is stored when this responds, and sent soon after. A request with an `id` can be
/// repeated, and gets the same answer, as long as the outbox has an entry of the message.
#[utoipa::path(
    post,
    path = "/v1/messages",
    operation_id = "send",
    request_body = NewMessage,
    responses(
        (status = 202, description = "The message is stored, and sent soon", body = QueuedMessage),
        (status = 400, description = "The message cannot be sent", body = ApiError),
        (status = 409, description = "Another message was sent under this id", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn send(
    State(context): State<ApiContext>,
    new: Result<Json<NewMessage>, JsonRejection>,
) -> Result<(StatusCode, Json<QueuedMessage>), ApiError> {
    let Json(new) = new?;
    let (sign, protect_sender, is_repeatable) = (new.sign, new.protect_sender, new.id.is_some());
    let message = new.into_message().map_err(|error| ApiError::invalid("bad-message", error.to_string()))?;
    let (message_id, thread) = (message.id.clone(), message.thread().to_owned());
    let outgoing = OutgoingMessage { message, sign, protect_sender };
    let id = match is_repeatable {
        true => context.agent.send_once(&outgoing).await?,
        false => context.agent.send(&outgoing).await?,
    };
    Ok((StatusCode::ACCEPTED, Json(QueuedMessage { id, message_id, thread })))
}

impl NewMessage {
    fn into_message(self) -> Result<Message, MessageError> {
        let mut headers = self.headers;
        for name in ["to", "from", "type", "body", "id", "typ", "from_prior"] {
            if headers.contains_key(name) {
                return Err(MessageError::Header(format!("{name} must not be in `headers`")));
            }
        }
        let builder = new_message(&self.kind, Value::Object(self.body)).to(self.to);
        let builder = match self.from {
            Some(from) => builder.from(from),
            None => builder,
        };
        let mut message = builder.finalize();
        message.id = self.id.unwrap_or(message.id);
        let Ok(Value::Object(built)) = serde_json::to_value(message) else {
            return Err(MessageError::Body);
        };
        for (name, value) in built {
            headers.entry(name).or_insert(value);
        }
        Message::from_object(headers)
    }
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
    match context.agent.outbox_entry(&id).await? {
        Some(entry) => Ok(Json(entry.into())),
        None => Err(ApiError::not_found("there is no such message in the outbox, or it was deleted")),
    }
}
