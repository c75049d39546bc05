//! The trait that finds a document, and what may go wrong.

use std::{error::Error, sync::Arc};

use async_trait::async_trait;

use super::{Document, DocumentError, peer::PeerError, web::WebError, webvh::WebvhError};
use crate::keys::KeyError;

/// Finds the document of a DID (DID Core section 7).
///
/// An implementation returns only a document whose `id` is the DID asked for: [`Document::of`] checks it. It is asked
/// for DIDs that strangers wrote, so it bounds what it reads and how long it takes.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// The document of `did`, which is a DID without path, query and fragment.
    ///
    /// # Errors
    /// [`ResolveError::UnsupportedMethod`] if the DID is none of this resolver's business; the others if it is.
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError>;
}

/// Why there is no document. The DID stands in it shortened: it may be some kilobytes long.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The text is not a DID (DID Core section 3.1).
    #[error("{0:?} is not a DID")]
    NotADid(String),
    /// This resolver does not know the DID method.
    #[error("{0}: its DID method is not supported")]
    UnsupportedMethod(String),
    /// There is no such DID.
    #[error("{0}: there is no such DID")]
    NotFound(String),
    /// A short `did:peer:4` whose long form was not seen yet: the peer has to send it once.
    #[error("{0}: the long form of this DID is not known yet")]
    LongFormUnknown(String),
    /// A `did:key` that holds no usable key.
    #[error("{did}: {source}")]
    Key {
        /// The DID.
        did: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A `did:peer` that is not well made.
    #[error("{did}: {source}")]
    Peer {
        /// The DID.
        did: String,
        /// What is wrong with it.
        source: PeerError,
    },
    /// A `did:web` that names no place.
    #[error("{did}: {source}")]
    Web {
        /// The DID.
        did: String,
        /// What is wrong with it.
        source: WebError,
    },
    /// A `did:webvh` that names no place, or whose log does not stand up to verification.
    #[error("{did}: {source}")]
    Webvh {
        /// The DID.
        did: String,
        /// What is wrong with it.
        source: WebvhError,
    },
    /// The document is broken, or another's.
    #[error("{did}: {source}")]
    Document {
        /// The DID.
        did: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// Where the document should be cannot be asked now; trying again may help.
    #[error("{did}: it cannot be resolved now: {source}")]
    Unavailable {
        /// The DID.
        did: String,
        /// What went wrong on the way.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Where the document should be is not asked, or what is there not read; trying again does not help.
    #[error("{did}: its document is not fetched: {source}")]
    NotFetched {
        /// The DID.
        did: String,
        /// Why.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl ResolveError {
    /// [`NotADid`](Self::NotADid).
    pub fn not_a_did(text: &str) -> Self {
        Self::NotADid(shortened(text))
    }

    /// [`UnsupportedMethod`](Self::UnsupportedMethod).
    pub fn unsupported_method(did: &str) -> Self {
        Self::UnsupportedMethod(shortened(did))
    }

    /// [`NotFound`](Self::NotFound).
    pub fn not_found(did: &str) -> Self {
        Self::NotFound(shortened(did))
    }

    /// [`Document`](Self::Document).
    pub fn document(did: &str, source: DocumentError) -> Self {
        Self::Document { did: shortened(did), source }
    }

    /// [`DocumentError::WrongId`] as a [`Document`](Self::Document).
    pub fn wrong_id(did: &str, found: &str) -> Self {
        Self::document(did, DocumentError::WrongId { asked: shortened(did), found: shortened(found) })
    }

    /// [`Unavailable`](Self::Unavailable).
    pub fn unavailable(did: &str, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { did: shortened(did), source: Arc::new(source) }
    }
}

/// At most 100 characters of what a stranger sent, for an error or a log.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(100) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[async_trait]
impl<R: Resolver + ?Sized> Resolver for Arc<R> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        (**self).resolve(did).await
    }
}

#[async_trait]
impl<R: Resolver + ?Sized> Resolver for Box<R> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        (**self).resolve(did).await
    }
}

#[async_trait]
impl<R: Resolver + ?Sized> Resolver for &R {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        (**self).resolve(did).await
    }
}
