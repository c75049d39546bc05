//! Responses of servers.

use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    Response,
    body::{Body, Bytes, Incoming},
    header::{self, HeaderMap},
};
use tokio::time::{Instant, timeout_at};

use super::{error::NetError, request_limits::RequestLimits, target::Target};

/// The longest `Retry-After` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A response. Whether the server accepted the request depends on the status only; the body may have failed.
#[derive(Debug)]
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`, with its parameters.
    pub content_type: Option<String>,
    /// How long the server asks us to wait, from `Retry-After`; at most a day.
    pub retry_after: Option<Duration>,
    /// The `Location`, as sent.
    pub location: Option<String>,
    /// The body, or why it was not read: it is too large, too slow, or incomplete.
    pub body: Result<Bytes, NetError>,
}

/// The head of a response whose body is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// The HTTP status.
    pub status: u16,
    /// How long the server asks us to wait, from `Retry-After`; at most a day.
    pub retry_after: Option<Duration>,
}

impl ResponseHead {
    pub(super) fn read<B>(response: &Response<B>) -> Self {
        Self { status: response.status().as_u16(), retry_after: retry_after(response.headers(), SystemTime::now()) }
    }
}

impl HttpResponse {
    /// Whether the status is 2xx: the server accepted the request.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Reads a response within the limits.
    pub(super) async fn read(
        response: Response<Incoming>,
        target: &Target,
        limits: RequestLimits,
        deadline: Instant,
    ) -> Self {
        let headers = response.headers();
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (status, retry_after) = (response.status().as_u16(), retry_after(headers, SystemTime::now()));
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = timeout_at(deadline, body(response, target.host(), limits.max_response_bytes)).await;
        let body = body.unwrap_or_else(|_| Err(NetError::timeout(target.host(), limits.timeout)));
        Self { status, content_type, retry_after, location, body }
    }
}

async fn body(response: Response<Incoming>, host: &str, limit: usize) -> Result<Bytes, NetError> {
    let too_large = || NetError::TooLarge { host: host.to_owned(), limit };
    // The announced length is checked before anything is read.
    if response.body().size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match Limited::new(response.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(NetError::broken_by(host, &*error)),
    }
}

/// Parses `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_headers() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("999999999999", Some(24 * 60 * 60)),
            ("99999999999999999999999", None),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
