//! What an application is told when it does not get what it asked for.

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::agent::{NotSent, store::StoreError};

/// An error, as everywhere in this program: a code for programs, a message for people.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    error: Said,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
struct Said {
    /// In kebab case; documented.
    code: &'static str,
    /// What was wrong, and with what.
    message: String,
}

impl ApiError {
    /// One with this status and code.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, error: Said { code, message: message.into() } }
    }

    /// What the caller sent is wrong.
    pub fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// There is no such thing.
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
            _ => (status, json).into_response(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let said = error.to_string();
        match error {
            StoreError::Full(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "store-full", said),
            StoreError::Unavailable(_) | StoreError::Closed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", said)
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store-unusable", said),
        }
    }
}

impl From<NotSent> for ApiError {
    fn from(error: NotSent) -> Self {
        match error {
            NotSent::Store(error) => error.into(),
            NotSent::Message(said) => Self::bad("bad-message", said),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(error: JsonRejection) -> Self {
        Self::new(error.status(), "bad-request", without_the_text(error.body_text()))
    }
}

/// serde quotes a text of the wrong kind. That may be a message, and who logs errors does not expect one there.
fn without_the_text(said: String) -> String {
    let around =
        said.split_once("string \"").and_then(|(before, rest)| Some((before, rest.rsplit_once("\", expected")?.1)));
    around.map_or_else(|| said.clone(), |(before, after)| format!("{before}a string, expected{after}"))
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

pub(super) async fn nothing_here() -> ApiError {
    ApiError::not_found("there is nothing here: /openapi.json says what there is")
}

pub(super) async fn not_so() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "bad-request", "this cannot be done with it: see /openapi.json")
}
