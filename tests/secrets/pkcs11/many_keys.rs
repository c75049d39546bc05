//! Tokens that describe themselves or their keys badly: nothing is left out silently, and the cost grows with the number
//! of keys and not with its square.

use claviger::{
    keys::Curve,
    secrets::{
        Cause, Custodian, KeyUse, NewKey, Purpose, Token,
        pkcs11::{PinSource, open, tokens},
    },
};
use claviger_fault_module::Shim;
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to},
};
use cryptoki::{
    context::Pkcs11,
    mechanism::Mechanism,
    object::{Attribute, KeyType},
    session::{Session, UserType},
    types::AuthPin,
};

use crate::support::{
    Module,
    faulty_token::{FaultyToken, with_fault_module, with_quick_fault_module},
};

/// A session that may write, on the token of the test.
fn writing_session(faulty: &FaultyToken) -> Session {
    let context = Pkcs11::new(Shim::module()).unwrap();
    let slot = context.get_slots_with_initialized_token().unwrap()[0];
    let session = context.open_rw_session(slot).unwrap();
    let file = faulty.uri.split_once("pin-source=file:").unwrap().1;
    let pin = std::fs::read_to_string(file).unwrap();
    // The token is open in this process, so it may be logged in already.
    let _ = session.login(UserType::User, Some(&AuthPin::new(pin.trim_end().into())));
    session
}

/// Makes key pairs without CKA_ID and CKA_LABEL.
fn make_nameless(session: &Session, curve: Curve, count: usize) {
    let (mechanism, key_type, params) = match curve {
        Curve::X25519 => (Mechanism::EccEdwardsKeyPairGen, KeyType::EC_EDWARDS, &b"\x06\x03\x2b\x65\x6e"[..]),
        _ => (Mechanism::EccKeyPairGen, KeyType::EC, &b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"[..]),
    };
    let both = [Attribute::Token(true), Attribute::KeyType(key_type)];
    let public = [&both[..], &[Attribute::EcParams(params.to_vec()), Attribute::Private(false)]].concat();
    let private = [Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false)];
    let private = [&both[..], &private, &[Attribute::Derive(true)]].concat();
    for _ in 0..count {
        session.generate_key_pair(&mechanism, &public, &private).unwrap();
    }
}

/// Finding and testing 200 keys costs twice as much as 100.
#[test]
fn keys_without_an_id_cost_a_fixed_number_of_calls_each() {
    with_quick_fault_module(Module::SoftHsm, |faulty| {
        let token = faulty.open();
        let session = writing_session(&faulty);
        let cost = |total: usize| {
            make_nameless(&session, Curve::P256, 80);
            make_nameless(&session, Curve::X25519, 20);
            // In a new search, so that no key is known from before.
            let token = faulty.open();
            let before = faulty.shim.calls_and_failures().0;
            let keys = token.keys().unwrap();
            let calls = faulty.shim.calls_and_failures().0 - before;
            assert_eq!(keys.len(), total);
            let both = keys.iter().filter(|key| key.usage == KeyUse::Both && key.public.curve() == Curve::P256);
            assert_eq!(both.count(), total / 5 * 4);
            calls
        };
        let (hundred, two_hundred) = (cost(100), cost(200));
        println!("without CKA_ID: {hundred} calls for 100 keys, {two_hundred} for 200");
        assert!(two_hundred <= 2 * hundred, "{hundred} calls for 100 keys, {two_hundred} for 200");
        drop(token);
    });
}

/// Which halves belong together cannot be tested while the device fails for a moment. The keys that were known before stay.
#[test]
fn keys_without_an_id_outlast_a_moment_of_failures() {
    with_fault_module(Module::SoftHsm, |faulty| {
        faulty.shim.order(&[]);
        let token = faulty.open();
        make_nameless(&writing_session(&faulty), Curve::P256, 12);
        assert_eq!(token.keys().unwrap().len(), 12);
        // CKR_DEVICE_ERROR
        faulty.shim.order(&["fail C_SignInit 0x30", "fail C_DeriveKey 0x30"]);
        assert_eq!(token.keys().unwrap().len(), 12);
        faulty.shim.order(&[]);
        assert_eq!(token.keys().unwrap().len(), 12);
    });
}

/// openCryptoki 3.8.1 returns a utcTime that is no text. The token is described and used.
#[test]
fn a_malformed_token_info_hides_no_token() {
    with_fault_module(Module::SoftHsm, |faulty| {
        faulty.shim.order(&["wrong C_GetTokenInfo"]);
        let seen = tokens(Shim::module()).unwrap();
        assert!(seen.iter().any(|token| token.info.label == "demo"), "{seen:?}");
        assert_eq!(faulty.open().keys().unwrap(), []);
    });
}

/// A token whose description cannot be read at all is named in the error, with the cause.
#[test]
fn an_unreadable_token_info_is_named() {
    with_fault_module(Module::SoftHsm, |faulty| {
        faulty.shim.order(&["fail C_GetTokenInfo 0x30"]);
        let error = claviger::secrets::pkcs11::open(&faulty.uri, claviger::secrets::pkcs11::PinSource::uri());
        let error = error.err().expect("the token cannot be told apart").to_string();
        assert!(error.contains("C_GetTokenInfo: CKR_DEVICE_ERROR") && error.contains("slot"), "{error}");
        faulty.shim.order(&[]);
        drop(faulty.open());
    });
}

/// A token whose memory is full of the Zs that are kept there. They are destroyed, and the operation succeeds.
#[test]
fn kept_secrets_give_way_when_the_token_is_full() {
    with_fault_module(Module::SoftHsm, |faulty| {
        faulty.shim.order(&[]);
        let token = faulty.open();
        let key = NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None };
        let key = token.generate(&key).unwrap().public;
        let open_from_a_new_sender = || {
            let (sender, cek) = (PrivateKey::generate(Curve::P256), fresh_cek());
            let message = message_to(&key, Some(&sender), &cek, &Parties::example());
            token.unwrap_cek(&key, &message, &Purpose::KeyTest).map(|opened| assert_eq!(opened, cek))
        };
        for _ in 0..300 {
            open_from_a_new_sender().unwrap();
        }
        assert_eq!(faulty.shim.live_objects(), 256, "one for each sender, and no more than the default");
        let sessions = faulty.shim.calls("C_OpenSession");
        // CKR_DEVICE_MEMORY
        faulty.shim.order(&["fail C_DeriveKey 0x31 at 1"]);
        open_from_a_new_sender().unwrap();
        assert_eq!(faulty.shim.live_objects(), 1, "only the new one");
        faulty.shim.order(&[]);
        for _ in 0..200 {
            open_from_a_new_sender().unwrap();
        }
        assert_eq!(faulty.shim.live_objects(), 128, "half as many are kept");
        assert_eq!(faulty.shim.calls("C_OpenSession"), sessions, "in the same session");
        // Nothing to free: a failure of the token, and no endless loop.
        faulty.shim.order(&["fail C_DeriveKey 0x31"]);
        assert_eq!(open_from_a_new_sender().unwrap_err().cause(), Cause::Transient);
        faulty.shim.order(&[]);
        open_from_a_new_sender().unwrap();
    });
}

/// After a session was lost, an operation tests its own key and no other. The others are tested at their next use.
#[test]
fn recovery_tests_the_needed_key_only() {
    with_fault_module(Module::SoftHsm, |faulty| {
        faulty.shim.order(&[]);
        let token = faulty.open();
        let new = NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None };
        let keys: Vec<_> = (0..10).map(|_| token.generate(&new).unwrap().public).collect();
        assert_eq!(token.keys().unwrap().len(), 10);
        let sign = |at: usize| token.sign(&keys[at], b"x", &Purpose::KeyTest).map(drop);
        let uses = || faulty.shim.calls("C_SignInit") + faulty.shim.calls("C_DeriveKey");
        let cost = |at: usize| {
            let before = uses();
            sign(at).unwrap();
            uses() - before
        };
        assert_eq!(cost(0), 1);
        // CKR_SESSION_HANDLE_INVALID
        faulty.shim.order(&["fail C_SignInit 0xb3 at 1"]);
        assert_eq!(cost(0), 3, "the operation that failed, the test of its key, and the operation");
        faulty.shim.order(&[]);
        assert_eq!([cost(0), cost(5), cost(5), cost(9)], [1, 2, 1, 2], "each key is tested once");
        assert_eq!(token.keys().unwrap().len(), 10);
    });
}

/// A module may say that the list of slots became longer, and not how long it is (ykcs11 2.2.0, when a card is inserted).
#[test]
fn the_list_of_slots_is_asked_for_a_few_times() {
    with_fault_module(Module::SoftHsm, |faulty| {
        faulty.shim.order(&["fail C_GetSlotList 0x150 at 2"]);
        faulty.open();
        faulty.shim.order(&["fail C_GetSlotList 0x150 every 2"]);
        let error = open(&faulty.uri, PinSource::uri()).err().unwrap().to_string();
        assert!(error.contains("C_GetSlotList failed"), "{error}");
    });
}
