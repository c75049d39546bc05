//! A wrong PIN is tried once, however many requests wait and however often the program is restarted.
//! `tests/fault-module` counts the calls of C_Login on SoftHSM and on Kryoptic.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Module,
    faulty_token::{FaultyToken, with_fault_module},
};
use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Cause, Context, Custodian, KeyUse, Keyring, NewKey, Purpose, Secrets, SecretsError, Token, TokenError,
        pkcs11::{OpenOptions, Pin, PinRecordState, PinSource, Pkcs11Token, tokens},
    },
};
use claviger_fault_module::Shim;
use claviger_testkit::reference::{Parties, fresh_cek, message_to};

const WRONG: &str = "87654321";

/// A token behind the shim with a PIN guard. Its PIN is in a file.
struct Guarded {
    faulty: FaultyToken,
    folder: PathBuf,
}

impl Guarded {
    fn options(&self) -> OpenOptions {
        OpenOptions::new().name("demo").pin_guard(self.folder.join("state/pin-guard"))
    }

    fn open(&self) -> Result<Pkcs11Token, TokenError> {
        self.options().open(&self.faulty.uri)
    }

    fn open_confirmed(&self) -> Result<Pkcs11Token, TokenError> {
        self.options().pin_confirmed(true).open(&self.faulty.uri)
    }

    /// The error of opening the token under these orders, which are withdrawn afterwards.
    fn fails_with(&self, orders: &[&str]) -> TokenError {
        self.faulty.shim.order(orders);
        let error = self.open().err().expect("it fails");
        self.faulty.shim.order(&[]);
        error
    }

    /// Checks that the PIN is not tried again, then confirms it.
    fn assert_not_tried_again(&self) {
        let before = self.logins();
        refused(self.open());
        assert_eq!(self.logins(), before);
        drop(self.open_confirmed().unwrap());
    }

    fn logins(&self) -> usize {
        self.faulty.shim.calls("C_Login")
    }

    fn pin_file(&self) -> PathBuf {
        self.folder.join("demo.pin")
    }

    /// Replaces the PIN file, as a person does.
    fn write_pin(&self, pin: &str) {
        let temporary = self.folder.join("new.pin");
        fs::write(&temporary, pin).unwrap();
        fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::rename(temporary, self.pin_file()).unwrap();
    }

    /// The state of the PIN record.
    fn recorded(&self) -> PinRecordState {
        let seen = tokens(Shim::module()).unwrap().into_iter().find(|token| token.info.label == "demo").unwrap();
        self.options().pin_record(&seen.info).unwrap().expect("there is a folder").state
    }

    /// Starts a part of the test in a new process.
    fn start(&self, part: &str) -> Child {
        self.faulty.in_another_process(part).spawn().expect("this program starts again")
    }

    /// Runs a part of the test in a new process.
    fn run(&self, part: &str) {
        assert!(self.start(part).wait().unwrap().success(), "{part}");
    }

    fn part(&self) -> Option<&str> {
        self.faulty.part.as_deref()
    }
}

/// Runs the body of a test in its own process, with a new token behind the shim.
fn guarded(module: Module, body: impl FnOnce(Guarded)) {
    with_fault_module(module, |faulty| {
        let file = faulty.uri.split_once("pin-source=file:").expect("the URI names the PIN's file").1;
        let file = file.split('&').next().unwrap();
        let folder = Path::new(file).parent().unwrap().to_owned();
        assert!(folder.join("demo.pin").is_file(), "{file}");
        body(Guarded { faulty, folder });
    });
}

fn refused<T>(result: Result<T, TokenError>) -> String {
    match result.err().expect("it is refused") {
        TokenError::Pin(message) => {
            assert!(!message.contains(WRONG), "{message}");
            message
        }
        other => panic!("{other:?}"),
    }
}

fn generate(token: &Pkcs11Token) -> PublicKey {
    token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None }).expect("a new key").public
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A wrong PIN is written to the PIN file, and the token loses its login. Then 1,000 messages wait for the token.
fn a_wrong_pin_and_a_thousand_messages(guarded: Guarded) {
    match guarded.part() {
        None => {}
        // The program is restarted with the same source.
        Some("restart") => {
            let message = refused(guarded.open());
            assert!(message.contains("claviger token unlock demo"), "{message}");
            return;
        }
        Some(other) => panic!("{other}"),
    }
    let right = fs::read_to_string(guarded.pin_file()).unwrap();
    let token = Arc::new(guarded.open().unwrap());
    let key = generate(&token);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let keyring = runtime.block_on(Keyring::builder().shared_token(token.clone()).start()).unwrap();
    let keyring = Arc::new(keyring);
    guarded.write_pin(WRONG);
    // All sessions are closed, so the token is logged out.
    let sessions_before = guarded.faulty.shim.calls("C_OpenSession");
    token.lock().unwrap();
    let before = guarded.logins();
    let message = refused(token.unlock());
    assert!(message.contains("refused its PIN"), "{message}");
    assert_eq!(guarded.logins() - before, 1);
    assert!(guarded.faulty.shim.calls("C_OpenSession") > sessions_before);

    let messages = (0..1000).map(|_| {
        let (keyring, key) = (keyring.clone(), key.clone());
        async move {
            let request = message_to(&key, None, &fresh_cek(), &Parties::example());
            keyring.unwrap_cek(&key, &request, &Context::default()).await.err()
        }
    });
    let errors: Vec<_> = runtime.block_on(async {
        let tasks: Vec<_> = messages.map(tokio::spawn).collect();
        let mut errors = Vec::new();
        for task in tasks {
            errors.push(task.await.unwrap().expect("no message opens"));
        }
        errors
    });
    assert_eq!(errors.len(), 1000);
    for error in errors {
        let waits = matches!(&error, SecretsError::Token { error, .. } if error.cause() == Cause::Pin);
        assert!(waits || matches!(error, SecretsError::Busy { .. }), "{error}");
        assert!(error.is_retryable(), "{error}");
    }
    assert_eq!(guarded.logins() - before, 1, "one attempt for all messages");
    for _ in 0..3 {
        guarded.run("restart");
    }
    assert_eq!(guarded.logins() - before, 1, "no attempt after a restart");
    assert_eq!(guarded.recorded(), PinRecordState::Refused);

    // A person corrects the file. The same process serves the waiting messages.
    guarded.write_pin(&right);
    let request = message_to(&key, None, &fresh_cek(), &Parties::example());
    wait_until("it serves", || runtime.block_on(keyring.unwrap_cek(&key, &request, &Context::default())).is_ok());
    assert_eq!(guarded.logins() - before, 2, "a changed source is tried once");
    assert_eq!(guarded.recorded(), PinRecordState::Accepted);
}

#[test]
fn a_wrong_pin_and_a_thousand_messages_on_softhsm() {
    guarded(Module::SoftHsm, a_wrong_pin_and_a_thousand_messages);
}

#[test]
fn a_wrong_pin_and_a_thousand_messages_on_kryoptic() {
    guarded(Module::Kryoptic, a_wrong_pin_and_a_thousand_messages);
}

/// Of four processes that start at once with a wrong PIN, one tries it.
fn several_processes(guarded: Guarded) {
    if guarded.part().is_some() {
        refused(guarded.open());
        return;
    }
    let right = fs::read_to_string(guarded.pin_file()).unwrap();
    // C_Login is slow, so that the attempts overlap.
    guarded.faulty.shim.order(&["delay C_Login 300"]);
    guarded.write_pin(WRONG);
    let all = |right: bool| {
        for mut child in [0; 4].map(|_| guarded.start("other")) {
            assert_eq!(child.wait().unwrap().success(), !right);
        }
    };
    all(false);
    assert_eq!(guarded.logins(), 1);
    // Another wrong PIN is tried once. A file that was only read or moved counts as unchanged.
    guarded.write_pin("11223344");
    all(false);
    assert_eq!(guarded.logins(), 2);
    fs::rename(guarded.pin_file(), guarded.folder.join("away")).unwrap();
    refused(guarded.open());
    fs::rename(guarded.folder.join("away"), guarded.pin_file()).unwrap();
    refused(guarded.open());
    assert_eq!(guarded.logins(), 2);
    // The correct PIN is accepted.
    guarded.write_pin(&right);
    guarded.open().unwrap();
    assert_eq!(guarded.logins(), 3);
}

#[test]
fn several_processes_on_softhsm() {
    guarded(Module::SoftHsm, several_processes);
}

#[test]
fn several_processes_on_kryoptic() {
    guarded(Module::Kryoptic, several_processes);
}

/// Whether an error says that the result of the last attempt is unknown.
fn is_result_unknown(message: &str) -> bool {
    message.contains("the result of the last attempt") && message.contains("is unknown")
}

/// A process crashes during C_Login. A PIN that was accepted before is tried once more.
#[test]
fn an_unfinished_attempt() {
    guarded(Module::SoftHsm, |guarded| {
        if guarded.part().is_some() {
            let _ = guarded.open();
            panic!("it should have crashed");
        }
        let crash_during_login = || {
            guarded.faulty.shim.order(&["crash C_Login"]);
            assert!(!guarded.start("crash").wait().unwrap().success());
            guarded.faulty.shim.order(&[]);
            assert_eq!(guarded.recorded(), PinRecordState::Trying);
        };
        crash_during_login();
        let message = refused(guarded.open());
        assert!(is_result_unknown(&message), "never accepted before: {message}");
        guarded.open_confirmed().unwrap();
        assert_eq!(guarded.recorded(), PinRecordState::Accepted);
        for _ in 0..2 {
            crash_during_login();
            guarded.open().unwrap();
            assert_eq!(guarded.recorded(), PinRecordState::Accepted);
        }
        assert_eq!(guarded.logins(), 6);
        // After two crashes in a row the PIN is not tried again.
        crash_during_login();
        crash_during_login();
        let before = guarded.logins();
        let message = refused(guarded.open());
        assert!(is_result_unknown(&message), "{message}");
        assert_eq!(guarded.logins(), before);
    });
}

/// A confirmed PIN that a person enters clears the record of the PIN file: the file counts as never accepted, since the
/// person may have entered another PIN.
#[test]
fn a_confirmed_pin_that_a_person_enters_clears_the_record() {
    guarded(Module::SoftHsm, |guarded| {
        drop(guarded.open().unwrap());
        assert_eq!(guarded.recorded(), PinRecordState::Accepted);
        let pin = fs::read_to_string(guarded.pin_file()).unwrap();
        let entered = PinSource::prompt(move |_| Ok(Pin::new(pin.trim_end())));
        drop(guarded.options().pin(entered).pin_confirmed(true).open(&guarded.faulty.uri).unwrap());
        assert_eq!(guarded.recorded(), PinRecordState::New);
        guarded.open().unwrap();
        assert_eq!(guarded.recorded(), PinRecordState::Accepted);
    });
}

/// A failure that says nothing about the PIN does not count as a refusal. SoftHSM reports each wrong PIN in its flags, so
/// after any failure it is known whether the PIN was counted.
#[test]
fn a_token_that_fails_at_the_login() {
    guarded(Module::SoftHsm, |guarded| {
        // CKR_TOKEN_NOT_PRESENT, CKR_GENERAL_ERROR, CKR_DEVICE_ERROR, CKR_FUNCTION_FAILED, CKR_DEVICE_REMOVED,
        // CKR_SESSION_HANDLE_INVALID, and vendor-defined codes.
        let codes = ["0xe0", "0x5", "0x30", "0x6", "0x32", "0xb3", "0x80000001", "0x80000383"];
        for accepted_before in [PinRecordState::New, PinRecordState::Accepted] {
            for code in codes {
                for _ in 0..3 {
                    let cause = guarded.fails_with(&[&format!("fail C_Login {code}")]).cause();
                    assert!(
                        matches!(cause, Cause::Transient | Cause::TokenGone | Cause::SessionLost),
                        "{code}: {cause:?}"
                    );
                    assert_eq!(guarded.recorded(), accepted_before, "{code}");
                }
            }
            guarded.open().unwrap();
        }
        // Each of these is a refusal.
        for code in ["0xa0", "0xa1", "0xa2", "0xa3", "0xa4"] {
            assert_eq!(guarded.fails_with(&[&format!("fail C_Login {code}")]).cause(), Cause::Pin, "{code}");
            guarded.assert_not_tried_again();
        }
        // A wrong PIN for which the token has a code of its own: the flags tell.
        guarded.write_pin(WRONG);
        let error = guarded.fails_with(&["recode C_Login 0x80000001"]);
        assert_eq!(error.cause(), Cause::Pin, "{error}");
        assert_eq!(guarded.recorded(), PinRecordState::Refused);
        let before = guarded.logins();
        refused(guarded.open());
        assert_eq!(guarded.logins(), before);
    });
}

/// Kryoptic's profile does not say that it reports each wrong PIN.
#[test]
fn a_login_whose_result_is_unknown() {
    guarded(Module::Kryoptic, |guarded| {
        // CKR_GENERAL_ERROR: it is not known whether the PIN is correct.
        assert_eq!(guarded.fails_with(&["fail C_Login 0x5"]).cause(), Cause::Transient);
        assert_eq!(guarded.recorded(), PinRecordState::Trying);
        guarded.assert_not_tried_again();
        // The PIN was accepted before, so these codes of the specification do not count against it.
        for code in ["0x5", "0x30", "0x6", "0xe0", "0x32", "0xb3"] {
            let cause = guarded.fails_with(&[&format!("fail C_Login {code}")]).cause();
            assert!(matches!(cause, Cause::Transient | Cause::TokenGone | Cause::SessionLost), "{code}: {cause:?}");
            assert_eq!(guarded.recorded(), PinRecordState::Accepted, "{code}");
        }
        // The network fails for a while: the login and the call that follows it.
        for _ in 0..4 {
            let orders = ["fail C_Login 0x80000383", "fail C_GenerateRandom 0x30"];
            assert_eq!(guarded.fails_with(&orders).cause(), Cause::Transient);
            assert_eq!(guarded.recorded(), PinRecordState::Accepted);
        }
        // A vendor-defined code of a device that is reachable may mean anything. The PIN is tried once more; then a
        // person must act.
        for _ in 0..2 {
            assert_eq!(guarded.fails_with(&["fail C_Login 0x80000001"]).cause(), Cause::Transient);
            assert_eq!(guarded.recorded(), PinRecordState::Trying);
        }
        guarded.assert_not_tried_again();
    });
}

/// A refusal that cannot be written to the disk still counts, in this process and in the next.
#[test]
fn a_refusal_on_a_full_disk() {
    guarded(Module::SoftHsm, |guarded| {
        if guarded.part().is_some() {
            refused(guarded.open());
            return;
        }
        guarded.open().unwrap();
        guarded.write_pin(WRONG);
        // The login takes a while. Meanwhile the temporary file of the record becomes a folder, so that no record can be
        // written any more.
        guarded.faulty.shim.order(&["hang C_Login"]);
        let before = guarded.logins();
        let folder = guarded.folder.join("state/pin-guard");
        thread::scope(|scope| {
            let opened = scope.spawn(|| refused(guarded.open()));
            wait_until("the login has begun", || guarded.logins() > before);
            let json = files(&folder).find(|file| file.extension().is_some_and(|it| it == "json")).unwrap();
            fs::create_dir(json.with_extension("new")).unwrap();
            guarded.faulty.shim.order(&[]);
            opened.join().unwrap();
        });
        refused(guarded.open());
        guarded.run("restart");
        assert_eq!(guarded.logins() - before, 1, "the wrong PIN is tried once");
        assert_eq!(guarded.recorded(), PinRecordState::Refused);
    });
}

/// `token lock` and `token unlock` affect a process that is using the token.
fn locked_by_a_person(guarded: Guarded) {
    match guarded.part() {
        None => {}
        Some("lock") => return guarded.options().lock(&guarded.faulty.uri).unwrap(),
        Some("refused") => {
            let message = refused(guarded.open());
            assert!(message.contains("claviger token lock"), "{message}");
            return;
        }
        Some("unlock") => drop(guarded.open_confirmed().unwrap()),
        Some(other) => panic!("{other}"),
    }
    if guarded.part().is_some() {
        return;
    }
    let token = guarded.open().unwrap();
    let key = generate(&token);
    token.sign(&key, b"x", &Purpose::KeyTest).unwrap();
    let (before, out) = (guarded.logins(), guarded.faulty.shim.calls("C_Logout"));
    guarded.run("lock");
    assert_eq!(guarded.logins(), before, "locking needs no login");
    wait_until("the process notices the lock", || token.sign(&key, b"x", &Purpose::KeyTest).is_err());
    let message = refused(token.sign(&key, b"x", &Purpose::KeyTest));
    assert!(message.contains("claviger token unlock demo"), "{message}");
    refused(token.keys());
    assert_eq!(guarded.faulty.shim.calls("C_Logout") - out, 1);
    assert_eq!(guarded.faulty.shim.open_sessions(), 0, "no session is left");
    guarded.run("refused");
    assert_eq!(guarded.logins(), before);
    guarded.run("unlock");
    wait_until("it serves", || token.sign(&key, b"x", &Purpose::KeyTest).is_ok());
    assert_eq!(guarded.logins() - before, 2, "one login of the process that unlocked, and one of this one");

    // The same within this process.
    token.lock().unwrap();
    refused(token.sign(&key, b"x", &Purpose::KeyTest));
    guarded.run("refused");
    token.unlock().unwrap();
    token.sign(&key, b"x", &Purpose::KeyTest).unwrap();
}

#[test]
fn locked_by_a_person_on_softhsm() {
    guarded(Module::SoftHsm, locked_by_a_person);
}

#[test]
fn locked_by_a_person_on_kryoptic() {
    guarded(Module::Kryoptic, locked_by_a_person);
}

/// If the record cannot be written, no PIN is tried.
#[test]
fn a_guard_that_cannot_be_written() {
    guarded(Module::SoftHsm, |guarded| {
        let state = guarded.folder.join("state");
        fs::write(&state, "a file").unwrap();
        let message = refused(guarded.open());
        assert!(message.contains("No PIN is tried") && message.contains("pin-guard"), "{message}");
        assert_eq!(guarded.logins(), 0);
        fs::remove_file(&state).unwrap();
        guarded.open().unwrap();
        let json =
            files(&state.join("pin-guard")).find(|file| file.extension().is_some_and(|it| it == "json")).unwrap();
        let text = fs::read_to_string(&json).unwrap();
        assert!(!text.contains(&fs::read_to_string(guarded.pin_file()).unwrap()), "{text}");
        fs::write(&json, "damaged").unwrap();
        refused(guarded.open());
        assert_eq!(guarded.logins(), 1);
        guarded.open_confirmed().unwrap();
        guarded.open().unwrap();
        assert_eq!(guarded.logins(), 3);
    });
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())
}

/// A person mistypes the PIN, and then types the right one for `claviger token unlock`, which is another process. After
/// that, this process asks again.
#[test]
fn a_mistyped_pin_until_the_token_is_unlocked() {
    guarded(Module::SoftHsm, |guarded| {
        let right = fs::read_to_string(guarded.pin_file()).unwrap().trim_end().to_owned();
        let typed = |pin: &str| {
            let pin = pin.to_owned();
            guarded.options().pin(PinSource::prompt(move |_| Ok(Pin::new(&*pin))))
        };
        if guarded.part().is_some() {
            drop(typed(&right).pin_confirmed(true).open(&guarded.faulty.uri).unwrap());
            return;
        }
        refused(typed(WRONG).open(&guarded.faulty.uri));
        let before = guarded.logins();
        refused(typed(&right).open(&guarded.faulty.uri));
        assert_eq!(guarded.logins(), before, "nobody is asked again");
        guarded.run("unlock");
        drop(typed(&right).open(&guarded.faulty.uri).unwrap());
        assert_eq!(guarded.logins() - before, 2);
    });
}
