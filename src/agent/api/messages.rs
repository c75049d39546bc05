//! Requests that send a message.

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use utoipa::ToSchema;

use super::{context::ApiContext, error::ApiError};
use crate::{
    agent::{
        agent::Agent,
        outgoing_message::{OutgoingMessage, new_message},
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
    /// Our DID that sends the message. Without it, our DID in the connection with the recipient, else the newest.
    from: Option<String>,
    /// Whether the message has no sender: it is encrypted for the recipient, and nothing proves whom it is from.
    #[serde(default)]
    anonymous: bool,
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
    /// Whether the message may wait for a recipient that has neither an endpoint nor a connection with us, until it connects and
    /// asks for its messages (`return_route`). Without it, such a message is refused.
    #[serde(default)]
    hold: bool,
}

/// A message that was put into the outbox.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueuedMessage {
    /// The id of the outbox entry.
    pub id: String,
    /// The id of the message.
    pub message_id: String,
    /// The thread of the message.
    pub thread: String,
    /// Our DID that sends the message; null for an anonymous message.
    pub from: Option<String>,
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
    Ok((StatusCode::ACCEPTED, Json(new.send(&context.agent).await?)))
}

impl NewMessage {
    /// Reads a message of a batch.
    pub fn read(text: &RawValue) -> Result<Self, ApiError> {
        serde_json::from_str(text.get()).map_err(ApiError::malformed)
    }

    async fn send(self, agent: &Agent) -> Result<QueuedMessage, ApiError> {
        let (outgoing, is_repeatable) = self.into_outgoing()?;
        let id = match is_repeatable {
            true => agent.send_once(&outgoing).await?,
            false => agent.send(&outgoing).await?,
        };
        let OutgoingMessage { message, anonymous, .. } = outgoing;
        let from = match &message.from {
            // The message is in the outbox, whether or not its sender can be read now.
            None if !anonymous => agent.outbox_entry(&id).await.ok().flatten().map(|entry| entry.sender),
            from => from.clone(),
        };
        Ok(QueuedMessage { id, thread: message.thread().to_owned(), message_id: message.id, from })
    }

    /// Returns the message, and whether its id is the caller's.
    pub fn into_outgoing(self) -> Result<(OutgoingMessage, bool), ApiError> {
        if self.anonymous && self.from.is_some() {
            return Err(ApiError::invalid("bad-message", "a message with `from` is not anonymous"));
        }
        let Self { sign, protect_sender, anonymous, hold, .. } = self;
        let is_repeatable = self.id.is_some();
        let message = self.into_message().map_err(|error| ApiError::invalid("bad-message", error.to_string()))?;
        Ok((OutgoingMessage { message, sign, protect_sender, anonymous, hold }, is_repeatable))
    }

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
