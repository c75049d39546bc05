//! did:webvh: a DID document on a web server, with the log of all its versions (DIF, "did:webvh DID Method" 1.0).
//! Logs that were begun under version 0.5 are read too.
//!
//! The server is not trusted. The DID contains the hash of the first log entry (the SCID). Each later entry contains
//! the hash of the previous one, and is signed by a key that the previous entry has named, or to which it has
//! committed. So an attacker who takes over the server can remove the DID, but not change it.
//!
//! Each resolution verifies every entry of the log. One error anywhere makes the whole log invalid.

mod error;
mod hash;
mod lines;
mod location;
mod log;
mod method_version;
mod own_log;
mod parameters;
mod proof;
mod resolver;
mod witness;

pub use error::{EntryFault, ParameterFault, ProofFault, WebvhError};
#[cfg(feature = "agent")]
pub(crate) use location::scid_prefix;
pub use location::{path, url};
pub use own_log::{EntryDraft, KeyChanges, OwnLog};
pub use resolver::WebvhResolver;
