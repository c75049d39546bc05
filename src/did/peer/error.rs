//! Why a text is not a did:peer.

use crate::{did::document::DocumentError, keys::KeyError};

/// Why a text is not a did:peer, or why no did:peer can be made from an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The DID is too long.
    #[error("it has {length} characters; at most {limit} are read")]
    TooLong {
        /// The length in characters.
        length: usize,
        /// The limit in characters.
        limit: usize,
    },
    /// A key in the DID is malformed or unsupported.
    #[error("a key in it: {0}")]
    Key(#[from] KeyError),
    /// An element of a `did:peer:2` has no known purpose code.
    #[error("one of its elements has no known purpose code")]
    Purpose,
    /// A service of a `did:peer:2` is not JSON in base64.
    #[error("one of its services is not JSON in base64url")]
    Service,
    /// The document of a `did:peer:4` is not JSON in base58btc with its multicodec.
    #[error("its document is not JSON, with the multicodec 0x0200, in base58btc")]
    Encoding,
    /// The hash of a `did:peer:4` is not that of its document.
    #[error("its hash does not fit its document")]
    Hash,
    /// The document of the DID is invalid.
    #[error("{0}")]
    Document(#[from] DocumentError),
    /// The input for a new DID is not allowed.
    #[error("{0}")]
    Input(&'static str),
}
