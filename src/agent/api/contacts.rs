//! Requests that give a peer a label, block it, and end, resume and delete its connections.

use axum::{
    Json,
    extract::{
        Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    connections::views,
    context::ApiContext,
    error::ApiError,
    page::{self, PageQuery},
};
use crate::{
    agent::{blocked_peers::BlockedPeer, contacts::ContactChange, label::Label},
    did::is_did,
};

/// The peer of a request.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerQuery {
    /// The peer's DID, in any form, also one from which the peer has rotated.
    peer: String,
}

/// The peer of connections to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuery {
    /// The peer's DID, in any form, also one from which the peer has rotated.
    peer: String,
    /// Only the connection of this DID of ours.
    #[param(nullable = false)]
    ours: Option<String>,
}

/// What to change about a peer. A member that is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeContact {
    /// The name that a person gives the peer: at most 64 characters. No two peers have the same, whatever the case of its
    /// letters. It is never sent. `null` removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    label: Option<Option<String>>,
    /// Whether the peer is blocked: its messages are dropped unread, and nothing is sent to it. It is not told.
    blocked: Option<bool>,
}

/// The connections with a peer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Contact {
    /// The connections, as in /v1/connections.
    #[schema(value_type = Vec<Object>)]
    connections: Vec<Value>,
    /// Whether the peer is blocked.
    blocked: bool,
}

/// The most connections in the answer.
const MAX_SHOWN: usize = 1000;

/// Reads a member that is there, so that `null` differs from a member that is left out.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Gives a peer a label, or blocks it. A label needs a connection with the peer. Any DID can be blocked.
#[utoipa::path(
    patch,
    path = "/v1/connections",
    operation_id = "change_contact",
    params(PeerQuery),
    request_body = ChangeContact,
    responses(
        (status = 200, description = "The connections with the peer", body = Contact),
        (status = 400, description = "`peer` is not a DID, or the label cannot be one", body = ApiError),
        (status = 404, description = "There is no connection with the peer", body = ApiError),
        (status = 409, description = "Another peer has the label", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn change(
    State(context): State<ApiContext>,
    query: Result<Query<PeerQuery>, QueryRejection>,
    request: Result<Json<ChangeContact>, JsonRejection>,
) -> Result<Json<Contact>, ApiError> {
    let peer = checked(query?.0.peer)?;
    let Json(ChangeContact { label, blocked }) = request?;
    let label = match label {
        Some(Some(text)) => Some(Some(Label::parse(&text)?)),
        Some(None) => Some(None),
        None => None,
    };
    context.agent.change_contact(&peer, &ContactChange { label, blocked }).await?;
    let found = context.agent.connections_with(&peer, "", MAX_SHOWN).await?;
    let connections = views(&context.agent, found).await?;
    Ok(Json(Contact { connections, blocked: context.agent.is_blocked(&peer) }))
}

/// The number of deleted connections.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeletedConnections {
    /// The number of connections that there were.
    deleted: usize,
}

/// Deletes the connections with a peer, and with the last one its label, its profile and its document. The peer is not told,
/// and is a stranger when it writes again. Messages in the inbox and in the outbox stay.
#[utoipa::path(
    delete,
    path = "/v1/connections",
    operation_id = "delete_connections",
    params(DeleteQuery),
    responses(
        (status = 200, description = "The connections are deleted", body = DeletedConnections),
        (status = 400, description = "`peer` is not a DID", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn delete(
    State(context): State<ApiContext>,
    query: Result<Query<DeleteQuery>, QueryRejection>,
) -> Result<Json<DeletedConnections>, ApiError> {
    let Query(DeleteQuery { peer, ours }) = query?;
    let deleted = context.agent.delete_connections(&checked(peer)?, ours.as_deref()).await?;
    Ok(Json(DeletedConnections { deleted }))
}

/// A relationship to end.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndConnection {
    /// Our DID in the relationship.
    ours: String,
    /// The peer's DID.
    theirs: String,
    /// A JWT that proves the end, signed by a custodian with our DID's key (`claviger connections end`). Without it, the
    /// relationship ends here, and the peer is not told.
    from_prior: Option<String>,
}

/// Ends a relationship: nothing is sent to the peer, and its messages are ignored, until it is resumed.
#[utoipa::path(
    post,
    path = "/v1/connections/end",
    operation_id = "end_connection",
    request_body = EndConnection,
    responses(
        (status = 202, description = "The relationship has ended. A message to the peer is in the outbox"),
        (status = 204, description = "The relationship has ended. The peer is not told"),
        (status = 400, description = "The JWT does not prove the end, or `ours` is not ours", body = ApiError),
        (status = 404, description = "There is no such relationship", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn end(
    State(context): State<ApiContext>,
    request: Result<Json<EndConnection>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(EndConnection { ours, theirs, from_prior }) = request?;
    context.agent.end_relationship(&ours, &theirs, from_prior.as_deref()).await?;
    Ok(if from_prior.is_some() { StatusCode::ACCEPTED } else { StatusCode::NO_CONTENT })
}

/// A relationship to resume.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeConnection {
    /// Our DID in the relationship.
    ours: String,
    /// The peer's DID.
    theirs: String,
}

/// A relationship that is open.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ResumedConnection {
    /// Whether the relationship had ended.
    had_ended: bool,
    /// Whether the peer was told of the end. Its agent then ignores our DID, until it resumes as well.
    peer_told: bool,
}

/// Takes up a relationship again that has ended. The peer is not told.
#[utoipa::path(
    post,
    path = "/v1/connections/resume",
    operation_id = "resume_connection",
    request_body = ResumeConnection,
    responses(
        (status = 200, description = "The relationship is open", body = ResumedConnection),
        (status = 400, description = "Our DID has rotated since the end", body = ApiError),
        (status = 404, description = "There is no such relationship", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn resume(
    State(context): State<ApiContext>,
    request: Result<Json<ResumeConnection>, JsonRejection>,
) -> Result<Json<ResumedConnection>, ApiError> {
    let Json(ResumeConnection { ours, theirs }) = request?;
    let before = context.agent.resume_relationship(&ours, &theirs).await?;
    Ok(Json(ResumedConnection { had_ended: before.ended.is_some(), peer_told: before.peer_told }))
}

/// A page of the blocked peers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Blocked)]
pub(super) struct BlockedPage {
    /// The peers. Each has `peer`, its DID, and `since` in milliseconds since 1970.
    #[schema(value_type = Vec<Object>)]
    blocked: Vec<BlockedPeer>,
    /// `after` of the next page.
    cursor: String,
}

/// The blocked peers, with and without a connection.
#[utoipa::path(
    get,
    path = "/v1/blocked",
    operation_id = "blocked",
    params(PageQuery),
    responses(
        (status = 200, description = "Blocked peers", body = BlockedPage),
        (status = 400, description = "The query is invalid", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn blocked(
    State(context): State<ApiContext>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<BlockedPage>, ApiError> {
    let Query(query) = query?;
    let found = context.agent.blocked_peers(&query.after, page::limit(query.limit)?).await?;
    let cursor = found.last().map_or(query.after, |(key, _)| key.clone());
    Ok(Json(BlockedPage { blocked: found.into_iter().map(|(_, blocked)| blocked).collect(), cursor }))
}

fn checked(peer: String) -> Result<String, ApiError> {
    match is_did(&peer) {
        true => Ok(peer),
        false => Err(ApiError::invalid("bad-request", "peer is not a DID")),
    }
}
