//! Finding the token that a URI names, and logging in, on the real SoftHSM and the real Kryoptic.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::support::{FreshToken, Module, with_fresh_token};
use claviger::{
    keys::Curve,
    secrets::{
        Custodian, KeyUse, NewKey, Token, TokenError,
        pkcs11::{InitToken, OpenOptions, Pin, PinSource, PinState, init_token, open, tokens},
    },
};

/// The error of a call that must fail.
fn refused<T>(result: Result<T, TokenError>) -> TokenError {
    result.err().expect("it is refused")
}

fn query(fresh: &FreshToken) -> &str {
    fresh.uri.split_once('?').unwrap().1
}

/// If no token or several tokens match, the error lists those that are present.
fn exactly_one_token_must_match(fresh: FreshToken, module: Module) {
    fresh.add(module, "other");
    let query = query(&fresh);
    let none = refused(open(&format!("pkcs11:token=nobody?{query}"), PinSource::uri()));
    assert!(matches!(none, TokenError::Away(_)));
    let several = refused(open(&format!("pkcs11:?{query}"), PinSource::uri()));
    assert!(matches!(several, TokenError::Config(_)));
    for error in [none.to_string(), several.to_string()] {
        assert!(error.contains(r#""demo" (serial "#) && error.contains(r#""other" (serial "#), "{error}");
    }
    let seen = tokens(&fresh.module).unwrap();
    let demo = seen.iter().find(|token| token.info.label == "demo").unwrap();
    assert!(demo.initialized && demo.pin_set && demo.login_required);
    assert_eq!(demo.pin, PinState::Ready);
    let serial = demo.info.serial.replace(' ', "%20");
    let token = open(&format!("pkcs11:token=demo;serial={serial}?{query}"), PinSource::uri()).unwrap();
    assert_eq!(token.info(), demo.info);
    assert_eq!(token.info().label, "demo");
    let slot = demo.slot_id;
    open(&format!("pkcs11:slot-id={slot}?{query}"), PinSource::uri()).unwrap();
}

#[test]
fn exactly_one_token_must_match_on_softhsm() {
    with_fresh_token(Module::SoftHsm, |fresh| exactly_one_token_must_match(fresh, Module::SoftHsm));
}

#[test]
fn exactly_one_token_must_match_on_kryoptic() {
    with_fresh_token(Module::Kryoptic, |fresh| exactly_one_token_must_match(fresh, Module::Kryoptic));
}

/// A prompt for the PIN that counts its calls.
fn counting_prompt(pin: &str) -> (PinSource, Arc<AtomicUsize>) {
    let prompts = Arc::new(AtomicUsize::new(0));
    let (count, pin) = (prompts.clone(), pin.to_owned());
    let source = PinSource::prompt(move |prompt| {
        assert_eq!(prompt.label, "demo");
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Pin::new(pin.clone()))
    });
    (source, prompts)
}

/// A wrong PIN is presented to the token once. After that a person must confirm even the correct PIN.
fn a_wrong_pin_is_tried_once(fresh: FreshToken, module: Module) {
    let right = fs::read_to_string(fresh.folder.join("demo.pin")).unwrap();
    let (wrong, prompts) = counting_prompt("87654321");
    for round in 0..5 {
        let error = refused(open(&fresh.uri, wrong.clone()));
        assert!(matches!(&error, TokenError::Pin(reason) if !reason.contains("87654321")), "{error}");
        assert_eq!(prompts.load(Ordering::Relaxed), 1, "round {round}");
    }
    let seen = tokens(&fresh.module).unwrap().into_iter().find(|token| token.info.label == "demo").unwrap();
    if module == Module::SoftHsm {
        assert_eq!(seen.pin, PinState::CountLow, "SoftHSM counts");
    }
    let (source, prompts) = counting_prompt(&right);
    assert!(matches!(refused(open(&fresh.uri, source.clone())), TokenError::Pin(_)));
    assert_eq!(prompts.load(Ordering::Relaxed), 0);
    let token = OpenOptions::new().pin(source.clone()).pin_confirmed(true).open(&fresh.uri).unwrap();
    assert_eq!(prompts.load(Ordering::Relaxed), 1);
    // One login is enough for the process.
    let again = open(&fresh.uri, source).unwrap();
    assert_eq!(prompts.load(Ordering::Relaxed), 1);
    drop((token, again));
    // All sessions are closed, so the token is logged out. The last PIN was correct, so a person is prompted again.
    let (source, prompts) = counting_prompt(&right);
    open(&fresh.uri, source).unwrap();
    assert_eq!(prompts.load(Ordering::Relaxed), 1);
}

#[test]
fn a_wrong_pin_is_tried_once_on_softhsm() {
    with_fresh_token(Module::SoftHsm, |fresh| a_wrong_pin_is_tried_once(fresh, Module::SoftHsm));
}

#[test]
fn a_wrong_pin_is_tried_once_on_kryoptic() {
    with_fresh_token(Module::Kryoptic, |fresh| a_wrong_pin_is_tried_once(fresh, Module::Kryoptic));
}

/// A token that reports a wrong PIN in another process gets no PIN from this one.
#[test]
fn a_counting_token_gets_no_pin() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        // The other process runs this test.
        const OTHER: &str = "CLAVIGER_TEST_OTHER_PROCESS";
        if std::env::var_os(OTHER).is_some() {
            let error = refused(open(&fresh.uri, PinSource::value(Pin::new("87654321"))));
            assert!(matches!(&error, TokenError::Pin(reason) if reason.contains("refused its PIN")), "{error}");
            return;
        }
        let mut arguments = std::env::args();
        let mut other = Command::new(arguments.next().unwrap());
        assert!(other.args(arguments).env(OTHER, "1").status().unwrap().success());
        let (source, prompts) = counting_prompt("unused");
        let error = refused(open(&fresh.uri, source));
        assert!(matches!(&error, TokenError::Pin(reason) if reason.contains("a wrong PIN was entered")), "{error}");
        assert_eq!(prompts.load(Ordering::Relaxed), 0);
        OpenOptions::new().pin_confirmed(true).open(&fresh.uri).unwrap();
    });
}

/// The PIN from a file, the URI, the program, and a person; and no PIN.
#[test]
fn pin_sources() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let pin = fs::read_to_string(fresh.folder.join("demo.pin")).unwrap();
        let bare = format!("pkcs11:token=demo?module-path={}", fresh.module.display());
        let options = || OpenOptions::new().base_dir(&fresh.folder);
        options().open(&format!("{bare}&pin-source=file:demo.pin")).unwrap();
        options().open(&format!("{bare}&pin-source=demo.pin")).unwrap();
        options().open(&format!("{bare}&pin-value={pin}")).unwrap();
        options().pin(PinSource::file("demo.pin")).open(&bare).unwrap();
        options().pin(PinSource::value(Pin::new(&*pin))).open(&bare).unwrap();
        let ask = pin.clone();
        options().prompt(move |_| Ok(Pin::new(&*ask))).open(&format!("{bare}&pin-source=prompt")).unwrap();
        let ask = pin.clone();
        options().prompt(move |_| Ok(Pin::new(&*ask))).open(&bare).unwrap();
        for (uri, kind) in [
            (format!("{bare}&pin-source=prompt"), "no one to ask"),
            (format!("{bare}&pin-source=file:none.pin"), "none.pin"),
            (bare.clone(), "pin-source=file:PATH"),
        ] {
            let error = refused(options().open(&uri));
            assert!(matches!(&error, TokenError::Pin(reason) if reason.contains(kind)), "{uri}: {error}");
        }
        let by_name = "pkcs11:token=demo?module-name=softhsm2&pin-source=demo.pin";
        if fresh.module.starts_with("/usr/lib") {
            options().open(by_name).unwrap();
        }
    });
}

fn init(fresh: &FreshToken, label: &str, slot_id: Option<u64>, erase: Option<&str>) -> InitToken {
    InitToken {
        module: fresh.module.clone(),
        slot_id,
        label: label.to_owned(),
        so_pin: Pin::new("so-12345678"),
        user_pin: Pin::new("user-12345678"),
        erase: erase.map(str::to_owned),
    }
}

/// A new token is initialised. A token that holds keys is erased only if its label is given.
fn a_token_is_initialised(fresh: FreshToken) {
    let made = init_token(&init(&fresh, "new", None, None)).unwrap();
    assert!(made.initialized && made.pin_set);
    assert_eq!(made.info.label, "new");
    let uri = format!("pkcs11:token=new?module-path={}", fresh.module.display());
    let pin = || PinSource::value(Pin::new("user-12345678"));
    let token = open(&uri, pin()).unwrap();
    let key = NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None };
    let key = token.generate(&key).unwrap();
    drop(token);
    let seen = tokens(&fresh.module).unwrap().into_iter().find(|token| token.info.label == "new").unwrap();
    let slot = Some(seen.slot_id);
    for (erase, words) in [(None, "may hold keys"), (Some("old"), "nothing erased"), (Some("demo"), "nothing erased")] {
        let error = refused(init_token(&init(&fresh, "newer", slot, erase)));
        assert!(matches!(&error, TokenError::Config(reason) if reason.contains(words)), "{error}");
    }
    assert_eq!(open(&uri, pin()).unwrap().keys().unwrap()[0].public, key.public);
    let erased = init_token(&init(&fresh, "newer", slot, Some("new"))).unwrap();
    assert_eq!(erased.info.label, "newer");
    assert!(matches!(refused(open(&uri, pin())), TokenError::Away(_)));
    let token = open(&uri.replace("=new?", "=newer?"), pin()).unwrap();
    assert!(token.keys().unwrap().is_empty());
    for label in ["", " ", "a label of more than thirty-two bytes", "blank "] {
        assert!(matches!(refused(init_token(&init(&fresh, label, slot, None))), TokenError::Config(_)), "{label:?}");
    }
    assert!(matches!(refused(init_token(&init(&fresh, "x", Some(77_777), None))), TokenError::Away(_)));
}

#[test]
fn a_token_is_initialised_on_softhsm() {
    with_fresh_token(Module::SoftHsm, a_token_is_initialised);
}

#[test]
fn a_token_is_initialised_on_kryoptic() {
    with_fresh_token(Module::Kryoptic, |fresh| {
        // Adds a slot whose token is not initialised.
        let configuration = fresh.folder.join("kryoptic.toml");
        let database = fresh.folder.join("new.sql");
        let slot = format!("[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = '{}'\n", database.display());
        let before = fs::read_to_string(&configuration).unwrap();
        fs::write(configuration, before + &slot).unwrap();
        a_token_is_initialised(fresh);
    });
}
