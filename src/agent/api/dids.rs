//! Requests that list our DIDs, reload them from the state folder, rotate them, and give them up.

use axum::{
    Json,
    extract::{
        Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    context::ApiContext,
    error::ApiError,
    page::{self, PageQuery},
};
use crate::agent::ReloadError;

/// A DID of ours.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OwnDid {
    /// The DID.
    did: String,
    /// Its DID document.
    #[schema(value_type = Object)]
    document: Value,
    /// The log of a did:webvh, as it is published; null for another method.
    log: Option<String>,
    /// When the DID was created, in milliseconds since 1970, if that is known.
    created: Option<i64>,
    /// The ids of its keys that no token has shown.
    missing: Vec<String>,
    /// The DID to which it has rotated; null if it has not, and while the store is sealed.
    rotated_to: Option<String>,
    /// Until when messages to it are read, in milliseconds since 1970, if it has rotated.
    read_until: Option<i64>,
}

/// A page of our DIDs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OwnDids)]
pub(super) struct DidPage {
    /// The DIDs, newest first.
    dids: Vec<OwnDid>,
    /// `after` of the next page.
    cursor: String,
}

/// Our DIDs, newest first.
#[utoipa::path(
    get,
    path = "/v1/dids",
    operation_id = "dids",
    params(PageQuery),
    responses(
        (status = 200, description = "DIDs", body = DidPage),
        (status = 400, description = "The query is invalid", body = ApiError)
    )
)]
pub(super) async fn list(
    State(context): State<ApiContext>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<DidPage>, ApiError> {
    let Query(query) = query?;
    page_of_dids(&context, query).await.map(Json)
}

async fn page_of_dids(context: &ApiContext, query: PageQuery) -> Result<DidPage, ApiError> {
    let own_dids = context.agent.own_dids();
    let missing = own_dids.missing_keys();
    let found = page::of_list(own_dids.dids(), |did| did, &query.after, page::limit(query.limit)?)?;
    let cursor = found.last().cloned().unwrap_or(query.after);
    let mut dids = Vec::with_capacity(found.len());
    for did in found {
        let Some(document) = own_dids.document(&did) else { continue };
        let missing = missing.iter().filter(|kid| kid.starts_with(&format!("{did}#"))).cloned().collect();
        // Our DIDs are also listed while the store is sealed.
        let rotation = context.agent.rotation_of(&did).await.ok().flatten();
        let (rotated_to, read_until) = rotation.map(|rotation| (rotation.to, rotation.until)).unzip();
        let (log, created) = (own_dids.log(&did), own_dids.created_at(&did));
        dids.push(OwnDid { document: document.as_value().clone(), log, created, did, missing, rotated_to, read_until });
    }
    Ok(DidPage { dids, cursor })
}

/// What has changed in the state folder.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ReloadQuery {
    /// The DID whose document was just changed. With several agents on one store, its document then counts also if it was
    /// an earlier document of the DID.
    #[param(nullable = false)]
    changed: Option<String>,
}

/// Reads the documents of our DIDs in the state folder again, after a DID was created while the agent runs. All agents on the
/// same store then have them.
#[utoipa::path(
    post,
    path = "/v1/dids/reload",
    operation_id = "reload_dids",
    params(ReloadQuery),
    responses(
        (status = 200, description = "The first page of our DIDs", body = DidPage),
        (status = 400, description = "The query is invalid", body = ApiError),
        (status = 500, description = "A document in the state folder is damaged", body = ApiError),
        (status = 503, description = "The store, which other agents use too, is unavailable", body = ApiError)
    )
)]
pub(super) async fn reload(
    State(context): State<ApiContext>,
    query: Result<Query<ReloadQuery>, QueryRejection>,
) -> Result<Json<DidPage>, ApiError> {
    let Query(ReloadQuery { changed }) = query?;
    context.agent.reload_dids(changed.as_deref()).await.map_err(|error| match error {
        ReloadError::Document(reason) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "bad-document", reason),
        ReloadError::Store(error) => error.into(),
    })?;
    page_of_dids(&context, PageQuery::default()).await.map(Json)
}

/// A DID rotation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateDid {
    /// Our old DID.
    from: String,
    /// Our new DID.
    to: String,
    /// A JWT that proves the rotation, signed by a custodian with the old DID's key (`claviger did rotate`).
    from_prior: String,
    /// For how many days messages to the old DID are still read: at most 3650.
    overlap_days: u32,
}

/// The result of a rotation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RotatedDid {
    /// The DIDs of the peers that are told.
    peers: Vec<String>,
    /// Until when messages to the old DID are read, in milliseconds since 1970.
    until: i64,
}

const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;
const MAX_OVERLAP_DAYS: u32 = 3650;

/// Rotates a DID of ours to another. Peers are told, and messages from the old DID are sent from the new one.
#[utoipa::path(
    post,
    path = "/v1/dids/rotate",
    operation_id = "rotate_did",
    request_body = RotateDid,
    responses(
        (status = 202, description = "The DID has rotated. Messages to the peers are in the outbox", body = RotatedDid),
        (status = 400, description = "The JWT does not prove the rotation, or the DIDs are not ours", body = ApiError),
        (status = 409, description = "No token of the agent has shown the keys of the new DID", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn rotate(
    State(context): State<ApiContext>,
    request: Result<Json<RotateDid>, JsonRejection>,
) -> Result<(StatusCode, Json<RotatedDid>), ApiError> {
    let Json(RotateDid { from, to, from_prior, overlap_days }) = request?;
    if overlap_days > MAX_OVERLAP_DAYS {
        return Err(ApiError::invalid("bad-request", format!("overlap_days is at most {MAX_OVERLAP_DAYS}")));
    }
    let overlap = DAY_MILLIS * i64::from(overlap_days);
    let rotated = context.agent.rotate_did(&from, &to, &from_prior, overlap).await?;
    Ok((StatusCode::ACCEPTED, Json(RotatedDid { peers: rotated.peers, until: rotated.until })))
}

/// A DID to give up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GiveUpDid {
    /// Our DID, which has rotated.
    did: String,
}

/// Gives up a DID that has rotated, once its overlap is over. Its keys no longer open the store, so they may be deleted
/// from their tokens afterwards (`claviger did retire`).
#[utoipa::path(
    post,
    path = "/v1/dids/give-up",
    operation_id = "give_up_did",
    request_body = GiveUpDid,
    responses(
        (status = 204, description = "The agent no longer needs the DID's keys"),
        (status = 400, description = "The DID has not rotated, is still read, or messages for it wait", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 503, description = "No other key is ready to open the store", body = ApiError)
    )
)]
pub(super) async fn give_up(
    State(context): State<ApiContext>,
    request: Result<Json<GiveUpDid>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(GiveUpDid { did }) = request?;
    context.agent.give_up_did(&did).await?;
    Ok(StatusCode::NO_CONTENT)
}
