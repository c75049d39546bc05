//! One resolver of several.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Document, ResolveError, Resolver};

/// Asks resolvers in turn, each for the DID methods that are its business.
///
/// The first that does not say [`ResolveError::UnsupportedMethod`] answers, so a document at hand goes before one that a
/// server has, and what fails with one resolver is not tried with the next.
#[derive(Clone)]
pub struct Methods {
    resolvers: Vec<Arc<dyn Resolver>>,
}

impl Methods {
    /// With one resolver, which is asked first.
    pub fn new(first: impl Resolver + 'static) -> Self {
        Self { resolvers: vec![Arc::new(first)] }
    }

    /// With another, that is asked after those before it.
    pub fn then(mut self, next: impl Resolver + 'static) -> Self {
        self.resolvers.push(Arc::new(next));
        self
    }
}

#[async_trait]
impl Resolver for Methods {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        for resolver in &self.resolvers {
            match resolver.resolve(did).await {
                Err(ResolveError::UnsupportedMethod(_)) => {}
                answer => return answer,
            }
        }
        Err(ResolveError::unsupported_method(did))
    }
}
