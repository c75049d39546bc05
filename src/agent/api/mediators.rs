//! Requests that add, list and remove mediators.

use axum::{
    Json,
    extract::{
        Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    context::ApiContext,
    error::ApiError,
    page::{self, PageQuery},
};
use crate::agent::mediation::{MediationError, Mediator, MediatorState, MediatorStatus};

/// A mediator that receives messages for this agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Mediator)]
pub(super) struct MediatorView {
    /// The mediator's DID.
    did: String,
    /// Our DID in the relationship with the mediator.
    ours: String,
    /// The version of coordinate-mediation.
    coordinate_mediation: String,
    /// The version of the pickup protocol: 3.0 is messagepickup, 4.0 is message-pickup.
    message_pickup: String,
    /// The routing DIDs. A DID of ours names one as the URI of its service, so that messages go to this mediator.
    routing_dids: Vec<String>,
    /// When the mediator granted mediation, in milliseconds since 1970.
    since: i64,
    /// Our DIDs for which the mediator receives messages. Of a did:peer:4 both forms.
    registered: Vec<String>,
    /// Our DIDs that name the mediator, and that it is not registered for yet.
    missing: Vec<String>,
    /// `live` (messages are delivered at once), `polling` (the agent asks for them), `connecting`, `away`, or `other-node`:
    /// another node of the store leads, and talks to the mediator.
    state: String,
    /// Why the mediator is away, or what it lacks.
    problem: Option<String>,
}

/// A page of the mediators.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Mediators)]
pub(super) struct MediatorPage {
    /// The mediators.
    mediators: Vec<MediatorView>,
    /// `after` of the next page.
    cursor: String,
}

/// A mediator to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddMediator {
    /// The mediator's DID.
    did: String,
    /// Our DID in the relationship with the mediator.
    from: String,
}

/// A mediator to remove.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveMediator {
    /// The mediator's DID.
    did: String,
    /// Whether to remove the mediator even if it cannot be told.
    #[serde(default)]
    force: bool,
}

impl From<MediatorStatus> for MediatorView {
    fn from(MediatorStatus { mediator, state, problem, unregistered }: MediatorStatus) -> Self {
        let version = |version: serde_json::Value| version.as_str().unwrap_or_default().to_owned();
        let (state, problem) = match state {
            MediatorState::Connecting => ("connecting", problem),
            MediatorState::Live => ("live", problem),
            MediatorState::Polling => ("polling", problem),
            MediatorState::Unreachable(reason) => ("away", Some(reason)),
            MediatorState::OtherNode => ("other-node", problem),
        };
        Self {
            did: mediator.did,
            ours: mediator.own_did,
            coordinate_mediation: version(serde_json::json!(mediator.coordination)),
            message_pickup: version(serde_json::json!(mediator.pickup)),
            routing_dids: mediator.routing_dids,
            since: mediator.since,
            registered: mediator.registered,
            missing: unregistered,
            state: state.to_owned(),
            problem,
        }
    }
}

/// A mediator that was just added or removed has no conversation. Its state is reported as `connecting`.
impl From<Mediator> for MediatorView {
    fn from(mediator: Mediator) -> Self {
        let state = MediatorState::Connecting;
        MediatorStatus { mediator, state, problem: None, unregistered: Vec::new() }.into()
    }
}

/// The mediators that receive messages for this agent, each with its state.
#[utoipa::path(
    get,
    path = "/v1/mediators",
    operation_id = "mediators",
    params(PageQuery),
    responses(
        (status = 200, description = "Mediators", body = MediatorPage),
        (status = 400, description = "The query is invalid", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn list(
    State(context): State<ApiContext>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<MediatorPage>, ApiError> {
    let Query(query) = query?;
    let all = context.agent.mediation().list().await?;
    let found = page::of_list(all, |status| &status.mediator.did, &query.after, page::limit(query.limit)?)?;
    let cursor = found.last().map_or(query.after, |status| status.mediator.did.clone());
    Ok(Json(MediatorPage { mediators: found.into_iter().map(MediatorView::from).collect(), cursor }))
}

/// Asks a mediator to receive messages for this agent, and waits for its answer. Afterwards the agent registers each
/// DID of ours whose service names a routing DID of the mediator.
#[utoipa::path(
    post,
    path = "/v1/mediators",
    operation_id = "use_mediator",
    request_body = AddMediator,
    responses(
        (status = 201, description = "The mediator receives messages for this agent", body = MediatorView),
        (status = 400, description = "The request is invalid", body = ApiError),
        (status = 409, description = "The mediator refuses", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 502, description = "The DID is no mediator's, or the mediator violates its protocols", body = ApiError),
        (status = 503, description = "The mediator cannot be reached, or no token is ready", body = ApiError)
    )
)]
pub(super) async fn add(
    State(context): State<ApiContext>,
    request: Result<Json<AddMediator>, JsonRejection>,
) -> Result<(StatusCode, Json<MediatorView>), ApiError> {
    let Json(AddMediator { did, from }) = request?;
    let mediator = context.agent.mediation().add(&did, &from).await?;
    Ok((StatusCode::CREATED, Json(mediator.into())))
}

/// Removes a mediator: waiting messages are fetched, and it receives no more.
#[utoipa::path(
    post,
    path = "/v1/mediators/leave",
    operation_id = "leave_mediator",
    request_body = RemoveMediator,
    responses(
        (status = 200, description = "The removed mediator", body = MediatorView),
        (status = 400, description = "The request is invalid", body = ApiError),
        (status = 404, description = "This agent uses no such mediator", body = ApiError),
        (status = 409, description = "The mediator refuses", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 502, description = "The mediator violates its protocols", body = ApiError),
        (status = 503, description = "The mediator cannot be reached, or no token is ready", body = ApiError)
    )
)]
pub(super) async fn remove(
    State(context): State<ApiContext>,
    request: Result<Json<RemoveMediator>, JsonRejection>,
) -> Result<Json<MediatorView>, ApiError> {
    let Json(RemoveMediator { did, force }) = request?;
    let mediator = context.agent.mediation().remove(&did, force).await?;
    Ok(Json(mediator.into()))
}

impl From<MediationError> for ApiError {
    fn from(error: MediationError) -> Self {
        let message = error.to_string();
        match error {
            MediationError::InvalidRequest(_) => Self::invalid("bad-message", message),
            MediationError::Unknown(_) => Self::not_found(message),
            MediationError::Denied(_) => Self::new(StatusCode::CONFLICT, "mediator-denied", message),
            MediationError::Unusable(_) | MediationError::TooLarge(_) => {
                Self::new(StatusCode::BAD_GATEWAY, "mediator-unusable", message)
            }
            MediationError::Unreachable(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "mediator-away", message),
            MediationError::TokenUnavailable(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "token-away", message),
            MediationError::Store(error) => error.into(),
        }
    }
}
