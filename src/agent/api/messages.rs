//! Sending.

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

use super::{ApiError, Shared};
use crate::{
    agent::{
        Agent, Intent,
        store::{Outgoing, SendState},
    },
    didcomm::{Message, MessageError},
};

/// A message to be sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMessage {
    /// The DID that it is for.
    to: String,
    /// Our DID that it is from; without, it is anonymous.
    from: Option<String>,
    /// Its type.
    #[serde(rename = "type")]
    kind: String,
    /// Its body: an object.
    #[serde(default)]
    body: Map<String, Value>,
    /// More headers, as `thid`, `pthid`, `lang`, `please_ack`, `expires_time`, `attachments`.
    #[serde(default)]
    headers: Map<String, Value>,
    /// Whether it is signed, so that others can be shown who wrote it.
    #[serde(default)]
    sign: bool,
    /// Whether who carries it must not learn who sent it.
    #[serde(default)]
    protect_sender: bool,
}

/// A message that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Taken {
    /// Its name in the outbox.
    id: String,
    /// Its own id.
    message_id: String,
    /// Its thread.
    thread: String,
}

/// How far a message is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Sending {
    /// Its name in the outbox.
    id: String,
    /// Its own id.
    message_id: String,
    /// Its thread.
    thread: String,
    /// Its type.
    #[serde(rename = "type")]
    kind: String,
    /// Our DID; null for an anonymous one.
    from: Option<String>,
    /// The DID that it is for.
    to: String,
    /// `waiting`, `sent`, `failed` or `expired`.
    state: &'static str,
    /// How often it was tried in vain.
    tries: u32,
    /// When it was put there, in milliseconds since 1970.
    created: i64,
    /// When it is tried next or was done with, in milliseconds since 1970.
    time: i64,
    /// When it is given up, in milliseconds since 1970.
    expires: i64,
    /// Why it has not been sent.
    problem: Option<String>,
}

impl From<Outgoing> for Sending {
    fn from(outgoing: Outgoing) -> Self {
        Self {
            id: outgoing.id,
            message_id: outgoing.message,
            thread: outgoing.thread,
            kind: outgoing.kind,
            from: Some(outgoing.sender).filter(|sender| !sender.is_empty()),
            to: outgoing.peer,
            state: match outgoing.state {
                SendState::Waiting => "waiting",
                SendState::Sent => "sent",
                SendState::Failed => "failed",
                SendState::Expired => "expired",
            },
            tries: outgoing.tries,
            created: outgoing.created,
            time: outgoing.time,
            expires: outgoing.expires,
            problem: outgoing.problem,
        }
    }
}

/// Puts a message into the outbox: it is kept when this answers, and sent soon.
#[utoipa::path(
    post,
    path = "/v1/messages",
    operation_id = "send",
    request_body = NewMessage,
    responses(
        (status = 202, description = "It is kept, and sent soon", body = Taken),
        (status = 400, description = "It cannot be sent", body = ApiError),
        (status = 413, description = "It is too large", body = ApiError),
        (status = 415, description = "It is not JSON by its media type", body = ApiError),
        (status = 422, description = "It is not of this form", body = ApiError),
        (status = 503, description = "It cannot be kept now", body = ApiError)
    )
)]
pub(super) async fn send(
    State(shared): State<Shared>,
    new: Result<Json<NewMessage>, JsonRejection>,
) -> Result<(StatusCode, Json<Taken>), ApiError> {
    let Json(new) = new?;
    let (sign, protect_sender) = (new.sign, new.protect_sender);
    let message = new.message().map_err(|error| ApiError::bad("bad-message", error.to_string()))?;
    let (message_id, thread) = (message.id.clone(), message.thread().to_owned());
    let id = shared.agent.send(&Intent { message, sign, protect_sender }).await?;
    Ok((StatusCode::ACCEPTED, Json(Taken { id, message_id, thread })))
}

impl NewMessage {
    fn message(self) -> Result<Message, MessageError> {
        let mut map = self.headers;
        for name in ["to", "from", "type", "body", "id", "typ", "from_prior"] {
            if map.contains_key(name) {
                return Err(MessageError::Header(format!("{name} is none of the other headers")));
            }
        }
        let built = Agent::message(&self.kind, Value::Object(self.body)).to(self.to);
        let built = match self.from {
            Some(from) => built.from(from),
            None => built,
        };
        let Ok(Value::Object(own)) = serde_json::to_value(built.finalize()) else {
            return Err(MessageError::Body);
        };
        for (name, value) in own {
            map.entry(name).or_insert(value);
        }
        Message::from_object(map)
    }
}

/// How far a message is.
#[utoipa::path(
    get,
    path = "/v1/messages/{id}",
    operation_id = "sending",
    params(("id" = String, Path, description = "Its name in the outbox")),
    responses(
        (status = 200, description = "How far it is", body = Sending),
        (status = 400, description = "The id is not UTF-8", body = ApiError),
        (status = 404, description = "There is no such message, or it is forgotten", body = ApiError),
        (status = 503, description = "The store does not answer", body = ApiError)
    )
)]
pub(super) async fn status(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Sending>, ApiError> {
    let Path(id) = id?;
    match shared.agent.sending(&id).await? {
        Some(outgoing) => Ok(Json(outgoing.into())),
        None => Err(ApiError::not_found("there is no such message in the outbox, or it is forgotten")),
    }
}
