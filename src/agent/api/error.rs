//! Error responses of the API.

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::agent::{error::AgentError, label::InvalidLabel, store::StoreError};

/// An error: a code for programs, and a message for people. Errors of the command line have the same form.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    error: ErrorBody,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// The error code, in kebab case. docs/api.md lists the codes.
    code: &'static str,
    /// What is wrong.
    message: String,
}

impl ApiError {
    /// An error with this HTTP status and code.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, error: ErrorBody { code, message: message.into() } }
    }

    /// The request is invalid: status 400.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// A message of a batch does not have the right form: status 422, as for a request with this message alone.
    pub(super) fn malformed(error: serde_json::Error) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-request", without_quoted_string(error.to_string()))
    }

    pub(super) fn into_parts(self) -> (StatusCode, ErrorBody) {
        (self.status, self.error)
    }

    /// The requested object does not exist: status 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status;
        let json = Json(self);
        match status {
            StatusCode::SERVICE_UNAVAILABLE => (status, [(header::RETRY_AFTER, "5")], json).into_response(),
            StatusCode::UNAUTHORIZED => (status, [(header::WWW_AUTHENTICATE, "Bearer")], json).into_response(),
            _ => (status, json).into_response(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Full(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "store-full", message),
            StoreError::UnknownCursor(_) => Self::new(StatusCode::CONFLICT, "cursor-unknown", message),
            StoreError::Unavailable(_) | StoreError::Closed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", message)
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store-unusable", message),
        }
    }
}

impl From<InvalidLabel> for ApiError {
    fn from(error: InvalidLabel) -> Self {
        Self::invalid("bad-label", error.to_string())
    }
}

impl From<AgentError> for ApiError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Store(error) => error.into(),
            AgentError::IdTaken(_) => Self::new(StatusCode::CONFLICT, "id-taken", error.to_string()),
            AgentError::NotWaiting(_) => Self::new(StatusCode::CONFLICT, "not-waiting", error.to_string()),
            AgentError::NoEndpoint(message) => Self::invalid("no-endpoint", message),
            AgentError::KeysNotShown { .. } => Self::new(StatusCode::CONFLICT, "token-not-served", error.to_string()),
            AgentError::NoDid => Self::invalid("no-did", error.to_string()),
            AgentError::ConnectionEnded { .. } => {
                Self::new(StatusCode::CONFLICT, "connection-ended", error.to_string())
            }
            AgentError::Blocked(_) => Self::new(StatusCode::CONFLICT, "peer-blocked", error.to_string()),
            AgentError::LabelTaken { .. } => Self::new(StatusCode::CONFLICT, "label-taken", error.to_string()),
            AgentError::NoConnection { .. } => Self::not_found(error.to_string()),
            AgentError::Invalid(message) => Self::invalid("bad-message", message),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(error: JsonRejection) -> Self {
        Self::new(error.status(), "bad-request", without_quoted_string(error.body_text()))
    }
}

/// Removes the string that serde quotes in its error if it expected another type. The string may be the content of a
/// message, which must not get into the logs of an application.
fn without_quoted_string(text: String) -> String {
    let around =
        text.split_once("string \"").and_then(|(before, rest)| Some((before, rest.rsplit_once("\", expected")?.1)));
    around.map_or_else(|| text.clone(), |(before, after)| format!("{before}a string, expected{after}"))
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self::new(error.status(), "bad-request", error.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(error: PathRejection) -> Self {
        Self::new(error.status(), "bad-request", error.body_text())
    }
}

/// Answers a request for an unknown path.
pub(super) async fn unknown_path() -> ApiError {
    ApiError::not_found("there is no such path: see /openapi.json")
}

/// Answers a request whose method the path does not have.
pub(super) async fn wrong_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "bad-request",
        "this path does not have this method: see /openapi.json",
    )
}
