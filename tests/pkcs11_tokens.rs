//! PKCS#11 tokens, on the real SoftHSM and the real Kryoptic.
#![cfg(feature = "pkcs11")]

mod support;

use claviger::{
    crypto::{self, Cek, ContentEncryption, EphemeralKey, KdfInfo},
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, Custody, HeldKey, KeyUse, NewKey, Origin, Sender, Token, TokenError, Unwrap, Wrap,
        pkcs11::{OpenOptions, PinSource, Pkcs11Token, open},
    },
};
use support::{Here, Module, on};

/// A message's content key for `key`, made in software.
struct Message {
    cek: Cek,
    request: Unwrap,
}

fn message(key: &PublicKey, sender: Option<&EphemeralKey>) -> Message {
    let ephemeral = EphemeralKey::generate(key.curve()).unwrap();
    let cek = Cek::generate(ContentEncryption::A256CbcHs512);
    let tag = sender.map(|_| vec![7; 32]);
    let mut z = vec![ephemeral.agree(key).unwrap()];
    z.extend(sender.map(|sender| sender.agree(key).unwrap()));
    let kek = crypto::concat_kdf(&z.iter().collect::<Vec<_>>(), &KdfInfo { apu: b"u", apv: b"v", tag: tag.as_deref() });
    let request = Unwrap {
        epk: ephemeral.public().clone(),
        sender: sender.map(|sender| Sender { key: sender.public().clone(), tag: tag.unwrap() }),
        apu: b"u".to_vec(),
        apv: b"v".to_vec(),
        encrypted_key: crypto::wrap_key(&kek, &cek),
    };
    Message { cek, request }
}

fn generate(token: &Pkcs11Token, curve: Curve) -> HeldKey {
    let new = NewKey { curve, usage: KeyUse::of(curve), label: Some(format!("my {curve}").into()) };
    token.generate(&new).unwrap_or_else(|error| panic!("{curve}: {error}"))
}

fn agrees(token: &Pkcs11Token, key: &PublicKey) {
    let sender = EphemeralKey::generate(key.curve()).unwrap();
    for sender in [None, Some(&sender), Some(&sender)] {
        let message = message(key, sender);
        assert!(token.unwrap_cek(key, &message.request).unwrap() == message.cek, "{}", key.curve());
    }
    let ephemeral = EphemeralKey::generate(key.curve()).unwrap();
    let cek = Cek::generate(ContentEncryption::A256CbcHs512);
    let (apu, apv, tag) = (b"u".to_vec(), b"v".to_vec(), vec![9; 32]);
    let others: Vec<_> = (0..3).map(|_| EphemeralKey::generate(key.curve()).unwrap()).collect();
    let recipients =
        others.iter().map(|other| (other.public().clone(), ephemeral.agree(other.public()).unwrap())).collect();
    let request = Wrap { cek: cek.clone(), apu: apu.clone(), apv: apv.clone(), tag: tag.clone(), recipients };
    let wrapped = token.wrap_cek(key, &request).unwrap();
    for (other, wrapped) in others.iter().zip(wrapped) {
        let z = [other.agree(ephemeral.public()).unwrap(), other.agree(key).unwrap()];
        let kek = crypto::concat_kdf(&[&z[0], &z[1]], &KdfInfo { apu: &apu, apv: &apv, tag: Some(&tag) });
        assert!(crypto::unwrap_key(&kek, &wrapped).unwrap() == cek);
    }
}

fn signs(token: &Pkcs11Token, key: &PublicKey) {
    for length in [0, 1, 64, 5000] {
        let input = vec![b'x'; length];
        let signature = token.sign(key, &input).unwrap();
        crypto::verify(key, &input, &signature).unwrap();
    }
}

/// Every curve: made, listed, used, still there in a new handle on the token, deleted.
fn every_curve(here: Here, curves: &[Curve], custody: Custody) {
    let token = open(&here.uri, PinSource::uri()).unwrap();
    assert_eq!(token.name(), "demo");
    assert!(token.keys().unwrap().is_empty());
    let made: Vec<_> = curves.iter().map(|curve| generate(&token, *curve)).collect();
    for key in &made {
        assert_eq!(key.origin, Origin::Generated);
        assert!(key.protected);
        assert_eq!(key.usage, KeyUse::of(key.public.curve()));
        assert_eq!(key.custody, key.usage.agrees().then_some(custody), "{}", key.public.curve());
    }
    let sorted = |mut keys: Vec<HeldKey>| {
        keys.sort_by(|a, b| a.public.cmp(&b.public));
        keys
    };
    let again = open(&here.uri, PinSource::uri()).unwrap();
    assert_eq!(sorted(again.keys().unwrap()), sorted(made.clone()));
    assert_eq!(sorted(again.inventory().unwrap()), sorted(made.clone()));
    for token in [token, again] {
        for key in &made {
            if key.usage.agrees() {
                agrees(&token, &key.public);
            }
            if key.usage.signs() {
                signs(&token, &key.public);
            }
        }
    }
    let token = OpenOptions::new().name("soft").open(&here.uri).unwrap();
    for key in &made {
        token.delete(&key.public).unwrap();
        assert_eq!(token.delete(&key.public), Err(TokenError::KeyGone));
    }
    assert!(token.inventory().unwrap().is_empty());
}

#[test]
fn every_curve_on_softhsm() {
    on(Module::SoftHsm, |here| every_curve(here, &Curve::ALL, Custody::KekInProcess));
}

#[test]
fn every_curve_on_kryoptic() {
    let curves = [Curve::X25519, Curve::P256, Curve::P384, Curve::P521, Curve::Ed25519];
    on(Module::Kryoptic, |here| every_curve(here, &curves, Custody::KekInToken));
}
