//! Combines several resolvers.

use std::sync::Arc;

use async_trait::async_trait;

use super::{document::Document, resolve_error::ResolveError, resolver::Resolver};

/// A resolver that asks several resolvers in turn, each for its DID methods.
///
/// The first resolver that does not return [`ResolveError::UnsupportedMethod`] decides. So a local document comes
/// before the document of a server, and the next resolver is not asked after any other failure.
#[derive(Clone)]
pub struct ResolverChain {
    resolvers: Vec<Arc<dyn Resolver>>,
}

impl ResolverChain {
    /// Starts with the resolver that is asked first.
    pub fn new(first: impl Resolver + 'static) -> Self {
        Self { resolvers: vec![Arc::new(first)] }
    }

    /// Adds a resolver that is asked after the others.
    pub fn then(mut self, next: impl Resolver + 'static) -> Self {
        self.resolvers.push(Arc::new(next));
        self
    }
}

#[async_trait]
impl Resolver for ResolverChain {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        for resolver in &self.resolvers {
            match resolver.resolve(did).await {
                Err(ResolveError::UnsupportedMethod(_)) => {}
                answer => return answer,
            }
        }
        Err(ResolveError::unsupported_method(did))
    }

    async fn resolve_again(&self, did: &str) -> Result<Option<Arc<Document>>, ResolveError> {
        for resolver in &self.resolvers {
            match resolver.resolve_again(did).await {
                Ok(None) | Err(ResolveError::UnsupportedMethod(_)) => {}
                answer => return answer,
            }
        }
        Ok(None)
    }

    async fn resolve_offline(&self, did: &str) -> Option<Arc<Document>> {
        for resolver in &self.resolvers {
            if let Some(document) = resolver.resolve_offline(did).await {
                return Some(document);
            }
        }
        None
    }
}
