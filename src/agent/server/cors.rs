//! Cross-origin requests (Fetch Standard, "CORS protocol"): a wallet in a browser may send messages to this server and
//! read every answer, whatever its origin is.
//!
//! This is safe because no answer depends on what only a browser has: the server reads no cookie and no credential, and
//! does not ask for a client certificate. So a page of any origin learns what its own server could ask for too. A
//! browser refuses an answer for any origin if the request has credentials, and this server never allows those
//! (`Access-Control-Allow-Credentials`).

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

/// How long a browser may remember the answer to a preflight, in seconds: a day. Browsers have lower limits of their own.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// Answers OPTIONS: a browser's question whether a request from another origin may be sent. The media type of a message
/// is not one that a page may send unasked, so each message from a page has this question before it.
pub async fn preflight() -> Response {
    let headers = [
        (header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, OPTIONS")),
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST")),
        // No header of a request gives rights here. Browsers that do not know the wildcard know the first name.
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type, *")),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Lets pages of any origin read a response, with its `Retry-After`.
pub async fn allow_any_origin(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    if headers.contains_key(header::RETRY_AFTER) {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }
    response
}
