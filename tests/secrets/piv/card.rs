//! YubiKeys, with a virtual card in this process: the token suite, the PIN, touches, and a card that is removed and
//! comes back.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::connected_card::{ConnectedCard, PIN};
use claviger::{
    did,
    didcomm::{self, Identities, Message, UnpackOptions},
    keys::{Curve, PublicKey},
    secrets::{
        Context, Custodian, Custody, KeyUse, Keyring, LazyToken, NewKey, PinPolicy, Purpose, Secrets, SecretsError,
        SlotOptions, Token, TokenError, TouchPolicy, UnwrapRequest,
        pin::{Pin, PinSource},
        piv::{OpenOptions, YubiKey},
    },
};
use claviger_testkit::{
    PrivateKey, SoftToken,
    reference::{Parties, fresh_cek, message_to},
    suite::{self, Capabilities},
};
use claviger_virtual_yubikey::{Firmware, Touch};

fn run(firmware: Firmware, capabilities: Capabilities) {
    let plugged = ConnectedCard::new(firmware, 1111);
    let capabilities = Capabilities { longest_eddsa: Some(3000), ..capabilities }
        .without(Curve::P521)
        .without(Curve::Secp256k1)
        .with_custody(Custody::SharedSecretInProcess);
    let token = plugged.open();
    suite::run(&token, &capabilities);
    suite::keys::are_the_same_when_opened_again(&token, &capabilities, || plugged.open());
}

#[test]
fn the_token_suite_on_firmware_5_7_1() {
    run(Firmware::V5_7_1, Capabilities::all());
}

#[test]
fn the_token_suite_on_firmware_5_4_3() {
    run(Firmware::V5_4_3, Capabilities::all().without(Curve::Ed25519).without(Curve::X25519));
}

#[test]
fn the_token_suite_on_firmware_5_3_1() {
    run(Firmware::V5_3_1, Capabilities::all().without(Curve::Ed25519).without(Curve::X25519));
}

fn new_key(curve: Curve) -> NewKey {
    NewKey { curve, usage: KeyUse::of(curve), label: None }
}

fn make(token: &YubiKey, options: SlotOptions) -> PublicKey {
    token.generate_in_slot(&new_key(Curve::P256), options).unwrap().public
}

/// The content key of an authcrypt or anoncrypt message to a key, wrapped.
fn unwrap_request(to: &PublicKey, authenticated: bool) -> UnwrapRequest {
    let sender = PrivateKey::generate(to.curve());
    message_to(to, authenticated.then_some(&sender), &fresh_cek(), &Parties::example())
}

fn with_pin(pin: &str) -> OpenOptions {
    OpenOptions::new().pin(PinSource::value(Pin::new(pin)))
}

mod pin {
    use super::*;

    /// A wrong PIN is tried once, whatever the number of requests, and by one program only.
    #[tokio::test]
    async fn a_wrong_pin_costs_one_try() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let key = make(&plugged.open(), SlotOptions::default());
        let folder = tempfile::tempdir().unwrap();
        // Makes the card forget the verified PIN.
        plugged.card.reset();
        let before = plugged.card.counts();
        let file = folder.path().join("pin");
        std::fs::write(&file, "654321").unwrap();
        let open = || {
            let options = OpenOptions::new().pin(PinSource::file(&file)).pin_guard(folder.path().join("guard"));
            plugged.open_with(options)
        };
        for _ in 0..2 {
            let token = open();
            assert!(matches!(token.keys(), Err(TokenError::Pin(message)) if !message.contains("654321")));
            let keyring = Keyring::builder().token(token).allow_absent_tokens().start().await.unwrap();
            let cx = Context::default();
            let waiting = (0..1000).map(|_| async {
                let error = keyring.unwrap_cek(&key, &unwrap_request(&key, false), &cx).await.unwrap_err();
                assert!(matches!(error, SecretsError::NotHeld(_) | SecretsError::Token { .. }), "{error:?}");
            });
            for request in waiting {
                request.await;
            }
        }
        let after = plugged.card.counts();
        assert_eq!((after.verifies - before.verifies, after.wrong_pins - before.wrong_pins), (1, 1));
        assert_eq!(plugged.card.pin_tries_left(), 2);
        // A person writes another PIN into the file. It is tried once, although the card reports that a wrong PIN
        // was entered.
        std::fs::write(&file, PIN).unwrap();
        assert_eq!(open().keys().unwrap().len(), 1);
        assert_eq!(plugged.card.pin_tries_left(), 3);
    }

    /// Firmware 5.3.1 forgets a verified PIN when it is asked whether the PIN is verified. A person is asked for the PIN
    /// once all the same, and for a key that needs a touch at each operation.
    #[test]
    fn firmware_that_forgets_the_pin_when_asked_is_not_asked() {
        let plugged = ConnectedCard::new(Firmware::V5_3_1, 1111);
        let prompts = Arc::<Mutex<usize>>::default();
        let counted = prompts.clone();
        let token = plugged.open_with(OpenOptions::new().prompt(move |_| {
            *counted.lock().unwrap() += 1;
            Ok(Pin::new(PIN))
        }));
        let key = make(&token, SlotOptions::default());
        let touched = make(&token, SlotOptions { touch: Some(TouchPolicy::Always), ..SlotOptions::default() });
        plugged.card.reset();
        for _ in 0..4 {
            token.unwrap_cek(&key, &unwrap_request(&key, true), &Purpose::KeyTest).unwrap();
            token.sign(&key, b"input", &Purpose::KeyTest).unwrap();
        }
        assert_eq!((*prompts.lock().unwrap(), plugged.card.counts().wrong_pins), (1, 0));
        for prompts_so_far in 2..4 {
            token.unwrap_cek(&touched, &unwrap_request(&touched, true), &Purpose::KeyTest).unwrap();
            assert_eq!(*prompts.lock().unwrap(), prompts_so_far);
        }
    }

    #[test]
    fn the_last_try_needs_a_person() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        make(&plugged.open(), SlotOptions::default());
        plugged.card.reset();
        for wrong in ["111111", "222222"] {
            let _ = plugged.open_with(with_pin(wrong)).unlock();
        }
        assert_eq!(plugged.card.pin_tries_left(), 1);
        let before = plugged.card.counts().verifies;
        let token = plugged.open();
        let error = token.keys().unwrap_err();
        assert!(matches!(&error, TokenError::Pin(message) if message.contains("one try left")), "{error}");
        assert_eq!(plugged.card.counts().verifies, before);
        token.unlock().unwrap();
        assert_eq!(plugged.card.pin_tries_left(), 3);
        assert_eq!(token.keys().unwrap().len(), 1);
    }

    /// A person is asked only when the card needs the PIN, and sees how many tries are left.
    #[test]
    fn a_person_is_asked_once() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let key = make(&plugged.open(), SlotOptions::default());
        plugged.card.reset();
        let prompts = Arc::new(Mutex::new(Vec::new()));
        let token = {
            let prompts = prompts.clone();
            plugged.open_with(OpenOptions::new().prompt(move |prompt| {
                prompts.lock().unwrap().push((prompt.serial.clone(), prompt.tries_left));
                Ok(Pin::new(PIN))
            }))
        };
        assert_eq!(token.keys().unwrap().len(), 1);
        assert!(prompts.lock().unwrap().is_empty(), "no PIN was needed yet");
        for _ in 0..3 {
            token.unwrap_cek(&key, &unwrap_request(&key, true), &Purpose::KeyTest).unwrap();
        }
        assert_eq!(*prompts.lock().unwrap(), [("1111".to_owned(), Some(3))]);
    }

    /// Each use of a key with the policy `always` is preceded by VERIFY. An authcrypt message is two uses.
    #[test]
    fn policy_always_verifies_before_each_use() {
        let plugged = ConnectedCard::new(Firmware::V5_4_3, 1111);
        let token = plugged.open();
        let key = make(&token, SlotOptions { pin: Some(PinPolicy::Always), ..SlotOptions::default() });
        for (authenticated, verifies) in [(false, 1), (true, 2)] {
            let before = plugged.card.counts().verifies;
            token.unwrap_cek(&key, &unwrap_request(&key, authenticated), &Purpose::KeyTest).unwrap();
            assert_eq!(plugged.card.counts().verifies - before, verifies);
        }
        let before = plugged.card.counts().verifies;
        let never = make(&token, SlotOptions { pin: Some(PinPolicy::Never), ..SlotOptions::default() });
        token.unwrap_cek(&never, &unwrap_request(&never, true), &Purpose::KeyTest).unwrap();
        assert_eq!(plugged.card.counts().verifies, before);
    }

    #[test]
    fn a_pin_of_the_wrong_length_is_not_sent() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        make(&plugged.open(), SlotOptions::default());
        plugged.card.reset();
        let before = plugged.card.counts().verifies;
        for pin in ["12345", "123456789"] {
            let error = plugged.open_with(with_pin(pin)).keys().unwrap_err();
            assert!(
                matches!(&error, TokenError::Pin(message) if message.contains("6 to 8") && !message.contains(pin)),
                "{error}"
            );
        }
        assert_eq!((plugged.card.counts().verifies, plugged.card.pin_tries_left()), (before, 3));
    }

    #[test]
    fn a_locked_token_is_not_used_even_if_its_pin_is_verified() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let folder = tempfile::tempdir().unwrap();
        let open = || plugged.open_with(with_pin(PIN).pin_guard(folder.path()));
        let token = open();
        let key = make(&token, SlotOptions::default());
        token.unwrap_cek(&key, &unwrap_request(&key, false), &Purpose::KeyTest).unwrap();
        token.lock().unwrap();
        // Another program verifies the PIN.
        plugged.open().unlock().unwrap();
        for token in [token, open()] {
            let error = token.unwrap_cek(&key, &unwrap_request(&key, false), &Purpose::KeyTest).unwrap_err();
            assert!(matches!(&error, TokenError::Pin(message) if message.contains("was locked by")), "{error}");
        }
        let token = open();
        token.unlock().unwrap();
        token.unwrap_cek(&key, &unwrap_request(&key, false), &Purpose::KeyTest).unwrap();
    }

    /// By its serial number a YubiKey is locked also if it is not inserted. One that is inserted forgets its PIN.
    #[test]
    fn a_token_is_locked_by_its_serial_number() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let folder = tempfile::tempdir().unwrap();
        let options = || with_pin(PIN).pin_guard(folder.path());
        let token = plugged.open_with(options());
        let key = make(&token, SlotOptions::default());
        let is_locked = || {
            let error = plugged.open_with(options()).unwrap_cek(&key, &unwrap_request(&key, false), &Purpose::KeyTest);
            assert!(matches!(&error, Err(TokenError::Pin(message)) if message.contains("was locked by")), "{error:?}");
        };
        let lock = || options().lock("yubikey:serial=1111", plugged.clone()).unwrap();
        plugged.card.faults().unplug();
        assert_eq!(lock(), None);
        plugged.card.faults().plug_in();
        is_locked();
        plugged.open_with(options()).unlock().unwrap();
        assert_eq!(lock(), None);
        is_locked();
        // Another program needs the PIN again.
        let verifies = plugged.card.counts().verifies;
        plugged.open().unwrap_cek(&key, &unwrap_request(&key, false), &Purpose::KeyTest).unwrap();
        assert_eq!(plugged.card.counts().verifies, verifies + 1);
    }
}

mod touch {
    use super::*;

    /// The touch prompts: number, of how many, whether it is a reminder.
    type Notices = Arc<Mutex<Vec<(usize, usize, bool)>>>;

    fn open_recording_touches(plugged: &ConnectedCard) -> (YubiKey, Notices) {
        let notices = Notices::default();
        let record = notices.clone();
        let options = with_pin(PIN).touch(move |prompt| {
            assert_eq!(prompt.serial, 1111);
            record.lock().unwrap().push((prompt.number, prompt.of, prompt.is_reminder));
        });
        (plugged.open_with(options), notices)
    }

    #[test]
    fn authcrypt_needs_two_touches_with_always_and_one_with_cached() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let (token, notices) = open_recording_touches(&plugged);
        let always = make(&token, SlotOptions { touch: Some(TouchPolicy::Always), ..SlotOptions::default() });
        let cached = make(&token, SlotOptions { touch: Some(TouchPolicy::Cached), ..SlotOptions::default() });
        plugged.card.faults().touch_counts_for(Duration::ZERO);
        assert_eq!(token.keys().unwrap().len(), 2);
        assert!(notices.lock().unwrap().is_empty(), "no touch is asked for at start");
        token.unwrap_cek(&always, &unwrap_request(&always, true), &Purpose::KeyTest).unwrap();
        assert_eq!(std::mem::take(&mut *notices.lock().unwrap()), [(1, 2, false), (2, 2, false)]);
        assert_eq!(plugged.card.counts().touches, 2);
        plugged.card.faults().touch_counts_for(Duration::from_secs(15));
        // Makes the card forget earlier touches.
        plugged.card.faults().unplug();
        plugged.card.faults().plug_in();
        token.unwrap_cek(&cached, &unwrap_request(&cached, true), &Purpose::KeyTest).unwrap();
        assert_eq!(*notices.lock().unwrap(), [(1, 1, false)]);
        assert_eq!(plugged.card.counts().touches, 3);
    }

    /// Two connections use the card at once. Each prompt names the purpose of its own operation: the recipient that the
    /// operation wraps for is the peer that the prompt names.
    #[test]
    fn prompts_of_two_connections_are_not_mixed_up() {
        const OPERATIONS: usize = 30;
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let touches = Arc::<Mutex<Vec<String>>>::default();
        let noted = touches.clone();
        let token: Arc<dyn Token> = Arc::new(plugged.open_with(with_pin(PIN).touch(move |prompt| {
            noted.lock().unwrap().push(prompt.purpose.as_ref().map(ToString::to_string).unwrap_or_default());
        })));
        let key = {
            let custodian = plugged.open();
            make(&custodian, SlotOptions { touch: Some(TouchPolicy::Always), ..SlotOptions::default() })
        };
        let connect = || Keyring::builder().shared_token(token.clone()).on_caller_thread().start_blocking().unwrap();
        std::thread::scope(|scope| {
            for peer in ["did:example:alice", "did:example:bob"] {
                let (keyring, key) = (connect(), &key);
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let cx = Context { peer: Some(peer.into()), ..Context::default() };
                    for _ in 0..OPERATIONS {
                        runtime.block_on(keyring.unwrap_cek(key, &unwrap_request(key, false), &cx)).unwrap();
                    }
                });
            }
        });
        let touches = touches.lock().unwrap();
        for peer in ["did:example:alice", "did:example:bob"] {
            assert_eq!(touches.iter().filter(|text| text.ends_with(peer)).count(), OPERATIONS, "{peer}");
        }
    }

    /// PIN and touch prompts name the purpose of the operation, which the keyring passes on with the request.
    #[tokio::test]
    async fn prompts_name_the_purpose() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let notices = Arc::<Mutex<Vec<String>>>::default();
        let (of_pin, of_touch) = (notices.clone(), notices.clone());
        let say = |purpose: &Option<claviger::secrets::Purpose>| match purpose {
            Some(purpose) => purpose.to_string(),
            None => "nothing".to_owned(),
        };
        let token = plugged.open_with(
            OpenOptions::new()
                .prompt(move |prompt| {
                    of_pin.lock().unwrap().push(format!("PIN {}", say(&prompt.purpose)));
                    Ok(Pin::new(PIN))
                })
                .touch(move |prompt| of_touch.lock().unwrap().push(format!("touch {}", say(&prompt.purpose)))),
        );
        let key = make(&token, SlotOptions { touch: Some(TouchPolicy::Always), ..SlotOptions::default() });
        plugged.card.reset();
        let keyring = Keyring::start([token]).await.unwrap();
        let peer = |peer: &str| Context { peer: Some(peer.into()), ..Context::default() };
        keyring.unwrap_cek(&key, &unwrap_request(&key, false), &peer("did:example:alice")).await.unwrap();
        keyring.unwrap_cek(&key, &unwrap_request(&key, false), &Context::default()).await.unwrap();
        let payload = br#"{"id":"1","type":"https://example.org/1.0/x","body":{}}"#;
        let what = claviger::secrets::SignRequest::Message(payload);
        keyring.sign(&key, &what, &peer("did:example:bob")).await.unwrap();
        assert_eq!(
            *notices.lock().unwrap(),
            [
                "PIN to read a message that says it is from did:example:alice",
                "touch to read a message that says it is from did:example:alice",
                "touch to read a message that does not say who it is from",
                "touch to sign a message to did:example:bob",
            ]
        );
    }

    /// A message of an unknown sender asks for no touch.
    #[tokio::test]
    async fn an_unknown_sender_causes_no_touch_prompt() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let token = plugged.open();
        let key = make(&token, SlotOptions { touch: Some(TouchPolicy::Always), ..SlotOptions::default() });
        let document = did::key::create(&key);
        let bob = document.id().to_owned();
        let me = Identities::new(Keyring::start([token]).await.unwrap(), [document]).await.unwrap();
        let (alice, from_alice) = claviger_testkit::identity_in(&SoftToken::new("alice")).await;
        let message = Message::build("1", "https://example.org/1.0/x", serde_json::json!({}))
            .from(alice.id())
            .to(&bob)
            .finalize();
        let resolver = did::LocalResolver::new();
        let named = message.encrypt_to(&bob).from(alice.id()).pack(&resolver, &from_alice).await.unwrap().0;
        let anonymous = message.encrypt_to(&bob).pack(&resolver, &from_alice).await.unwrap().0;
        let touches = || plugged.card.counts().touches;
        let open = async |packed: &str, known: Option<&[&str]>| {
            let prompt_for = known.map(|known| known.iter().map(|did| (*did).to_owned()).collect());
            let options = UnpackOptions { prompt_for, ..UnpackOptions::default() };
            Message::unpack(packed, &resolver, &me, &options).await
        };
        for (packed, known) in [(&named, &[][..]), (&named, &[bob.as_str()]), (&anonymous, &[alice.id()])] {
            let error = open(packed, Some(known)).await.unwrap_err();
            assert!(matches!(error, didcomm::Error::PromptNotAllowed { .. }), "{error:?}");
        }
        assert_eq!(touches(), 0);
        open(&named, Some(&[alice.id()])).await.unwrap();
        assert_eq!(touches(), 2);
        open(&anonymous, None).await.unwrap();
        assert_eq!(touches(), 3);
    }

    /// The card reports a missing touch like a missing PIN. Claviger distinguishes them, and does not present the
    /// PIN again.
    #[test]
    fn a_missing_touch_is_not_mistaken_for_a_missing_pin() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let (token, notices) = open_recording_touches(&plugged);
        let key = make(&token, SlotOptions { touch: Some(TouchPolicy::Always), ..SlotOptions::default() });
        plugged.card.faults().touch(Touch::Never);
        plugged.card.faults().touch_timeout(Duration::from_millis(5200));
        let before = plugged.card.counts();
        let error = token.unwrap_cek(&key, &unwrap_request(&key, true), &Purpose::KeyTest).unwrap_err();
        assert!(matches!(&error, TokenError::Device { reason, .. } if reason.contains("no touch came")), "{error}");
        let after = plugged.card.counts();
        assert_eq!((after.touches - before.touches, after.operations), (1, before.operations));
        assert_eq!(after.verifies - before.verifies, 1);
        assert_eq!(*notices.lock().unwrap(), [(1, 2, false), (1, 2, true)], "again after five seconds");
    }
}

mod slots {
    use super::*;

    #[test]
    fn a_slot_in_use_is_overwritten_only_with_force() {
        let plugged = ConnectedCard::new(Firmware::V5_4_3, 1111);
        let token = plugged.open();
        let slot = "9d".parse().ok();
        let first = make(&token, SlotOptions { slot, ..SlotOptions::default() });
        let error =
            token.generate_in_slot(&new_key(Curve::P256), SlotOptions { slot, ..SlotOptions::default() }).unwrap_err();
        assert!(error.to_string().contains("slot 9d is not empty: use --force"), "{error}");
        assert_eq!(token.inventory().unwrap()[0].public, first);
        let second = make(&token, SlotOptions { slot, force: true, ..SlotOptions::default() });
        let keys = token.inventory().unwrap();
        assert!(keys.len() == 1 && keys[0].public == second && second != first);
        assert!(matches!(
            token.unwrap_cek(&first, &unwrap_request(&first, false), &Purpose::KeyTest),
            Err(TokenError::KeyGone)
        ));
    }

    /// The error comes before anything is sent to the card.
    #[test]
    fn the_limits_of_a_firmware_are_checked_first() {
        let plugged = ConnectedCard::new(Firmware::V5_4_3, 1111);
        let token = plugged.open();
        let before = plugged.card.counts().apdus;
        let error = token.generate(&new_key(Curve::X25519)).unwrap_err();
        assert!(error.to_string().ends_with("firmware 5.4.3 has no X25519: use P-256"), "{error}");
        assert!(token.generate(&new_key(Curve::P521)).is_err());
        assert_eq!(plugged.card.counts().apdus, before);
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let token = plugged.open();
        let key = token.generate(&new_key(Curve::Ed25519)).unwrap().public;
        let before = plugged.card.counts().apdus;
        let error = token.sign(&key, &[0; 3001], &Purpose::KeyTest).unwrap_err();
        assert!(error.to_string().contains("use an ES256 key"), "{error}");
        assert_eq!(plugged.card.counts().apdus, before);
    }

    /// Another program has replaced the key in the slot. The new key is not used in its place.
    #[test]
    fn a_key_that_was_replaced_is_gone() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let (token, other) = (plugged.open(), plugged.open());
        let slot = "82".parse().ok();
        let key = make(&token, SlotOptions { slot, ..SlotOptions::default() });
        make(&other, SlotOptions { slot, force: true, touch: Some(TouchPolicy::Always), ..SlotOptions::default() });
        let before = plugged.card.counts();
        assert_eq!(
            token.unwrap_cek(&key, &unwrap_request(&key, true), &Purpose::KeyTest).unwrap_err(),
            TokenError::KeyGone
        );
        assert_eq!(token.sign(&key, b"x", &Purpose::KeyTest).unwrap_err(), TokenError::KeyGone);
        let after = plugged.card.counts();
        assert_eq!(
            (after.verifies, after.touches),
            (before.verifies, before.touches),
            "no PIN and no touch is asked for"
        );
    }
}

mod removal_and_return {
    use super::*;

    #[test]
    fn a_card_that_is_removed_during_an_operation() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let token = plugged.open();
        let key = make(&token, SlotOptions::default());
        plugged.card.faults().unplug_in_operation();
        for _ in 0..2 {
            let error = token.unwrap_cek(&key, &unwrap_request(&key, true), &Purpose::KeyTest).unwrap_err();
            assert!(matches!(&error, TokenError::Away(_)), "{error:?}");
            assert!(SecretsError::Token { token: "demo".into(), error }.is_retryable());
        }
        plugged.card.faults().plug_in();
        token.unwrap_cek(&key, &unwrap_request(&key, true), &Purpose::KeyTest).unwrap();
    }

    /// An agent starts without its card, reports which card is missing, and works when it is inserted.
    #[tokio::test]
    async fn a_card_that_is_absent_at_start_is_waited_for() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let key = make(&plugged.open(), SlotOptions::default());
        plugged.card.faults().unplug();
        let readers = plugged.clone();
        let open =
            move |_| Ok(Arc::new(with_pin(PIN).open("yubikey:serial=1111", readers.clone())?) as Arc<dyn Custodian>);
        let keyring =
            Keyring::builder().token(LazyToken::new("desk", 1, open)).allow_absent_tokens().start().await.unwrap();
        let outage = keyring.status().remove(0).outage.expect("the YubiKey is absent");
        assert!(outage.error.to_string().contains("insert the YubiKey with serial 1111"), "{outage:?}");
        let message = unwrap_request(&key, true);
        assert!(keyring.unwrap_cek(&key, &message, &Context::default()).await.is_err());
        plugged.card.faults().plug_in();
        let mut keys = keyring.keys();
        let key_listed = keys.wait_for(|keys| keys.get(&key).is_some());
        tokio::time::timeout(Duration::from_secs(5), key_listed).await.expect("within five seconds").unwrap();
        keyring.unwrap_cek(&key, &message, &Context::default()).await.unwrap();
    }

    /// The PIN is not sent to another card in the reader.
    #[test]
    fn another_card_gets_no_pin() {
        struct Swapped(ConnectedCard, ConnectedCard, std::sync::atomic::AtomicBool);
        impl claviger::secrets::piv::Readers for Swapped {
            fn connect(
                &self,
                serial: Option<u32>,
            ) -> Result<Box<dyn claviger::secrets::piv::Transport>, claviger::secrets::piv::TransportError>
            {
                // Connects to any card, whatever its serial number.
                if self.2.swap(true, std::sync::atomic::Ordering::SeqCst) {
                    self.1.connect(None)
                } else {
                    self.0.connect(serial)
                }
            }
        }
        let (ours, other) = (ConnectedCard::new(Firmware::V5_7_1, 1111), ConnectedCard::new(Firmware::V5_7_1, 2222));
        let key = make(&ours.open(), SlotOptions::default());
        ours.card.reset();
        let readers = Swapped(ours.clone(), other.clone(), false.into());
        let token = with_pin(PIN).open("yubikey:serial=1111", readers).unwrap();
        ours.card.faults().unplug();
        for _ in 0..2 {
            let error = token.unwrap_cek(&key, &unwrap_request(&key, false), &Purpose::KeyTest).unwrap_err();
            assert!(matches!(&error, TokenError::Away(_)), "{error:?}");
        }
        assert_eq!(other.card.counts().verifies, 0);
    }

    /// 100 operations on a slow card run in order. Operations past their deadline and abandoned ones are not run.
    #[tokio::test]
    async fn a_slow_card_has_a_queue() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let token = Arc::new(plugged.open());
        let key = make(&token, SlotOptions::default());
        let keyring = Arc::new(Keyring::builder().shared_token(token.clone()).start().await.unwrap());
        plugged.card.faults().operations_take(Duration::from_millis(150));
        let before = plugged.card.counts().operations;
        let order = Arc::new(Mutex::new(Vec::new()));
        let request = unwrap_request(&key, false);
        let mut tasks = Vec::new();
        for number in 0..100 {
            let (keyring, key, request, order) = (keyring.clone(), key.clone(), request.clone(), order.clone());
            // Of every ten requests, one has too little time and one is abandoned.
            let deadline = (number % 10 == 3).then(|| Instant::now() + Duration::from_millis(10));
            let task = tokio::spawn(async move {
                let cx = Context { deadline, ..Context::default() };
                let done = keyring.unwrap_cek(&key, &request, &cx).await;
                order.lock().unwrap().push(number);
                done
            });
            if number % 10 == 7 && number > 0 {
                tokio::task::yield_now().await;
                task.abort();
            }
            tasks.push((number, task));
            tokio::task::yield_now().await;
        }
        // Meanwhile the token describes itself, and another program, such as `token list`, reads the slots.
        let begun = Instant::now();
        assert_eq!(token.info().serial, "1111");
        assert!(keyring.status()[0].outage.is_none() && begun.elapsed() < Duration::from_millis(100));
        let other = plugged.clone();
        let listed = tokio::task::spawn_blocking(move || {
            let token = other.open();
            (token.inventory().unwrap().len(), token.pin_state().unwrap().1)
        });
        let listed = tokio::time::timeout(Duration::from_secs(5), listed)
            .await
            .expect("the list does not wait for the whole queue");
        assert_eq!(listed.unwrap(), (1, 3));
        assert!(plugged.card.counts().operations - before < 80, "the queue is not empty yet");
        let mut done = 0;
        for (number, task) in tasks {
            match (number % 10, task.await) {
                (7, ended) => assert!(ended.is_err_and(|error| error.is_cancelled())),
                (3, ended) => assert!(matches!(ended.unwrap(), Err(SecretsError::DeadlineExceeded { .. }))),
                (_, ended) => {
                    ended.unwrap().unwrap();
                    done += 1;
                }
            }
        }
        assert_eq!(done, 80);
        assert_eq!(plugged.card.counts().operations - before, 80);
        let order = order.lock().unwrap();
        let served: Vec<i32> = order.iter().copied().filter(|number| number % 10 != 3).collect();
        assert!(served.is_sorted(), "{served:?}");
    }
}
