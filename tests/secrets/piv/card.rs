//! YubiKeys, on a virtual card in this process: the token suite, the PIN, touches, and a card that comes and goes.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::plugged::{PIN, Plugged};
use claviger::{
    did,
    didcomm::{self, Identities, Message, UnpackOptions},
    keys::{Curve, PublicKey},
    secrets::{
        Context, Custodian, Custody, KeyUse, Keyring, Late, NewKey, PinPolicy, Place, Secrets, SecretsError, Token,
        TokenError, TouchPolicy, Unwrap,
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
    let plugged = Plugged::new(firmware, 1111);
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

fn new_key(curve: Curve) -> NewKey {
    NewKey { curve, usage: KeyUse::of(curve), label: None }
}

fn make(token: &YubiKey, place: Place) -> PublicKey {
    token.generate_in(&new_key(Curve::P256), place).unwrap().public
}

/// A message to a key, from a sender or from nobody.
fn mail(to: &PublicKey, authenticated: bool) -> Unwrap {
    let sender = PrivateKey::generate(to.curve());
    message_to(to, authenticated.then_some(&sender), &fresh_cek(), &Parties::example())
}

fn with_pin(pin: &str) -> OpenOptions {
    OpenOptions::new().pin(PinSource::value(Pin::new(pin)))
}

mod pin {
    use super::*;

    /// However many wait, and whoever asks.
    #[tokio::test]
    async fn a_wrong_one_costs_one_try() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let key = make(&plugged.open(), Place::default());
        let folder = tempfile::tempdir().unwrap();
        // The PIN that was verified is forgotten.
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
            assert!(matches!(token.keys(), Err(TokenError::Pin(said)) if !said.contains("654321")));
            let keyring = Keyring::builder().token(token).patient().start().await.unwrap();
            let cx = Context::default();
            let waiting = (0..1000).map(|_| async {
                let error = keyring.unwrap_cek(&key, &mail(&key, false), &cx).await.unwrap_err();
                assert!(matches!(error, SecretsError::NotHeld(_) | SecretsError::Token { .. }), "{error:?}");
            });
            for one in waiting {
                one.await;
            }
        }
        let after = plugged.card.counts();
        assert_eq!((after.verifies - before.verifies, after.wrong_pins - before.wrong_pins), (1, 1));
        assert_eq!(plugged.card.pin_tries_left(), 2);
        // A person who writes another one acts; the card says that a wrong one was given, and one more is tried.
        std::fs::write(&file, PIN).unwrap();
        assert_eq!(open().keys().unwrap().len(), 1);
        assert_eq!(plugged.card.pin_tries_left(), 3);
    }

    #[test]
    fn the_last_try_is_a_persons() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        make(&plugged.open(), Place::default());
        plugged.card.reset();
        for wrong in ["111111", "222222"] {
            let _ = plugged.open_with(with_pin(wrong)).unlock();
        }
        assert_eq!(plugged.card.pin_tries_left(), 1);
        let before = plugged.card.counts().verifies;
        let token = plugged.open();
        let error = token.keys().unwrap_err();
        assert!(matches!(&error, TokenError::Pin(said) if said.contains("one try left")), "{error}");
        assert_eq!(plugged.card.counts().verifies, before);
        token.unlock().unwrap();
        assert_eq!(plugged.card.pin_tries_left(), 3);
        assert_eq!(token.keys().unwrap().len(), 1);
    }

    /// The person who is asked sees how many tries are left, is asked when the card wants it, and not before.
    #[test]
    fn a_person_is_asked_once() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let key = make(&plugged.open(), Place::default());
        plugged.card.reset();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let token = {
            let asked = asked.clone();
            plugged.open_with(OpenOptions::new().prompt(move |prompt| {
                asked.lock().unwrap().push((prompt.serial.clone(), prompt.tries_left));
                Ok(Pin::new(PIN))
            }))
        };
        assert_eq!(token.keys().unwrap().len(), 1);
        assert!(asked.lock().unwrap().is_empty(), "nothing was wanted yet");
        for _ in 0..3 {
            token.unwrap_cek(&key, &mail(&key, true)).unwrap();
        }
        assert_eq!(*asked.lock().unwrap(), [("1111".to_owned(), Some(3))]);
    }

    /// Each use of such a key is verified; a message from a sender is two.
    #[test]
    fn always_is_always() {
        let plugged = Plugged::new(Firmware::V5_4_3, 1111);
        let token = plugged.open();
        let key = make(&token, Place { pin: Some(PinPolicy::Always), ..Place::default() });
        for (authenticated, verifies) in [(false, 1), (true, 2)] {
            let before = plugged.card.counts().verifies;
            token.unwrap_cek(&key, &mail(&key, authenticated)).unwrap();
            assert_eq!(plugged.card.counts().verifies - before, verifies);
        }
        let before = plugged.card.counts().verifies;
        let never = make(&token, Place { pin: Some(PinPolicy::Never), ..Place::default() });
        token.unwrap_cek(&never, &mail(&never, true)).unwrap();
        assert_eq!(plugged.card.counts().verifies, before);
    }

    #[test]
    fn one_of_no_length_does_not_leave() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        make(&plugged.open(), Place::default());
        plugged.card.reset();
        let before = plugged.card.counts().verifies;
        for pin in ["12345", "123456789"] {
            let error = plugged.open_with(with_pin(pin)).keys().unwrap_err();
            assert!(
                matches!(&error, TokenError::Pin(said) if said.contains("6 to 8") && !said.contains(pin)),
                "{error}"
            );
        }
        assert_eq!((plugged.card.counts().verifies, plugged.card.pin_tries_left()), (before, 3));
    }

    #[test]
    fn a_locked_token_is_not_used_though_its_pin_is_verified() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let folder = tempfile::tempdir().unwrap();
        let open = || plugged.open_with(with_pin(PIN).pin_guard(folder.path()));
        let token = open();
        let key = make(&token, Place::default());
        token.unwrap_cek(&key, &mail(&key, false)).unwrap();
        token.lock().unwrap();
        // Another program verifies it.
        plugged.open().unlock().unwrap();
        for token in [token, open()] {
            let error = token.unwrap_cek(&key, &mail(&key, false)).unwrap_err();
            assert!(matches!(&error, TokenError::Pin(said) if said.contains("was locked by")), "{error}");
        }
        let token = open();
        token.unlock().unwrap();
        token.unwrap_cek(&key, &mail(&key, false)).unwrap();
    }
}

mod touch {
    use super::*;

    /// What a person was told, as `number` of `of`, and `again`.
    type Told = Arc<Mutex<Vec<(usize, usize, bool)>>>;

    fn telling(plugged: &Plugged) -> (YubiKey, Told) {
        let told = Told::default();
        let tell = told.clone();
        let options = with_pin(PIN).touch(move |prompt| {
            assert_eq!(prompt.serial, 1111);
            tell.lock().unwrap().push((prompt.number, prompt.of, prompt.again));
        });
        (plugged.open_with(options), told)
    }

    #[test]
    fn always_is_two_for_a_message_from_a_sender_and_cached_is_one() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let (token, told) = telling(&plugged);
        let always = make(&token, Place { touch: Some(TouchPolicy::Always), ..Place::default() });
        let cached = make(&token, Place { touch: Some(TouchPolicy::Cached), ..Place::default() });
        plugged.card.faults().touch_counts_for(Duration::ZERO);
        assert_eq!(token.keys().unwrap().len(), 2);
        assert!(told.lock().unwrap().is_empty(), "nobody is asked at the start");
        token.unwrap_cek(&always, &mail(&always, true)).unwrap();
        assert_eq!(std::mem::take(&mut *told.lock().unwrap()), [(1, 2, false), (2, 2, false)]);
        assert_eq!(plugged.card.counts().touches, 2);
        plugged.card.faults().touch_counts_for(Duration::from_secs(15));
        // The card forgets the touches that were.
        plugged.card.faults().unplug();
        plugged.card.faults().plug_in();
        token.unwrap_cek(&cached, &mail(&cached, true)).unwrap();
        assert_eq!(*told.lock().unwrap(), [(1, 1, false)]);
        assert_eq!(plugged.card.counts().touches, 3);
    }

    /// Who is asked is told what for: it goes with the request through the keyring.
    #[tokio::test]
    async fn a_person_is_told_what_for() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let told = Arc::<Mutex<Vec<String>>>::default();
        let (of_pin, of_touch) = (told.clone(), told.clone());
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
        let key = make(&token, Place { touch: Some(TouchPolicy::Always), ..Place::default() });
        plugged.card.reset();
        let keyring = Keyring::start([token]).await.unwrap();
        let peer = |peer: &str| Context { peer: Some(peer.into()), ..Context::default() };
        keyring.unwrap_cek(&key, &mail(&key, false), &peer("did:example:alice")).await.unwrap();
        keyring.unwrap_cek(&key, &mail(&key, false), &Context::default()).await.unwrap();
        let payload = br#"{"id":"1","type":"https://example.org/1.0/x","body":{}}"#;
        let what = claviger::secrets::ToSign::Message(payload);
        keyring.sign(&key, &what, &peer("did:example:bob")).await.unwrap();
        assert_eq!(
            *told.lock().unwrap(),
            [
                "PIN to read a message that says it is from did:example:alice",
                "touch to read a message that says it is from did:example:alice",
                "touch to read a message that does not say who it is from",
                "touch to sign a message to did:example:bob",
            ]
        );
    }

    /// Whom one does not know is not one for whom a person gets up.
    #[tokio::test]
    async fn a_stranger_may_not_have_a_person_asked() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let token = plugged.open();
        let key = make(&token, Place { touch: Some(TouchPolicy::Always), ..Place::default() });
        let document = did::key::create(&key);
        let bob = document.id().to_owned();
        let me = Identities::new(Keyring::start([token]).await.unwrap(), [document]).await.unwrap();
        let (alice, from_alice) = claviger_testkit::identity_in(&SoftToken::new("alice")).await;
        let message = Message::build("1", "https://example.org/1.0/x", serde_json::json!({}))
            .from(alice.id())
            .to(&bob)
            .finalize();
        let resolver = did::LocalResolver::new();
        let pack = async |from| {
            message.pack_encrypted(&bob, from, None, &resolver, &from_alice, &Default::default()).await.unwrap().0
        };
        let (named, anonymous) = (pack(Some(alice.id())).await, pack(None).await);
        let touches = || plugged.card.counts().touches;
        let open = async |packed: &str, known: Option<&[&str]>| {
            let prompt_for = known.map(|known| known.iter().map(|did| (*did).to_owned()).collect());
            let options = UnpackOptions { prompt_for, ..UnpackOptions::default() };
            Message::unpack(packed, &resolver, &me, &options).await
        };
        for (packed, known) in [(&named, &[][..]), (&named, &[bob.as_str()]), (&anonymous, &[alice.id()])] {
            let error = open(packed, Some(known)).await.unwrap_err();
            assert!(matches!(error, didcomm::Error::Stranger { .. }), "{error:?}");
        }
        assert_eq!(touches(), 0);
        open(&named, Some(&[alice.id()])).await.unwrap();
        assert_eq!(touches(), 2);
        open(&anonymous, None).await.unwrap();
        assert_eq!(touches(), 3);
    }

    /// The card says of it what it says of a missing PIN, and it is not taken for that: no PIN is given again.
    #[test]
    fn one_that_does_not_come_is_told_apart_from_a_pin() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let (token, told) = telling(&plugged);
        let key = make(&token, Place { touch: Some(TouchPolicy::Always), ..Place::default() });
        plugged.card.faults().touch(Touch::Never);
        plugged.card.faults().touch_timeout(Duration::from_millis(5200));
        let before = plugged.card.counts();
        let error = token.unwrap_cek(&key, &mail(&key, true)).unwrap_err();
        assert!(matches!(&error, TokenError::Device { reason, .. } if reason.contains("no touch came")), "{error}");
        let after = plugged.card.counts();
        assert_eq!((after.touches - before.touches, after.operations), (1, before.operations));
        assert_eq!(after.verifies - before.verifies, 1);
        assert_eq!(*told.lock().unwrap(), [(1, 2, false), (1, 2, true)], "again after five seconds");
    }
}

mod slots {
    use super::*;

    #[test]
    fn what_is_there_is_not_overwritten_unawares() {
        let plugged = Plugged::new(Firmware::V5_4_3, 1111);
        let token = plugged.open();
        let slot = "9d".parse().ok();
        let first = make(&token, Place { slot, ..Place::default() });
        let error = token.generate_in(&new_key(Curve::P256), Place { slot, ..Place::default() }).unwrap_err();
        assert!(error.to_string().contains("slot 9d is not empty: use --force"), "{error}");
        assert_eq!(token.inventory().unwrap()[0].public, first);
        let second = make(&token, Place { slot, force: true, ..Place::default() });
        let keys = token.inventory().unwrap();
        assert!(keys.len() == 1 && keys[0].public == second && second != first);
        assert!(matches!(token.unwrap_cek(&first, &mail(&first, false)), Err(TokenError::KeyGone)));
    }

    /// Before the card is asked for anything.
    #[test]
    fn a_firmwares_limits_are_told_first() {
        let plugged = Plugged::new(Firmware::V5_4_3, 1111);
        let token = plugged.open();
        let before = plugged.card.counts().apdus;
        let error = token.generate(&new_key(Curve::X25519)).unwrap_err();
        assert!(error.to_string().ends_with("firmware 5.4.3 has no X25519: use P-256"), "{error}");
        assert!(token.generate(&new_key(Curve::P521)).is_err());
        assert_eq!(plugged.card.counts().apdus, before);
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let token = plugged.open();
        let key = token.generate(&new_key(Curve::Ed25519)).unwrap().public;
        let before = plugged.card.counts().apdus;
        let error = token.sign(&key, &[0; 3001]).unwrap_err();
        assert!(error.to_string().contains("use an ES256 key"), "{error}");
        assert_eq!(plugged.card.counts().apdus, before);
    }

    /// Another program has put another key there: what it answers is not taken for ours.
    #[test]
    fn a_key_that_was_replaced_is_gone() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let (token, other) = (plugged.open(), plugged.open());
        let slot = "82".parse().ok();
        let key = make(&token, Place { slot, ..Place::default() });
        make(&other, Place { slot, force: true, touch: Some(TouchPolicy::Always), ..Place::default() });
        let before = plugged.card.counts();
        assert_eq!(token.unwrap_cek(&key, &mail(&key, true)).unwrap_err(), TokenError::KeyGone);
        assert_eq!(token.sign(&key, b"x").unwrap_err(), TokenError::KeyGone);
        let after = plugged.card.counts();
        assert_eq!((after.verifies, after.touches), (before.verifies, before.touches), "it costs no PIN and no touch");
    }
}

mod coming_and_going {
    use super::*;

    #[test]
    fn one_that_is_pulled_in_an_operation_may_be_asked_again() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let token = plugged.open();
        let key = make(&token, Place::default());
        plugged.card.faults().unplug_in_operation();
        for _ in 0..2 {
            let error = token.unwrap_cek(&key, &mail(&key, true)).unwrap_err();
            assert!(matches!(&error, TokenError::Away(_)), "{error:?}");
            assert!(SecretsError::Token { token: "demo".into(), error }.is_retryable());
        }
        plugged.card.faults().plug_in();
        token.unwrap_cek(&key, &mail(&key, true)).unwrap();
    }

    /// An agent starts without its card, says which one it waits for, and goes on when that comes.
    #[tokio::test]
    async fn one_that_is_not_there_at_start_is_waited_for() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let key = make(&plugged.open(), Place::default());
        plugged.card.faults().unplug();
        let readers = plugged.clone();
        let open =
            move |_| Ok(Arc::new(with_pin(PIN).open("yubikey:serial=1111", readers.clone())?) as Arc<dyn Custodian>);
        let keyring = Keyring::builder().token(Late::new("desk", 1, open)).patient().start().await.unwrap();
        let (trouble, _) = keyring.status().remove(0).trouble.expect("it is not there");
        assert!(trouble.to_string().contains("insert the YubiKey with serial 1111"), "{trouble}");
        let message = mail(&key, true);
        assert!(keyring.unwrap_cek(&key, &message, &Context::default()).await.is_err());
        plugged.card.faults().plug_in();
        let mut keys = keyring.keys();
        let came = keys.wait_for(|keys| keys.get(&key).is_some());
        tokio::time::timeout(Duration::from_secs(5), came).await.expect("within five seconds").unwrap();
        keyring.unwrap_cek(&key, &message, &Context::default()).await.unwrap();
    }

    /// The reader has another card: it is not given the PIN.
    #[test]
    fn another_card_gets_no_pin() {
        struct Swapped(Plugged, Plugged, std::sync::atomic::AtomicBool);
        impl claviger::secrets::piv::Readers for Swapped {
            fn connect(
                &self,
                serial: Option<u32>,
            ) -> Result<Box<dyn claviger::secrets::piv::Transport>, claviger::secrets::piv::TransportError>
            {
                // A reader that does not look who it is.
                if self.2.swap(true, std::sync::atomic::Ordering::SeqCst) {
                    self.1.connect(None)
                } else {
                    self.0.connect(serial)
                }
            }
        }
        let (ours, other) = (Plugged::new(Firmware::V5_7_1, 1111), Plugged::new(Firmware::V5_7_1, 2222));
        let key = make(&ours.open(), Place::default());
        ours.card.reset();
        let readers = Swapped(ours.clone(), other.clone(), false.into());
        let token = with_pin(PIN).open("yubikey:serial=1111", readers).unwrap();
        ours.card.faults().unplug();
        for _ in 0..2 {
            let error = token.unwrap_cek(&key, &mail(&key, false)).unwrap_err();
            assert!(matches!(&error, TokenError::Away(_)), "{error:?}");
        }
        assert_eq!(other.card.counts().verifies, 0);
    }

    /// 100 operations on a card that takes its time: in their order, none after its deadline, none that nobody waits for.
    #[tokio::test]
    async fn a_slow_card_has_a_queue() {
        let plugged = Plugged::new(Firmware::V5_7_1, 1111);
        let token = Arc::new(plugged.open());
        let key = make(&token, Place::default());
        let keyring = Arc::new(Keyring::builder().shared_token(token.clone()).start().await.unwrap());
        plugged.card.faults().operations_take(Duration::from_millis(150));
        let before = plugged.card.counts().operations;
        let order = Arc::new(Mutex::new(Vec::new()));
        let request = mail(&key, false);
        let mut tasks = Vec::new();
        for number in 0..100 {
            let (keyring, key, request, order) = (keyring.clone(), key.clone(), request.clone(), order.clone());
            // Of each ten one has no time, and one is given up.
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
        // Meanwhile the token says what it is, and another program, as `token list` is one, reads what the card holds.
        let begun = Instant::now();
        assert_eq!(token.info().serial, "1111");
        assert!(keyring.status()[0].trouble.is_none() && begun.elapsed() < Duration::from_millis(100));
        let other = plugged.clone();
        let listed = tokio::task::spawn_blocking(move || {
            let token = other.open();
            (token.inventory().unwrap().len(), token.pin_state().unwrap().1)
        });
        let listed = tokio::time::timeout(Duration::from_secs(5), listed).await.expect("it need not wait for them all");
        assert_eq!(listed.unwrap(), (1, 3));
        assert!(plugged.card.counts().operations - before < 80, "the queue is not empty yet");
        let mut done = 0;
        for (number, task) in tasks {
            match (number % 10, task.await) {
                (7, ended) => assert!(ended.is_err_and(|error| error.is_cancelled())),
                (3, ended) => assert!(matches!(ended.unwrap(), Err(SecretsError::Deadline { .. }))),
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
