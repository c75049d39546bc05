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
pub struct FaultyToken {
    /// The token's URI, with the shim as its module.
    pub uri: String,
    pub shim: Shim,
    /// The part of the test that this process runs; see [`FaultyToken::in_another_process`].
    pub part: Option<String>,
}

const URI: &str = "CLAVIGER_TEST_FAULTY";
const PART: &str = "CLAVIGER_TEST_PART";

impl FaultyToken {
    pub fn open(&self) -> Pkcs11Token {
        open(&self.uri, PinSource::uri()).expect("a token")
    }

    /// Gives the shim these orders, opens the token, and returns its keys.
    pub fn keys_under(&self, orders: &[&str]) -> Vec<HeldKey> {
        self.shim.order(orders);
        self.open().keys().expect("the keys")
    }

    /// A command that runs this test again in another process, on the same token. The body gets `part` there.
    pub fn in_another_process(&self, part: &str) -> Command {
        let mut command = rerun_this_test();
        command.env(PART, part);
        command
    }
}

/// A command that runs only this test.
fn rerun_this_test() -> Command {
    let thread = std::thread::current();
    let test = thread.name().expect("libtest names a test's thread after it");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([test, "--exact", "--nocapture"]);
    command
}

/// Runs the body of the calling test in a process of its own, on a fresh token behind the shim. A module reads its
/// environment only once in a process.
pub fn with_fault_module(module: Module, body: impl FnOnce(FaultyToken)) {
    run(module, &[], body);
}

/// Like [`with_fault_module`], for a test that makes very many calls: without a trace, and with a delay of some
/// milliseconds until an order applies.
pub fn with_quick_fault_module(module: Module, body: impl FnOnce(FaultyToken)) {
    run(module, &[("CLAVIGER_FAULT_QUICK", "1")], body);
}

fn run(module: Module, env: &[(&str, &str)], body: impl FnOnce(FaultyToken)) {
    if let (Ok(uri), Some(control)) = (std::env::var(URI), std::env::var_os("CLAVIGER_FAULT_CONTROL")) {
        return body(FaultyToken { uri, shim: Shim::new(PathBuf::from(control)), part: std::env::var(PART).ok() });
    }
    let (Some(path), Some(token)) = (module.path(), TestToken::new(module, "demo")) else { return };
    let uri = uri_with_fault_module(&token.uri);
    let output = rerun_this_test()
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
    // Measurements, for --nocapture.
    print!("{out}");
}

/// A token's URI, with the shim as its module.
pub fn uri_with_fault_module(uri: &str) -> String {
    let (start, rest) = uri.split_once("module-path=").expect("the URI names a module");
    let end = rest.find('&').map_or("", |at| &rest[at..]);
    format!("{start}module-path={}{end}", Shim::module().display())
}

/// Changes the PIN of the token labelled `demo`, as another program would. The shim does not see it.
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
