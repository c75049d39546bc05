//! Resolves did:webvh.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::{lines::lines, location::Location, log::Log};
use crate::did::{
    document::{Document, DocumentError},
    fetch::{Fetch, fetch_body},
    resolve_error::ResolveError,
    resolver::Resolver,
    shorten::shortened,
    url::is_did,
};

/// The longest accepted log in bytes. That is enough for hundreds of versions.
const MAX_LOG_BYTES: usize = 1024 * 1024;
/// The longest accepted file with proofs of witnesses, in bytes.
const MAX_WITNESS_FILE_BYTES: usize = 256 * 1024;

/// Resolves `did:webvh` over HTTPS.
///
/// No redirect is followed. At most 1 MiB of a log and 256 KiB of witness proofs are read. A portable DID that has moved
/// also resolves by an earlier name, if its log is still served there; the `id` of the document is the newest name
/// ("Read (Resolve)"). Each call sends requests: put [`CachedResolver`](crate::did::CachedResolver) in front, which heeds
/// the `ttl` of the log.
#[derive(Debug, Clone)]
pub struct WebvhResolver<F> {
    fetch: F,
    /// Bounds how many logs are verified at once. Verifying a log takes many times its length in memory.
    verifying: Arc<Semaphore>,
}

/// How many logs are verified at once.
const MAX_CONCURRENT_VERIFICATIONS: usize = 4;

impl<F: Fetch> WebvhResolver<F> {
    /// A resolver that fetches logs with `fetch`.
    pub fn new(fetch: F) -> Self {
        Self { fetch, verifying: Arc::new(Semaphore::new(MAX_CONCURRENT_VERIFICATIONS)) }
    }

    async fn log<'a>(&self, did: &'a str) -> Result<Log<'a>, ResolveError> {
        let wrong = |source| ResolveError::Webvh { did: shortened(did), source };
        let location = Location::of(did).map_err(wrong)?;
        let accept = "text/jsonl, application/jsonl;q=0.9, */*;q=0.1";
        let text = fetch_body(&self.fetch, did, &location.log_url(), accept, MAX_LOG_BYTES).await?;
        // This cannot fail: the semaphore is never closed.
        let _permit = self.verifying.acquire().await;
        let mut log = Log::new(location.scid, SystemTime::now());
        for line in lines(&text) {
            log.add(line).map_err(wrong)?;
            // A long log must not block other tasks.
            tokio::task::yield_now().await;
        }
        if log.is_witnessed() {
            let fetched =
                fetch_body(&self.fetch, did, &location.witness_file_url(), "application/json", MAX_WITNESS_FILE_BYTES)
                    .await;
            let proofs = match fetched {
                Err(ResolveError::NotFound(_)) => b"[]".to_vec(),
                fetched => fetched?,
            };
            log.check_witnesses(&proofs).map_err(wrong)?;
        }
        Ok(log)
    }
}

#[async_trait]
impl<F: Fetch> Resolver for WebvhResolver<F> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        if !is_did(did) {
            return Err(ResolveError::not_a_did(did));
        }
        if !did.starts_with("did:webvh:") {
            return Err(ResolveError::unsupported_method(did));
        }
        let log = self.log(did).await?;
        let (former_ids, ttl) = (log.former_ids(), log.parameters.ttl);
        let state = log.state(did).map_err(|source| ResolveError::Webvh { did: shortened(did), source })?;
        let wrong = |source: DocumentError| ResolveError::document(did, source);
        let document = Document::from_value(state).map(|document| document.with_log(former_ids, ttl));
        let document = document.and_then(|document| document.require_id(did)).map_err(wrong)?;
        document.log_unused_parts();
        Ok(Arc::new(document))
    }
}
