//! Key pairs as PKCS#11 objects: their templates, and the calls that make them.

use std::sync::Arc;

use cryptoki::{
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use super::{
    ckr::{CallError, CallResult, During, FailureKind},
    curves::{self, octet_string},
    object::SessionObject,
    profile::Profile,
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{ImportKey, KeyUse, NewKey, TokenError},
};

/// The handles of a key pair.
pub(super) struct KeyPair {
    pub(super) private: ObjectHandle,
    pub(super) public: ObjectHandle,
}

/// How long a key pair exists (CKA_TOKEN).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyLifetime {
    /// Until it is deleted.
    Token,
    /// As long as the session.
    Session,
}

/// CKA_ID of a new key: the first 20 bytes of the SHA-256 of its point. The length is that of a SHA-1 hash, which other
/// programs use as CKA_ID.
pub(super) fn key_id(public: &PublicKey) -> Vec<u8> {
    Sha256::digest(public.as_bytes())[..20].to_vec()
}

/// Generates a key pair in the token.
pub(super) fn generate(
    session: &Session,
    profile: &Profile,
    key: &NewKey,
    lifetime: KeyLifetime,
) -> CallResult<KeyPair> {
    // A unique CKA_ID until the point is known.
    let id = uuid::Uuid::new_v4().as_bytes().to_vec();
    first_that_works(session, profile, key.curve, |key_type| {
        let public = public_template(profile, lifetime, key_type, key.curve, key.usage, &id, key.label.as_ref());
        let private = private_template(profile, lifetime, key_type, key.usage, &id, key.label.as_ref());
        let mechanism = curves::generation_mechanism(key_type);
        let made = session.generate_key_pair(&mechanism, &public, &private).during("C_GenerateKeyPair");
        made.map(|(public, private)| KeyPair { private, public })
    })
}

/// Imports a key pair.
pub(super) fn import(session: &Session, profile: &Profile, key: &mut ImportKey) -> CallResult<KeyPair> {
    let (curve, id) = (key.public.curve(), key_id(&key.public));
    first_that_works(session, profile, curve, |key_type| {
        let mut template = private_template(profile, KeyLifetime::Token, key_type, key.usage, &id, key.label.as_ref());
        template.push(Attribute::Class(ObjectClass::PRIVATE_KEY));
        template.push(Attribute::EcParams(profile.ec_params(curve)));
        // The value is the raw scalar, without the point. SoftHSM 2.6.1 also accepts DER or seed || public, but then
        // fails when the key is used.
        template.push(Attribute::Value(key.private.to_vec()));
        let private = session.create_object(&template).during("C_CreateObject");
        if let Some(Attribute::Value(value)) = template.last_mut() {
            value.zeroize();
        }
        let private = private?;
        match create_public(session, profile, key_type, key, &id) {
            Ok(public) => Ok(KeyPair { private, public }),
            Err(error) => {
                session.destroy_object(private).during("C_DestroyObject")?;
                Err(error)
            }
        }
    })
}

/// Creates the public key object. Its point is written in the first encoding that the token accepts.
fn create_public(
    session: &Session,
    profile: &Profile,
    key_type: KeyType,
    key: &ImportKey,
    id: &[u8],
) -> CallResult<ObjectHandle> {
    let create = |point: Vec<u8>| {
        let (curve, label) = (key.public.curve(), key.label.as_ref());
        let mut template = public_template(profile, KeyLifetime::Token, key_type, curve, key.usage, id, label);
        template.push(Attribute::Class(ObjectClass::PUBLIC_KEY));
        template.push(Attribute::EcPoint(point));
        session.create_object(&template).during("C_CreateObject")
    };
    let (raw, der) = (key.public.as_bytes().to_vec(), octet_string(key.public.as_bytes()));
    // The specification wants the raw point for Montgomery keys.
    let (first, second) = if key_type == KeyType::EC_MONTGOMERY { (raw, der) } else { (der, raw) };
    create(first).or_else(|error| if error.is_session_or_token_lost() { Err(error) } else { create(second) })
}

/// Tries the key types that a token may use for a curve. If none works, returns the error that says most: any other
/// than "unsupported", if there is one.
fn first_that_works<T>(
    session: &Session,
    profile: &Profile,
    curve: Curve,
    make: impl FnMut(KeyType) -> CallResult<T>,
) -> CallResult<T> {
    let mut best = CallError::Token(TokenError::Unsupported(format!("the curve {curve}")));
    for result in profile.key_types(curve).into_iter().map(make) {
        match result {
            Err(CallError::Call(failure))
                if !matches!(failure.kind, FailureKind::Lost | FailureKind::Gone | FailureKind::Pin) =>
            {
                if failure.kind != FailureKind::Unsupported || matches!(best, CallError::Token(_)) {
                    best = CallError::Call(failure);
                }
            }
            result => return result,
        }
    }
    Err(explain_failure(session, profile, curve, best))
}

/// Finds out whether a failure means that the token does not have the curve.
///
/// For an unknown curve some tokens return a code for a failing device (CKR_GENERAL_ERROR, Kryoptic 1.5.4) or for wrong
/// arguments (CKR_DOMAIN_PARAMS_INVALID, NSS 3.87). So another pair is generated as session objects. After an ambiguous
/// code it is on P-256, which every token has: if that succeeds, the device does not fail, so the token lacks the
/// curve. After a code for wrong arguments it is on the same curve, with arguments that are certainly right: if that
/// fails too, the token lacks the curve.
fn explain_failure(session: &Session, profile: &Profile, curve: Curve, error: CallError) -> CallError {
    let generates = |curve| {
        let key_type = profile.key_types(curve)[0];
        let public = [Attribute::Token(false), Attribute::EcParams(profile.ec_params(curve))];
        let private = [Attribute::Token(false), Attribute::Private(true), Attribute::Sensitive(true)];
        let made = session.generate_key_pair(&curves::generation_mechanism(key_type), &public, &private);
        made.map(|(public, private)| drop([public, private].map(|handle| SessionObject::new(session, handle)))).is_ok()
    };
    let is_unsupported = match error.kind() {
        Some(FailureKind::Ambiguous) => curve != Curve::P256 && generates(Curve::P256),
        Some(FailureKind::Input) => !generates(curve),
        _ => false,
    };
    if is_unsupported { TokenError::Unsupported(format!("the curve {curve} ({error})")).into() } else { error }
}

fn private_template(
    profile: &Profile,
    lifetime: KeyLifetime,
    key_type: KeyType,
    usage: KeyUse,
    id: &[u8],
    label: Option<&Arc<str>>,
) -> Vec<Attribute> {
    let mut template = common_template(lifetime, key_type, id, label);
    template.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Derive(usage.allows_key_agreement()),
        Attribute::Sign(usage.allows_signing()),
    ]);
    profile.omit.private_key.remove_from(template)
}

fn public_template(
    profile: &Profile,
    lifetime: KeyLifetime,
    key_type: KeyType,
    curve: Curve,
    usage: KeyUse,
    id: &[u8],
    label: Option<&Arc<str>>,
) -> Vec<Attribute> {
    let mut template = common_template(lifetime, key_type, id, label);
    template.extend([
        Attribute::Private(false),
        Attribute::EcParams(profile.ec_params(curve)),
        Attribute::Verify(usage.allows_signing()),
    ]);
    profile.omit.public_key.remove_from(template)
}

fn common_template(lifetime: KeyLifetime, key_type: KeyType, id: &[u8], label: Option<&Arc<str>>) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Token(lifetime == KeyLifetime::Token),
        Attribute::KeyType(key_type),
        Attribute::Id(id.to_vec()),
    ];
    template.extend(label.map(|label| Attribute::Label(label.as_bytes().to_vec())));
    template
}
