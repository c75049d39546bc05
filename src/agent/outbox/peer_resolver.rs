//! Resolves the peers of outgoing messages, and their mediators.
//!
//! A stranger chooses the servers of its did:web and of its mediators, and they may never answer. So only a few documents
//! are fetched for strangers at the same time. The others wait in line, and cost no connection.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::did::{Document, ResolveError, Resolver, is_mutable};

/// Resolves for one message.
pub(super) struct PeerResolver<'a> {
    pub resolver: &'a dyn Resolver,
    /// The permits to fetch a document. `None` for a message to a known peer.
    pub permits: Option<&'a Semaphore>,
}

#[async_trait]
impl Resolver for PeerResolver<'_> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        let Some(permits) = self.permits.filter(|_| is_mutable(did)) else { return self.resolver.resolve(did).await };
        if let Some(document) = self.resolver.resolve_offline(did).await {
            return Ok(document);
        }
        // Cannot fail: the semaphore is never closed.
        let _permit = permits.acquire().await;
        self.resolver.resolve(did).await
    }

    async fn resolve_again(&self, did: &str) -> Result<Option<Arc<Document>>, ResolveError> {
        let _permit = match self.permits.filter(|_| is_mutable(did)) {
            Some(permits) => permits.acquire().await.ok(),
            None => None,
        };
        self.resolver.resolve_again(did).await
    }

    async fn resolve_offline(&self, did: &str) -> Option<Arc<Document>> {
        self.resolver.resolve_offline(did).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    /// A server that never has the document, and counts who waits for it.
    #[derive(Default)]
    struct Slow {
        waiting: AtomicUsize,
        most: AtomicUsize,
    }

    #[async_trait]
    impl Resolver for Slow {
        async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
            let waiting = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(waiting, Ordering::Relaxed);
            tokio::task::yield_now().await;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            Err(ResolveError::not_a_did(did))
        }
    }

    #[tokio::test]
    async fn few_documents_are_fetched_for_strangers_at_once() {
        for (did, limit, most) in
            [("did:web:a.example", Some(3), 3), ("did:web:a.example", None, 20), ("did:key:z6Mk", Some(3), 20)]
        {
            let (slow, permits) = (Slow::default(), Semaphore::new(limit.unwrap_or(1)));
            let resolver = PeerResolver { resolver: &slow, permits: limit.map(|_| &permits) };
            join_all((0..20).map(|_| resolver.resolve(did))).await;
            assert_eq!(slow.most.load(Ordering::Relaxed), most, "{did} {limit:?}");
        }
    }
}
