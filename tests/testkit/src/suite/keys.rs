//! Making, importing, listing and deleting keys.

use std::sync::Arc;

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{Custodian, HeldKey, ImportKey, KeyState, KeyUse, NewKey, Origin, Purpose, TokenError},
};
use zeroize::Zeroizing;

use super::{
    Capabilities, agreement, signing,
    temporary::{Temporary, fresh_label},
};
use crate::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to},
};

const USES: [KeyUse; 3] = [KeyUse::Agreement, KeyUse::Signing, KeyUse::Both];

/// A key of each curve and each use that fits is made, is listed once with its attributes, and works.
pub fn are_made_on_every_curve(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.curves() {
        for usage in USES.into_iter().filter(|usage| usage.fits(curve)) {
            let label: Arc<str> = fresh_label().into();
            let key = Temporary::generate_as(token, &NewKey { curve, usage, label: Some(label.clone()) });
            check_attributes(token, capabilities, &key.held, curve, usage, &label);
            check_origin(capabilities, &key.held, Origin::Generated);
            check_works(token, &key.held);
        }
    }
}

/// A curve that the token lacks is refused as unsupported, for generation and for import.
pub fn of_a_curve_that_is_lacking_are_refused(token: &dyn Custodian, capabilities: &Capabilities) {
    for &curve in &capabilities.lacks {
        let label = fresh_label();
        let usage = KeyUse::of(curve);
        let made = token.generate(&NewKey { curve, usage, label: Some(label.as_str().into()) });
        assert!(matches!(made, Err(TokenError::Unsupported(_))), "generate on {curve}: {made:?}");
        if capabilities.imports {
            let imported = token.import(PrivateKey::generate(curve).to_import(usage, Some(&label)));
            assert!(matches!(imported, Err(TokenError::Unsupported(_))), "import on {curve}: {imported:?}");
        }
        check_nothing_left(token, &label);
    }
}

/// A key for a use that its curve does not support (X25519 for signing) is not made.
pub fn for_a_use_that_does_not_fit_are_refused(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.curves() {
        for usage in USES.into_iter().filter(|usage| !usage.fits(curve)) {
            let label = fresh_label();
            let made = token.generate(&NewKey { curve, usage, label: Some(label.as_str().into()) });
            assert!(made.is_err(), "a key on {curve} for {usage:?} was made");
            if capabilities.imports {
                let imported = token.import(PrivateKey::generate(curve).to_import(usage, Some(&label)));
                assert!(imported.is_err(), "a key on {curve} for {usage:?} was imported");
            }
            check_nothing_left(token, &label);
        }
    }
}

/// A P-256 key made for one use is refused for the other.
pub fn do_only_what_they_were_made_for(token: &dyn Custodian, capabilities: &Capabilities) {
    if capabilities.lacks.contains(&Curve::P256) {
        return;
    }
    let make = |usage| Temporary::generate_as(token, &NewKey { curve: Curve::P256, usage, label: None });
    let agrees = make(KeyUse::Agreement);
    assert!(token.sign(agrees.public(), b"input", &Purpose::KeyTest).is_err(), "a key for agreement signed");
    let signs = make(KeyUse::Signing);
    let message = message_to(signs.public(), None, &fresh_cek(), &Parties::example());
    assert!(token.unwrap_cek(signs.public(), &message, &Purpose::KeyTest).is_err(), "a key for signing agreed");
    assert_eq!(signs.held.custody, None, "a key that only signs has no custody");
}

/// Labels are kept unchanged, in any script. A key without a label has none.
pub fn keep_their_labels(token: &dyn Custodian, capabilities: &Capabilities) {
    let Some(curve) = capabilities.curves().next() else { return };
    let unique = fresh_label();
    for label in [None, Some(unique.clone()), Some(format!("{unique} ключ 鍵 \"quoted\" %20"))] {
        let new = NewKey { curve, usage: KeyUse::of(curve), label: label.as_deref().map(Into::into) };
        let key = Temporary::generate_as(token, &new);
        assert_eq!(key.held.label, label);
        assert_eq!(listed(token, key.public()).expect("the key is listed").label, label);
    }
}

/// A key of each curve is imported with the right public half, is listed, and works.
pub fn are_imported_on_every_curve(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.curves().filter(|_| capabilities.imports) {
        for usage in USES.into_iter().filter(|usage| usage.fits(curve)) {
            let (private, label) = (PrivateKey::generate(curve), fresh_label());
            let held =
                token.import(private.to_import(usage, Some(&label))).expect("a key on one of the token's curves");
            assert_eq!(held.public, *private.public());
            check_attributes(token, capabilities, &held, curve, usage, &label);
            check_origin(capabilities, &held, Origin::Imported);
            check_works(token, &held);
            token.delete(&held.public).expect("the key is in the token");
        }
    }
}

/// Scalars and coordinates that begin with zero bytes keep their length.
pub fn are_imported_with_leading_zeros(token: &dyn Custodian, capabilities: &Capabilities) {
    let nist = |curve: &Curve| !matches!(curve, Curve::X25519 | Curve::Ed25519);
    for curve in capabilities.curves().filter(nist).filter(|_| capabilities.imports) {
        let mut small = Zeroizing::new(vec![0; curve.coordinate_length()]);
        small[curve.coordinate_length() - 2..].copy_from_slice(&random_pair());
        let small = PrivateKey::from_bytes(curve, &small).expect("a small scalar is one");
        for private in [small, with_short_x(curve)] {
            let key = Temporary::import(token, &private);
            assert_eq!(key.public(), private.public());
            check_works(token, &key.held);
        }
    }
}

/// The private half of one key with the public half of another is refused, and neither is left in the token.
pub fn of_two_halves_that_do_not_match_leave_nothing(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.curves().filter(|_| capabilities.imports) {
        let (one, other, label) = (PrivateKey::generate(curve), PrivateKey::generate(curve), fresh_label());
        let mut key = one.to_import(KeyUse::of(curve), Some(&label));
        key.public = other.public().clone();
        assert!(token.import(key).is_err(), "a {curve} key was imported with the public half of another");
        check_nothing_left(token, &label);
        for public in [one.public(), other.public()] {
            assert_eq!(listed(token, public), None);
            check_gone(token, public);
        }
        check_works(token, &Temporary::import(token, &one).held);
    }
}

/// Bytes that are not a private key of the curve are refused, and nothing is left in the token.
pub fn of_no_curve_leave_nothing(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.curves().filter(|_| capabilities.imports) {
        let (private, usage) = (PrivateKey::generate(curve), KeyUse::of(curve));
        let right = private.to_bytes();
        let mut wrong = vec![Vec::new(), right[1..].to_vec(), [&right[..], &[7]].concat(), right.repeat(2)];
        if !matches!(curve, Curve::X25519 | Curve::Ed25519) {
            wrong.extend([vec![0; right.len()], vec![0xff; right.len()]]);
        }
        for bytes in wrong {
            let label = fresh_label();
            let length = bytes.len();
            let (public, label_) = (private.public().clone(), Some(label.as_str().into()));
            let key = ImportKey { public, private: Zeroizing::new(bytes), usage, label: label_ };
            assert!(token.import(key).is_err(), "a {curve} key of {length} bytes was imported");
            check_nothing_left(token, &label);
            assert_eq!(listed(token, private.public()), None);
        }
    }
}

/// Whether or not a second import of a key is refused, deleting the key leaves none.
pub fn imported_twice_are_deleted_once(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.curves().filter(|_| capabilities.imports) {
        let private = PrivateKey::generate(curve);
        let key = Temporary::import(token, &private);
        let _ = token.import(private.to_import(KeyUse::of(curve), Some(&fresh_label())));
        check_works(token, &key.held);
        token.delete(private.public()).expect("the key is in the token");
        assert_eq!(listed(token, private.public()), None);
        check_gone(token, private.public());
    }
}

/// Deleting removes one key only. Every operation with it then fails with `KeyGone`.
pub fn deleted_are_gone_and_no_others(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.curves() {
        let (one, other) = (Temporary::generate(token, curve), Temporary::generate(token, curve));
        check_works(token, &one.held);
        token.delete(one.public()).expect("the key is in the token");
        assert_eq!(listed(token, one.public()), None);
        check_gone(token, one.public());
        assert_eq!(listed(token, other.public()).as_ref(), Some(&other.held));
        check_works(token, &other.held);
    }
}

/// Operations with a key that was never in the token fail with `KeyGone`.
pub fn not_held_are_gone(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.curves() {
        check_gone(token, PrivateKey::generate(curve).public());
    }
}

/// Keys are identified by their public halves, also after the token was opened again.
pub fn are_the_same_when_opened_again<T: Custodian>(
    token: &dyn Custodian,
    capabilities: &Capabilities,
    reopen: impl FnOnce() -> T,
) {
    let made: Vec<_> = capabilities.curves().map(|curve| Temporary::generate(token, curve)).collect();
    let again = reopen();
    for key in &made {
        assert_eq!(listed(&again, key.public()).as_ref(), Some(&key.held));
        check_works(&again, &key.held);
    }
}

/// The key in the inventory, which must not list a key twice.
fn listed(token: &dyn Custodian, public: &PublicKey) -> Option<HeldKey> {
    let inventory = token.inventory().expect("a list of keys");
    let mut found = inventory.into_iter().filter(|held| held.public == *public);
    let first = found.next();
    assert_eq!(found.next(), None, "the key is listed twice");
    first
}

fn check_attributes(
    token: &dyn Custodian,
    capabilities: &Capabilities,
    held: &HeldKey,
    curve: Curve,
    usage: KeyUse,
    label: &str,
) {
    assert_eq!(held.public.curve(), curve);
    assert_eq!(held.usage, usage, "{curve}");
    assert_eq!(held.label.as_deref(), Some(label), "{curve}");
    assert_eq!(*held.token, *token.name());
    assert_eq!(held.state, KeyState::Ready);
    assert!(held.protected, "a {curve} key is not sensitive, or is extractable");
    assert_eq!(held.custody.is_some(), usage.allows_key_agreement(), "{curve}: {:?}", held.custody);
    if let (true, Some(_)) = (usage.allows_key_agreement(), capabilities.custody) {
        assert_eq!(held.custody, capabilities.custody, "{curve}");
    }
    assert_eq!(listed(token, &held.public).as_ref(), Some(held), "the inventory lists the same");
    let usable = token.keys().expect("a list of keys");
    assert_eq!(usable.iter().filter(|key| *key == held).count(), 1, "the key is listed once among the usable keys");
}

fn check_origin(capabilities: &Capabilities, held: &HeldKey, origin: Origin) {
    let expected = if capabilities.tells_origin { origin } else { Origin::Unknown };
    assert_eq!(held.origin, expected, "{}", held.public.curve());
    // A token may leave these out, but must not report wrong values (PKCS#11 v3.1 section 4.9).
    let wrong = Some(origin != Origin::Generated);
    assert_ne!(held.always_sensitive, wrong, "{} {origin:?}: always sensitive", held.public.curve());
    assert_ne!(held.never_extractable, wrong, "{} {origin:?}: never extractable", held.public.curve());
}

/// Checks that the key can do everything it was made for.
fn check_works(token: &dyn Custodian, held: &HeldKey) {
    if held.usage.allows_key_agreement() {
        agreement::check_unwraps(token, &held.public);
    }
    if held.usage.allows_signing() {
        signing::check_signs(token, &held.public, b"input");
    }
}

fn check_gone(token: &dyn Custodian, public: &PublicKey) {
    let gone = TokenError::KeyGone;
    assert_eq!(token.delete(public), Err(gone.clone()));
    if public.curve().supports_key_agreement() {
        let parties = Parties::example();
        let message = message_to(public, None, &fresh_cek(), &parties);
        assert_eq!(token.unwrap_cek(public, &message, &Purpose::KeyTest).err(), Some(gone.clone()));
        assert_eq!(agreement::wrap_one(token, public).err(), Some(gone.clone()));
    }
    if public.curve().signature_algorithm().is_some() {
        assert_eq!(token.sign(public, b"input", &Purpose::KeyTest), Err(gone));
    }
}

fn check_nothing_left(token: &dyn Custodian, label: &str) {
    let left = token.inventory().expect("a list of keys").into_iter().find(|held| held.label.as_deref() == Some(label));
    assert_eq!(left, None, "something is left in the token");
}

/// A key whose x coordinate begins with a zero byte.
fn with_short_x(curve: Curve) -> PrivateKey {
    loop {
        let private = PrivateKey::generate(curve);
        if private.public().coordinates().expect("not a 25519 curve").0[0] == 0 {
            return private;
        }
    }
}

/// Two random bytes that are not both zero, so that two runs on one token do not use the same key.
fn random_pair() -> [u8; 2] {
    loop {
        let mut pair = [0; 2];
        getrandom::fill(&mut pair).expect("the operating system has randomness");
        if pair != [0, 0] {
            return pair;
        }
    }
}
