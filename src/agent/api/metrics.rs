//! The request that reads the metrics, for an application that shows them to a person.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::context::ApiContext;

/// The media type of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics, as at `/metrics` of `[ops]`.
#[utoipa::path(
    get,
    path = "/v1/metrics",
    operation_id = "metrics",
    responses(
        (status = 200, description = "The metrics in the text format of OpenMetrics 1.0", body = String, content_type = "application/openmetrics-text")
    )
)]
pub(super) async fn metrics(State(context): State<ApiContext>) -> Response {
    ([(header::CONTENT_TYPE, OPENMETRICS)], context.agent.metrics().await).into_response()
}
