//! DIDs: their syntax, their documents, and resolvers that find the document of a DID.
//!
//! [`Resolver`] is the trait. [`local`] returns a resolver for `did:key`, `did:peer` and given documents, which needs no
//! network. [`WebResolver`] resolves `did:web`, and [`WebvhResolver`] resolves `did:webvh`; both use a [`Fetch`] for the
//! network, such as `net::HttpClient` with the feature `http`. [`Methods`] combines resolvers, and [`Cached`] caches what
//! they find:
//!
#![cfg_attr(feature = "http", doc = "```no_run")]
#![cfg_attr(not(feature = "http"), doc = "```ignore")]
//! use claviger::{
//!     did::{Cached, LocalResolver, Methods, WebResolver, WebvhResolver},
//!     net::HttpClient,
//! };
//!
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let http = HttpClient::for_public_servers()?;
//! let methods =
//!     Methods::new(LocalResolver::new()).then(WebResolver::new(http.clone())).then(WebvhResolver::new(http));
//! let resolver = Cached::new(methods);
//! # Ok(())
//! # }
//! ```
//!
//! Strangers write what resolvers read. So sizes are bounded, an unusable key does not invalidate its document, and a
//! document is never accepted for a DID that it does not name.
//!
//! This module handles public keys only. It generates no key, knows no token, and opens no socket.

mod cached;
mod document;
mod fetch;
pub mod key;
mod local;
mod methods;
pub mod peer;
mod resolve_error;
mod resolver;
mod shorten;
mod url;
pub mod web;
pub mod webvh;

pub use cached::{CacheLimits, Cached};
pub use document::{
    Document, DocumentBuilder, DocumentError, Relationship, Service, ServiceEndpoint, VerificationMethod,
};
pub use fetch::{Fetch, FetchError, Fetched};
pub use local::{LoadError, LocalResolver, local, read_documents};
pub use methods::Methods;
pub use resolve_error::ResolveError;
pub use resolver::Resolver;
pub use url::{DidUrl, DidUrlError, did_of, is_did};
pub use web::{WebError, WebResolver};
pub use webvh::{WebvhError, WebvhResolver};
