//! The trait through which resolvers use the network.

use std::{error::Error, sync::Arc};

use async_trait::async_trait;

use super::{resolve_error::ResolveError, shorten::shortened, web::WebError};

/// Fetches URLs, for DID methods whose documents are on servers. `net::HttpClient` (feature `http`) implements it.
///
/// The URLs come from strangers. An implementation must follow no redirect, read no more than `limit` bytes, bound the
/// time, and refuse addresses that strangers must not reach through this machine, such as private addresses.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Sends a GET request for `url` with the header `Accept: accept`. Returns the status, and the body if the status
    /// is 200.
    ///
    /// # Errors
    /// If there is no response, or its body is longer than `limit` bytes.
    async fn fetch(&self, url: &str, accept: &str, limit: usize) -> Result<FetchResponse, FetchError>;
}

/// The response of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchResponse {
    /// The HTTP status.
    pub status: u16,
    /// The body, if the status is 200. Otherwise it may be empty.
    pub body: Vec<u8>,
}

/// Why there is no response.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{source}")]
pub struct FetchError {
    /// Whether a later attempt may succeed.
    pub is_retryable: bool,
    /// The cause.
    pub source: Arc<dyn Error + Send + Sync>,
}

impl FetchError {
    /// An error with its cause. `is_retryable` tells whether a later attempt may succeed.
    pub fn new(is_retryable: bool, source: impl Error + Send + Sync + 'static) -> Self {
        Self { is_retryable, source: Arc::new(source) }
    }
}

#[async_trait]
impl<F: Fetch + ?Sized> Fetch for Arc<F> {
    async fn fetch(&self, url: &str, accept: &str, limit: usize) -> Result<FetchResponse, FetchError> {
        (**self).fetch(url, accept, limit).await
    }
}

/// Fetches the body of `url`, which is needed to resolve `did`. Status 404 or 410 means [`ResolveError::NotFound`], a
/// redirect means [`ResolveError::NotFetched`], and any other status except 200 means [`ResolveError::Unavailable`].
pub(super) async fn fetch_body(
    fetch: &impl Fetch,
    did: &str,
    url: &str,
    accept: &str,
    limit: usize,
) -> Result<Vec<u8>, ResolveError> {
    match fetch.fetch(url, accept, limit).await {
        Ok(FetchResponse { status: 200, body }) => Ok(body),
        Ok(FetchResponse { status: 404 | 410, .. }) => Err(ResolveError::not_found(did)),
        // The document counts as the statement of the host in the DID, and the log of a did:webvh must not be fetched by
        // following redirects (did:webvh 1.0, "Resolver Transport Hardening"). 304 is no redirect.
        Ok(FetchResponse { status: status @ (300..=303 | 305..=399), .. }) => {
            Err(ResolveError::NotFetched { did: shortened(did), source: Arc::new(WebError::Redirect(status)) })
        }
        Ok(FetchResponse { status, .. }) => Err(ResolveError::unavailable(did, WebError::Status(status))),
        Err(FetchError { is_retryable: true, source }) => {
            Err(ResolveError::Unavailable { did: shortened(did), source })
        }
        Err(FetchError { is_retryable: false, source }) => {
            Err(ResolveError::NotFetched { did: shortened(did), source })
        }
    }
}
