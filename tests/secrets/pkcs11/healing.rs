//! A token that fails and comes back without a restart: the faults that one token can recover from, with
//! `tests/fault-module` in front of SoftHSM and Kryoptic, and with SoftHSM's real folder.

use std::{fs, path::Path, thread};

use crate::support::{
    Module,
    faulty_token::{FaultyToken, change_pin, with_fault_module},
};
use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Cause, Custodian, KeyUse, NewKey, Purpose, Token, TokenError,
        pkcs11::{OpenOptions, PinSource, Pkcs11Token, open},
    },
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to},
};

fn generate(token: &Pkcs11Token) -> PublicKey {
    token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None }).expect("a new key").public
}

fn sign(token: &Pkcs11Token, key: &PublicKey) -> Result<(), TokenError> {
    let signature = token.sign(key, b"input", &Purpose::KeyTest)?;
    claviger::crypto::verify(key, b"input", &signature).expect("a valid signature");
    Ok(())
}

/// Unwraps the content key of a message.
fn open_message(token: &Pkcs11Token, key: &PublicKey) -> Result<(), TokenError> {
    let cek = fresh_cek();
    let opened = token.unwrap_cek(
        key,
        &message_to(key, Some(&PrivateKey::generate(key.curve())), &cek, &Parties::example()),
        &Purpose::KeyTest,
    )?;
    assert_eq!(opened, cek);
    Ok(())
}

/// A call that fails once is retried with a new session and login. If it keeps failing, the operation fails, and works
/// again when the fault ends.
fn a_call_that_fails(module: Module) {
    with_fault_module(module, |FaultyToken { uri, shim, .. }| {
        let token = open(&uri, PinSource::uri()).unwrap();
        let key = generate(&token);
        let codes = [
            (0xb3, Cause::SessionLost),  // CKR_SESSION_HANDLE_INVALID
            (0xb0, Cause::SessionLost),  // CKR_SESSION_CLOSED
            (0x101, Cause::SessionLost), // CKR_USER_NOT_LOGGED_IN
            (0x90, Cause::SessionLost),  // CKR_OPERATION_ACTIVE
            (0x60, Cause::SessionLost),  // CKR_KEY_HANDLE_INVALID
            (0x82, Cause::SessionLost),  // CKR_OBJECT_HANDLE_INVALID
            (0x32, Cause::TokenGone),    // CKR_DEVICE_REMOVED
            (0x30, Cause::Transient),    // CKR_DEVICE_ERROR
            (0x5, Cause::Transient),     // CKR_GENERAL_ERROR
            (0x6, Cause::Transient),     // CKR_FUNCTION_FAILED
        ];
        for (code, cause) in codes {
            sign(&token, &key).unwrap();
            let before = ["C_OpenSession", "C_Login"].map(|call| shim.calls(call));
            shim.order(&[&format!("fail C_SignInit {code:#x} at 1")]);
            sign(&token, &key).unwrap_or_else(|error| panic!("{code:#x} once: {error}"));
            let after = ["C_OpenSession", "C_Login"].map(|call| shim.calls(call));
            assert_eq!([after[0] - before[0], after[1] - before[1]], [1, 1], "{code:#x}");
            assert_eq!(shim.open_sessions(), 1, "{code:#x}");

            shim.order(&[&format!("fail C_SignInit {code:#x}")]);
            let before = shim.calls("C_OpenSession");
            let error = sign(&token, &key).unwrap_err();
            assert_eq!(error.cause(), cause, "{code:#x}: {error}");
            assert_eq!(shim.calls("C_OpenSession") - before, 1, "{code:#x}: one retry");
            shim.order(&[]);
            sign(&token, &key).unwrap_or_else(|error| panic!("after {code:#x}: {error}"));
        }
        // The same in a key agreement.
        for code in [0xb3, 0x101, 0x60, 0x32] {
            for call in ["C_DeriveKey", "C_FindObjectsInit"] {
                shim.order(&[&format!("fail C_DeriveKey {code:#x} at 1"), &format!("fail {call} {code:#x} at 2")]);
                let first = open_message(&token, &key);
                assert!(
                    first
                        .as_ref()
                        .err()
                        .is_none_or(|error| matches!(error.cause(), Cause::SessionLost | Cause::TokenGone))
                );
                shim.order(&[]);
                open_message(&token, &key).unwrap_or_else(|error| panic!("after {code:#x}: {error}"));
            }
        }
    });
}

#[test]
fn a_call_that_fails_on_softhsm() {
    a_call_that_fails(Module::SoftHsm);
}

#[test]
fn a_call_that_fails_on_kryoptic() {
    a_call_that_fails(Module::Kryoptic);
}

/// Messages that do not unwrap cause no new session, however many come.
#[test]
fn a_hostile_message_is_not_a_fault_of_the_token() {
    for module in [Module::SoftHsm, Module::Kryoptic] {
        with_fault_module(module, |FaultyToken { uri, shim, .. }| {
            let token = open(&uri, PinSource::uri()).unwrap();
            let key = generate(&token);
            open_message(&token, &key).unwrap();
            let before = ["C_OpenSession", "C_Login", "C_FindObjectsInit"].map(|call| shim.calls(call));
            for _ in 0..50 {
                let mut hostile = message_to(&key, None, &fresh_cek(), &Parties::example());
                hostile.encrypted_key[7] ^= 1;
                let error = token.unwrap_cek(&key, &hostile, &Purpose::KeyTest).unwrap_err();
                assert_eq!((error.cause(), &error), (Cause::Peer, &TokenError::Unwrap));
            }
            assert_eq!(["C_OpenSession", "C_Login", "C_FindObjectsInit"].map(|call| shim.calls(call)), before);
        });
    }
}

/// A token that is unplugged and returned works again in the same process.
#[test]
fn unplugged_and_returned() {
    with_fault_module(Module::SoftHsm, |FaultyToken { uri, shim, .. }| {
        let token = open(&uri, PinSource::uri()).unwrap();
        let key = generate(&token);
        for _ in 0..3 {
            sign(&token, &key).unwrap();
            shim.order(&["gone"]);
            for _ in 0..3 {
                assert_eq!(sign(&token, &key).unwrap_err().cause(), Cause::TokenGone);
                assert_eq!(token.keys().unwrap_err().cause(), Cause::TokenGone);
            }
            shim.order(&[]);
            sign(&token, &key).unwrap();
            assert_eq!(token.keys().unwrap().len(), 1);
        }
        assert_eq!(shim.open_sessions(), 1);
    });
}

/// A token that is lost to this process shows no keys. It is not mistaken for an empty token. A new process can use it.
#[test]
fn lost_until_a_new_process() {
    with_fault_module(Module::SoftHsm, |faulty| {
        if faulty.part.is_some() {
            let token = faulty.open();
            let keys = token.keys().unwrap();
            sign(&token, &keys[0].public).unwrap();
            return;
        }
        let token = faulty.open();
        let key = generate(&token);
        sign(&token, &key).unwrap();
        faulty.shim.order(&["dead"]);
        for _ in 0..3 {
            assert_eq!(sign(&token, &key).unwrap_err().cause(), Cause::TokenGone);
            assert_eq!(token.keys().unwrap_err().cause(), Cause::TokenGone);
            // The module returns no errors any more, but its objects are still lost.
            faulty.shim.order(&[]);
        }
        assert!(faulty.in_another_process("new").status().unwrap().success());
    });
}

/// The same without the shim: SoftHSM 2.6.1 finds nothing in its open sessions, and does not see the token again when
/// its folder is back.
#[test]
fn softhsms_folder_is_moved_away_and_back() {
    with_fault_module(Module::SoftHsm, |faulty| {
        let token = faulty.open();
        if faulty.part.is_some() {
            let keys = token.keys().unwrap();
            return sign(&token, &keys[0].public).unwrap();
        }
        let pin_file = faulty.uri.split_once("pin-source=file:").unwrap().1;
        let tokens = Path::new(pin_file).with_file_name("tokens");
        let away = tokens.with_file_name("away");
        let key = generate(&token);
        sign(&token, &key).unwrap();

        fs::rename(&tokens, &away).unwrap();
        let error = token.keys().unwrap_err();
        assert!(matches!(&error, TokenError::Away(message) if message.contains("none of the 1 keys")), "{error}");
        for _ in 0..2 {
            for failed in [sign(&token, &key), open_message(&token, &key), token.keys().map(|_| ())] {
                assert_eq!(failed.unwrap_err().cause(), Cause::TokenGone);
            }
        }
        fs::rename(&away, &tokens).unwrap();
        assert!(faulty.in_another_process("new").status().unwrap().success(), "a new process can use the token");
        for failed in [sign(&token, &key), open_message(&token, &key), token.keys().map(|_| ())] {
            assert_eq!(failed.unwrap_err().cause(), Cause::TokenGone, "this process cannot");
        }
    });
}

/// The token has fewer sessions than configured: the available ones perform all operations.
#[test]
fn sessions_are_exhausted() {
    with_fault_module(Module::SoftHsm, |FaultyToken { uri, shim, .. }| {
        let token = OpenOptions::new().sessions(4).open(&uri).unwrap();
        let key = generate(&token);
        // The token grants two sessions, then one.
        for more in [1, 0] {
            shim.order(&[&format!("fail C_OpenSession 0xb1 from {}", more + 1), "delay C_Sign 5"]);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..10).for_each(|_| sign(&token, &key).unwrap()));
                }
            });
        }
        assert!((1..=2).contains(&shim.open_sessions()), "{} sessions", shim.open_sessions());
        // A key can still be made: an idle session is closed to make room for the writing session.
        shim.order(&["fail C_OpenSession 0xb1 at 1"]);
        generate(&token);
        // No session at all is a transient failure of the token.
        shim.order(&["fail C_OpenSession 0xb1", "fail C_SignInit 0xb3 at 1"]);
        let error = sign(&token, &key).unwrap_err();
        assert_eq!(error.cause(), Cause::Transient, "{error}");
        assert!(error.to_string().contains("CKR_SESSION_COUNT"), "{error}");
        shim.order(&[]);
        sign(&token, &key).unwrap();
    });
}

/// Another program deletes a key: only that key is gone.
#[test]
fn a_key_is_deleted_by_another_program() {
    with_fault_module(Module::SoftHsm, |faulty| {
        if let Some(public) = &faulty.part {
            return faulty.open().delete(&PublicKey::from_multikey(public).unwrap()).unwrap();
        }
        let token = faulty.open();
        let (kept, deleted) = (generate(&token), generate(&token));
        [&kept, &deleted].into_iter().for_each(|key| sign(&token, key).unwrap());
        let delete = |key: &PublicKey| {
            assert!(faulty.in_another_process(&key.to_multikey()).status().unwrap().success());
        };
        delete(&deleted);
        assert_eq!(sign(&token, &deleted), Err(TokenError::KeyGone));
        sign(&token, &kept).unwrap();
        assert_eq!(token.keys().unwrap().len(), 1);
        assert_eq!(token.inventory().unwrap().len(), 1);
        // After the last key is deleted, this process cannot tell an empty token from a lost one, and says so.
        delete(&kept);
        for _ in 0..2 {
            let error = token.keys().unwrap_err();
            assert!(matches!(&error, TokenError::Away(message) if message.contains("none of the 1 keys")), "{error}");
            assert_eq!(sign(&token, &kept).unwrap_err().cause(), Cause::TokenGone);
        }
    });
}

/// The PIN is changed on the token while it is in use: operations succeed until the login is lost. Then the old PIN is
/// tried once.
fn the_pin_is_changed(module: Module) {
    with_fault_module(module, |FaultyToken { uri, shim, .. }| {
        let file = uri.split_once("pin-source=file:").unwrap().1.to_owned();
        let old = fs::read_to_string(&file).unwrap();
        let guard = tempfile::tempdir().unwrap();
        let token = OpenOptions::new().pin_guard(guard.path()).open(&uri).unwrap();
        let key = generate(&token);
        change_pin(module, &old, "a-new-1234");
        sign(&token, &key).unwrap();
        let before = shim.calls("C_Login");
        shim.order(&["fail C_SignInit 0xb3 at 1"]);
        for _ in 0..100 {
            assert_eq!(sign(&token, &key).unwrap_err().cause(), Cause::Pin);
        }
        assert_eq!(token.keys().unwrap_err().cause(), Cause::Pin);
        assert_eq!(shim.calls("C_Login") - before, 1);
        fs::write(&file, "a-new-1234").unwrap();
        sign(&token, &key).unwrap();
        assert_eq!(shim.calls("C_Login") - before, 2);
    });
}

#[test]
fn the_pin_is_changed_on_softhsm() {
    the_pin_is_changed(Module::SoftHsm);
}

#[test]
fn the_pin_is_changed_on_kryoptic() {
    the_pin_is_changed(Module::Kryoptic);
}
