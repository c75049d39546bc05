//! Requests that read events: server-sent events as they happen, and pages of the recorded ones.

use std::{collections::VecDeque, convert::Infallible};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::{IntoResponse, Response, Sse, sse::KeepAlive},
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    context::ApiContext,
    error::ApiError,
    event_payload::EventPayload,
    event_reader::EventReader,
    event_selection::{EventPosition, Selection},
    page,
};
use crate::agent::store::DeliveryQuery;

/// Which events, and where they begin.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    /// Only events after this `id`, or messages after this cursor. The header Last-Event-ID takes precedence.
    #[param(value_type = Option<String>)]
    after: Option<String>,
    /// The kinds of events, joined by commas: `message` for received messages, and those of docs/api.md; or `all`, which is
    /// `message` and all kinds that are recorded (`events` of `[api]`). Without it, `message`.
    kinds: Option<String>,
}

/// Events as they happen: messages, beginning with unacknowledged ones, and what else `kinds` names.
/// `event` is the kind. Of a received message it is `message`, and `data` is a message as in /v1/inbox. The `data` of a recorded
/// event has `type`, `timestamp` (RFC 3339, in UTC) and `data`, whose members depend on the kind. `id` is a position for
/// Last-Event-ID.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "events",
    params(
        EventQuery,
        ("last-event-id" = Option<String>, Header, description = "The `id` of the last event that was processed. It takes precedence over `after`")
    ),
    responses(
        (status = 200, description = "Events, without an end", content_type = "text/event-stream"),
        (status = 400, description = "The query is invalid, or a kind is not recorded", body = ApiError),
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
    let selection =
        query.kinds.map_or_else(|| Ok(Selection::messages()), |kinds| Selection::parse(&kinds, &context.agent))?;
    let position = match headers.get("last-event-id") {
        // An invalid Last-Event-ID is refused: starting at the beginning would make the application process messages twice.
        Some(id) => {
            let id = id.to_str().ok().map(str::trim).filter(|id| !id.is_empty());
            let reason = "Last-Event-ID must be the `id` of an event";
            let invalid = || ApiError::invalid("bad-request", reason);
            id.and_then(|id| EventPosition::parse(id).ok()).ok_or_else(invalid)?
        }
        None => EventPosition::parse(query.after.as_deref().unwrap_or_default())?,
    };
    // An unknown cursor is refused before the stream begins.
    let store = context.agent.store();
    store.deliveries(DeliveryQuery { after: position.message, limit: 0, ..DeliveryQuery::default() }).await?;
    if !selection.kinds.is_empty() {
        store.events(position.event, &[], 0).await?;
    }
    let reader = EventReader {
        events: context.agent.events(),
        agent: context.agent,
        shutdown: context.shutdown,
        selection,
        position,
        messages: VecDeque::new(),
        recorded: VecDeque::new(),
    };
    let events = stream::unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// Which recorded events to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordedQuery {
    /// The cursor of the page before, or of an event; without it, or with 0, the first page.
    #[serde(default)]
    after: i64,
    /// The size of the page: 1 to 1000, by default 100.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    limit: Option<usize>,
    /// The kinds of events, joined by commas. Without it, or with `all`: all that are recorded.
    #[param(nullable = false)]
    kinds: Option<String>,
}

/// A recorded event in a page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecordedEvent {
    /// The position among all recorded events.
    cursor: i64,
    #[serde(flatten)]
    event: EventPayload,
}

/// A page of recorded events.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RecordedEvents)]
pub(super) struct RecordedPage {
    /// The events, in their order.
    events: Vec<RecordedEvent>,
    /// `after` of the next page.
    cursor: i64,
}

/// The recorded events that the store keeps, in their order: those of `history_days`, and at most `max_events`.
#[utoipa::path(
    get,
    path = "/v1/events/recorded",
    operation_id = "recorded_events",
    params(RecordedQuery),
    responses(
        (status = 200, description = "Events", body = RecordedPage),
        (status = 400, description = "The query is invalid, or a kind is not recorded", body = ApiError),
        (status = 409, description = "`after` is no cursor of this store, which was restored from a backup: start from the beginning", body = ApiError),
        (status = 503, description = "The store does not answer", body = ApiError)
    )
)]
pub(super) async fn recorded(
    State(context): State<ApiContext>,
    query: Result<Query<RecordedQuery>, QueryRejection>,
) -> Result<Json<RecordedPage>, ApiError> {
    let Query(query) = query?;
    let selection = match query.kinds.as_deref() {
        None | Some("all") => Selection::parse("all", &context.agent)?,
        Some(kinds) => Selection::parse(kinds, &context.agent)?.without_messages()?,
    };
    let limit = page::limit(query.limit)?;
    let found = context.agent.store().events(query.after, &selection.kinds, limit).await?;
    let cursor = found.last().map_or(query.after, |event| event.cursor);
    let events = found.into_iter().map(|event| RecordedEvent { cursor: event.cursor, event: event.into() });
    Ok(Json(RecordedPage { events: events.collect(), cursor }))
}
