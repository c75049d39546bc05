//! What a resolver asks of the network, which is not this module's.

use std::{error::Error, sync::Arc};

use async_trait::async_trait;

use super::{ResolveError, WebError, resolver::shortened};

/// Gets what is at a URL, for DID methods whose documents are on servers.
///
/// The URLs come from strangers. An implementation follows no redirect, reads no more than it is told, takes no longer than
/// somebody waits, and connects to no address that strangers must not reach through it.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// What is at `url`: the status, and the body if that is 200.
    ///
    /// # Errors
    /// If there is no answer, or its body has more than `limit` bytes.
    async fn fetch(&self, url: &str, accept: &str, limit: usize) -> Result<Fetched, FetchError>;
}

/// A server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its status.
    pub status: u16,
    /// Its body, if the status is 200.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{source}")]
pub struct FetchError {
    /// Whether trying again later may help.
    pub passes: bool,
    /// What went wrong.
    pub source: Arc<dyn Error + Send + Sync>,
}

impl FetchError {
    /// One that passes or does not.
    pub fn new(passes: bool, source: impl Error + Send + Sync + 'static) -> Self {
        Self { passes, source: Arc::new(source) }
    }
}

#[async_trait]
impl<F: Fetch + ?Sized> Fetch for Arc<F> {
    async fn fetch(&self, url: &str, accept: &str, limit: usize) -> Result<Fetched, FetchError> {
        (**self).fetch(url, accept, limit).await
    }
}

/// What a server has for a DID.
pub(super) async fn body(
    fetch: &impl Fetch,
    did: &str,
    url: &str,
    accept: &str,
    limit: usize,
) -> Result<Vec<u8>, ResolveError> {
    match fetch.fetch(url, accept, limit).await {
        Ok(Fetched { status: 200, body }) => Ok(body),
        Ok(Fetched { status: 404 | 410, .. }) => Err(ResolveError::not_found(did)),
        Ok(Fetched { status, .. }) => Err(ResolveError::unavailable(did, WebError::Status(status))),
        Err(FetchError { passes: true, source }) => Err(ResolveError::Unavailable { did: shortened(did), source }),
        Err(FetchError { passes: false, source }) => Err(ResolveError::NotFetched { did: shortened(did), source }),
    }
}
