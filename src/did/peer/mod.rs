//! did:peer, numalgo 0, 2 and 4 (Peer DID Method Specification).

mod base58;
mod error;
mod forms;
mod four;
mod length;
mod long_forms;
mod two;

use std::sync::Arc;

use super::{document::Document, key, resolve_error::ResolveError, shorten::shortened};

pub use error::PeerError;
pub(super) use forms::has_legacy_fragments;
pub use forms::short_form;
pub use four::{Peer4, create_4};
pub use long_forms::{LongFormFolder, LongForms, LongFormsInMemory};
pub use two::create_2;

/// Resolves a `did:peer`. A long form of numalgo 4 is stored in `long_forms`, and a short form is looked up there.
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
