//! ECDH in the token: Z as a session object, and whose fault it is if that fails.

use cryptoki::{
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, KeyType, ObjectHandle},
    session::Session,
};

use crate::{
    keys::PublicKey,
    secrets::{
        Custody, TokenError,
        pkcs11::{
            ckr::{CallError, CallResult, During, FailureKind},
            curves::{PointEncoding, octet_string},
            object::{SessionObject, Visibility, sensitive},
            profile::Profile,
            raw::Raw,
            session::ZsCache,
        },
    },
};

/// The variant of key agreement that works for a key, as its known-answer test has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::secrets::pkcs11) struct AgreementMethod {
    pub(in crate::secrets::pkcs11) custody: Custody,
    pub(in crate::secrets::pkcs11) point: PointEncoding,
    /// The visibility of a Z that exists for one operation. Some tokens accept private objects only.
    pub(in crate::secrets::pkcs11) ze_visibility: Visibility,
}

/// Our key in one key agreement.
#[derive(Clone, Copy)]
pub(in crate::secrets::pkcs11) struct AgreementKey<'a> {
    /// Identifies the key in the cache of Zs.
    pub(in crate::secrets::pkcs11) number: u64,
    pub(in crate::secrets::pkcs11) public: &'a PublicKey,
    pub(in crate::secrets::pkcs11) private: ObjectHandle,
    pub(in crate::secrets::pkcs11) method: AgreementMethod,
}

/// What calls to a token need besides a session: the functions that `cryptoki` lacks, and the device's profile.
#[derive(Clone, Copy)]
pub(in crate::secrets::pkcs11) struct Driver<'a> {
    pub(in crate::secrets::pkcs11) raw: &'a Raw,
    pub(in crate::secrets::pkcs11) profile: &'a Profile,
}

/// A session with the driver for its calls.
#[derive(Clone, Copy)]
pub(super) struct TokenSession<'s> {
    pub(super) driver: Driver<'s>,
    pub(super) session: &'s Session,
}

impl<'s> TokenSession<'s> {
    /// ECDH of our key and a peer's key. The mechanism's own `kdf` is applied to Z.
    pub(super) fn derive(
        self,
        key: AgreementKey<'_>,
        peer: &PublicKey,
        kdf: EcKdf<'_>,
        template: Vec<Attribute>,
    ) -> CallResult<SessionObject<'s>> {
        let template = self.driver.profile.omit.secret.remove_from(template);
        self.derive_as(key, peer, kdf, &template)
    }

    /// Like [`derive`](Self::derive), but with a template from which the attributes that the profile omits were
    /// removed already.
    fn derive_as(
        self,
        key: AgreementKey<'_>,
        peer: &PublicKey,
        kdf: EcKdf<'_>,
        template: &[Attribute],
    ) -> CallResult<SessionObject<'s>> {
        let der;
        let point = match key.method.point {
            PointEncoding::Raw => peer.as_bytes(),
            PointEncoding::Der => {
                der = octet_string(peer.as_bytes());
                &der
            }
        };
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(kdf, point));
        let derive =
            || Ok(SessionObject::new(self.session, self.session.derive_key(&mechanism, key.private, template)?));
        match derive().during("C_DeriveKey") {
            // The control call uses our own point, which cannot be at fault.
            Err(error) if peer != key.public => {
                let control = || self.derive_as(key, key.public, kdf, template).err();
                whose_fault(error, control, || derive().during("C_DeriveKey"))
            }
            result => result,
        }
    }

    /// Z as a session object that stays in the token.
    pub(super) fn derive_sensitive(
        self,
        key: AgreementKey<'_>,
        peer: &PublicKey,
        visibility: Visibility,
    ) -> CallResult<SessionObject<'s>> {
        let length = peer.curve().coordinate_length();
        self.derive(key, peer, EcKdf::null(), sensitive(KeyType::GENERIC_SECRET, Some(length), visibility))
    }

    /// Runs `operation` with the Zs of our key and a peer's key, from the cache or derived now. Without a peer there is
    /// no Zs.
    ///
    /// A new Zs is cached only if the operation succeeded. So a sender that cannot make a valid message cannot displace
    /// the Zs of others.
    pub(super) fn with_zs<T>(
        self,
        key: AgreementKey<'_>,
        peer: Option<&PublicKey>,
        cache: &mut ZsCache,
        operation: impl FnOnce(Option<ObjectHandle>) -> CallResult<T>,
    ) -> CallResult<T> {
        let Some(peer) = peer else { return operation(None) };
        if let Some(zs) = cache.find(key.number, peer) {
            return operation(Some(zs));
        }
        let zs = self.derive_sensitive(key, peer, Visibility::LoggedIn)?;
        let result = operation(Some(zs.handle()))?;
        cache.insert(key.number, peer, zs, self.session);
        Ok(result)
    }
}

/// How often a call with a peer's input must fail with an ambiguous code before the peer is at fault.
pub(super) const ATTEMPTS: usize = 3;

/// Decides whether a failed derivation is the fault of the peer's point or of the token.
///
/// For an ambiguous code, `control` makes the same call with a point that cannot be at fault. If that succeeds,
/// `repeat` makes the failed call again, since the token may have failed for a moment only.
fn whose_fault<T>(
    error: CallError,
    control: impl FnOnce() -> Option<CallError>,
    mut repeat: impl FnMut() -> CallResult<T>,
) -> CallResult<T> {
    let CallError::Call(failure) = error else { return Err(error) };
    match failure.kind {
        FailureKind::Peer | FailureKind::Input => Err(CallError::Token(TokenError::PeerKey(failure.to_string()))),
        FailureKind::Ambiguous => match control() {
            None => {
                let answer = (1..ATTEMPTS).map(|_| repeat()).find(|answer| !is_ambiguous(answer));
                answer.unwrap_or_else(|| Err(CallError::Token(TokenError::PeerKey(failure.to_string()))))
            }
            Some(error) => Err(error),
        },
        _ => Err(CallError::Call(failure)),
    }
}

/// Whether the call failed with a code that does not say whose fault it is.
pub(super) fn is_ambiguous<T>(answer: &CallResult<T>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == Some(FailureKind::Ambiguous))
}
