//! Resolves the did:peer:4 of a peer whose long form the store keeps.
//!
//! The resolver below remembers the long forms of all envelopes, also of those that did not open, for a while and in
//! memory. The store keeps a long form only after its owner was authenticated, with the connection.

use std::sync::Arc;

use async_trait::async_trait;

use super::{protocol::peer_document::PeerDocument, sealed_store::SealedStore};
use crate::did::{Document, ResolveError, Resolver};

/// A resolver that also finds the long forms in the store.
pub struct PeerDocuments {
    pub resolver: Arc<dyn Resolver>,
    pub store: Arc<SealedStore>,
}

#[async_trait]
impl Resolver for PeerDocuments {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        let unknown = match self.resolver.resolve(did).await {
            Err(error @ ResolveError::LongFormUnknown(_)) => error,
            other => return other,
        };
        match self.store.get::<PeerDocument>(did).await {
            Ok(Some((document, _))) => {
                // The resolver checks the hash and remembers the long form, so that the short form resolves.
                self.resolver.resolve(&document.long).await?;
                self.resolver.resolve(did).await
            }
            Ok(None) => Err(unknown),
            Err(error) => {
                tracing::debug!(%error, did, "long form not read from the store");
                Err(unknown)
            }
        }
    }

    async fn resolve_again(&self, did: &str) -> Result<Option<Arc<Document>>, ResolveError> {
        self.resolver.resolve_again(did).await
    }

    async fn resolve_offline(&self, did: &str) -> Option<Arc<Document>> {
        if let Some(document) = self.resolver.resolve_offline(did).await {
            return Some(document);
        }
        if !did.starts_with("did:peer:4") {
            return None;
        }
        let (document, _) = self.store.get::<PeerDocument>(did).await.ok()??;
        self.resolver.resolve(&document.long).await.ok()?;
        self.resolver.resolve_offline(did).await
    }
}
