//! The HTTP client: POST for DIDComm messages and the webhook, GET for DID documents and short invitation URLs.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{self, HeaderMap, HeaderName},
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::{
    dial::{Connection, Dialer, Reached},
    error::NetError,
    guard::AddressGuard,
    http_response::{HttpResponse, ResponseHead},
    request_limits::RequestLimits,
    target::Target,
    tls::{TlsError, client_config},
};

/// The `User-Agent` of every request.
pub(super) const USER_AGENT: &str = concat!("claviger/", env!("CARGO_PKG_VERSION"));
/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// The most idle connections to one host: as many as the outbox uses at once by default. With fewer, a host of many peers
/// gets a new connection for most messages. And how long an idle connection is kept.
const MAX_IDLE_PER_HOST: usize = 128;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes and headers in the head of a response.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;

/// An HTTP/1.1 client. Clones share its connections.
///
/// The client sends the given body and headers and its `User-Agent`, and no cookies, credentials or `Referer`. It
/// requests no compression, and decompresses nothing.
#[derive(Clone)]
pub struct HttpClient {
    any_address: Client<DialService, Full<Bytes>>,
    /// Connects to the addresses of `allow_private` only.
    private_only: Client<DialService, Full<Bytes>>,
    dialer: Dialer,
    options: HttpOptions,
}

/// The operator's settings for HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpOptions {
    /// Whether URLs without TLS are refused.
    pub refuse_plain_http: bool,
    /// Hosts, such as `localhost` or `localhost:8080`, whose did:web documents are requested without TLS. The did:web
    /// method forbids that, so set it only for trials on one machine. The host must have an address in `allow_private`.
    pub did_web_plain_http_for: Vec<String>,
}

impl HttpClient {
    /// A client for DID documents on public servers: HTTPS with the system's root certificates, and no private address.
    ///
    /// The client is a [`Fetch`](crate::did::Fetch) for [`WebResolver`](crate::did::WebResolver) and
    /// [`WebvhResolver`](crate::did::WebvhResolver). A request takes 10 seconds at most, follows no redirect, and reads
    /// no more than the resolver allows. It needs a Tokio runtime. Each client reads the root certificates once and has
    /// its own connections, so clone a client instead of making several.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn for_public_servers() -> Result<Self, TlsError> {
        Ok(Self::new(Dialer::new(AddressGuard::default(), client_config(None)?), HttpOptions::default()))
    }

    /// Makes a client whose connections are made by `dialer`.
    pub fn new(dialer: Dialer, options: HttpOptions) -> Self {
        let private_only = client(dialer.allow_private_only());
        Self { private_only, any_address: client(dialer.clone()), dialer, options }
    }

    /// Connects to the server of a URL within `limit`, before there is something to send. The next POST to the server
    /// uses the connection.
    ///
    /// # Errors
    /// [`NetError`] if the URL is not requested, or the server does not accept the connection.
    pub async fn reach(&self, url: &str, limit: Duration) -> Result<Reached, NetError> {
        let target = Target::http(url)?;
        if !target.is_secure() && self.options.refuse_plain_http {
            return Err(refused_plain(&target));
        }
        self.dialer.reach(&target, limit).await
    }

    /// Sends a POST (DIDComm v2.1 "HTTPS"). Returns the response, whatever its status.
    ///
    /// A redirect with status 307 is followed, at most five times and never from `https` to `http`. No other redirect
    /// is followed, as the specification demands. The guard checks each hop.
    ///
    /// # Errors
    /// [`NetError`] if the request is not sent, or gets no response. A response with an error status is no error.
    pub async fn post(
        &self,
        url: &str,
        media_type: &str,
        body: Bytes,
        limits: RequestLimits,
    ) -> Result<HttpResponse, NetError> {
        let deadline = Instant::now() + limits.timeout;
        let mut target = Target::http(url)?;
        for _ in 0..=MAX_REDIRECTS {
            if !target.is_secure() && self.options.refuse_plain_http {
                return Err(refused_plain(&target));
            }
            let request = request(Method::POST, &target, header::CONTENT_TYPE, media_type, body.clone())?;
            let response = send(&self.any_address, request, &target, limits, deadline).await?;
            if response.status() != StatusCode::TEMPORARY_REDIRECT {
                return Ok(HttpResponse::read(response, &target, limits, deadline).await);
            }
            target = redirect(&target, response.headers())?;
        }
        Err(NetError::Redirect { host: target.host().to_owned(), reason: "there were five redirects before" })
    }

    /// Sends a GET, over `https` except for the hosts of [`HttpOptions::did_web_plain_http_for`].
    ///
    /// No redirect is followed. The response counts as the statement of the host in the URL (a did:web *is* its host),
    /// and many hosts can be made to redirect to another host.
    ///
    /// # Errors
    /// [`NetError`] if the request is not sent, or gets no response. A response with an error status is no error.
    pub async fn get(&self, url: &str, accept: &str, limits: RequestLimits) -> Result<HttpResponse, NetError> {
        let deadline = Instant::now() + limits.timeout;
        let target = Target::http(url)?;
        let client = match target.is_secure() {
            true => &self.any_address,
            false if self.allows_plain_http(&target) => &self.private_only,
            false => return Err(refused_plain(&target)),
        };
        let request = request(Method::GET, &target, header::ACCEPT, accept, Bytes::new())?;
        let response = send(client, request, &target, limits, deadline).await?;
        Ok(HttpResponse::read(response, &target, limits, deadline).await)
    }

    /// Sends a GET, also without TLS unless [`HttpOptions::refuse_plain_http`] is set. Use it only for content that is
    /// trusted no more than the source of the URL, such as an invitation that a person has pasted. No redirect is
    /// followed.
    ///
    /// # Errors
    /// [`NetError`] if the request is not sent, or gets no response. A response with an error status is no error.
    pub async fn get_untrusted(
        &self,
        url: &str,
        accept: &str,
        limits: RequestLimits,
    ) -> Result<HttpResponse, NetError> {
        let deadline = Instant::now() + limits.timeout;
        let target = Target::http(url)?;
        if !target.is_secure() && self.options.refuse_plain_http {
            return Err(refused_plain(&target));
        }
        let request = request(Method::GET, &target, header::ACCEPT, accept, Bytes::new())?;
        let response = send(&self.any_address, request, &target, limits, deadline).await?;
        Ok(HttpResponse::read(response, &target, limits, deadline).await)
    }

    /// Sends a POST with these headers to a server of the operator. Returns the head of the response. No redirect is
    /// followed: the content is for the server that the operator named.
    ///
    /// # Errors
    /// [`NetError`] if the request is not sent, or gets no response. A response with an error status is no error.
    pub async fn post_without_redirects(
        &self,
        url: &str,
        media_type: &'static str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<ResponseHead, NetError> {
        let limits = RequestLimits::default();
        let target = Target::http(url)?;
        let mut request = request(Method::POST, &target, header::CONTENT_TYPE, media_type, body)?;
        for &(name, value) in headers {
            let value = value
                .parse()
                .map_err(|_| NetError::Url { url: target.to_string(), reason: "a header has an invalid value" })?;
            request.headers_mut().insert(name, value);
        }
        let response = send(&self.any_address, request, &target, limits, Instant::now() + limits.timeout).await?;
        Ok(ResponseHead::read(&response))
    }

    /// Whether a did:web document of this host is requested without TLS.
    pub(super) fn allows_plain_http(&self, target: &Target) -> bool {
        let authority = target.uri().authority().map_or("", |authority| authority.as_str());
        self.options.did_web_plain_http_for.iter().any(|host| host == target.host() || host == authority)
    }
}

fn client(dialer: Dialer) -> Client<DialService, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
        .http1_max_buf_size(MAX_HEAD_BYTES)
        .http1_max_headers(MAX_HEADERS)
        .build(DialService(dialer))
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
    request.map_err(|_| NetError::Url { url: target.to_string(), reason: "a header has an invalid value" })
}

async fn send(
    client: &Client<DialService, Full<Bytes>>,
    request: Request<Full<Bytes>>,
    target: &Target,
    limits: RequestLimits,
    deadline: Instant,
) -> Result<Response<Incoming>, NetError> {
    match timeout_at(deadline, client.request(request)).await {
        Err(_) => Err(NetError::timeout(target.host(), limits.timeout)),
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(NetError::find_in(&error).unwrap_or_else(|| NetError::broken_by(target.host(), &error))),
    }
}

fn redirect(from: &Target, headers: &HeaderMap) -> Result<Target, NetError> {
    let invalid = |reason| NetError::Redirect { host: from.host().to_owned(), reason };
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    let to = from.join(location.ok_or_else(|| invalid("it has no location"))?)?;
    // A message for a TLS endpoint must not be sent in clear text.
    if from.is_secure() && !to.is_secure() {
        return Err(invalid("it leads from TLS to plain HTTP"));
    }
    Ok(to)
}

fn refused_plain(target: &Target) -> NetError {
    NetError::Url { url: target.to_string(), reason: "it is without TLS" }
}

/// The dialer in the form that hyper's connection pool needs.
#[derive(Clone)]
struct DialService(Dialer);

impl Service<Uri> for DialService {
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
