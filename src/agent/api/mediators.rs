//! Mediators: used, shown, left.

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, Shared};
use crate::agent::{MediationError, Mediator, Reach};

/// A mediator that takes messages for us.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Mediator)]
pub(super) struct Shown {
    /// Its DID.
    did: String,
    /// Our DID that it knows.
    ours: String,
    /// The version of coordinate-mediation that it speaks.
    coordinate_mediation: String,
    /// The version of the protocol by which messages are fetched: 3.0 is messagepickup, 4.0 message-pickup.
    message_pickup: String,
    /// The DIDs that the service of a DID of ours names, as its URI, so that messages come to this mediator.
    routing_dids: Vec<String>,
    /// Since when, in milliseconds since 1970.
    since: i64,
    /// Our DIDs for which it takes messages; of a did:peer:4 both forms.
    registered: Vec<String>,
    /// Our DIDs that name it, and for which it does not do so yet.
    missing: Vec<String>,
    /// `live` (messages come at once), `polling` (they are asked for), `connecting`, or `away`.
    state: String,
    /// Why it is away.
    problem: Option<String>,
}

/// A mediator that is to be used.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Use {
    /// Its DID.
    did: String,
    /// Our DID that it is to know.
    from: String,
}

/// A mediator that is left.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Leave {
    /// Its DID.
    did: String,
    /// Whether it is forgotten also if it cannot be told.
    #[serde(default)]
    force: bool,
}

impl Shown {
    fn new(mediator: Mediator, reach: Reach, missing: Vec<String>) -> Self {
        let version = |version: serde_json::Value| version.as_str().unwrap_or_default().to_owned();
        let (state, problem) = match reach {
            Reach::Connecting => ("connecting", None),
            Reach::Live => ("live", None),
            Reach::Polling => ("polling", None),
            Reach::Away(why) => ("away", Some(why)),
        };
        Self {
            did: mediator.did,
            ours: mediator.ours,
            coordinate_mediation: version(serde_json::json!(mediator.coordination)),
            message_pickup: version(serde_json::json!(mediator.pickup)),
            routing_dids: mediator.routing,
            since: mediator.since,
            registered: mediator.registered,
            missing,
            state: state.to_owned(),
            problem,
        }
    }
}

/// The mediators that take messages for this agent, and how it stands with each.
#[utoipa::path(
    get,
    path = "/v1/mediators",
    operation_id = "mediators",
    responses(
        (status = 200, description = "Mediators", body = Vec<Shown>),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<Shown>>, ApiError> {
    let all = shared.agent.mediation().mediators().await?;
    Ok(Json(all.into_iter().map(|(mediator, reach, missing)| Shown::new(mediator, reach, missing)).collect()))
}

/// Asks a mediator to take messages for this agent, and waits for its answer. Those DIDs of ours whose service names one of its
/// routing DIDs are told it from then on.
#[utoipa::path(
    post,
    path = "/v1/mediators",
    operation_id = "use_mediator",
    request_body = Use,
    responses(
        (status = 201, description = "It does", body = Shown),
        (status = 400, description = "It cannot be asked for", body = ApiError),
        (status = 409, description = "It does not want to", body = ApiError),
        (status = 413, description = "It is too large", body = ApiError),
        (status = 415, description = "It is not JSON by its media type", body = ApiError),
        (status = 422, description = "It is not of this form", body = ApiError),
        (status = 502, description = "It is no mediator, or does not keep to its protocols", body = ApiError),
        (status = 503, description = "It is not reached, or no token is ready", body = ApiError)
    )
)]
pub(super) async fn adopt(
    State(shared): State<Shared>,
    asked: Result<Json<Use>, JsonRejection>,
) -> Result<(StatusCode, Json<Shown>), ApiError> {
    let Json(asked) = asked?;
    let mediator = shared.agent.mediation().adopt(&asked.did, &asked.from).await?;
    Ok((StatusCode::CREATED, Json(Shown::new(mediator, Reach::Connecting, Vec::new()))))
}

/// Leaves a mediator: what waits there is fetched, and it takes no more.
#[utoipa::path(
    post,
    path = "/v1/mediators/leave",
    operation_id = "leave_mediator",
    request_body = Leave,
    responses(
        (status = 200, description = "It was this one", body = Shown),
        (status = 400, description = "The request is wrong", body = ApiError),
        (status = 404, description = "No such mediator is used", body = ApiError),
        (status = 409, description = "It does not want to be left", body = ApiError),
        (status = 413, description = "It is too large", body = ApiError),
        (status = 415, description = "It is not JSON by its media type", body = ApiError),
        (status = 422, description = "It is not of this form", body = ApiError),
        (status = 502, description = "It does not keep to its protocols", body = ApiError),
        (status = 503, description = "It is not reached, or no token is ready", body = ApiError)
    )
)]
pub(super) async fn leave(
    State(shared): State<Shared>,
    asked: Result<Json<Leave>, JsonRejection>,
) -> Result<Json<Shown>, ApiError> {
    let Json(asked) = asked?;
    let mediator = shared.agent.mediation().leave(&asked.did, asked.force).await?;
    Ok(Json(Shown::new(mediator, Reach::Connecting, Vec::new())))
}

impl From<MediationError> for ApiError {
    fn from(error: MediationError) -> Self {
        let said = error.to_string();
        match error {
            MediationError::Wrong(_) => Self::bad("bad-message", said),
            MediationError::Unknown(_) => Self::not_found(said),
            MediationError::Denied(_) => Self::new(StatusCode::CONFLICT, "mediator-denied", said),
            MediationError::Unusable(_) | MediationError::TooLarge(_) => {
                Self::new(StatusCode::BAD_GATEWAY, "mediator-unusable", said)
            }
            MediationError::Away(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "mediator-away", said),
            MediationError::Token(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "token-away", said),
            MediationError::Store(error) => error.into(),
        }
    }
}
