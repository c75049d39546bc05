//! A token behind `tests/fault-module`, for `mod support;`.

use std::{path::PathBuf, process::Command};

use claviger::secrets::{
    HeldKey, Token,
    pkcs11::{PinSource, Pkcs11Token, open},
};
use claviger_fault_module::Shim;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    slot::Slot,
    types::AuthPin,
};

use super::{Module, TestToken};

/// A token behind the shim.
pub struct Faulty {
    /// Its URI, with the shim for its module.
    pub uri: String,
    pub shim: Shim,
    /// The part of the test that this process is for; see [`Faulty::in_another_process`].
    pub part: Option<String>,
}

const URI: &str = "CLAVIGER_TEST_FAULTY";
const PART: &str = "CLAVIGER_TEST_PART";

impl Faulty {
    pub fn open(&self) -> Pkcs11Token {
        open(&self.uri, PinSource::uri()).expect("a token")
    }

    /// The keys that may be used, by a token that was opened under these orders.
    pub fn keys_under(&self, orders: &[&str]) -> Vec<HeldKey> {
        self.shim.order(orders);
        self.open().keys().expect("a token that serves")
    }

    /// A part of this test, to be done in a process of its own on the same token: the body is run there with `part`.
    pub fn in_another_process(&self, part: &str) -> Command {
        let mut command = again();
        command.env(PART, part);
        command
    }
}

/// This test, run again and alone.
fn again() -> Command {
    let thread = std::thread::current();
    let test = thread.name().expect("libtest names a test's thread after it");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([test, "--exact", "--nocapture"]);
    command
}

/// Runs the body of the test that calls this in a process of its own, on a fresh token behind the shim: the module reads
/// its environment once in a process.
pub fn behind_the_shim(module: Module, body: impl FnOnce(Faulty)) {
    run(module, &[], body);
}

/// The same for very many calls: without a trace, and orders take some milliseconds to be seen.
pub fn behind_the_quick_shim(module: Module, body: impl FnOnce(Faulty)) {
    run(module, &[("CLAVIGER_FAULT_QUICK", "1")], body);
}

fn run(module: Module, env: &[(&str, &str)], body: impl FnOnce(Faulty)) {
    if let (Ok(uri), Some(control)) = (std::env::var(URI), std::env::var_os("CLAVIGER_FAULT_CONTROL")) {
        return body(Faulty { uri, shim: Shim::new(PathBuf::from(control)), part: std::env::var(PART).ok() });
    }
    let (Some(path), Some(token)) = (module.path(), TestToken::new(module, "demo")) else { return };
    let uri = through_the_shim(&token.uri);
    let output = again()
        .env(&token.env.0, &token.env.1)
        .env("CLAVIGER_FAULT_MODULE", path)
        .env("CLAVIGER_FAULT_CONTROL", token.folder().join("fault"))
        .env(URI, uri)
        .envs(env.iter().copied())
        .output()
        .expect("this program starts again");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "on {module:?} ({}):\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "the test was not found by its name:\n{out}");
    // For who wants to see what was measured.
    print!("{out}");
}

/// A token's URI with the shim for its module.
pub fn through_the_shim(uri: &str) -> String {
    let (start, rest) = uri.split_once("module-path=").expect("the URI names a module");
    let end = rest.find('&').map_or("", |at| &rest[at..]);
    format!("{start}module-path={}{end}", Shim::module().display())
}

/// Gives the token labelled `demo` another PIN, past the shim: as another program would, in no ledger and no count.
pub fn change_pin(module: Module, old: &str, new: &str) {
    let context = Pkcs11::new(module.path().expect("the module of this test")).expect("the module is loaded");
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => panic!("{error}"),
    }
    let slots = context.get_slots_with_token().expect("slots");
    let demo = |slot: &&Slot| context.get_token_info(**slot).is_ok_and(|info| info.label().trim_end() == "demo");
    let slot = slots.iter().find(demo).expect("the token of this test");
    let session = context.open_rw_session(*slot).expect("a session");
    session.set_pin(&AuthPin::new(old.into()), &AuthPin::new(new.into())).expect("the old PIN is right");
}
