//! ECDH in the token: Z as a session object.

use cryptoki::{
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, AttributeType, KeyType, ObjectHandle},
    session::Session,
};

use crate::{
    keys::PublicKey,
    secrets::{
        Custody, TokenError,
        pkcs11::{
            ckr::{CallError, CallResult, During},
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
    /// Whether ECDH-1PU works too, and not only ECDH-ES.
    pub(in crate::secrets::pkcs11) authcrypt: bool,
}

/// The number of a key that is being tested. Its method is not known to work yet.
pub(in crate::secrets::pkcs11) const UNDER_TEST: u64 = 0;

/// Our key in one key agreement.
#[derive(Clone, Copy)]
pub(in crate::secrets::pkcs11) struct AgreementKey<'a> {
    /// Identifies the key in the cache of Zs. [`UNDER_TEST`] for a key that is being tested.
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
    ///
    /// No return value proves that the peer is at fault: its key is a valid point, and a device returns any code for a
    /// fault of its own. If the same call with our own point fails too, the token is at fault, and the session may be.
    /// If not, the session is in order, and the call is repeated, since the token may have failed for a moment only.
    /// If that fails each time, the result is [`TokenError::Refused`].
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
            Err(error) if error.may_be_about_input() && peer != key.public => {
                self.derive_as(key, key.public, kdf, template)?;
                repeat_refused(|| derive().during("C_DeriveKey"))
                    .unwrap_or_else(|| Err(TokenError::Refused(error.to_string()).into()))
            }
            // Every argument has served before.
            Err(error) if peer == key.public && key.number != UNDER_TEST => Err(error.of_token()),
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

    /// Checks that our key is still in the token, once in a second. A message to known recipients needs only their cached
    /// Zs, so a key that another program has deleted would go on sending.
    pub(super) fn check_key_exists(self, key: AgreementKey<'_>, cache: &mut ZsCache) -> CallResult<()> {
        if !cache.has_seen(key.number) {
            self.session.get_attributes(key.private, &[AttributeType::Class]).during("C_GetAttributeValue")?;
            cache.saw(key.number);
        }
        Ok(())
    }

    /// Runs `operation` with the Zs of our key and a peer's key, from the cache or derived now. Without a peer there is
    /// no Zs.
    ///
    /// A new Zs is cached only if the operation succeeded. So a sender that cannot make a valid message cannot displace
    /// the Zs of others. If the content key does not unwrap with a cached Zs, Zs is derived anew: the token may have lost
    /// the object, and given its handle to another.
    pub(super) fn with_zs<T>(
        self,
        key: AgreementKey<'_>,
        peer: Option<&PublicKey>,
        cache: &mut ZsCache,
        operation: impl Fn(Option<ObjectHandle>) -> CallResult<T>,
    ) -> CallResult<T> {
        let Some(peer) = peer else { return operation(None) };
        if let Some(zs) = cache.find(key.number, peer) {
            match operation(Some(zs)) {
                Err(CallError::Token(TokenError::Unwrap)) => cache.remove(key.number, peer, self.session),
                result => return result,
            }
        }
        let zs = self.derive_sensitive(key, peer, Visibility::LoggedIn)?;
        cache.saw(key.number);
        let result = operation(Some(zs.handle()))?;
        cache.insert(key.number, peer, zs, self.session);
        Ok(result)
    }
}

/// How often a call with a peer's input is made before a refusal counts as the token's answer.
const ATTEMPTS: usize = 3;

/// Repeats a call that was refused once. Returns none if it is refused each time.
pub(super) fn repeat_refused<T>(mut call: impl FnMut() -> CallResult<T>) -> Option<CallResult<T>> {
    let is_refused = |answer: &CallResult<T>| answer.as_ref().is_err_and(CallError::may_be_about_input);
    (1..ATTEMPTS).map(|_| call()).find(|answer| !is_refused(answer))
}
