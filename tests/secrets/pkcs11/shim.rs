//! The fault module itself: it obeys its orders and counts calls, sessions and objects.

use std::{path::PathBuf, process::Stdio, thread, time::Duration};

use crate::support::{
    Module,
    faulty_token::{FaultyToken, change_pin, with_fault_module, with_quick_fault_module},
};
use claviger_fault_module::Shim;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::Mechanism,
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};

/// A program that uses the module and does not know which module is behind it.
struct Program {
    context: Pkcs11,
    slot: Slot,
    pin: AuthPin,
}

impl Program {
    fn start(faulty: &FaultyToken) -> Self {
        let context = Pkcs11::new(Shim::module()).unwrap();
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let slot = context.get_slots_with_initialized_token().unwrap()[0];
        Self { context, slot, pin: AuthPin::new(pin(faulty).into()) }
    }

    fn session(&self) -> Session {
        self.context.open_rw_session(self.slot).unwrap()
    }

    fn logged_in(&self) -> Session {
        let session = self.session();
        session.login(UserType::User, Some(&self.pin)).unwrap();
        session
    }
}

/// The token's PIN.
fn pin(faulty: &FaultyToken) -> String {
    let file = faulty.uri.split_once("pin-source=file:").expect("the URI names the PIN's file").1;
    std::fs::read_to_string(PathBuf::from(file)).unwrap()
}

/// Makes a secret: a session object, or an object in the token.
fn secret(session: &Session, token: bool, private: bool) -> Result<ObjectHandle, Error> {
    session.create_object(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(token),
        Attribute::Private(private),
        Attribute::Label(b"secret".to_vec()),
        Attribute::Value(vec![7; 32]),
    ])
}

fn code<T>(result: Result<T, Error>) -> Option<RvError> {
    match result {
        Ok(_) => None,
        Err(Error::Pkcs11(code, _)) => Some(code),
        Err(other) => panic!("{other}"),
    }
}

/// The same test on each module.
macro_rules! on_both {
    ($($name:ident => $check:ident;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn softhsm() {
                with_fault_module(Module::SoftHsm, $check);
            }

            #[test]
            fn kryoptic() {
                with_fault_module(Module::Kryoptic, $check);
            }
        }
    )*};
}

on_both! {
    sessions_and_objects_are_counted => counts_sessions_and_objects;
    a_token_is_unplugged_and_returned => is_unplugged_and_returned;
    a_pin_is_changed_by_another_program => changes_its_pin;
}

#[test]
fn calls_fail_as_ordered() {
    with_fault_module(Module::SoftHsm, |faulty| {
        let shim = &faulty.shim;
        shim.order(&[]);
        let session = Program::start(&faulty).session();
        let random = || code(session.generate_random_vec(8));
        let failed_calls = |orders: &[&str]| {
            shim.order(orders);
            (1..=40).filter(|_| random().is_some()).collect::<Vec<_>>()
        };
        assert_eq!(failed_calls(&["fail C_GenerateRandom 0x30 at 3"]), [3]);
        assert_eq!(failed_calls(&["fail C_GenerateRandom 0x30 at 3"]), [3], "counted from 1 again");
        assert_eq!(failed_calls(&["fail * 0x30 from 39"]), [39, 40]);
        assert_eq!(failed_calls(&["fail C_Sign 0x30"]), [0; 0]);
        let (one, again) =
            (failed_calls(&["fail * 0x30 one-in 4 seed 9"]), failed_calls(&["fail * 0x30 one-in 4 seed 9"]));
        assert_eq!(one, again);
        assert!(!one.is_empty() && one.len() < 40, "{one:?}");
        let before = shim.calls_and_failures();
        shim.order(&["fail * 0x32"]);
        assert_eq!(random(), Some(RvError::DeviceRemoved));
        assert_eq!(shim.calls_and_failures(), (before.0 + 1, before.1 + 1));
        shim.order(&[]);
        assert_eq!(random(), None);
    });
}

/// Session objects are counted from their creation to their end, whatever ends them.
fn counts_sessions_and_objects(faulty: FaultyToken) {
    let shim = &faulty.shim;
    shim.order(&[]);
    let program = Program::start(&faulty);
    let (one, other) = (program.logged_in(), program.session());
    let live = || (shim.open_sessions(), shim.live_objects());
    assert_eq!(live(), (2, 0));
    secret(&one, true, true).unwrap();
    assert_eq!(live(), (2, 0), "an object in the token is not a session object");
    let (first, _) = (secret(&one, false, true).unwrap(), secret(&other, false, true).unwrap());
    secret(&one, false, true).unwrap();
    assert_eq!(live(), (2, 3));
    shim.order(&["fail C_DestroyObject 0x30 at 1", "fail C_CreateObject 0x30", "fail C_CloseSession 0x30"]);
    assert_eq!(code(one.destroy_object(first)), Some(RvError::DeviceError));
    assert_eq!(code(secret(&one, false, true)), Some(RvError::DeviceError));
    assert_eq!(live(), (2, 3), "a failed call changes nothing");
    one.destroy_object(first).unwrap();
    assert_eq!(live(), (2, 2));
    drop(other);
    assert_eq!(live(), (1, 1), "the session is closed although the call returned an error");
    one.logout().unwrap();
    assert_eq!(live(), (1, 0));
    assert_eq!(shim.peak_objects(), 3);
}

/// In quick mode the module counts calls too, and sees an order a little later.
#[test]
fn the_quick_mode_counts() {
    with_quick_fault_module(Module::SoftHsm, |faulty| {
        let shim = &faulty.shim;
        shim.order(&[]);
        let program = Program::start(&faulty);
        let sessions: Vec<_> = (0..4).map(|_| program.session()).collect();
        thread::scope(|scope| {
            for session in sessions {
                scope.spawn(move || {
                    for _ in 0..1_000 {
                        session.generate_random_vec(8).unwrap();
                    }
                });
            }
        });
        // cryptoki makes no other calls for random bytes.
        assert_eq!(shim.calls("C_GenerateRandom"), 4_000);
        assert_eq!(shim.trace(), "");
        let session = program.session();
        shim.order(&["fail C_GenerateRandom 0x30"]);
        thread::sleep(Duration::from_millis(10));
        assert_eq!(code(session.generate_random_vec(8)), Some(RvError::DeviceError));
    });
}

fn is_unplugged_and_returned(faulty: FaultyToken) {
    let shim = &faulty.shim;
    shim.order(&[]);
    let program = Program::start(&faulty);
    let slots = || program.context.get_slots_with_token().unwrap().len();
    let (session, before) = (program.logged_in(), slots());
    assert!(before > 0);
    secret(&session, true, true).unwrap();
    secret(&session, false, true).unwrap();

    shim.order(&["gone"]);
    assert_eq!(slots(), 0);
    assert_eq!(code(session.find_objects(&[])), Some(RvError::DeviceRemoved));
    assert_eq!(code(program.context.open_ro_session(program.slot)), Some(RvError::TokenNotPresent));
    assert_eq!(code(program.context.get_token_info(program.slot)), Some(RvError::TokenNotPresent));
    assert_eq!((shim.open_sessions(), shim.live_objects()), (0, 0));

    shim.order(&[]);
    assert_eq!(slots(), before);
    assert_eq!(code(session.find_objects(&[])), Some(RvError::SessionHandleInvalid), "the old session is closed");
    let session = program.logged_in();
    assert_eq!(session.find_objects(&[Attribute::Token(true)]).unwrap().len(), 1);
}

/// Compares SoftHSM whose folder was moved away and back with the order `dead`, which imitates it.
#[test]
fn a_token_is_lost_to_its_process() {
    with_fault_module(Module::SoftHsm, |faulty| {
        let shim = &faulty.shim;
        if faulty.part.is_none() {
            shim.order(&[]);
            secret(&Program::start(&faulty).logged_in(), true, true).unwrap();
            for part in ["folder moved", "as ordered", "healthy"] {
                let output = faulty.in_another_process(part).output().unwrap();
                assert!(output.status.success(), "{part}: {}", String::from_utf8_lossy(&output.stderr));
            }
            return;
        }
        let program = Program::start(&faulty);
        let session = program.logged_in();
        let found = || session.find_objects(&[Attribute::Token(true)]).unwrap();
        let objects = found();
        assert_eq!(objects.len(), 1);
        match faulty.part.as_deref() {
            Some("folder moved") => {
                let configuration = PathBuf::from(std::env::var_os("SOFTHSM2_CONF").unwrap());
                let (tokens, away) = (configuration.with_file_name("tokens"), configuration.with_file_name("away"));
                std::fs::rename(&tokens, &away).unwrap();
                assert_eq!(found(), []);
                std::fs::rename(&away, &tokens).unwrap();
            }
            Some("as ordered") => {
                shim.order(&["dead"]);
                assert_eq!(found(), []);
                shim.order(&[]);
            }
            _ => return,
        }
        assert_eq!(found(), []);
        let label = session.get_attributes(objects[0], &[cryptoki::object::AttributeType::Label]);
        assert_eq!(code(label), Some(RvError::ObjectHandleInvalid));
        assert_eq!(code(program.context.get_token_info(program.slot)), Some(RvError::GeneralError));
        drop(session);
        let session = program.session();
        assert_eq!(code(session.login(UserType::User, Some(&program.pin))), Some(RvError::GeneralError));
        assert_eq!(session.find_objects(&[]).unwrap(), []);
    });
}

#[test]
fn a_process_crashes() {
    with_fault_module(Module::SoftHsm, |faulty| {
        if faulty.part.is_some() {
            let session = Program::start(&faulty).session();
            session.generate_random_vec(8).unwrap();
            session.generate_random_vec(8).unwrap();
            return;
        }
        faulty.shim.order(&["crash C_GenerateRandom at 2"]);
        let output = faulty.in_another_process("crash").stdout(Stdio::null()).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(6), "SIGABRT");
        assert_eq!(faulty.shim.calls("C_GenerateRandom"), 2);
        assert_eq!(
            (faulty.shim.calls("C_OpenSession"), faulty.shim.open_sessions()),
            (1, 0),
            "a process that crashed has no sessions"
        );
    });
}

#[test]
fn a_call_hangs_until_the_order_ends() {
    with_fault_module(Module::SoftHsm, |faulty| {
        faulty.shim.order(&["hang C_GenerateRandom"]);
        let session = Program::start(&faulty).session();
        let call = thread::spawn(move || session.generate_random_vec(8).map(|bytes| bytes.len()));
        while faulty.shim.calls("C_GenerateRandom") == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(50));
        assert!(!call.is_finished());
        faulty.shim.order(&[]);
        assert_eq!(call.join().unwrap().unwrap(), 8);
    });
}

fn changes_its_pin(faulty: FaultyToken) {
    faulty.shim.order(&[]);
    let module = module(&faulty);
    let program = Program::start(&faulty);
    drop(program.logged_in());
    change_pin(module, &pin(&faulty), "another-pin");
    assert_eq!(faulty.shim.calls("C_SetPIN"), 0);
    let session = program.session();
    assert_eq!(code(session.login(UserType::User, Some(&program.pin))), Some(RvError::PinIncorrect));
    session.login(UserType::User, Some(&AuthPin::new("another-pin".into()))).unwrap();
    session.digest(&Mechanism::Sha256, b"it works").unwrap();
}

/// The module behind the shim.
fn module(faulty: &FaultyToken) -> Module {
    let path = std::env::var_os("CLAVIGER_FAULT_MODULE").map(PathBuf::from);
    [Module::SoftHsm, Module::Kryoptic].into_iter().find(|module| module.path() == path).expect(&faulty.uri)
}
