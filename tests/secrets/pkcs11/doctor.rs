//! `Pkcs11Token::examine`, on which `token doctor` is based: session keys give the right verdicts, wrong results are
//! detected, and nothing in the token changes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    Module,
    faulty_token::{FaultyToken, with_fault_module},
    with_fresh_token,
};
use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, Custody, KeyUse, NewKey, Purpose, Token, TokenError,
        pkcs11::{Answer, CurveExamination, Examination, OpenOptions, Pkcs11Token, ProfileSource, TestKey, Verdict},
        prove_keys,
    },
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to},
};

fn examine(token: &Pkcs11Token) -> Examination {
    token.keys().expect("its keys");
    token.examine(|_, _| {}).expect("it is there")
}

fn of(examination: &Examination, curve: Curve) -> &CurveExamination {
    examination.algorithms.iter().find(|it| it.curve == curve).expect("each curve is examined")
}

fn generate(token: &Pkcs11Token, curve: Curve) -> PublicKey {
    token.generate(&NewKey { curve, usage: KeyUse::of(curve), label: None }).expect("a new key").public
}

/// The verdicts for session keys are those of the profile, which `tests/secrets/pkcs11/devices.rs` compares with
/// token keys.
fn verdicts_match_the_profile(module: Module) {
    with_fresh_token(module, |fresh| {
        let options = OpenOptions::new();
        let overview = options.overview(&fresh.uri).unwrap();
        assert_eq!((overview.profile_source, overview.token.info.label.as_str()), (ProfileSource::Matched, "demo"));
        let token = options.open(&fresh.uri).unwrap();
        // A signing key, which each of these tokens can make.
        let held = token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Signing, label: None }).unwrap().public;
        let before = token.inventory().unwrap();
        let examination = examine(&token);
        // tpm2-pkcs11 1.9.0 makes keys only in a read-write session, and only token keys.
        assert_eq!(examination.session_keys, module != Module::Tpm2, "{examination:#?}");
        for it in &examination.algorithms {
            let declared = token.profile().verdict(it.curve);
            match &it.test_key {
                TestKey::Session => assert_eq!(it.verdict, declared, "{it:?}"),
                TestKey::Held(key) => assert_eq!((key, it.verdict), (&held, Some(Verdict::SignOnly))),
                TestKey::Nothing if examination.session_keys => {
                    assert_eq!(
                        (it.verdict, declared),
                        (Some(Verdict::Unsupported), Some(Verdict::Unsupported)),
                        "{it:?}"
                    );
                }
                // Without session keys, "not" is said only of a curve for which the token lists no mechanism.
                TestKey::Nothing => {
                    let expected = [None, Some(Verdict::Unsupported)];
                    assert!(expected.contains(&it.verdict) && it.verdict.or(declared) == declared, "{it:?}");
                    assert_eq!(it.verdict.is_some(), matches!(it.curve, Curve::X25519 | Curve::Ed25519), "{it:?}");
                }
            }
            let agrees = it.verdict == Some(Verdict::Authcrypt);
            assert_eq!(
                [it.custody.is_some(), it.anoncrypt_time.is_some(), it.authcrypt_time.is_some()],
                [agrees; 3],
                "{it:?}"
            );
            assert_eq!(it.sign_time.is_some(), it.signs == Some(true), "{it:?}");
        }
        assert_eq!(examination.objects.0, examination.objects.1);
        assert_eq!(token.inventory().unwrap(), before);
    });
}

#[test]
fn softhsm() {
    verdicts_match_the_profile(Module::SoftHsm);
}

#[test]
fn kryoptic() {
    verdicts_match_the_profile(Module::Kryoptic);
}

#[test]
fn tpm2_pkcs11() {
    verdicts_match_the_profile(Module::Tpm2);
}

#[test]
fn nss_softokn() {
    verdicts_match_the_profile(Module::Nss);
}

/// What the doctor says of a key in the token is what is served, by the same method.
fn serves_what_the_doctor_says(module: Module) {
    with_fresh_token(module, |fresh| {
        let token = OpenOptions::new().open(&fresh.uri).unwrap();
        let usages = [KeyUse::Both, KeyUse::Agreement, KeyUse::Signing];
        for curve in Curve::ALL {
            let new = usages.into_iter().filter(|usage| usage.fits(curve));
            let made = new.flat_map(|usage| token.generate(&NewKey { curve, usage, label: None })).next();
            let served = token.keys().unwrap();
            assert_eq!(served.len(), usize::from(made.is_some()), "{curve}");
            let examination = examine(&token);
            let it = of(&examination, curve);
            let Some(held) = served.into_iter().next() else {
                assert!(matches!(it.verdict, None | Some(Verdict::Unsupported)), "{it:?}");
                continue;
            };
            let as_served = match (held.usage.allows_key_agreement(), held.anoncrypt_only) {
                (true, false) => Verdict::Authcrypt,
                (true, true) => Verdict::Anoncrypt,
                (false, _) => Verdict::SignOnly,
            };
            assert_eq!((it.verdict, it.custody), (Some(as_served), held.custody), "{it:?} {held:?}");
            token.delete(&held.public).unwrap();
        }
    });
}

#[test]
fn softhsm_serves_what_the_doctor_says() {
    serves_what_the_doctor_says(Module::SoftHsm);
}

#[test]
fn kryoptic_serves_what_the_doctor_says() {
    serves_what_the_doctor_says(Module::Kryoptic);
}

#[test]
fn tpm2_pkcs11_serves_what_the_doctor_says() {
    serves_what_the_doctor_says(Module::Tpm2);
}

#[test]
fn nss_softokn_serves_what_the_doctor_says() {
    serves_what_the_doctor_says(Module::Nss);
}

/// The files below a folder with their content, without the first eight bytes of `token.object`, in which SoftHSM 2.6.1
/// counts logins.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let logins = if path.ends_with("token.object") { 8 } else { 0 };
            found.insert(path.clone(), fs::read(&path).unwrap().split_off(logins));
        }
    }
    found
}

/// The folder with the files of this test's token.
fn token_folder() -> PathBuf {
    let control = PathBuf::from(std::env::var_os("CLAVIGER_FAULT_CONTROL").unwrap());
    control.parent().unwrap().join("tokens")
}

/// An examination changes no file of the token, calls no function that could change the token, and leaves no session
/// object, even if the token fails during the examination.
#[test]
fn nothing_is_changed() {
    with_fault_module(Module::SoftHsm, |faulty| {
        let token = faulty.open();
        generate(&token, Curve::X25519);
        token.keys().unwrap();
        let folder = token_folder();
        let before = files(&folder);
        assert!(!before.is_empty(), "{folder:?}");
        let calls = |functions: &[&str]| functions.iter().map(|it| faulty.shim.calls(it)).collect::<Vec<_>>();
        let may_change = [
            "C_CopyObject",
            "C_CreateObject",
            "C_GenerateKey",
            "C_InitPIN",
            "C_InitToken",
            "C_SetAttributeValue",
            "C_SetPIN",
        ];
        let (called, made) = (calls(&may_change), faulty.shim.calls("C_GenerateKeyPair"));
        assert!(examine(&token).session_keys);
        assert!(faulty.shim.calls("C_GenerateKeyPair") >= made + Curve::ALL.len());
        assert_eq!(faulty.shim.live_objects(), 0);
        // CKR_DEVICE_REMOVED, CKR_SESSION_HANDLE_INVALID.
        for order in ["fail C_Sign 0x32 at 1", "fail C_DeriveKey 0xb3 at 9", "fail C_GenerateKeyPair 0x32 at 3"] {
            faulty.shim.order(&[order]);
            let failed = token.examine(|_, _| {}).err();
            assert!(
                matches!(failed, Some(TokenError::Away(_) | TokenError::SessionLost { .. })),
                "{order}: {failed:?}"
            );
            assert_eq!(faulty.shim.live_objects(), 0, "{order}");
            faulty.shim.order(&[]);
            assert_eq!(token.keys().expect("the token has recovered").len(), 1);
        }
        assert_eq!(calls(&may_change), called);
        assert!(files(&folder) == before);
    });
}

fn answers(it: &CurveExamination, custody: Option<Custody>) -> Vec<&Answer> {
    it.tests.iter().filter(|tried| tried.custody == custody).map(|tried| &tried.answer).collect()
}

/// A token that makes no session keys is tested with the keys that it holds. The other curves get no verdict.
#[test]
fn without_session_keys() {
    with_fault_module(Module::SoftHsm, |faulty| {
        let token = faulty.open();
        let held = generate(&token, Curve::P384);
        // CKR_TEMPLATE_INCONSISTENT; CKR_USER_NOT_LOGGED_IN, as from a token that needs a read-write
        // session; CKR_SESSION_READ_ONLY.
        for code in ["0xd1", "0x101", "0xb5"] {
            faulty.shim.order(&[&format!("fail C_GenerateKeyPair {code}")]);
            let examination = examine(&token);
            assert!(!examination.session_keys);
            for it in &examination.algorithms {
                if it.curve == Curve::P384 {
                    assert_eq!((&it.test_key, it.verdict), (&TestKey::Held(held.clone()), Some(Verdict::Authcrypt)));
                    assert!(it.authcrypt_time.is_some());
                } else {
                    assert_eq!((&it.test_key, it.verdict), (&TestKey::Nothing, None));
                    assert!(it.reason.as_ref().unwrap().contains("CKR_"), "{it:?}");
                }
            }
        }
        // The failure of one curve is believed, since the token makes session keys on other curves.
        faulty.shim.order(&["fail C_GenerateKeyPair 0xd1 at 1"]);
        let examination = examine(&token);
        let x25519 = of(&examination, Curve::X25519);
        assert_eq!(
            (examination.session_keys, &x25519.test_key, x25519.verdict),
            (true, &TestKey::Nothing, Some(Verdict::Unsupported))
        );
    });
}

/// A wrong answer is reported with its tier, and the tier below is used.
#[test]
fn a_mechanism_with_wrong_results() {
    with_fault_module(Module::SoftHsm, |faulty: FaultyToken| {
        let token = faulty.open();
        faulty.shim.order(&["wrong C_DigestFinal", "claim 0x393"]);
        let examination = examine(&token);
        let p256 = of(&examination, Curve::P256);
        assert_eq!((p256.verdict, p256.custody), (Some(Verdict::Authcrypt), Some(Custody::SharedSecretInProcess)));
        assert!(answers(p256, Some(Custody::KekInProcess)).iter().all(|answer| **answer == Answer::Wrong));
        faulty.shim.order(&["wrong C_Sign"]);
        let examination = examine(&token);
        let ed25519 = of(&examination, Curve::Ed25519);
        assert_eq!((ed25519.verdict, ed25519.signs), (Some(Verdict::Unsupported), Some(false)));
        assert_eq!(answers(ed25519, None), [&Answer::Wrong]);
        assert!(ed25519.mechanisms.iter().all(|it| it.name == "CKM_EDDSA" && it.listed && !it.works));
        let p256 = of(&examination, Curve::P256);
        assert_eq!((p256.verdict, p256.signs), (Some(Verdict::Authcrypt), Some(false)));
        // CKR_MECHANISM_PARAM_INVALID, AWS CloudHSM's answer to CKD_NULL.
        faulty.shim.order(&["fail C_DeriveKey 0x71"]);
        let examination = examine(&token);
        let verdicts: Vec<_> = examination.algorithms.iter().map(|it| it.verdict.unwrap()).collect();
        use Verdict::{SignOnly, Unsupported};
        assert_eq!(verdicts, [Unsupported, SignOnly, Unsupported, Unsupported, SignOnly, SignOnly]);
        let p256 = of(&examination, Curve::P256);
        assert!(p256.mechanisms.iter().any(|it| it.name == "CKM_ECDH1_DERIVE" && it.listed && !it.works));
        assert!(p256.reason.as_ref().unwrap().contains("CKR_MECHANISM_PARAM_INVALID"), "{p256:?}");
    });
}

/// A token whose results are right for ECDH-ES and wrong for ECDH-1PU. Its keys open anoncrypt and nothing else.
#[test]
fn anoncrypt_alone() {
    with_fault_module(Module::Kryoptic, |faulty| {
        faulty.shim.order(&[]);
        let open = || OpenOptions::new().tiers([Custody::KekInToken]).open(&faulty.uri).unwrap();
        let curves =
            Curve::ALL.into_iter().filter(|curve| curve.supports_key_agreement() && *curve != Curve::Secp256k1);
        let held: Vec<_> = curves.map(|curve| generate(&open(), curve)).collect();
        let token = open();
        faulty.shim.order(&["wrong C_WrapKey"]);
        let served = token.keys().unwrap();
        for key in &held {
            let found = served.iter().find(|it| it.public == *key).unwrap();
            assert!(found.anoncrypt_only && found.usage.allows_key_agreement(), "{found:?}");
            let sender = PrivateKey::generate(key.curve());
            let (cek, parties) = (fresh_cek(), Parties::example());
            let anoncrypt = message_to(key, None, &cek, &parties);
            assert_eq!(token.unwrap_cek(key, &anoncrypt, &Purpose::KeyTest), Ok(cek.clone()));
            let authcrypt = token.unwrap_cek(key, &message_to(key, Some(&sender), &cek, &parties), &Purpose::KeyTest);
            assert!(matches!(authcrypt, Err(TokenError::Unsupported(_))), "{authcrypt:?}");
            let proved = prove_keys(&token, &[(key.clone(), KeyUse::Agreement)]);
            assert!(matches!(proved, Err(TokenError::Unproved { .. })), "{proved:?}");
        }
        let examination = examine(&token);
        for it in examination.algorithms.iter().filter(|it| it.curve.supports_key_agreement()) {
            assert_eq!((it.verdict, it.custody), (Some(Verdict::Anoncrypt), Some(Custody::KekInToken)), "{it:?}");
            assert_eq!((it.anoncrypt_time.is_some(), it.authcrypt_time), (true, None));
        }
    });
}
