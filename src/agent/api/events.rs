//! Server-sent events: messages as they are received.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::{context::ApiContext, delivered::DeliveredMessage, error::ApiError};
use crate::agent::{agent::Agent, event::Event as AgentEvent, store::DeliveryQuery};

/// Where the events begin.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    /// Only messages after this cursor, beginning with unacknowledged ones. The header Last-Event-ID takes precedence.
    after: Option<i64>,
}

/// The most messages that are read from the store at once, and the most bytes of them.
const PAGE_SIZE: usize = 100;
const PAGE_BYTES: usize = 256 * 1024;
/// The interval at which the store is read if there is no event.
const READ_INTERVAL: Duration = Duration::from_secs(15);

/// Messages as they are received, beginning with unacknowledged ones. The `id` of an event is a cursor, its `event` is
/// `message`, and its `data` is a message as in /v1/inbox.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "events",
    params(
        EventQuery,
        ("last-event-id" = Option<i64>, Header, description = "The `id` of the last event that was processed. It takes precedence over `after`")
    ),
    responses(
        (status = 200, description = "Messages, without an end", content_type = "text/event-stream"),
        (status = 400, description = "The query is invalid", body = ApiError),
        (status = 409, description = "The store has not given out the cursor: it was restored from a backup. Start from the beginning", body = ApiError),
        (status = 503, description = "The store does not answer", body = ApiError)
    )
)]
pub(super) async fn stream(
    State(context): State<ApiContext>,
    headers: HeaderMap,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let last = headers.get("last-event-id").map(|id| id.to_str().ok().and_then(|id| id.trim().parse().ok()));
    // An invalid Last-Event-ID is refused: starting at the beginning would make the application process messages twice.
    let last = match last {
        Some(None) => {
            return Err(ApiError::invalid("bad-request", "Last-Event-ID must be the `id` of an event: a whole number"));
        }
        last => last.flatten(),
    };
    let after = last.or(query.after).unwrap_or(0);
    // An unknown cursor is refused before the stream begins.
    context.agent.store().deliveries(DeliveryQuery { after, limit: 0, ..DeliveryQuery::default() }).await?;
    let reader = EventReader {
        events: context.agent.events(),
        agent: context.agent,
        shutdown: context.shutdown,
        after,
        read: Vec::new(),
    };
    Ok(Sse::new(reader.into_stream()).keep_alive(KeepAlive::default()).into_response())
}

/// Reads messages from the store, in their order and without gaps. An event of the agent only triggers
/// the next read.
struct EventReader {
    agent: Arc<Agent>,
    events: broadcast::Receiver<AgentEvent>,
    shutdown: CancellationToken,
    after: i64,
    /// Messages that were read and not sent yet, in reverse order.
    read: Vec<DeliveredMessage>,
}

impl EventReader {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut reader| async {
            let message = reader.next().await?;
            let cursor = message.cursor();
            // Serialization does not fail: the message was parsed from JSON.
            let event = Event::default().event("message").id(cursor.to_string()).json_data(&message).ok()?;
            Some((Ok(event), reader))
        })
    }

    async fn next(&mut self) -> Option<DeliveredMessage> {
        loop {
            if let Some(message) = self.read.pop() {
                return Some(message);
            }
            let query = DeliveryQuery {
                after: self.after,
                limit: PAGE_SIZE,
                max_bytes: Some(PAGE_BYTES),
                ..DeliveryQuery::default()
            };
            match self.agent.deliveries(query).await {
                Ok(found) if !found.is_empty() => {
                    self.read =
                        found.into_iter().map(|(it, content)| DeliveredMessage::new(it, content)).rev().collect();
                    self.after = self.read.first().map_or(self.after, DeliveredMessage::cursor);
                    continue;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "events wait for the store"),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                _ = self.events.recv() => {}
                () = tokio::time::sleep(READ_INTERVAL) => {}
            }
        }
    }
}
