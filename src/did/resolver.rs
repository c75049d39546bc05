//! [`Resolver`]: the trait that finds DID documents.

use std::sync::Arc;

use async_trait::async_trait;

use super::{document::Document, resolve_error::ResolveError};

/// Finds the document of a DID (DID Core section 7).
///
/// An implementation must return only a document whose `id` is the requested DID; [`Document::require_id`] checks that.
/// Peers choose the DIDs, so an implementation must bound the size of what it reads, and the time it takes.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// Returns the document of `did`, which is a DID without path, query and fragment.
    ///
    /// # Errors
    /// [`ResolveError::UnsupportedMethod`] if this resolver does not know the DID method; other errors if it does.
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError>;
}

#[async_trait]
impl<R: Resolver + ?Sized> Resolver for Arc<R> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        (**self).resolve(did).await
    }
}

#[async_trait]
impl<R: Resolver + ?Sized> Resolver for Box<R> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        (**self).resolve(did).await
    }
}

#[async_trait]
impl<R: Resolver + ?Sized> Resolver for &R {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        (**self).resolve(did).await
    }
}
