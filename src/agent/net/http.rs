//! HTTP as a client: DIDComm's POST, and the GET of `did:web` and of short invitations.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body, Bytes, Incoming},
    header::{self, HeaderMap, HeaderName},
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::{Connection, Dialer, NetError, Target};

/// What a server is told of us.
pub(super) const USER_AGENT: &str = concat!("claviger/", env!("CARGO_PKG_VERSION"));
/// How many redirects are followed.
const REDIRECTS: usize = 5;
/// How many connections with one host wait for the next request, and how long.
const IDLE_PER_HOST: usize = 4;
const IDLE: Duration = Duration::from_secs(30);
/// The most that the head of an answer may have.
const HEAD_BYTES: usize = 64 * 1024;
const HEADERS: usize = 100;
/// The longest that a server may put us off.
const LONGEST_RETRY: Duration = Duration::from_secs(24 * 60 * 60);

/// Asks servers by HTTP/1.1. A clone shares its connections.
///
/// It sends what it is given, its own name, and nothing else: no cookie, no credential, no Referer. An answer is not
/// decompressed, since none is asked for in that form.
#[derive(Clone)]
pub struct HttpClient {
    outside: Client<Dial, Full<Bytes>>,
    opened: Client<Dial, Full<Bytes>>,
    options: HttpOptions,
}

/// What an operator decides of HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpOptions {
    /// Whether endpoints without TLS are refused.
    pub refuse_plain_http: bool,
    /// Hosts, as `localhost` or `localhost:8080`, that are asked for a `did:web` without TLS, which the method forbids: for
    /// trials on one machine. They have to have an address that `allow_private` opens.
    pub did_web_plain_http_for: Vec<String>,
}

/// What one request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The time for all of it, with redirects and the answer: 30 seconds.
    pub within: Duration,
    /// The longest body of an answer: 1 MB.
    pub answer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { within: Duration::from_secs(30), answer: 1_000_000 }
    }
}

/// What a server said. Its head alone tells whether it took what was sent.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The media type, with its parameters.
    pub content_type: Option<String>,
    /// How long it wants to be left alone, from `Retry-After`; at most a day.
    pub retry_after: Option<Duration>,
    /// Where it redirects to, as it says it.
    pub location: Option<String>,
    /// The body, or why it was not read: it is too large, too slow, or broke off.
    pub body: Result<Bytes, NetError>,
}

impl HttpClient {
    /// One that dials by `dialer`.
    pub fn new(dialer: Dialer, options: HttpOptions) -> Self {
        Self { opened: client(dialer.opened_only()), outside: client(dialer), options }
    }

    /// Posts a body, as DIDComm does with a message (v2.1 "HTTPS"), and returns the answer whatever its status.
    ///
    /// A redirect by 307 is followed, five times at most and never from `https` to `http`; no other is, as the
    /// specification says. The guard judges each hop.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(&self, url: &str, media_type: &str, body: Bytes, limits: Limits) -> Result<Answer, NetError> {
        let deadline = Instant::now() + limits.within;
        let mut target = Target::http(url)?;
        for _ in 0..=REDIRECTS {
            if !target.is_secure() && self.options.refuse_plain_http {
                return Err(refused_plain(&target));
            }
            let request = request(Method::POST, &target, header::CONTENT_TYPE, media_type, body.clone())?;
            let response = send(&self.outside, request, &target, limits, deadline).await?;
            if response.status() != StatusCode::TEMPORARY_REDIRECT {
                return Ok(Answer::read(response, &target, limits, deadline).await);
            }
            target = redirect(&target, response.headers())?;
        }
        Err(NetError::Redirect { host: target.host().to_owned(), why: "there were five before it" })
    }

    /// Gets what is at a URL, by `https` but for the hosts of [`HttpOptions::did_web_plain_http_for`].
    ///
    /// No redirect is followed: who answers at this host speaks for it (a `did:web` *is* its host), and one that can be
    /// made to redirect, as many can, would let others speak.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn get(&self, url: &str, accept: &str, limits: Limits) -> Result<Answer, NetError> {
        let deadline = Instant::now() + limits.within;
        let target = Target::http(url)?;
        let client = match target.is_secure() {
            true => &self.outside,
            false if self.is_plain(&target) => &self.opened,
            false => return Err(refused_plain(&target)),
        };
        let request = request(Method::GET, &target, header::ACCEPT, accept, Bytes::new())?;
        let response = send(client, request, &target, limits, deadline).await?;
        Ok(Answer::read(response, &target, limits, deadline).await)
    }

    /// The same also without TLS, where the operator has not refused that: for what is trusted no more than its bearer, as an
    /// invitation that somebody has pasted.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn get_untrusted(&self, url: &str, accept: &str, limits: Limits) -> Result<Answer, NetError> {
        let deadline = Instant::now() + limits.within;
        let target = Target::http(url)?;
        if !target.is_secure() && self.options.refuse_plain_http {
            return Err(refused_plain(&target));
        }
        let request = request(Method::GET, &target, header::ACCEPT, accept, Bytes::new())?;
        let response = send(&self.outside, request, &target, limits, deadline).await?;
        Ok(Answer::read(response, &target, limits, deadline).await)
    }

    /// What a server of the operator's says to content of this kind that is POSTed to it, with these headers. No redirect is
    /// followed: the operator has named whom the content is for.
    ///
    /// # Errors
    /// If it is not reached, or may not be.
    pub async fn post_to_own(
        &self,
        url: &str,
        kind: &'static str,
        headers: &[(&'static str, &str)],
        content: Bytes,
    ) -> Result<StatusCode, NetError> {
        let limits = Limits::default();
        let target = Target::http(url)?;
        let mut request = request(Method::POST, &target, header::CONTENT_TYPE, kind, content)?;
        for &(name, value) in headers {
            let value =
                value.parse().map_err(|_| NetError::Url { url: target.to_string(), why: "a header cannot be sent" })?;
            request.headers_mut().insert(name, value);
        }
        let response = send(&self.outside, request, &target, limits, Instant::now() + limits.within).await?;
        Ok(response.status())
    }

    /// Whether a `did:web` at this host is asked without TLS.
    pub(super) fn is_plain(&self, target: &Target) -> bool {
        let authority = target.uri().authority().map_or("", |authority| authority.as_str());
        self.options.did_web_plain_http_for.iter().any(|host| host == target.host() || host == authority)
    }
}

impl Answer {
    /// Whether the server took what was sent (2xx).
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    async fn read(response: Response<Incoming>, target: &Target, limits: Limits, deadline: Instant) -> Self {
        let headers = response.headers();
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (status, retry_after) = (response.status().as_u16(), retry_after(headers, SystemTime::now()));
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = timeout_at(deadline, body(response, target.host(), limits.answer)).await;
        let body = body.unwrap_or_else(|_| Err(NetError::timeout(target.host(), limits.within)));
        Self { status, content_type, retry_after, location, body }
    }
}

fn client(dialer: Dialer) -> Client<Dial, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .http1_max_buf_size(HEAD_BYTES)
        .http1_max_headers(HEADERS)
        .build(Dial(dialer))
}

fn request(
    method: Method,
    target: &Target,
    name: HeaderName,
    value: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, NetError> {
    let request = Request::builder().method(method).uri(target.uri()).header(name, value);
    let request = request.header(header::USER_AGENT, USER_AGENT).body(Full::new(body));
    request.map_err(|_| NetError::Url { url: target.to_string(), why: "a header for it cannot be sent" })
}

async fn send(
    client: &Client<Dial, Full<Bytes>>,
    request: Request<Full<Bytes>>,
    target: &Target,
    limits: Limits,
    deadline: Instant,
) -> Result<Response<Incoming>, NetError> {
    match timeout_at(deadline, client.request(request)).await {
        Err(_) => Err(NetError::timeout(target.host(), limits.within)),
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(NetError::within(&error).unwrap_or_else(|| broken(target.host(), &error))),
    }
}

async fn body(response: Response<Incoming>, host: &str, limit: usize) -> Result<Bytes, NetError> {
    let too_large = || NetError::TooLarge { host: host.to_owned(), limit };
    // By its own word, so that nothing of it need be read.
    if response.body().size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match Limited::new(response.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(broken(host, &*error)),
    }
}

fn redirect(from: &Target, headers: &HeaderMap) -> Result<Target, NetError> {
    let wrong = |why| NetError::Redirect { host: from.host().to_owned(), why };
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    let to = from.join(location.ok_or_else(|| wrong("it leads nowhere"))?)?;
    // What was to be secured is not sent in the clear.
    if from.is_secure() && !to.is_secure() {
        return Err(wrong("it leaves TLS"));
    }
    Ok(to)
}

/// RFC 9110 section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(LONGEST_RETRY))
}

fn refused_plain(target: &Target) -> NetError {
    NetError::Url { url: target.to_string(), why: "it is without TLS" }
}

/// An error of hyper with all that it says: each tells no more than its own part.
fn broken(host: &str, error: &(dyn Error + 'static)) -> NetError {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        said = format!("{said}: {error}");
        next = error.source();
    }
    NetError::broken(host, said)
}

/// The dialer as hyper's pool wants it.
#[derive(Clone)]
struct Dial(Dialer);

impl Service<Uri> for Dial {
    type Response = TokioIo<Connection>;
    type Error = NetError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NetError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.0.clone();
        Box::pin(async move { dialer.dial(&Target::http(&uri.to_string())?).await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_server_puts_us_off() {
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
