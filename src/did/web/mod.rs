//! did:web: a DID document on the web server of its host (W3C CCG, "did:web Method Specification").

mod error;
mod location;
mod resolver;

pub use error::WebError;
pub(super) use location::{decoded, host_and_port, is_plain_when_decoded};
pub use location::{did, path, url};
pub use resolver::WebResolver;
