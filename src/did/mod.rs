//! DIDs: their syntax, their documents, and resolvers that find the document of a DID.
//!
//! [`Resolver`] is the trait. [`local`] returns a resolver for `did:key`, `did:peer` and given documents, which needs
//! no network. [`WebResolver`] resolves `did:web`, and [`WebvhResolver`] resolves `did:webvh`; both use a [`Fetch`] for
//! the network, such as `net::HttpClient` with the feature `http`. [`ResolverChain`] combines resolvers, and
//! [`CachedResolver`] caches what they find:
//!
#![cfg_attr(feature = "http", doc = "```no_run")]
#![cfg_attr(not(feature = "http"), doc = "```ignore")]
//! use claviger::{
//!     did::{CachedResolver, LocalResolver, ResolverChain, WebResolver, WebvhResolver},
//!     net::HttpClient,
//! };
//!
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let http = HttpClient::for_public_servers()?;
//! let methods =
//!     ResolverChain::new(LocalResolver::new()).then(WebResolver::new(http.clone())).then(WebvhResolver::new(http));
//! let resolver = CachedResolver::new(methods);
//! # Ok(())
//! # }
//! ```
//!
//! Resolvers read data from strangers. So sizes are bounded, an unusable key does not invalidate its document, and a
//! document is never accepted for a DID that it does not name.
//!
//! This module handles public keys only. It generates no key, knows no token, and opens no socket.

mod cached_resolver;
mod canonical;
mod document;
mod fetch;
pub mod key;
mod local;
pub mod peer;
mod resolve_error;
mod resolver;
mod resolver_chain;
mod short_name;
mod shorten;
mod url;
pub mod web;
pub mod webvh;

pub use cached_resolver::{CacheLimits, CachedResolver};
pub(crate) use canonical::{canonical_did, is_same_did};
pub use document::{
    Document, DocumentBuilder, DocumentError, Relationship, Service, ServiceEndpoint, UNUSED_PARTS, UnusedPart,
    VerificationMethod,
};
pub use fetch::{Fetch, FetchError, FetchResponse};
pub use local::{LoadError, LocalResolver, local, read_documents};
pub use resolve_error::ResolveError;
pub use resolver::Resolver;
pub use resolver_chain::ResolverChain;
pub use short_name::{short_name, short_name_beginning};
#[cfg(feature = "agent")]
pub(crate) use url::is_mutable;
pub use url::{DidUrl, DidUrlError, did_of, is_did};
pub use web::{WebError, WebResolver};
pub use webvh::{WebvhError, WebvhResolver};
