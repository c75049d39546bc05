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
    object::{Object, SeenBy, sensitive},
    profile::Profile,
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
    /// For a Z that lives as long as one operation. Some tokens want every secret private.
    pub(super) fleeting: SeenBy,
}

/// How the peer's point is written for the token (PKCS#11 v3.1 section 6.3.19: raw must, DER may be accepted).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointForm {
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

/// What a token is spoken to with.
#[derive(Clone, Copy)]
pub(super) struct Driver<'a> {
    pub(super) raw: &'a Raw,
    pub(super) profile: &'a Profile,
}

/// ECDH with `epk` (and with the sender), KDF, key unwrap.
pub(super) fn unwrap(driver: Driver<'_>, live: &mut Live, key: OurKey<'_>, request: &Unwrap) -> Outcome<Cek> {
    let info = KdfInfo {
        apu: &request.apu,
        apv: &request.apv,
        tag: request.sender.as_ref().map(|sender| sender.tag.as_slice()),
    };
    let sender = request.sender.as_ref().map(|sender| &sender.key);
    let token = Device { driver, session: &live.session };
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
pub(super) fn wrap(driver: Driver<'_>, live: &mut Live, key: OurKey<'_>, request: &Wrap) -> Outcome<Vec<EncryptedKey>> {
    let info = KdfInfo { apu: &request.apu, apv: &request.apv, tag: Some(&request.tag) };
    let Live { session, kept, .. } = live;
    let token = Device { driver, session };
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
    driver: Driver<'s>,
    session: &'s Session,
}

impl<'s> Device<'s> {
    /// Z of our key and a peer's, by a KDF of the mechanism.
    fn derive(
        self,
        key: OurKey<'_>,
        peer: &PublicKey,
        kdf: EcKdf<'_>,
        template: Vec<Attribute>,
    ) -> Outcome<Object<'s>> {
        let template = self.driver.profile.omit.secret.from(template);
        self.derive_as(key, peer, kdf, &template)
    }

    /// The same, in the device's dialect already.
    fn derive_as(
        self,
        key: OurKey<'_>,
        peer: &PublicKey,
        kdf: EcKdf<'_>,
        template: &[Attribute],
    ) -> Outcome<Object<'s>> {
        let der;
        let point = match key.method.point {
            PointForm::Raw => peer.as_bytes(),
            PointForm::Der => {
                der = octet_string(peer.as_bytes());
                &der
            }
        };
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(kdf, point));
        let derive = || Ok(Object::new(self.session, self.session.derive_key(&mechanism, key.private, template)?));
        match derive().during("C_DeriveKey") {
            // Asked again with our own point, which cannot be at fault.
            Err(fault) if peer != key.public => {
                let control = || self.derive_as(key, key.public, kdf, template).err();
                whose_fault(fault, control, || derive().during("C_DeriveKey"))
            }
            result => result,
        }
    }

    /// Z as an object that stays in the token.
    fn derive_sensitive(self, key: OurKey<'_>, peer: &PublicKey, seen_by: SeenBy) -> Outcome<Object<'s>> {
        let length = peer.curve().coordinate_length();
        self.derive(key, peer, EcKdf::null(), sensitive(KeyType::GENERIC_SECRET, Some(length), seen_by))
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
        let zs = self.derive_sensitive(key, peer, SeenBy::LoggedIn)?;
        let result = operation(Some(zs.handle()))?;
        kept.keep(key.number, peer, zs, self.session);
        Ok(result)
    }
}

/// How often a peer's input must fail, with a code that may mean anything, before it is the peer's fault.
const TRIES: usize = 3;

/// A derivation failed: is it the point, or the token? A code that may mean either is decided by `control`, the same
/// with a point that cannot be at fault, and by asking again: the token may have been sick for a moment.
fn whose_fault<T>(
    fault: Fault,
    control: impl FnOnce() -> Option<Fault>,
    mut again: impl FnMut() -> Outcome<T>,
) -> Outcome<T> {
    let Fault::Call(failure) = fault else { return Err(fault) };
    match failure.kind {
        Kind::Peer | Kind::Input => Err(Fault::Token(TokenError::PeerKey(failure.to_string()))),
        Kind::Vague => match control() {
            None => {
                let answer = (1..TRIES).map(|_| again()).find(|answer| !is_vague(answer));
                answer.unwrap_or_else(|| Err(Fault::Token(TokenError::PeerKey(failure.to_string()))))
            }
            Some(fault) => Err(fault),
        },
        _ => Err(Fault::Call(failure)),
    }
}

/// The call failed, and the code does not say whose fault it is.
fn is_vague<T>(answer: &Outcome<T>) -> bool {
    answer.as_ref().is_err_and(|fault| fault.kind() == Some(Kind::Vague))
}
