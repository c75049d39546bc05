//! The DIDs whose documents are on servers, did:web and did:webvh, for commands that resolve DIDs without the agent.

use std::sync::Arc;

use async_trait::async_trait;
use claviger::did::{Document, ResolveError, Resolver, ResolverChain, WebResolver, WebvhResolver};

use super::{
    config::Config,
    daemon_options::{address_guard, dialer, http_client},
};

/// Adds the resolvers of did:web and did:webvh. They use the settings of `[net]`, and a guard against private
/// addresses like the agent's. Reads certificates, so call this before the process enters the sandbox. If the settings are
/// wrong, only these DIDs do not resolve.
pub fn with_servers(methods: ResolverChain, config: &Config) -> ResolverChain {
    match address_guard(config, Vec::new()).and_then(|guard| dialer(config, guard)) {
        Ok(dialer) => {
            let client = http_client(config, dialer);
            methods.then(WebResolver::new(client.clone())).then(WebvhResolver::new(client))
        }
        Err(failure) => methods.then(NoServers(failure.message)),
    }
}

/// Refuses the DIDs whose documents are on servers.
pub fn without_servers(methods: ResolverChain) -> ResolverChain {
    methods.then(NoServers("its document is on a server, and with --offline no server is asked".to_owned()))
}

/// Whether the document of a DID is on a server.
pub fn is_on_server(did: &str) -> bool {
    ["did:web:", "did:webvh:"].iter().any(|method| did.starts_with(method))
}

/// Refuses the DIDs whose documents are on servers, with this reason.
struct NoServers(String);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotAsked(String);

#[async_trait]
impl Resolver for NoServers {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        match is_on_server(did) {
            true => Err(ResolveError::unavailable(did, NotAsked(self.0.clone()))),
            false => Err(ResolveError::unsupported_method(did)),
        }
    }
}
