//! One resolver of several, each for its DID methods.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;

use super::{Document, ResolveError, Resolver};

/// Asks the resolver of a DID's method; for the others, and first of all, the one that asks nobody.
pub struct ByMethod<L> {
    local: L,
    methods: HashMap<&'static str, Box<dyn Resolver>>,
}

impl<L: Resolver> ByMethod<L> {
    /// One that has `local` alone.
    pub fn new(local: L) -> Self {
        Self { local, methods: HashMap::new() }
    }

    /// Adds the resolver of a method, as `web`.
    #[must_use]
    pub fn with(mut self, method: &'static str, resolver: impl Resolver + 'static) -> Self {
        self.methods.insert(method, Box::new(resolver));
        self
    }
}

#[async_trait]
impl<L: Resolver> Resolver for ByMethod<L> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        match self.local.resolve(did).await {
            Err(ResolveError::UnsupportedMethod(said)) => {
                let method = did.split(':').nth(1).and_then(|method| self.methods.get(method));
                match method {
                    Some(resolver) => resolver.resolve(did).await,
                    None => Err(ResolveError::UnsupportedMethod(said)),
                }
            }
            result => result,
        }
    }
}
