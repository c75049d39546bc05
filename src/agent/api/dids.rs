//! Our DIDs: seen, read anew from the state folder, moved; and relationships, ended.

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{ApiError, Shared};

/// A DID of ours.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OwnDid {
    /// The DID.
    did: String,
    /// Its document.
    #[schema(value_type = Object)]
    document: Value,
    /// Those of its keys that no token has shown.
    missing: Vec<String>,
}

/// Our DIDs, the newest first.
#[utoipa::path(get, path = "/v1/dids", operation_id = "dids", responses((status = 200, description = "DIDs", body = Vec<OwnDid>)))]
pub(super) async fn list(State(shared): State<Shared>) -> Json<Vec<OwnDid>> {
    let ours = shared.agent.ours();
    let missing = ours.missing();
    let all = ours.dids().into_iter().filter_map(|did| {
        let document = ours.document(&did)?;
        let missing = missing.iter().filter(|kid| kid.starts_with(&format!("{did}#"))).cloned().collect();
        Some(OwnDid { document: document.as_value().clone(), did, missing })
    });
    Json(all.collect())
}

/// Reads the documents of our DIDs in the state folder again: one was made while the agent runs.
#[utoipa::path(
    post,
    path = "/v1/dids/reload",
    operation_id = "reload_dids",
    responses(
        (status = 200, description = "Our DIDs", body = Vec<OwnDid>),
        (status = 500, description = "A document in the state folder is damaged", body = ApiError)
    )
)]
pub(super) async fn reload(State(shared): State<Shared>) -> Result<Json<Vec<OwnDid>>, ApiError> {
    let reloaded = shared.agent.reload().await;
    reloaded.map_err(|said| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "bad-document", said))?;
    Ok(list(State(shared)).await)
}

/// A DID that moves.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotate {
    /// Our DID of today.
    from: String,
    /// Our DID from now on.
    to: String,
    /// A JWT by which the one says that it moves to the other, signed by a custodian (`claviger did rotate`).
    from_prior: String,
    /// The old DID is read for so many days more: at most 3650.
    overlap_days: u32,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rotated {
    /// The peers that are told.
    peers: Vec<String>,
    /// Until when the old DID is still read, in milliseconds since 1970.
    until: i64,
}

const DAY: i64 = 24 * 60 * 60 * 1000;
const LONGEST_OVERLAP: u32 = 3650;

/// Moves a DID of ours to another: peers are told, and what is sent from the old one goes out from the new.
#[utoipa::path(
    post,
    path = "/v1/dids/rotate",
    operation_id = "rotate_did",
    request_body = Rotate,
    responses(
        (status = 202, description = "It has moved, and the peers are told soon", body = Rotated),
        (status = 400, description = "The proof does not say so, or the DIDs are not ours", body = ApiError),
        (status = 413, description = "It is too large", body = ApiError),
        (status = 415, description = "It is not JSON by its media type", body = ApiError),
        (status = 422, description = "It is not of this form", body = ApiError),
        (status = 503, description = "It cannot be kept now", body = ApiError)
    )
)]
pub(super) async fn rotate(
    State(shared): State<Shared>,
    rotate: Result<Json<Rotate>, JsonRejection>,
) -> Result<(StatusCode, Json<Rotated>), ApiError> {
    let Json(Rotate { from, to, from_prior, overlap_days }) = rotate?;
    if overlap_days > LONGEST_OVERLAP {
        return Err(ApiError::bad("bad-request", format!("overlap_days is at most {LONGEST_OVERLAP}")));
    }
    let moved = shared.agent.rotate(&from, &to, &from_prior, DAY * i64::from(overlap_days)).await?;
    Ok((StatusCode::ACCEPTED, Json(Rotated { peers: moved.peers, until: moved.until })))
}

/// A DID that is let go of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GiveUp {
    /// Our DID, which has moved.
    did: String,
}

/// Lets go of a DID that has moved, once its overlap is over: what is sealed in the store is opened by the keys of others from
/// then on, and its own may be deleted (`claviger did retire`).
#[utoipa::path(
    post,
    path = "/v1/dids/give-up",
    operation_id = "give_up_did",
    request_body = GiveUp,
    responses(
        (status = 204, description = "Nothing here needs its keys any more"),
        (status = 400, description = "It has not moved, is still read, or messages for it wait", body = ApiError),
        (status = 413, description = "It is too large", body = ApiError),
        (status = 415, description = "It is not JSON by its media type", body = ApiError),
        (status = 422, description = "It is not of this form", body = ApiError),
        (status = 503, description = "No other key is ready to open the store", body = ApiError)
    )
)]
pub(super) async fn give_up(
    State(shared): State<Shared>,
    give_up: Result<Json<GiveUp>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(GiveUp { did }) = give_up?;
    shared.agent.give_up(&did).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A relationship that ends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    /// Our DID in it.
    ours: String,
    /// The peer's.
    theirs: String,
    /// A JWT by which our DID says so, signed by a custodian (`claviger connections end`).
    from_prior: String,
}

/// Ends a relationship: the peer is told, and nothing is sent to it from then on.
#[utoipa::path(
    post,
    path = "/v1/connections/end",
    operation_id = "end_connection",
    request_body = End,
    responses(
        (status = 202, description = "It has ended, and the peer is told soon"),
        (status = 400, description = "The proof does not say so, or there is no such relationship", body = ApiError),
        (status = 413, description = "It is too large", body = ApiError),
        (status = 415, description = "It is not JSON by its media type", body = ApiError),
        (status = 422, description = "It is not of this form", body = ApiError),
        (status = 503, description = "It cannot be kept now", body = ApiError)
    )
)]
pub(super) async fn end(
    State(shared): State<Shared>,
    end: Result<Json<End>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(End { ours, theirs, from_prior }) = end?;
    shared.agent.end(&ours, &theirs, &from_prior).await?;
    Ok(StatusCode::ACCEPTED)
}
