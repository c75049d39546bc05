//! HTTP as a client: messages are POSTed, documents fetched.

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{self, HeaderMap, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};

use super::{Connector, Guard, NetError, Roots};
use crate::{
    agent::{SendError, Transport},
    did::web::{Fetch, Unfetched},
    didcomm::ENCRYPTED,
};

/// How long an answer may take in all.
const WHOLE: Duration = Duration::from_secs(30);
/// Redirects that are followed, at most; only those with status 307 (DIDComm v2.1 "HTTPS").
const REDIRECTS: usize = 5;
/// Connections to one host that are kept for the next request, and how long.
const IDLE: usize = 4;
const IDLE_TIME: Duration = Duration::from_secs(60);
/// What comes back with an answer, at most, in bytes.
const ANSWER: usize = 1_000_000;
/// How long a peer may ask to be left alone.
const LONGEST_RETRY_AFTER: u64 = 3600;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("claviger/", env!("CARGO_PKG_VERSION")));

/// A client that asks only those who may be asked.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
}

impl HttpClient {
    /// One that connects as the guard lets it, and trusts these certificates.
    pub fn new(guard: Guard, roots: &Roots) -> Self {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config((*roots.config()).clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector::new(guard));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE)
            .pool_idle_timeout(IDLE_TIME)
            .build(connector);
        Self { client }
    }

    async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<(StatusCode, HeaderMap, Bytes), NetError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| unanswered(&host, &error))?;
            body(response, &host, limit).await
        };
        tokio::time::timeout(WHOLE, answer).await.map_err(|_| NetError::Late(host.clone()))?
    }

    async fn post(&self, url: &str, packed: &str) -> Result<(StatusCode, HeaderMap, Bytes), NetError> {
        let mut uri = checked(url)?;
        for _ in 0..=REDIRECTS {
            let request = Request::builder()
                .method(Method::POST)
                .uri(uri.clone())
                .header(header::CONTENT_TYPE, ENCRYPTED)
                .header(header::USER_AGENT, AGENT)
                .body(Full::new(Bytes::copy_from_slice(packed.as_bytes())));
            let request = request.map_err(|_| NetError::Url(url.to_owned(), "it is malformed"))?;
            let (status, headers, body) = self.ask(request, ANSWER).await?;
            if status != StatusCode::TEMPORARY_REDIRECT {
                return Ok((status, headers, body));
            }
            let to = headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
            uri = redirected(&uri, to)?;
        }
        Err(NetError::Url(url.to_owned(), "it redirects too often"))
    }

    /// What the server says to JSON that is POSTed with this header. No redirect is followed: the operator has named whom the
    /// content is for.
    pub(in crate::agent) async fn post_json(
        &self,
        url: &str,
        (name, value): (&'static str, &str),
        json: Bytes,
    ) -> Result<StatusCode, NetError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(checked(url)?)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, AGENT)
            .header(name, value)
            .body(Full::new(json));
        let request = request.map_err(|_| NetError::Url(url.to_owned(), "it is malformed"))?;
        Ok(self.ask(request, ANSWER).await?.0)
    }

    /// What a GET brings: the address of a redirect, which is not followed, or the body. None if there is nothing there.
    ///
    /// # Errors
    /// If it is not asked for, or does not come.
    pub async fn get(&self, url: &str, limit: usize) -> Result<Option<Got>, NetError> {
        let uri = checked(url)?;
        let host = uri.host().unwrap_or_default().to_owned();
        let request = Request::builder().uri(uri).header(header::USER_AGENT, AGENT).body(Full::default());
        let request = request.map_err(|_| NetError::Url(url.to_owned(), "it is malformed"))?;
        let (status, headers, body) = self.ask(request, limit).await?;
        match status {
            StatusCode::OK => Ok(Some(Got::Body(body.to_vec()))),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status if status.is_redirection() => {
                let to = headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
                Ok(Some(Got::Elsewhere(to.to_owned())))
            }
            status => Err(NetError::Answer { host, reason: format!("status {status}") }),
        }
    }
}

/// What a GET brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// The body.
    Body(Vec<u8>),
    /// A redirect's address.
    Elsewhere(String),
}

/// A URL of http or https with a host, and without a name and a password, which would be sent to whoever is there.
fn checked(url: &str) -> Result<Uri, NetError> {
    let wrong = |why| NetError::Url(url.chars().take(200).collect(), why);
    let uri: Uri = url.parse().map_err(|_| wrong("it is malformed"))?;
    if !matches!(uri.scheme_str(), Some("https" | "http")) {
        return Err(wrong("its scheme is neither https nor http"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(wrong("it has a user's name in it, or no host"));
    }
    Ok(uri)
}

/// Where a redirect leads: absolute, or a path on the same host. From https it does not lead to http.
fn redirected(from: &Uri, to: &str) -> Result<Uri, NetError> {
    let absolute = match to.starts_with('/') && !to.starts_with("//") {
        true => {
            let scheme = from.scheme_str().unwrap_or("https");
            format!("{scheme}://{}{to}", from.authority().map_or("", |authority| authority.as_str()))
        }
        false => to.to_owned(),
    };
    let uri = checked(&absolute)?;
    if from.scheme_str() == Some("https") && uri.scheme_str() != Some("https") {
        return Err(NetError::Url(absolute, "it is redirected to from https, and is not"));
    }
    Ok(uri)
}

async fn body(
    response: Response<Incoming>,
    host: &str,
    limit: usize,
) -> Result<(StatusCode, HeaderMap, Bytes), NetError> {
    let (parts, body) = response.into_parts();
    let collected = Limited::new(body, limit).collect().await;
    let collected = collected.map_err(|error| match error.is::<LengthLimitError>() {
        true => NetError::TooLarge(host.to_owned(), limit),
        false => NetError::Answer { host: host.to_owned(), reason: error.to_string() },
    });
    Ok((parts.status, parts.headers, collected?.to_bytes()))
}

/// The guard's own words, if it was the guard.
fn unanswered(host: &str, error: &hyper_util::client::legacy::Error) -> NetError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = String::new();
    while let Some(error) = cause {
        if let Some(NetError::Refused { host, address }) = error.downcast_ref::<NetError>() {
            return NetError::Refused { host: host.clone(), address: *address };
        }
        last = error.to_string();
        cause = error.source();
    }
    NetError::Unreached { host: host.to_owned(), reason: last }
}

#[async_trait]
impl Transport for HttpClient {
    fn schemes(&self) -> &[&str] {
        &["https", "http"]
    }

    async fn send(&self, uri: &str, packed: &str) -> Result<Vec<String>, SendError> {
        let (status, headers, body) = self.post(uri, packed).await.map_err(|error| SendError {
            passes: error.passes(),
            reason: error.to_string(),
            retry_after: None,
        })?;
        if status.is_success() {
            // What comes back is a message, or nothing that matters.
            return Ok(String::from_utf8(body.to_vec())
                .ok()
                .filter(|text| text.starts_with('{'))
                .into_iter()
                .collect());
        }
        let retry_after = headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let retry_after = retry_after.map(|seconds: u64| Duration::from_secs(seconds.min(LONGEST_RETRY_AFTER)));
        Err(SendError { reason: format!("{uri} answers with status {status}"), passes: passes(status), retry_after })
    }
}

/// Whether a refusal may be another one the next time. A server that is not set up yet has no such page, and one behind a
/// wrong proxy is forbidden: that passes.
fn passes(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY
    )
}

#[async_trait]
impl Fetch for HttpClient {
    /// A redirect is not followed: who serves a DID's host says what the DID's document is.
    async fn fetch(&self, url: &str, limit: usize) -> Result<Option<Vec<u8>>, Unfetched> {
        match self.get(url, limit).await {
            Ok(Some(Got::Body(body))) => Ok(Some(body)),
            Ok(Some(Got::Elsewhere(_))) => Err(Unfetched(format!("{url} redirects, which is not followed"))),
            Ok(None) => Ok(None),
            Err(error) => Err(Unfetched(error.to_string())),
        }
    }
}
