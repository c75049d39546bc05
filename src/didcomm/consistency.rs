//! The receiver's consistency checks: `from` and `to` against the keys that made and opened a message (DIDComm v2.1
//! "Message Layer Addressing Consistency").

use super::{
    did_forms::same_did,
    error::Error,
    identities::{Identities, OwnKey},
    message::Message,
    provenance::{Provenance, Warning},
};
use crate::did::did_of;

/// What the verified layers have shown so far: the provenance, and the keys that made and opened the layers.
#[derive(Default)]
pub(super) struct Evidence {
    pub provenance: Provenance,
    /// Our keys that opened a layer, outermost first.
    pub opened_by: Vec<OwnKey>,
    /// The sender's key of an authcrypt layer.
    pub skid: Option<String>,
    /// The key that signed.
    pub signer: Option<String>,
}

/// Checks that `from` is the DID of the key that encrypted, and of the key that signed. So both keys belong to one DID.
pub(super) fn check_from(message: &Message, evidence: &Evidence) -> Result<(), Error> {
    for kid in [&evidence.skid, &evidence.signer].into_iter().flatten() {
        let from = message.from.as_deref().ok_or_else(|| Error::FromAbsent(kid.clone()))?;
        check_owner(from, kid)?;
    }
    Ok(())
}

/// Checks that `to` names the DID of each of our keys that opened a layer.
///
/// About this check, the specification says "should" in one place and "must be an error" in another. An absent `to` is
/// an error if a signature is inside encryption, and otherwise a warning.
pub(super) fn check_to(message: &Message, evidence: &mut Evidence, me: &Identities) -> Result<(), Error> {
    let warnings = &mut evidence.provenance.warnings;
    let Some(to) = &message.to else {
        if evidence.signer.is_some() && !evidence.opened_by.is_empty() {
            return Err(Error::ToAbsent);
        }
        warnings.push(Warning::ToAbsent);
        return Ok(());
    };
    for own in &evidence.opened_by {
        if !to.iter().any(|did| same_did(did, &own.did)) {
            return Err(Error::ToMismatch { kid: own.kid.clone() });
        }
    }
    if evidence.opened_by.is_empty() && !to.iter().any(|did| me.document(did).is_some()) {
        warnings.push(Warning::NotAddressedToUs);
    }
    Ok(())
}

/// Checks that `from` is the DID of the key `kid`.
pub(super) fn check_owner(from: &str, kid: &str) -> Result<(), Error> {
    let did = did_of(kid).ok_or_else(|| Error::InvalidKeyId(kid.to_owned()))?;
    if same_did(from, did) {
        return Ok(());
    }
    Err(Error::FromMismatch { from: from.to_owned(), kid: kid.to_owned() })
}
