//! Tokens with wrong results and failures, and the cost of a message. `tests/fault-module` wraps SoftHSM or Kryoptic
//! and records the calls.

use crate::support::{Module, faulty_token::with_fault_module};
use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Context, Custodian, Custody, KeyUse, Keyring, NewKey, Policy, Purpose, Secrets, SecretsError, Token,
        TokenError,
        pkcs11::{OpenOptions, Pkcs11Token},
    },
};
use claviger_fault_module::Shim;
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to, read, wrap_for},
};
use cryptoki::{context::Pkcs11, mechanism::MechanismType};

const ECDH1_DERIVE: u64 = 0x1050;

fn generate(token: &Pkcs11Token, curve: Curve) -> PublicKey {
    token.generate(&NewKey { curve, usage: KeyUse::of(curve), label: None }).expect("a new key").public
}

/// Whether an authcrypt message from `sender` opens. If there is no sender, whether an anoncrypt message opens.
fn opens(token: &dyn Token, key: &PublicKey, sender: Option<&PrivateKey>) -> bool {
    let cek = fresh_cek();
    token.unwrap_cek(key, &message_to(key, sender, &cek, &Parties::example()), &Purpose::KeyTest) == Ok(cek)
}

/// Wraps a content key for some recipients. Each of them can unwrap it.
fn wraps(token: &dyn Token, key: &PublicKey, recipients: &[PrivateKey]) {
    let (ephemeral, cek, parties) = (PrivateKey::generate(key.curve()), fresh_cek(), Parties::example());
    let wrap = wrap_for(recipients.iter().map(PrivateKey::public), &ephemeral, &cek, &parties);
    let wrapped = token.wrap_cek(key, &wrap, &Purpose::KeyTest).unwrap();
    for (recipient, encrypted_key) in recipients.iter().zip(&wrapped) {
        assert_eq!(read(recipient, ephemeral.public(), Some(key), &parties, encrypted_key).as_ref(), Some(&cek));
    }
}

mod wrong_results {
    use super::*;

    /// With each of these orders the keys are used with custody `to` instead of `from`, and give right results.
    fn drops_to(module: Module, orders: &[&str], from: Custody, to: Custody) {
        with_fault_module(module, |faulty| {
            faulty.shim.order(&[]);
            let token = faulty.open();
            for curve in [Curve::P256, Curve::X25519] {
                generate(&token, curve);
            }
            assert!(token.keys().unwrap().iter().all(|key| key.custody == Some(from)), "without faults it has {from}");
            for order in orders {
                faulty.shim.order(&[order]);
                let token = faulty.open();
                let keys = token.keys().unwrap();
                assert_eq!(keys.len(), 2, "{order}");
                for key in &keys {
                    assert_eq!(key.custody, Some(to), "{order}: {}", key.public.curve());
                    let sender = PrivateKey::generate(key.public.curve());
                    assert!(opens(&token, &key.public, None), "{order}");
                    assert!(opens(&token, &key.public, Some(&sender)), "{order}");
                    wraps(&token, &key.public, &[sender]);
                }
            }
        });
    }

    /// A mechanism that is listed but does not work is not used.
    #[test]
    fn in_the_mechanism_list() {
        with_fault_module(Module::SoftHsm, |faulty| {
            let claims = ["claim 0x360", "claim 0x362", "claim 0x363", "claim 0x393"];
            faulty.shim.order(&[]);
            let key = generate(&faulty.open(), Curve::P256);
            let keys = faulty.keys_under(&claims);
            assert_eq!(keys[0].custody, Some(Custody::KekInProcess));
            assert!(opens(&faulty.open(), &key, Some(&PrivateKey::generate(Curve::P256))));

            // The mechanism list does have the wrong entries.
            let module = Pkcs11::new(Shim::module()).unwrap();
            let listed = |module: &Pkcs11| {
                let slot = module.get_slots_with_initialized_token().unwrap()[0];
                module.get_mechanism_list(slot).unwrap()
            };
            let claimed = [
                MechanismType::CONCATENATE_BASE_AND_KEY,
                MechanismType::CONCATENATE_BASE_AND_DATA,
                MechanismType::CONCATENATE_DATA_AND_BASE,
            ];
            assert!(claimed.iter().all(|mechanism| listed(&module).contains(mechanism)));
            faulty.shim.order(&[]);
            assert!(!claimed.iter().any(|mechanism| listed(&module).contains(mechanism)));
        });
    }

    #[test]
    fn of_a_digest_drop_to_the_shared_secret() {
        drops_to(
            Module::SoftHsm,
            &["skip C_DigestKey", "wrong C_DigestFinal", "fail C_DigestKey 0x54", "fail C_DigestKey 0x5"],
            Custody::KekInProcess,
            Custody::SharedSecretInProcess,
        );
    }

    #[test]
    fn of_a_key_wrap_drop_to_the_kek() {
        drops_to(
            Module::Kryoptic,
            &["wrong C_WrapKey", "fail C_WrapKey 0x54", "fail C_UnwrapKey 0x6"],
            Custody::KekInToken,
            Custody::KekInProcess,
        );
    }

    /// A wrong Z gives wrong results in every tier, so the key is not used for key agreement.
    #[test]
    fn of_a_derivation_leave_no_agreement() {
        with_fault_module(Module::SoftHsm, |faulty| {
            faulty.shim.order(&[]);
            let token = faulty.open();
            let (p256, _, ed25519) =
                (generate(&token, Curve::P256), generate(&token, Curve::X25519), generate(&token, Curve::Ed25519));
            let mut keys = faulty.keys_under(&["wrong C_DeriveKey"]);
            keys.sort_by_key(|key| key.public.curve() == Curve::Ed25519);
            let served: Vec<_> = keys.iter().map(|key| (&key.public, key.usage)).collect();
            assert_eq!(served, [(&p256, KeyUse::Signing), (&ed25519, KeyUse::Signing)]);
        });
    }

    #[test]
    fn of_a_signature_leave_no_signing() {
        with_fault_module(Module::SoftHsm, |faulty| {
            faulty.shim.order(&[]);
            let token = faulty.open();
            let p256 = generate(&token, Curve::P256);
            generate(&token, Curve::Ed25519);
            let keys = faulty.keys_under(&["wrong C_Sign"]);
            let served: Vec<_> = keys.iter().map(|key| (&key.public, key.usage)).collect();
            assert_eq!(served, [(&p256, KeyUse::Agreement)]);
        });
    }

    /// A key that is made while the token returns wrong results is deleted.
    #[test]
    fn while_a_key_is_made_leave_none() {
        with_fault_module(Module::SoftHsm, |faulty| {
            faulty.shim.order(&["wrong C_Sign"]);
            let token = faulty.open();
            let made = token.generate(&NewKey { curve: Curve::Ed25519, usage: KeyUse::Signing, label: None });
            assert!(matches!(made, Err(TokenError::KnownAnswer(_))), "{made:?}");
            let imported = token.import(PrivateKey::generate(Curve::Ed25519).to_import(KeyUse::Signing, None));
            assert!(matches!(imported, Err(TokenError::KnownAnswer(_))), "{imported:?}");
            faulty.shim.order(&[]);
            assert_eq!(faulty.open().inventory(), Ok(Vec::new()));
        });
    }

    /// A token whose custody drops below the minimum is an error at start.
    #[test]
    fn that_end_below_the_minimum_fail_at_start() {
        with_fault_module(Module::SoftHsm, |faulty| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let start = |token: Pkcs11Token| {
                let minimum = Policy { minimum_custody: Some(Custody::KekInProcess), ..Policy::default() };
                let keyring = Keyring::builder().token(token).token_policy("demo", minimum).start();
                runtime.block_on(keyring).map(|_| ())
            };
            faulty.shim.order(&[]);
            generate(&faulty.open(), Curve::X25519);
            assert!(start(faulty.open()).is_ok());
            faulty.shim.order(&["skip C_DigestKey"]);
            let refused = start(faulty.open());
            let below =
                |error: &SecretsError| matches!(error, SecretsError::Token { error: TokenError::Custody(_), .. });
            assert!(refused.as_ref().is_err_and(below), "{refused:?}");
            let options = OpenOptions::new().minimum_custody(Custody::KekInProcess);
            let refused = options.open(&faulty.uri).and_then(|token| token.keys());
            assert!(matches!(refused, Err(TokenError::Custody(_))), "{refused:?}");
        });
    }
}

/// The cost of a message, in calls to the module.
mod costs {
    use super::*;

    /// ECDH derivations: for one anoncrypt message; for three messages from one sender; for two messages to the same
    /// three recipients.
    #[derive(Debug, PartialEq)]
    struct Costs {
        anoncrypt_in: usize,
        authcrypt_in: [usize; 3],
        authcrypt_out: [usize; 2],
    }

    const ZS_IS_KEPT: Costs = Costs { anoncrypt_in: 1, authcrypt_in: [2, 1, 1], authcrypt_out: [3, 0] };
    const ZS_IS_NOT_KEPT: Costs = Costs { anoncrypt_in: 1, authcrypt_in: [2, 2, 2], authcrypt_out: [3, 3] };

    fn check(module: Module, tier: Custody, expected: Costs) {
        with_fault_module(module, |faulty| {
            faulty.shim.order(&[]);
            let token = OpenOptions::new().tiers([tier]).open(&faulty.uri).unwrap();
            for curve in [Curve::P256, Curve::X25519] {
                let key = generate(&token, curve);
                let sender = PrivateKey::generate(curve);
                let recipients: Vec<_> = (0..3).map(|_| PrivateKey::generate(curve)).collect();
                // The first operation opens the session.
                assert!(opens(&token, &key, None));
                let derivations = |operation: &dyn Fn()| {
                    let before = faulty.shim.calls_with("C_DeriveKey", ECDH1_DERIVE);
                    operation();
                    faulty.shim.calls_with("C_DeriveKey", ECDH1_DERIVE) - before
                };
                let before = ["C_FindObjectsInit", "C_Login", "C_OpenSession"].map(|call| faulty.shim.calls(call));
                let costs = Costs {
                    anoncrypt_in: derivations(&|| assert!(opens(&token, &key, None))),
                    authcrypt_in: [0; 3].map(|_| derivations(&|| assert!(opens(&token, &key, Some(&sender))))),
                    authcrypt_out: [0; 2].map(|_| derivations(&|| wraps(&token, &key, &recipients))),
                };
                assert_eq!(costs, expected, "{curve}");
                let after = ["C_FindObjectsInit", "C_Login", "C_OpenSession"].map(|call| faulty.shim.calls(call));
                assert_eq!(after, before, "a message causes no search, no login and no new session");
            }
            assert_eq!(faulty.shim.calls("C_Login"), 1, "one login");
        });
    }

    #[test]
    fn with_the_shared_secret_in_process() {
        check(Module::SoftHsm, Custody::SharedSecretInProcess, ZS_IS_NOT_KEPT);
    }

    #[test]
    fn with_the_kek_in_process() {
        check(Module::SoftHsm, Custody::KekInProcess, ZS_IS_KEPT);
    }

    #[test]
    fn with_the_kek_in_the_token() {
        check(Module::Kryoptic, Custody::KekInToken, ZS_IS_KEPT);
    }

    /// All calls to the module, for one message each: anoncrypt in; authcrypt in from a new and from a known sender;
    /// authcrypt out to a new and to a known recipient; a signature. docs/devices.md has these numbers.
    fn calls(module: Module, tier: Custody, expected: [usize; 6]) {
        with_fault_module(module, |faulty| {
            faulty.shim.order(&[]);
            let token = OpenOptions::new().tiers([tier]).open(&faulty.uri).unwrap();
            let key = generate(&token, Curve::P256);
            let sender = PrivateKey::generate(Curve::P256);
            let recipient = [PrivateKey::generate(Curve::P256)];
            assert!(opens(&token, &key, None));
            let calls = |operation: &dyn Fn()| {
                let before = faulty.shim.calls_and_failures().0;
                operation();
                faulty.shim.calls_and_failures().0 - before
            };
            let anoncrypt = || assert!(opens(&token, &key, None));
            let authcrypt = || assert!(opens(&token, &key, Some(&sender)));
            let reply = || wraps(&token, &key, &recipient);
            let sign = || drop(token.sign(&key, b"input", &Purpose::KeyTest).unwrap());
            let counted =
                [calls(&anoncrypt), calls(&authcrypt), calls(&authcrypt), calls(&reply), calls(&reply), calls(&sign)];
            assert_eq!(counted, expected, "{tier}");
        });
    }

    #[test]
    fn in_calls_with_the_shared_secret_in_process() {
        calls(Module::SoftHsm, Custody::SharedSecretInProcess, [3, 6, 6, 3, 3, 3]);
    }

    #[test]
    fn in_calls_with_the_kek_in_process() {
        calls(Module::SoftHsm, Custody::KekInProcess, [7, 9, 8, 6, 5, 3]);
    }

    #[test]
    fn in_calls_with_the_kek_in_the_token() {
        calls(Module::Kryoptic, Custody::KekInToken, [5, 14, 13, 11, 10, 3]);
    }

    /// On SoftHSM every C_DeriveKey is an ECDH, so the counts are exact.
    #[test]
    fn with_no_other_derivation() {
        with_fault_module(Module::SoftHsm, |faulty| {
            faulty.shim.order(&[]);
            let token = faulty.open();
            let key = generate(&token, Curve::P256);
            let sender = PrivateKey::generate(Curve::P256);
            assert!(opens(&token, &key, Some(&sender)));
            let before = faulty.shim.calls("C_DeriveKey");
            assert!(opens(&token, &key, Some(&sender)));
            assert_eq!(faulty.shim.calls("C_DeriveKey") - before, 1);
        });
    }

    /// Messages that do not open displace no Zs of a known sender, and leave no object behind.
    #[test]
    fn of_hostile_messages_displace_no_sender() {
        with_fault_module(Module::SoftHsm, |faulty| {
            faulty.shim.order(&[]);
            let token = OpenOptions::new().kept_secrets(2).open(&faulty.uri).unwrap();
            let key = generate(&token, Curve::P256);
            let sender = PrivateKey::generate(Curve::P256);
            assert!(opens(&token, &key, Some(&sender)));
            let live = || faulty.shim.live_objects();
            let (before, calls) = (live(), faulty.shim.calls("C_DeriveKey"));
            for _ in 0..20 {
                let mallory = PrivateKey::generate(Curve::P256);
                let mut hostile = message_to(&key, Some(&mallory), &fresh_cek(), &Parties::example());
                hostile.encrypted_key[0] ^= 1;
                assert_eq!(token.unwrap_cek(&key, &hostile, &Purpose::KeyTest), Err(TokenError::Unwrap));
            }
            assert_eq!(faulty.shim.calls("C_DeriveKey") - calls, 40, "two each, and no retry");
            assert_eq!(live(), before, "derived objects are destroyed");
            let calls = faulty.shim.calls("C_DeriveKey");
            assert!(opens(&token, &key, Some(&sender)));
            assert_eq!(faulty.shim.calls("C_DeriveKey") - calls, 1, "the sender's Zs is still cached");
        });
    }
}

/// Transient failures of the token are not mistaken for anything else.
mod transient_failures {
    use super::*;

    fn assert_device_error<T: std::fmt::Debug>(result: Result<T, TokenError>) {
        assert!(matches!(result, Err(TokenError::Device { .. })), "{result:?}");
    }

    /// An honest peer is not blamed for an ambiguous code.
    #[test]
    fn are_not_the_peers_fault() {
        with_fault_module(Module::Kryoptic, |faulty| {
            faulty.shim.order(&[]);
            let token = faulty.open();
            let key = generate(&token, Curve::P256);
            let sender = PrivateKey::generate(Curve::P256);
            for order in ["fail C_DeriveKey 0x30 at 1", "fail C_DeriveKey 0x5 at 2", "fail C_UnwrapKey 0x30 at 1"] {
                faulty.shim.order(&[order]);
                assert!(opens(&token, &key, Some(&sender)), "{order}");
                assert!(opens(&token, &key, None), "{order}");
            }
            faulty.shim.order(&["fail C_UnwrapKey 0x30"]);
            let message = message_to(&key, None, &fresh_cek(), &Parties::example());
            // The token does not unwrap its own key either.
            assert_device_error(token.unwrap_cek(&key, &message, &Purpose::KeyTest));
            // CKR_ENCRYPTED_DATA_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_KEY_FUNCTION_NOT_PERMITTED.
            for code in ["0x40", "0x71", "0x68"] {
                faulty.shim.order(&[&format!("fail C_UnwrapKey {code}")]);
                let answer = token.unwrap_cek(&key, &message, &Purpose::KeyTest);
                assert!(matches!(answer, Err(TokenError::Refused(_))), "{code}: {answer:?}");
                faulty.shim.order(&[&format!("fail C_DeriveKey {code}")]);
                assert_device_error(token.unwrap_cek(&key, &message, &Purpose::KeyTest));
            }
        });
    }

    /// With any code in a third of the calls, the peer is not blamed, and the message opens sooner or later.
    #[test]
    fn in_a_third_of_the_calls_are_never_the_peers_fault() {
        with_fault_module(Module::Kryoptic, |faulty| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            faulty.shim.order(&[]);
            let token = OpenOptions::new().tiers([Custody::KekInToken]).open(&faulty.uri).unwrap();
            let key = generate(&token, Curve::P256);
            let keyring = runtime.block_on(Keyring::start([token])).unwrap();
            let sender = PrivateKey::generate(Curve::P256);
            for function in ["C_UnwrapKey", "C_DeriveKey"] {
                for code in ["0x5", "0x7", "0x20", "0x30", "0x40", "0x68", "0x71", "0x110"] {
                    faulty.shim.order(&[&format!("fail {function} {code} one-in 3")]);
                    let (_, failures) = faulty.shim.calls_and_failures();
                    for _ in 0..10 {
                        let cek = fresh_cek();
                        let message = message_to(&key, Some(&sender), &cek, &Parties::example());
                        let opened = || runtime.block_on(keyring.unwrap_cek(&key, &message, &Context::default()));
                        let opened = std::iter::repeat_with(opened).find(|opened| match opened {
                            Ok(_) => true,
                            Err(error) => {
                                assert!(error.is_retryable(), "{function} {code}: {error:?}");
                                std::thread::sleep(std::time::Duration::from_millis(20));
                                false
                            }
                        });
                        assert_eq!(opened.unwrap().unwrap(), cek, "{function} {code}");
                    }
                    assert!(faulty.shim.calls_and_failures().1 > failures, "{function} {code}");
                }
            }
        });
    }

    /// A key whose test fails after a new session was opened is neither lost nor used with a lower custody.
    #[test]
    fn lose_no_key_and_no_tier() {
        with_fault_module(Module::SoftHsm, |faulty| {
            faulty.shim.order(&[]);
            let token = faulty.open();
            let key = generate(&token, Curve::P256);
            assert!(opens(&token, &key, None));
            let reads_at_first = faulty.shim.calls("C_GetAttributeValue");
            let failures = [
                "fail C_DigestKey 0x31 at 1",
                "fail C_DeriveKey 0x31 at 2",
                "fail C_GetAttributeValue 0x30 at 1",
                "fail C_GetAttributeValue 0x31 at 2",
            ];
            for failure in failures {
                faulty.shim.order(&["fail C_DeriveKey 0xb3 at 1", failure]);
                let answer = token.unwrap_cek(
                    &key,
                    &message_to(&key, None, &fresh_cek(), &Parties::example()),
                    &Purpose::KeyTest,
                );
                assert!(answer.is_ok(), "{failure}: {answer:?}");
                faulty.shim.order(&[]);
                assert!(token.sign(&key, b"it still signs", &Purpose::KeyTest).is_ok(), "{failure}");
                let reads_before = faulty.shim.calls("C_GetAttributeValue");
                assert!(opens(&token, &key, None), "{failure}");
                assert_eq!(faulty.shim.calls("C_GetAttributeValue"), reads_before, "{failure}: Z is not read");
            }
            // A signing key is tested with a signature when it is found again.
            let signs = generate(&token, Curve::Ed25519);
            assert!(token.sign(&signs, b"before", &Purpose::KeyTest).is_ok());
            faulty.shim.order(&["fail C_Sign 0xb3 at 1", "fail C_Sign 0x31 at 2"]);
            // The shim leaves the failed operation open, so the session is unusable. The key stays known.
            let calls = faulty.shim.calls("C_Sign");
            let signed = token.sign(&signs, b"meanwhile", &Purpose::KeyTest);
            assert!(matches!(signed, Err(TokenError::SessionLost { .. })), "{signed:?}");
            assert_eq!(faulty.shim.calls("C_Sign") - calls, 2, "both orders took effect");
            faulty.shim.order(&[]);
            assert!(token.sign(&signs, b"after", &Purpose::KeyTest).is_ok() && opens(&token, &key, None));
            assert!(faulty.shim.calls("C_GetAttributeValue") > reads_at_first, "the keys were found again");
        });
    }

    /// A process that starts during such a failure still finds out everything that each key can do.
    #[test]
    fn do_not_count_at_the_start() {
        with_fault_module(Module::SoftHsm, |faulty| {
            faulty.shim.order(&[]);
            generate(&faulty.open(), Curve::P256);
            let expected = faulty.keys_under(&[]);
            assert_eq!(
                (expected.len(), expected[0].usage, expected[0].custody),
                (1, KeyUse::Both, Some(Custody::KekInProcess))
            );
            let calls = ["C_SignInit", "C_Sign", "C_DeriveKey", "C_DigestInit", "C_DigestKey", "C_DigestFinal"];
            for call in calls {
                for code in ["0x5", "0x30", "0x31"] {
                    let order = format!("fail {call} {code} at 1");
                    assert_eq!(faulty.keys_under(&[&order]), expected, "{order}");
                }
            }
        });
    }

    /// A digest that was left open does not make later operations fail.
    #[test]
    fn leave_no_operation_open() {
        with_fault_module(Module::SoftHsm, |faulty| {
            faulty.shim.order(&[]);
            let token = faulty.open();
            let key = generate(&token, Curve::P256);
            assert!(opens(&token, &key, None));
            faulty.shim.order(&["fail C_DigestFinal 0x31 at 1"]);
            assert_device_error(token.unwrap_cek(
                &key,
                &message_to(&key, None, &fresh_cek(), &Parties::example()),
                &Purpose::KeyTest,
            ));
            assert!(opens(&token, &key, None));
        });
    }

    /// An object that a failed call left behind is destroyed by a later call.
    #[test]
    fn leave_no_object_behind() {
        with_fault_module(Module::SoftHsm, |faulty| {
            faulty.shim.order(&[]);
            let token = faulty.open();
            let key = generate(&token, Curve::P256);
            faulty.shim.order(&["fail C_DestroyObject 0x30 at 1"]);
            assert!(opens(&token, &key, None));
            assert_eq!((faulty.shim.calls_and_failures().1, faulty.shim.live_objects()), (1, 0));
        });
    }
}
