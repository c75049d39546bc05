//! Key agreement: ECDH in the token, then KDF and key wrap as far inside it as the tier goes.
//!
//! | tier | the token does | comes out |
//! |---|---|---|
//! | `KekInToken` | ECDH, Concat KDF, AES key wrap | the content key |
//! | `KekInProcess` | ECDH, SHA-256 over Z | the KEK |
//! | `SharedSecretInProcess` | ECDH | Z |
//!
//! Zs of our key and a peer's never changes. Where Z stays in the token it is kept there as a sensitive session object:
//! a message from a known sender then costs one derivation, one to a known recipient none. In the process it is never
//! kept: who has it can forge that peer to us.

mod in_process;
mod in_token;
mod shared_secret;

use cryptoki::{
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, KeyType, ObjectHandle},
    session::Session,
};

use super::{
    ckr::{During, Fault, Kind, Outcome},
    curves::octet_string,
    object::{Object, sensitive},
    raw::Raw,
    session::{Kept, Live},
};
use crate::{
    crypto::{Cek, EncryptedKey, KdfInfo},
    keys::PublicKey,
    secrets::{Custody, TokenError, Unwrap, Wrap},
};

/// How a key agrees, as its known answer at start has shown to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) custody: Custody,
    pub(super) point: PointForm,
}

/// How the peer's point is written for the token (PKCS#11 v3.1 section 6.3.19: raw must, DER may be accepted).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PointForm {
    /// As it is. DER fails for X25519 on Kryoptic 1.5.4.
    Raw,
    /// As a DER OCTET STRING, which is all that some take.
    Der,
}

/// Our key, for one operation.
#[derive(Clone, Copy)]
pub(super) struct OurKey<'a> {
    pub(super) number: u64,
    pub(super) public: &'a PublicKey,
    pub(super) private: ObjectHandle,
    pub(super) method: Method,
}

/// ECDH with `epk` (and with the sender), KDF, key unwrap.
pub(super) fn unwrap(raw: &Raw, live: &mut Live, key: OurKey<'_>, request: &Unwrap) -> Outcome<Cek> {
    let info = KdfInfo {
        apu: &request.apu,
        apv: &request.apv,
        tag: request.sender.as_ref().map(|sender| sender.tag.as_slice()),
    };
    let sender = request.sender.as_ref().map(|sender| &sender.key);
    let token = Device { raw, session: &live.session };
    let wrapped = &request.encrypted_key;
    match key.method.custody {
        Custody::SharedSecretInProcess => shared_secret::unwrap(token, key, &request.epk, sender, &info, wrapped),
        Custody::KekInProcess => token.with_zs(key, sender, &mut live.kept, |zs| {
            in_process::unwrap(token, key, &request.epk, zs, &info, wrapped)
        }),
        Custody::KekInToken => token
            .with_zs(key, sender, &mut live.kept, |zs| in_token::unwrap(token, key, &request.epk, zs, &info, wrapped)),
    }
}

/// For each recipient ECDH with it, KDF behind its Ze, key wrap.
pub(super) fn wrap(raw: &Raw, live: &mut Live, key: OurKey<'_>, request: &Wrap) -> Outcome<Vec<EncryptedKey>> {
    let info = KdfInfo { apu: &request.apu, apv: &request.apv, tag: Some(&request.tag) };
    let Live { session, kept, .. } = live;
    let token = Device { raw, session };
    // The content key goes into the token once for all recipients.
    let cek = match key.method.custody {
        Custody::KekInToken => Some(in_token::put_cek(token, &request.cek)?),
        _ => None,
    };
    let wrap_one = |(recipient, ze): &(PublicKey, _)| match &cek {
        Some(cek) => token.with_zs(key, Some(recipient), kept, |zs| in_token::wrap(token, ze, zs, &info, cek)),
        None if key.method.custody == Custody::KekInProcess => {
            token.with_zs(key, Some(recipient), kept, |zs| in_process::wrap(token, ze, zs, &info, &request.cek))
        }
        None => shared_secret::wrap(token, key, recipient, ze, &info, &request.cek),
    };
    request.recipients.iter().map(wrap_one).collect()
}

/// A session and the functions behind it.
#[derive(Clone, Copy)]
struct Device<'s> {
    raw: &'s Raw,
    session: &'s Session,
}

impl<'s> Device<'s> {
    /// Z of our key and a peer's, by a KDF of the mechanism.
    fn derive(self, key: OurKey<'_>, peer: &PublicKey, kdf: EcKdf<'_>, template: &[Attribute]) -> Outcome<Object<'s>> {
        let der;
        let point = match key.method.point {
            PointForm::Raw => peer.as_bytes(),
            PointForm::Der => {
                der = octet_string(peer.as_bytes());
                &der
            }
        };
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(kdf, point));
        match self.session.derive_key(&mechanism, key.private, template).during("C_DeriveKey") {
            Ok(handle) => Ok(Object::new(self.session, handle)),
            // Asked again with our own point, which cannot be at fault.
            Err(fault) if peer != key.public => {
                Err(whose_fault(fault, || self.derive(key, key.public, kdf, template).err()))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Z as an object that stays in the token.
    fn derive_sensitive(self, key: OurKey<'_>, peer: &PublicKey) -> Outcome<Object<'s>> {
        let length = peer.curve().coordinate_length();
        self.derive(key, peer, EcKdf::null(), &sensitive(KeyType::GENERIC_SECRET, Some(length)))
    }

    /// Does something with the Zs of our key and a peer's, derived now or kept from before, and keeps it if that
    /// succeeded: who cannot make a message that opens cannot push a Zs out.
    fn with_zs<T>(
        self,
        key: OurKey<'_>,
        peer: Option<&PublicKey>,
        kept: &mut Kept,
        operation: impl FnOnce(Option<ObjectHandle>) -> Outcome<T>,
    ) -> Outcome<T> {
        let Some(peer) = peer else { return operation(None) };
        if let Some(zs) = kept.find(key.number, peer) {
            return operation(Some(zs));
        }
        let zs = self.derive_sensitive(key, peer)?;
        let result = operation(Some(zs.handle()))?;
        kept.keep(key.number, peer, zs, self.session);
        Ok(result)
    }
}

/// A derivation failed: is it the point, or the token? A code that may mean either is decided by `control`, the same
/// with a point that cannot be at fault.
fn whose_fault(fault: Fault, control: impl FnOnce() -> Option<Fault>) -> Fault {
    let Fault::Call(failure) = fault else { return fault };
    match failure.kind {
        Kind::Input => Fault::Token(TokenError::PeerKey(failure.to_string())),
        Kind::Vague => match control() {
            None => Fault::Token(TokenError::PeerKey(failure.to_string())),
            Some(fault) => fault,
        },
        _ => Fault::Call(failure),
    }
}
