//! PKCS#11 tokens, on the real SoftHSM and the real Kryoptic.

use crate::support::{FreshToken, Module, with_fresh_token};
use claviger::{
    crypto::{self, Cek, ContentEncryption, EphemeralKey, KdfInfo},
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, Custody, Ecdh1puSender, HeldKey, KeyUse, NewKey, Origin, Purpose, Token, TokenError, UnwrapRequest,
        WrapRequest,
        pkcs11::{OpenOptions, PinSource, Pkcs11Token, open},
    },
};
use claviger_testkit::PrivateKey;
use cryptoki::{
    context::Pkcs11,
    mechanism::Mechanism,
    object::{Attribute, ObjectClass},
    session::Session,
    slot::Slot,
};

/// The curves of Kryoptic 1.5.4: all but secp256k1.
pub(super) const KRYOPTIC: [Curve; 5] = [Curve::X25519, Curve::P256, Curve::P384, Curve::P521, Curve::Ed25519];

/// A wrapped content key for `key`, made in software.
struct Message {
    cek: Cek,
    request: UnwrapRequest,
}

fn message(key: &PublicKey, sender: Option<&EphemeralKey>) -> Message {
    let ephemeral = EphemeralKey::generate(key.curve()).unwrap();
    let cek = Cek::generate(ContentEncryption::A256CbcHs512);
    let tag = sender.map(|_| vec![7; 32]);
    let mut z = vec![ephemeral.agree(key).unwrap()];
    z.extend(sender.map(|sender| sender.agree(key).unwrap()));
    let kek = crypto::concat_kdf(&z.iter().collect::<Vec<_>>(), &KdfInfo { apu: b"u", apv: b"v", tag: tag.as_deref() });
    let request = UnwrapRequest {
        epk: ephemeral.public().clone(),
        sender: sender.map(|sender| Ecdh1puSender { key: sender.public().clone(), tag: tag.unwrap() }),
        apu: b"u".to_vec(),
        apv: b"v".to_vec(),
        encrypted_key: crypto::wrap_key(&kek, &cek),
    };
    Message { cek, request }
}

pub(super) fn generate(token: &Pkcs11Token, curve: Curve) -> HeldKey {
    let new = NewKey { curve, usage: KeyUse::of(curve), label: Some(format!("my {curve}").into()) };
    token.generate(&new).unwrap_or_else(|error| panic!("{curve}: {error}"))
}

pub(super) fn agrees(token: &Pkcs11Token, key: &PublicKey) {
    let sender = EphemeralKey::generate(key.curve()).unwrap();
    for sender in [None, Some(&sender), Some(&sender)] {
        let message = message(key, sender);
        assert!(token.unwrap_cek(key, &message.request, &Purpose::KeyTest).unwrap() == message.cek, "{}", key.curve());
    }
    let ephemeral = EphemeralKey::generate(key.curve()).unwrap();
    let cek = Cek::generate(ContentEncryption::A256CbcHs512);
    let (apu, apv, tag) = (b"u".to_vec(), b"v".to_vec(), vec![9; 32]);
    let others: Vec<_> = (0..3).map(|_| EphemeralKey::generate(key.curve()).unwrap()).collect();
    let recipients =
        others.iter().map(|other| (other.public().clone(), ephemeral.agree(other.public()).unwrap())).collect();
    let request = WrapRequest { cek: cek.clone(), apu: apu.clone(), apv: apv.clone(), tag: tag.clone(), recipients };
    let wrapped = token.wrap_cek(key, &request, &Purpose::KeyTest).unwrap();
    for (other, wrapped) in others.iter().zip(wrapped) {
        let z = [other.agree(ephemeral.public()).unwrap(), other.agree(key).unwrap()];
        let kek = crypto::concat_kdf(&[&z[0], &z[1]], &KdfInfo { apu: &apu, apv: &apv, tag: Some(&tag) });
        assert!(crypto::unwrap_key(&kek, &wrapped).unwrap() == cek);
    }
}

pub(super) fn signs(token: &Pkcs11Token, key: &PublicKey) {
    for length in [0, 1, 64, 5000] {
        let input = vec![b'x'; length];
        let signature = token.sign(key, &input, &Purpose::KeyTest).unwrap();
        crypto::verify(key, &input, &signature).unwrap();
    }
}

/// Keys on every curve: generated, listed, used, found after the token is opened again, deleted.
fn every_curve(fresh: FreshToken, curves: &[Curve], custody: Custody) {
    let token = open(&fresh.uri, PinSource::uri()).unwrap();
    assert_eq!(token.name(), "demo");
    assert!(token.keys().unwrap().is_empty());
    let made: Vec<_> = curves.iter().map(|curve| generate(&token, *curve)).collect();
    for key in &made {
        assert_eq!(key.origin, Origin::Generated);
        assert!(key.protected);
        assert_eq!(key.usage, KeyUse::of(key.public.curve()));
        assert_eq!(key.custody, key.usage.allows_key_agreement().then_some(custody), "{}", key.public.curve());
    }
    let sorted = |mut keys: Vec<HeldKey>| {
        keys.sort_by(|a, b| a.public.cmp(&b.public));
        keys
    };
    let again = open(&fresh.uri, PinSource::uri()).unwrap();
    assert_eq!(sorted(again.keys().unwrap()), sorted(made.clone()));
    assert_eq!(sorted(again.inventory().unwrap()), sorted(made.clone()));
    for token in [token, again] {
        for key in &made {
            if key.usage.allows_key_agreement() {
                agrees(&token, &key.public);
            }
            if key.usage.allows_signing() {
                signs(&token, &key.public);
            }
        }
    }
    let token = OpenOptions::new().name("soft").open(&fresh.uri).unwrap();
    for key in &made {
        token.delete(&key.public).unwrap();
        assert_eq!(token.delete(&key.public), Err(TokenError::KeyGone));
    }
    assert!(token.inventory().unwrap().is_empty());
}

#[test]
fn every_curve_on_softhsm() {
    with_fresh_token(Module::SoftHsm, |fresh| every_curve(fresh, &Curve::ALL, Custody::KekInProcess));
}

#[test]
fn every_curve_on_kryoptic() {
    with_fresh_token(Module::Kryoptic, |fresh| every_curve(fresh, &KRYOPTIC, Custody::KekInToken));
}

/// The number of session objects of this process: cached ones, and ones that operations left behind.
fn session_objects(fresh: &FreshToken) -> usize {
    let context = Pkcs11::new(fresh.module.canonicalize().unwrap()).unwrap();
    let slot = slot(&context, "demo");
    let session = context.open_ro_session(slot).unwrap();
    // Only secret keys, since Kryoptic also lists mechanisms and profiles as objects. Derived objects are secret keys.
    let template = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(false)];
    session.find_objects(&template).unwrap().len()
}

fn slot(context: &Pkcs11, label: &str) -> Slot {
    let mut slots = context.get_slots_with_token().unwrap().into_iter();
    slots.find(|slot| context.get_token_info(*slot).unwrap().label() == label).unwrap()
}

/// A session of this process that the library does not know.
pub(super) fn independent_session(fresh: &FreshToken) -> Session {
    let context = Pkcs11::new(fresh.module.canonicalize().unwrap()).unwrap();
    context.open_rw_session(slot(&context, "demo")).unwrap()
}

/// Messages that open and messages that fail leave nothing in the token but cached secrets.
fn nothing_is_left(fresh: FreshToken, tiers: &[Custody], rounds: usize) {
    let maker = open(&fresh.uri, PinSource::uri()).unwrap();
    let keys: Vec<_> = [Curve::P256, Curve::X25519].map(|curve| generate(&maker, curve).public).into();
    drop(maker);
    for &tier in tiers {
        let capacity = 5;
        let token = OpenOptions::new().tiers([tier]).kept_secrets(capacity).open(&fresh.uri).unwrap();
        for key in token.keys().unwrap() {
            assert_eq!(key.custody, Some(tier));
        }
        assert_eq!(session_objects(&fresh), 0, "the known answers left something behind");
        for round in 0..rounds {
            let key = &keys[round % keys.len()];
            let sender = EphemeralKey::generate(key.curve()).unwrap();
            let Message { cek, request } = message(key, Some(&sender));
            for wrong in [
                UnwrapRequest { encrypted_key: vec![1; request.encrypted_key.len()], ..request.clone() },
                UnwrapRequest { encrypted_key: vec![1; 39], ..request.clone() },
                UnwrapRequest { apv: b"w".to_vec(), ..request.clone() },
                UnwrapRequest { sender: None, ..request.clone() },
            ] {
                assert_eq!(token.unwrap_cek(key, &wrong, &Purpose::KeyTest).unwrap_err(), TokenError::Unwrap, "{tier}");
            }
            let before = session_objects(&fresh);
            assert!(before <= capacity, "{tier}: {before}");
            assert!(token.unwrap_cek(key, &request, &Purpose::KeyTest).unwrap() == cek, "{tier} {round}");
            assert!(token.unwrap_cek(key, &request, &Purpose::KeyTest).unwrap() == cek, "{tier} {round}");
            let expected = if tier == Custody::SharedSecretInProcess { 0 } else { capacity.min(round + 1) };
            assert_eq!(session_objects(&fresh), expected, "{tier}: only Zs of authenticated senders are cached");
        }
        agrees(&token, &keys[0]);
        agrees(&token, &keys[1]);
        drop(token);
        assert_eq!(session_objects(&fresh), 0, "{tier}: cached objects end with their session");
    }
}

#[test]
fn nothing_is_left_in_softhsm() {
    let tiers = [Custody::KekInProcess, Custody::SharedSecretInProcess];
    with_fresh_token(Module::SoftHsm, |fresh| nothing_is_left(fresh, &tiers, 170));
}

#[test]
fn nothing_is_left_in_kryoptic() {
    with_fresh_token(Module::Kryoptic, |fresh| nothing_is_left(fresh, &Custody::ALL, 170));
}

/// Imported keys on every curve: used, not imported twice, and not with another key's public half.
fn imports(fresh: FreshToken, curves: &[Curve]) {
    let token = open(&fresh.uri, PinSource::uri()).unwrap();
    for &curve in curves {
        let private = PrivateKey::generate(curve);
        let usage = KeyUse::of(curve);
        let held = token.import(private.to_import(usage, Some("imported"))).unwrap();
        assert_eq!(held.public, *private.public());
        assert_eq!((held.origin, held.protected, held.usage), (Origin::Imported, true, usage));
        assert_eq!(held.label.as_deref(), Some("imported"));
        if usage.allows_key_agreement() {
            agrees(&token, &held.public);
        }
        if usage.allows_signing() {
            signs(&token, &held.public);
        }
        let again = token.import(private.to_import(usage, None));
        assert!(matches!(again, Err(TokenError::Config(_))), "{again:?}");

        let mut wrong = PrivateKey::generate(curve).to_import(usage, None);
        wrong.public = PrivateKey::generate(curve).public().clone();
        let refused = token.import(wrong);
        assert!(matches!(refused, Err(TokenError::KnownAnswer(_))), "{curve}: {refused:?}");
    }
    assert_eq!(token.inventory().unwrap().len(), curves.len(), "refused imports leave nothing behind");
    let objects = independent_session(&fresh).find_objects(&[Attribute::Token(true)]).unwrap().len();
    assert_eq!(objects, 2 * curves.len());
}

#[test]
fn imports_into_softhsm() {
    with_fresh_token(Module::SoftHsm, |fresh| imports(fresh, &Curve::ALL));
}

#[test]
fn imports_into_kryoptic() {
    with_fresh_token(Module::Kryoptic, |fresh| imports(fresh, &KRYOPTIC));
}

/// P-256 keys for one use only.
fn one_use(fresh: FreshToken) {
    let token = open(&fresh.uri, PinSource::uri()).unwrap();
    let make = |usage| token.generate(&NewKey { curve: Curve::P256, usage, label: None }).unwrap();
    let (agreement, signing) = (make(KeyUse::Agreement), make(KeyUse::Signing));
    agrees(&token, &agreement.public);
    signs(&token, &signing.public);
    assert!(matches!(token.sign(&agreement.public, b"", &Purpose::KeyTest), Err(TokenError::Unsupported(_))));
    let message = message(&signing.public, None).request;
    assert!(matches!(token.unwrap_cek(&signing.public, &message, &Purpose::KeyTest), Err(TokenError::Unsupported(_))));
    let usages: Vec<_> = token.keys().unwrap().into_iter().map(|key| (key.public, key.usage)).collect();
    assert!(usages.contains(&(agreement.public, KeyUse::Agreement)));
    assert!(usages.contains(&(signing.public, KeyUse::Signing)));
    let wrong = token.generate(&NewKey { curve: Curve::X25519, usage: KeyUse::Signing, label: None });
    assert!(matches!(wrong, Err(TokenError::Config(_))));
}

#[test]
fn one_use_on_softhsm() {
    with_fresh_token(Module::SoftHsm, one_use);
}

#[test]
fn one_use_on_kryoptic() {
    with_fresh_token(Module::Kryoptic, one_use);
}

/// A tier that the token does not have is detected, and a minimum that cannot be met is an error at start.
#[test]
fn a_minimum_is_enforced_at_start() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let token = OpenOptions::new().minimum_custody(Custody::KekInToken).open(&fresh.uri).unwrap();
        let key = generate(&token, Curve::P256);
        assert_eq!(key.custody, Some(Custody::KekInProcess));
        let refused = token.keys().unwrap_err();
        assert!(matches!(&refused, TokenError::Custody(reason) if reason.contains("kek-in-process")), "{refused}");
        let none = OpenOptions::new().tiers([Custody::KekInToken]).open(&fresh.uri).unwrap();
        let keys = none.keys().unwrap();
        assert_eq!(
            keys.iter().map(|key| key.usage).collect::<Vec<_>>(),
            [KeyUse::Signing],
            "the token has no key agreement in this tier"
        );
    });
}

/// Keys that can leave the token, and public keys with wrong ids, are not used.
fn hostile_keys(fresh: FreshToken) {
    let token = open(&fresh.uri, PinSource::uri()).unwrap();
    let good = generate(&token, Curve::P256);
    let session = independent_session(&fresh);
    let oid = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07".to_vec();
    let make = |id: &[u8], label: &str, sensitive: bool, extractable: bool| {
        let public = [Attribute::Token(true), Attribute::EcParams(oid.clone()), Attribute::Id(id.to_vec())];
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(sensitive),
            Attribute::Extractable(extractable),
            Attribute::Derive(true),
            Attribute::Sign(true),
            Attribute::Id(id.to_vec()),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap()
    };
    make(b"1", "extractable", true, true);
    make(b"2", "readable", false, false);
    // Swaps the ids of the public keys of two pairs.
    let ((public_a, _), (public_b, _)) = (make(b"a", "a", true, false), make(b"b", "b", true, false));
    session.update_attributes(public_a, &[Attribute::Id(b"b".to_vec())]).unwrap();
    session.update_attributes(public_b, &[Attribute::Id(b"a".to_vec())]).unwrap();

    let labels = |keys: Vec<HeldKey>| {
        let mut labels: Vec<_> = keys.into_iter().map(|key| (key.label.unwrap(), key.protected)).collect();
        labels.sort();
        labels
    };
    let own = good.label.clone().unwrap();
    assert_eq!(labels(token.keys().unwrap()), [(own.clone(), true)]);
    let all: Vec<_> = [("a", true), ("b", true), ("extractable", false), (&own, true), ("readable", false)]
        .map(|(label, protected)| (label.to_owned(), protected))
        .into();
    let inventory = token.inventory().unwrap();
    assert_eq!(labels(inventory.clone()), all);
    for key in inventory.iter().filter(|key| key.label != good.label) {
        assert_eq!(
            token.unwrap_cek(&key.public, &message(&key.public, None).request, &Purpose::KeyTest),
            Err(TokenError::KeyGone)
        );
        assert_eq!(token.sign(&key.public, b"", &Purpose::KeyTest), Err(TokenError::KeyGone));
    }
    for label in ["a", "b"] {
        let wrong = inventory.iter().find(|key| key.label.as_deref() == Some(label)).unwrap();
        let refused = token.delete(&wrong.public);
        assert!(matches!(refused, Err(TokenError::KnownAnswer(_))), "the private half is another key's: {refused:?}");
    }
    assert_eq!(token.inventory().unwrap().len(), 5);
    let readable = inventory.iter().find(|key| key.label.as_deref() == Some("readable")).unwrap();
    let allowing = OpenOptions::new()
        .allow_unprotected(["extractable".to_owned(), readable.public.to_multikey()])
        .open(&fresh.uri);
    let allowing = allowing.unwrap();
    let keys = labels(allowing.keys().unwrap());
    assert_eq!(keys, [("extractable".into(), false), (own, true), ("readable".into(), false)]);
    agrees(&allowing, &readable.public);
    allowing.delete(&readable.public).unwrap();

    let narrow = open(&fresh.uri.replace("token=demo", "token=demo;object=extractable"), PinSource::uri()).unwrap();
    assert_eq!(labels(narrow.inventory().unwrap()), [("extractable".into(), false)]);
}

#[test]
fn hostile_keys_in_softhsm() {
    with_fresh_token(Module::SoftHsm, hostile_keys);
}

#[test]
fn hostile_keys_in_kryoptic() {
    with_fresh_token(Module::Kryoptic, hostile_keys);
}

/// Another part of the process logs out, so the login, session objects and object handles are lost.
fn a_lost_login_is_renewed(fresh: FreshToken) {
    let token = open(&fresh.uri, PinSource::uri()).unwrap();
    let keys = [generate(&token, Curve::P256), generate(&token, Curve::X25519)];
    for _ in 0..3 {
        for key in &keys {
            independent_session(&fresh).logout().unwrap();
            agrees(&token, &key.public);
        }
        independent_session(&fresh).logout().unwrap();
        signs(&token, &keys[0].public);
    }
}

#[test]
fn a_lost_login_is_renewed_on_softhsm() {
    with_fresh_token(Module::SoftHsm, a_lost_login_is_renewed);
}

#[test]
fn a_lost_login_is_renewed_on_kryoptic() {
    with_fresh_token(Module::Kryoptic, a_lost_login_is_renewed);
}

/// Several sessions, several threads, one token.
fn many_threads(fresh: FreshToken) {
    let token = OpenOptions::new().sessions(4).open(&fresh.uri).unwrap();
    assert_eq!(token.concurrency(), 4);
    let keys = [generate(&token, Curve::P256).public, generate(&token, Curve::X25519).public];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    keys.iter().for_each(|key| agrees(&token, key));
                    signs(&token, &keys[0]);
                }
            });
        }
    });
}

#[test]
fn many_threads_on_softhsm() {
    with_fresh_token(Module::SoftHsm, many_threads);
}

#[test]
fn many_threads_on_kryoptic() {
    with_fresh_token(Module::Kryoptic, many_threads);
}
