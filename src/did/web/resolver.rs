//! Resolves did:web.

use std::sync::Arc;

use async_trait::async_trait;

use super::{error::WebError, location::url};
use crate::did::{
    document::{Document, DocumentError, MAX_BYTES},
    fetch::{Fetch, fetch_body},
    resolve_error::ResolveError,
    resolver::Resolver,
    shorten::shortened,
    url::is_did,
};

/// The `Accept` header: the media types of the specification first. The `Content-Type` of the response is ignored.
const ACCEPT: &str = "application/did+json, application/did+ld+json, application/json;q=0.9, */*;q=0.1";

/// Resolves `did:web` over HTTPS.
///
/// The certificate of the host is the only proof of the document. The `id` of the document must be the requested DID.
/// No redirect is followed, and at most 64 KiB are read. Each call sends a request: put
/// [`CachedResolver`](crate::did::CachedResolver) in front.
#[derive(Debug, Clone)]
pub struct WebResolver<F> {
    fetch: F,
}

impl<F: Fetch> WebResolver<F> {
    /// A resolver that fetches documents with `fetch`.
    pub fn new(fetch: F) -> Self {
        Self { fetch }
    }
}

#[async_trait]
impl<F: Fetch> Resolver for WebResolver<F> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        if !is_did(did) {
            return Err(ResolveError::not_a_did(did));
        }
        if !did.starts_with("did:web:") {
            return Err(ResolveError::unsupported_method(did));
        }
        let url = url(did).map_err(|source: WebError| ResolveError::Web { did: shortened(did), source })?;
        let body = fetch_body(&self.fetch, did, &url, ACCEPT, MAX_BYTES).await?;
        let wrong = |source: DocumentError| ResolveError::document(did, source);
        let document = Document::from_json(&body).and_then(|document| document.require_id(did)).map_err(wrong)?;
        document.log_unused_parts();
        Ok(Arc::new(document))
    }
}
