//! Reading, and acknowledging what was read.

use axum::{
    Json,
    extract::{
        Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, Shared};
use crate::agent::{
    Content,
    store::{Delivery, DeliveryQuery},
};

/// Which messages.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Those behind this cursor.
    #[serde(default)]
    after: i64,
    /// So many at most: 1 to 1000, 100 if it is not said.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    limit: Option<usize>,
    /// Those of this thread.
    thread: Option<String>,
    /// Those of this type.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Those of this sender.
    sender: Option<String>,
    /// The acknowledged ones too, of which there is no content any more.
    #[serde(default)]
    acknowledged: bool,
}

/// A message for the application.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Delivered {
    /// Its name: by it, it is acknowledged.
    id: String,
    /// Its place in the order.
    cursor: i64,
    /// When it came, in milliseconds since 1970.
    received: i64,
    /// Who sent it, proved; null for nobody.
    sender: Option<String>,
    /// Our DID.
    recipient: String,
    /// Its own id.
    message_id: String,
    /// Its thread.
    thread: String,
    /// Its type.
    #[serde(rename = "type")]
    kind: String,
    /// The message; null once it is acknowledged.
    #[schema(value_type = Option<Object>)]
    message: Value,
    /// How it was protected; null once it is acknowledged.
    #[schema(value_type = Option<Object>)]
    provenance: Value,
}

/// Messages for the application.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Inbox)]
pub(super) struct Page {
    /// In the order they came.
    messages: Vec<Delivered>,
    /// Behind the last of them: `after` of the next page.
    cursor: i64,
}

/// What the application has.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledge {
    /// The messages' names here; 1000 at most.
    #[schema(max_items = 1000)]
    ids: Vec<String>,
}

/// How many messages were acknowledged.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Acknowledged {
    /// Those that were not before.
    acknowledged: usize,
}

impl Delivered {
    pub fn new(delivery: Delivery, content: Option<Content>) -> Self {
        let (message, provenance) = match content {
            Some(content) => (json!(content.message), content.provenance),
            None => (Value::Null, Value::Null),
        };
        Self {
            id: delivery.id,
            cursor: delivery.cursor,
            received: delivery.received,
            sender: Some(delivery.sender).filter(|sender| !sender.is_empty()),
            recipient: delivery.recipient,
            message_id: delivery.message,
            thread: delivery.thread,
            kind: delivery.kind,
            message,
            provenance,
        }
    }

    pub fn cursor(&self) -> i64 {
        self.cursor
    }
}

const MOST: usize = 1000;
const USUAL: usize = 100;

/// The messages for the application, in the order they came. They come again until they are acknowledged.
#[utoipa::path(
    get,
    path = "/v1/inbox",
    operation_id = "inbox",
    params(Which),
    responses(
        (status = 200, description = "Messages", body = Page),
        (status = 400, description = "The question is wrong", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Page>, ApiError> {
    let Query(which) = which?;
    let limit = which.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::bad("bad-request", format!("limit is 1 to {MOST}")));
    }
    let query = DeliveryQuery {
        after: which.after,
        thread: which.thread,
        kind: which.kind,
        sender: which.sender,
        acknowledged: which.acknowledged,
        limit,
    };
    let found = shared.agent.deliveries(query).await?;
    let messages: Vec<Delivered> =
        found.into_iter().map(|(delivery, content)| Delivered::new(delivery, content)).collect();
    let cursor = messages.last().map_or(which.after, Delivered::cursor);
    Ok(Json(Page { messages, cursor }))
}

/// The application has these messages: their content is forgotten.
#[utoipa::path(
    post,
    path = "/v1/inbox/acknowledge",
    operation_id = "acknowledge",
    request_body = Acknowledge,
    responses(
        (status = 200, description = "It is forgotten", body = Acknowledged),
        (status = 400, description = "The request is wrong", body = ApiError),
        (status = 413, description = "It is too large", body = ApiError),
        (status = 415, description = "It is not JSON by its media type", body = ApiError),
        (status = 422, description = "It is not of this form", body = ApiError),
        (status = 503, description = "The store does not answer", body = ApiError)
    )
)]
pub(super) async fn acknowledge(
    State(shared): State<Shared>,
    these: Result<Json<Acknowledge>, JsonRejection>,
) -> Result<Json<Acknowledged>, ApiError> {
    let Json(Acknowledge { ids }) = these?;
    if ids.len() > MOST {
        return Err(ApiError::bad("bad-request", format!("at most {MOST} messages are acknowledged at once")));
    }
    Ok(Json(Acknowledged { acknowledged: shared.agent.acknowledge(&ids).await? }))
}
