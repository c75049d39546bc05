//! Server-sent events: messages as they come.

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
use tokio::sync::{broadcast, watch};
use utoipa::IntoParams;

use super::{ApiError, Shared, inbox::Delivered};
use crate::agent::{Agent, store::DeliveryQuery, told_to_end};

/// From where on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    /// Those behind this cursor, the ones that have not been acknowledged first; the header Last-Event-ID comes before it.
    after: Option<i64>,
}

/// How many are read at once, and how often the store is looked at even if nothing is heard.
const PAGE: usize = 100;
const LOOK: Duration = Duration::from_secs(15);

/// Messages as they come, those first that have not been acknowledged: an `id` is a cursor, the `event` is `message`, and
/// `data` is what /v1/inbox has of it.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "events",
    params(
        From,
        ("last-event-id" = Option<i64>, Header, description = "The `id` of the last event that was seen: it comes before `after`")
    ),
    responses(
        (status = 200, description = "Messages, without an end", content_type = "text/event-stream"),
        (status = 400, description = "The question is wrong", body = ApiError)
    )
)]
pub(super) async fn follow(
    State(shared): State<Shared>,
    headers: HeaderMap,
    from: Result<Query<From>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(from) = from?;
    let last = headers.get("last-event-id").map(|id| id.to_str().ok().and_then(|id| id.trim().parse().ok()));
    // To begin anew instead would have an application do again what it has done.
    let last = match last {
        Some(None) => return Err(ApiError::bad("bad-request", "Last-Event-ID is no `id` of an event: a whole number")),
        last => last.flatten(),
    };
    let after = last.or(from.after).unwrap_or(0);
    let follower = Follower {
        heard: shared.agent.events(),
        agent: shared.agent,
        shutdown: shared.shutdown,
        after,
        waiting: Vec::new(),
    };
    Ok(Sse::new(follower.stream()).keep_alive(KeepAlive::default()).into_response())
}

/// Reads the store, which has the order and misses nothing; what is heard only says when.
struct Follower {
    agent: Arc<Agent>,
    heard: broadcast::Receiver<crate::agent::Event>,
    shutdown: watch::Receiver<bool>,
    after: i64,
    /// Read, and not sent yet: the last first.
    waiting: Vec<Delivered>,
}

impl Follower {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follower| async {
            let delivered = follower.next().await?;
            let cursor = delivered.cursor();
            // What was made from JSON is JSON.
            let event = Event::default().event("message").id(cursor.to_string()).json_data(&delivered).ok()?;
            Some((Ok(event), follower))
        })
    }

    async fn next(&mut self) -> Option<Delivered> {
        loop {
            if let Some(delivered) = self.waiting.pop() {
                return Some(delivered);
            }
            let query = DeliveryQuery { after: self.after, limit: PAGE, ..DeliveryQuery::default() };
            match self.agent.deliveries(query).await {
                Ok(found) if !found.is_empty() => {
                    self.waiting = found.into_iter().map(|(it, content)| Delivered::new(it, content)).rev().collect();
                    self.after = self.waiting.first().map_or(self.after, Delivered::cursor);
                    continue;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "an application waits for the store"),
            }
            tokio::select! {
                () = told_to_end(&mut self.shutdown) => return None,
                _ = self.heard.recv() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}
