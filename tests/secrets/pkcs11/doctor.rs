//! What `token doctor` stands on: a token is examined with keys that live as long as a session, and nothing in it is
//! changed; what lies is found out.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    Module,
    faulty::{Faulty, behind_the_shim},
    on,
};
use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, Custody, KeyUse, NewKey, Token, TokenError,
        pkcs11::{Answer, CurveExamination, Examination, OpenOptions, Pkcs11Token, ProfileSource, TestKey, Verdict},
    },
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

/// Whether session keys tell the same as the profile, whose verdicts are those of lasting ones (`tests/secrets/pkcs11/devices.rs`).
fn says_what_its_profile_says(module: Module) {
    on(module, |here| {
        let options = OpenOptions::new();
        let look = options.overview(&here.uri).unwrap();
        assert_eq!((look.profile_source, look.token.info.label.as_str()), (ProfileSource::Matched, "demo"));
        let token = options.open(&here.uri).unwrap();
        // A signing key, which each of them makes.
        let held = token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Signing, label: None }).unwrap().public;
        let before = token.inventory().unwrap();
        let examination = examine(&token);
        // tpm2-pkcs11 1.9.0 makes keys in a session for writing only, and nothing but lasting ones.
        assert_eq!(examination.session_keys, module != Module::Tpm2, "{examination:#?}");
        for it in &examination.algorithms {
            let said = token.profile().verdict(it.curve);
            match &it.test_key {
                TestKey::Session => assert_eq!(it.verdict, said, "{it:?}"),
                TestKey::Held(key) => assert_eq!((key, it.verdict), (&held, Some(Verdict::SignOnly))),
                TestKey::Nothing if examination.session_keys => {
                    assert_eq!((it.verdict, said), (Some(Verdict::Unsupported), Some(Verdict::Unsupported)), "{it:?}");
                }
                TestKey::Nothing => assert_eq!(it.verdict, None, "{it:?}"),
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
    says_what_its_profile_says(Module::SoftHsm);
}

#[test]
fn kryoptic() {
    says_what_its_profile_says(Module::Kryoptic);
}

#[test]
fn tpm2_pkcs11() {
    says_what_its_profile_says(Module::Tpm2);
}

#[test]
fn nss_softokn() {
    says_what_its_profile_says(Module::Nss);
}

/// The files below a folder, and what is in them. SoftHSM 2.6.1 counts each login in the first eight bytes of
/// `token.object`.
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

/// Where the token of this test has its files.
fn token_folder() -> PathBuf {
    let control = PathBuf::from(std::env::var_os("CLAVIGER_FAULT_CONTROL").unwrap());
    control.parent().unwrap().join("tokens")
}

/// No file of the token changes, no function that could change it is called, and no session object is left: not when
/// all goes well, and not when the token fails in the middle.
#[test]
fn nothing_is_changed() {
    behind_the_shim(Module::SoftHsm, |faulty| {
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
            assert_eq!(token.keys().expect("it is well again").len(), 1);
        }
        assert_eq!(calls(&may_change), called);
        assert!(files(&folder) == before);
    });
}

fn answers(it: &CurveExamination, custody: Option<Custody>) -> Vec<&Answer> {
    it.tests.iter().filter(|tried| tried.custody == custody).map(|tried| &tried.answer).collect()
}

/// A token that makes no session keys is tested with the keys that it holds, and nothing is said of the other curves.
#[test]
fn without_session_keys() {
    behind_the_shim(Module::SoftHsm, |faulty| {
        let token = faulty.open();
        let held = generate(&token, Curve::P384);
        // CKR_TEMPLATE_INCONSISTENT; CKR_USER_NOT_LOGGED_IN, as if a session for writing were wanted.
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
        // One curve alone: the token has the others.
        faulty.shim.order(&["fail C_GenerateKeyPair 0xd1 at 1"]);
        let examination = examine(&token);
        let x25519 = of(&examination, Curve::X25519);
        assert_eq!(
            (examination.session_keys, &x25519.test_key, x25519.verdict),
            (true, &TestKey::Nothing, Some(Verdict::Unsupported))
        );
    });
}

/// A wrong answer is told, with its tier; the tier below it serves.
#[test]
fn a_mechanism_that_lies() {
    behind_the_shim(Module::SoftHsm, |faulty: Faulty| {
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
        // CKR_MECHANISM_PARAM_INVALID: as AWS CloudHSM says to CKD_NULL.
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

/// ECDH-ES right and ECDH-1PU wrong.
#[test]
fn anoncrypt_alone() {
    behind_the_shim(Module::Kryoptic, |faulty| {
        let token = OpenOptions::new().tiers([Custody::KekInToken]).open(&faulty.uri).unwrap();
        faulty.shim.order(&["wrong C_WrapKey"]);
        let examination = examine(&token);
        for it in examination.algorithms.iter().filter(|it| it.curve.supports_key_agreement()) {
            assert_eq!((it.verdict, it.custody), (Some(Verdict::Anoncrypt), Some(Custody::KekInToken)), "{it:?}");
            assert_eq!((it.anoncrypt_time.is_some(), it.authcrypt_time), (true, None));
        }
    });
}
