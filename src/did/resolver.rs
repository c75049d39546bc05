//! [`Resolver`]: the trait that finds DID documents.

use std::sync::Arc;

use async_trait::async_trait;

use super::{document::Document, resolve_error::ResolveError};

/// Finds the document of a DID (DID Core section 7).
///
/// An implementation must return only a document [about](Document::is_about) the requested DID; [`Document::require_id`]
/// checks that.
/// Peers choose the DIDs, so an implementation must bound the size of what it reads, and the time it takes.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// Returns the document of `did`, which is a DID without path, query and fragment.
    ///
    /// # Errors
    /// [`ResolveError::UnsupportedMethod`] if this resolver does not know the DID method; other errors if it does.
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError>;

    /// Fetches the document of `did` again, past every cache. Call this if a document lacks what the owner of the DID
    /// uses, such as a new key, or if the owner no longer answers to what the document says.
    ///
    /// Returns `None` if there is no cache, the DID contains its own document, or the document may not be fetched again
    /// now: strangers cause these calls, so a cache limits their rate. The default implementation has no cache.
    ///
    /// # Errors
    /// The errors of [`resolve`](Self::resolve). A cached document stays in the cache then.
    async fn resolve_again(&self, _did: &str) -> Result<Option<Arc<Document>>, ResolveError> {
        Ok(None)
    }

    /// Returns the document of `did` if it is known without the network: it is cached, given, or part of the DID. The
    /// default implementation knows none.
    async fn resolve_offline(&self, _did: &str) -> Option<Arc<Document>> {
        None
    }
}

#[async_trait]
impl<R: Resolver + ?Sized> Resolver for Arc<R> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        (**self).resolve(did).await
    }

    async fn resolve_again(&self, did: &str) -> Result<Option<Arc<Document>>, ResolveError> {
        (**self).resolve_again(did).await
    }

    async fn resolve_offline(&self, did: &str) -> Option<Arc<Document>> {
        (**self).resolve_offline(did).await
    }
}

#[async_trait]
impl<R: Resolver + ?Sized> Resolver for Box<R> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        (**self).resolve(did).await
    }

    async fn resolve_again(&self, did: &str) -> Result<Option<Arc<Document>>, ResolveError> {
        (**self).resolve_again(did).await
    }

    async fn resolve_offline(&self, did: &str) -> Option<Arc<Document>> {
        (**self).resolve_offline(did).await
    }
}

#[async_trait]
impl<R: Resolver + ?Sized> Resolver for &R {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        (**self).resolve(did).await
    }

    async fn resolve_again(&self, did: &str) -> Result<Option<Arc<Document>>, ResolveError> {
        (**self).resolve_again(did).await
    }

    async fn resolve_offline(&self, did: &str) -> Option<Arc<Document>> {
        (**self).resolve_offline(did).await
    }
}
