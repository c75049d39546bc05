//! Why a DID was not resolved.

use std::{error::Error, sync::Arc};

use super::{
    document::DocumentError, peer::PeerError, shorten::shortened, url::is_mutable, web::WebError, webvh::WebvhError,
};
use crate::keys::KeyError;

/// Why a DID was not resolved. DIDs in this error are cut after 100 characters.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The text is not a DID (DID Core section 3.1).
    #[error("{0:?} is not a DID")]
    NotADid(String),
    /// This resolver does not know the DID method.
    #[error("{0}: its DID method is not supported")]
    UnsupportedMethod(String),
    /// The DID does not exist.
    #[error("{0}: there is no such DID")]
    NotFound(String),
    /// The short form of a `did:peer:4` whose long form was not seen yet. The peer has to send the long form once.
    #[error("{0}: the long form of this DID is not known yet")]
    LongFormUnknown(String),
    /// A `did:key` without a usable key.
    #[error("{did}: {source}")]
    Key {
        /// The DID.
        did: String,
        /// What is wrong.
        source: KeyError,
    },
    /// A malformed `did:peer`.
    #[error("{did}: {source}")]
    Peer {
        /// The DID.
        did: String,
        /// What is wrong.
        source: PeerError,
    },
    /// A malformed `did:web`.
    #[error("{did}: {source}")]
    Web {
        /// The DID.
        did: String,
        /// What is wrong.
        source: WebError,
    },
    /// A malformed `did:webvh`, or one with an invalid log.
    #[error("{did}: {source}")]
    Webvh {
        /// The DID.
        did: String,
        /// What is wrong.
        source: WebvhError,
    },
    /// The document is invalid, or the document of another DID.
    #[error("{did}: {source}")]
    Document {
        /// The DID.
        did: String,
        /// What is wrong.
        source: DocumentError,
    },
    /// The source of the document is unavailable. A later attempt may succeed.
    #[error("{did}: it cannot be resolved now: {source}")]
    Unavailable {
        /// The DID.
        did: String,
        /// The cause.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The document was not fetched. A later attempt cannot succeed.
    #[error("{did}: its document was not fetched: {source}")]
    NotFetched {
        /// The DID.
        did: String,
        /// The cause.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl ResolveError {
    /// Whether a later attempt may succeed.
    ///
    /// True for every fault of a server: it is down, answers with any status but 200 (404 and 410 too, since a file that
    /// is being replaced is absent for a moment), or returns a page or half a file instead of the document. True also
    /// for [`LongFormUnknown`](Self::LongFormUnknown). False if the DID itself is malformed, of an unknown method or
    /// deactivated, for a server that redirects, and for one whose address must not be connected to.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::LongFormUnknown(_) | Self::Unavailable { .. } => true,
            Self::NotFound(did) | Self::Document { did, .. } => is_mutable(did),
            Self::Webvh { source, .. } => source.may_pass(),
            _ => false,
        }
    }

    /// Returns [`NotADid`](Self::NotADid).
    pub fn not_a_did(text: &str) -> Self {
        Self::NotADid(shortened(text))
    }

    /// Returns [`UnsupportedMethod`](Self::UnsupportedMethod).
    pub fn unsupported_method(did: &str) -> Self {
        Self::UnsupportedMethod(shortened(did))
    }

    /// Returns [`NotFound`](Self::NotFound).
    pub fn not_found(did: &str) -> Self {
        Self::NotFound(shortened(did))
    }

    /// Returns [`Document`](Self::Document).
    pub fn document(did: &str, source: DocumentError) -> Self {
        Self::Document { did: shortened(did), source }
    }

    /// Returns [`Document`](Self::Document) with [`DocumentError::WrongId`].
    pub fn wrong_id(did: &str, found: &str) -> Self {
        Self::document(did, DocumentError::WrongId { requested: shortened(did), found: shortened(found) })
    }

    /// Returns [`Unavailable`](Self::Unavailable).
    pub fn unavailable(did: &str, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { did: shortened(did), source: Arc::new(source) }
    }
}
