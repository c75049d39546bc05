//! DID documents (DID Core 1.0 section 5): reads the documents of peers, and builds our own.

mod build;
mod did_document;
mod error;
mod id;
mod limits;
mod method;
mod read;
mod relationship;
mod service;
mod unused;

pub use build::DocumentBuilder;
pub(super) use build::{CONTEXT, ServiceNames};
pub use did_document::Document;
pub use error::DocumentError;
pub(super) use limits::{MAX_BYTES, MAX_ENTRIES, MAX_EXPANDED_BYTES, MAX_VALUES};
pub use method::VerificationMethod;
pub use relationship::Relationship;
pub use service::{Service, ServiceEndpoint};
pub use unused::{UNUSED_PARTS, UnusedPart};
