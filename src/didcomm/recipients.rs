//! Chooses the recipient's keys, and the sender's key on the same curve.

use super::{
    error::Error,
    identities::{Identities, OwnKey},
};
use crate::{
    crypto::ContentEncryption,
    did::{Document, Relationship, Resolver, VerificationMethod, did_of, is_did},
    jose::{self, Recipient},
    keys::{Curve, PublicKey},
};

/// Anoncrypts to a DID or to one key of it. Returns the packed message and the ids of the keys that can open it.
pub(super) async fn anoncrypt_to(
    plaintext: &[u8],
    to: &str,
    enc: ContentEncryption,
    resolver: &dyn Resolver,
) -> Result<(String, Vec<String>), Error> {
    let did = did_of(to).ok_or_else(|| Error::InvalidKeyId(to.to_owned()))?;
    let document = resolver.resolve(did).await?;
    let keys = agreement_keys(&document, to)?;
    let recipients = keys_on_first_curve(&keys);
    let kids = recipients.iter().map(|recipient| recipient.kid.to_owned()).collect();
    Ok((jose::anoncrypt(plaintext, enc, &recipients)?, kids))
}

/// The usable `keyAgreement` keys of a DID, in the order of its document, or the one key of a DID URL. Never empty.
pub(super) fn agreement_keys<'a>(document: &'a Document, to: &str) -> Result<Vec<Recipient<'a>>, Error> {
    fn usable(method: &VerificationMethod) -> Option<Recipient<'_>> {
        let key = method.key.as_ref().ok().filter(|key| key.curve().supports_key_agreement())?;
        Some(Recipient { kid: &method.id, key })
    }
    let keys: Vec<Recipient<'a>> = if is_did(to) {
        document.methods(Relationship::KeyAgreement).filter_map(usable).collect()
    } else {
        let method = document
            .method(to, Relationship::KeyAgreement)
            .ok_or_else(|| Error::NotAuthorised { kid: to.to_owned(), relationship: Relationship::KeyAgreement })?;
        if let Err(error) = &method.key {
            return Err(Error::UnusableKey { kid: method.id.clone(), error: error.clone() });
        }
        usable(method).into_iter().collect()
    };
    if keys.is_empty() {
        return Err(Error::NoRecipientKey(to.to_owned()));
    }
    Ok(keys)
}

/// Checks that a message can be encrypted to the owner of a document.
///
/// # Errors
/// [`Error::NoRecipientKey`] and its like, as packing fails.
#[cfg(feature = "agent")]
pub(crate) fn check_recipient(document: &Document, to: &str) -> Result<(), Error> {
    agreement_keys(document, to).map(drop)
}

/// Checks that the document of one of our DIDs has a key, ready or not, on a curve of a recipient's keys.
///
/// # Errors
/// [`Error::NoCommonCurve`], and the errors of [`check_recipient`].
#[cfg(feature = "agent")]
pub(crate) fn check_curves(document: &Document, to: &str, own: &Document) -> Result<(), Error> {
    let keys = agreement_keys(document, to)?;
    let own_keys = || own.methods(Relationship::KeyAgreement).filter_map(|method| method.key.as_ref().ok());
    if own_keys().any(|own| keys.iter().any(|recipient| recipient.key.curve() == own.curve())) {
        return Ok(());
    }
    Err(Error::NoCommonCurve {
        to: to.to_owned(),
        recipient_curves: curve_names(keys.iter().map(|recipient| recipient.key)),
        from: own.id().to_owned(),
        sender_curves: curve_names(own_keys()),
    })
}

/// The keys on the curve of the first key.
pub(super) fn keys_on_first_curve<'a>(keys: &[Recipient<'a>]) -> Vec<Recipient<'a>> {
    let curve = keys.first().map(|key| key.key.curve());
    keys.iter().filter(|key| Some(key.key.curve()) == curve).copied().collect()
}

/// Chooses the first curve, in the order of the recipient's keys, on which the sender has a ready key. Returns the
/// recipient's keys on that curve, and the sender's key.
///
/// Fails with [`Error::NoReadyKey`] if the sender has keys on a curve of the recipient, none of them ready, and with
/// [`Error::NoCommonCurve`] if it has none.
pub(super) fn keys_on_common_curve<'a, 'm>(
    to: &str,
    keys: &[Recipient<'a>],
    from: &str,
    me: &'m Identities,
) -> Result<(Vec<Recipient<'a>>, &'m OwnKey), Error> {
    let own_keys = me.ready_keys(from, Relationship::KeyAgreement);
    if own_keys.is_empty() {
        return Err(me.no_ready_key(from, Relationship::KeyAgreement));
    }
    for recipient in keys {
        let curve = recipient.key.curve();
        if let Some(sender) = own_keys.iter().find(|own| own.key.curve() == curve) {
            return Ok((keys.iter().filter(|to| to.key.curve() == curve).copied().collect(), sender));
        }
    }
    if keys.iter().any(|recipient| me.has_curve(from, Relationship::KeyAgreement, recipient.key.curve())) {
        return Err(Error::NoReadyKey { name: from.to_owned(), relationship: "keyAgreement" });
    }
    Err(Error::NoCommonCurve {
        to: to.to_owned(),
        recipient_curves: curve_names(keys.iter().map(|recipient| recipient.key)),
        from: from.to_owned(),
        sender_curves: curve_names(own_keys.iter().map(|own| &own.key)),
    })
}

fn curve_names<'k>(keys: impl Iterator<Item = &'k PublicKey>) -> String {
    let mut curves: Vec<&str> = keys.map(|key| Curve::name(key.curve())).collect();
    curves.dedup();
    curves.join(", ")
}
