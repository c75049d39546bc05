//! did:peer, numalgo 0, 2 and 4 (Peer DID Method Specification).

mod base58;
mod four;
mod long_forms;
mod two;

use std::sync::Arc;

use super::{Document, DocumentError, ResolveError, key, resolver::shortened};
use crate::keys::KeyError;

pub use four::{Peer4, create_4, short_form};
pub use long_forms::{LongFormFolder, LongForms, LongFormsInMemory};
pub use two::create_2;
pub(super) use two::has_legacy_fragments;

/// The longest DID that is read, in characters. base58 is quadratic, so this is a bound on time as well.
const MAX_LENGTH: usize = 20 * 1024;

/// Why a text is no did:peer, or why what is given makes none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// It is longer than one that is read.
    #[error("it has {length} characters; at most {limit} are read")]
    TooLong {
        /// Its length.
        length: usize,
        /// The most that is read.
        limit: usize,
    },
    /// A key in it is broken or unsupported.
    #[error("a key in it: {0}")]
    Key(#[from] KeyError),
    /// An element of a `did:peer:2` has no known purpose code.
    #[error("one of its elements has no known purpose code")]
    Purpose,
    /// A service of a `did:peer:2` is not JSON in base64url.
    #[error("one of its services is not JSON in base64url")]
    Service,
    /// The document of a `did:peer:4` is not JSON in base58btc with its multicodec.
    #[error("its document is not JSON, with the multicodec 0x0200, in base58btc")]
    Encoding,
    /// The hash of a `did:peer:4` is not that of its document.
    #[error("its hash is not that of its document")]
    Hash,
    /// The document that it makes is broken.
    #[error("{0}")]
    Document(#[from] DocumentError),
    /// What is given to make a DID from may not be given.
    #[error("{0}")]
    Input(&'static str),
}

/// The document of a `did:peer`; a long form of numalgo 4 is remembered in `long_forms`, a short one found there.
pub(super) fn resolve(did: &str, long_forms: &dyn LongForms) -> Result<Arc<Document>, ResolveError> {
    let wrong = |source: PeerError| ResolveError::Peer { did: shortened(did), source };
    let rest = did.strip_prefix("did:peer:").ok_or_else(|| ResolveError::unsupported_method(did))?;
    let document = match rest.split_at_checked(1) {
        Some(("0", multikey)) => key::document(did, &key::canonical(multikey).map_err(|error| wrong(error.into()))?),
        Some(("2", elements)) => two::resolve(did, elements).map_err(wrong)?,
        Some(("4", form)) if form.contains(':') => {
            let document = four::resolve_long(did).map_err(wrong)?;
            long_forms.remember(did);
            document
        }
        Some(("4", _)) => {
            let unknown = || ResolveError::LongFormUnknown(shortened(did));
            let long = long_forms.recall(did).ok_or_else(unknown)?;
            four::resolve_short(did, &long).map_err(wrong)?
        }
        _ => return Err(ResolveError::unsupported_method(did)),
    };
    Ok(Arc::new(document))
}

fn check_length(did: &str) -> Result<(), PeerError> {
    if did.len() <= MAX_LENGTH {
        return Ok(());
    }
    Err(PeerError::TooLong { length: did.len(), limit: MAX_LENGTH })
}
