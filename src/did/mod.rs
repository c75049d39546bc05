//! DIDs: their syntax, their documents, and how a document is found.
//!
//! [`Resolver`] is the trait; [`local`] gives one that needs no network, for `did:key`, `did:peer` and documents at hand.
//! [`WebResolver`] finds a `did:web` and [`WebvhResolver`] a `did:webvh`, by a [`Fetch`] that has the network; [`Methods`]
//! makes one resolver of several, and [`Cached`] remembers what any of them found.
//!
//! What they read was written by strangers: sizes are bounded, a key that cannot be used is kept with its reason instead
//! of spoiling its document, and a document never stands for a DID that it does not name.
//!
//! This module knows public keys only. It makes no key, knows no token, and opens no socket.

mod cached;
mod document;
mod fetch;
pub mod key;
mod local;
mod methods;
pub mod peer;
mod resolver;
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
pub use resolver::{ResolveError, Resolver};
pub use url::{DidUrl, DidUrlError, did_of, is_did};
pub use web::{WebError, WebResolver};
pub use webvh::{WebvhError, WebvhResolver};
