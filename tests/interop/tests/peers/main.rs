//! Other software and Claviger, with its keys in SoftHSM, try each envelope and each DID method with each other. What
//! happened is a table in docs/interop.md, which this test compares, or writes if `CLAVIGER_UPDATE_DOCS` is set.
//!
//! Each peer runs at a pinned version: those in Python and JavaScript as `tests/interop/peers` installs them, each language
//! in a process; those in Rust in this process. `peers/README.md` has the requests that they understand.

use std::path::Path;
use std::process::{Command, Stdio};

use claviger_interop::tokens::{Module, ThrowAway, required};
use driver::Drivers;

#[path = "../common/mod.rs"]
mod common;
mod dids;
mod driver;
mod envelopes;
#[path = "../common/logs.rs"]
mod logs;
mod operation;
#[path = "../both_ways/ours.rs"]
mod ours;
mod roster;
mod rust;
mod table;

/// The environment variable with the folder of the installed peers.
const FOLDER: &str = "CLAVIGER_INTEROP_PEERS";

#[test]
fn docs_interop_md_says_what_each_peer_does() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return run(Path::new(&folder));
    }
    let Some(token) = ThrowAway::new(Module::SoftHsm, "peers") else {
        eprintln!("skipped: SoftHSM is missing");
        return;
    };
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/install");
    let installed = Command::new(install).stderr(Stdio::inherit()).output().unwrap();
    if !installed.status.success() {
        assert!(!required(), "the peers are missing, and CI or CLAVIGER_REQUIRE_TOKENS wants them");
        eprintln!("skipped: the peers are missing");
        return;
    }
    // In another process, because the module reads its configuration from the environment.
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["docs_interop_md_says_what_each_peer_does", "--exact", "--nocapture"]);
    again.env(&token.env.0, &token.env.1).env(ours::TOKEN, &token.uri);
    let output = again.env(FOLDER, String::from_utf8(installed.stdout).unwrap().trim()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{}:\n{out}\n{err}", output.status);
}

fn run(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut drivers = Drivers::new(folder);
    let mut rows = Vec::new();
    for peer in roster::peers() {
        let driver = drivers.of(&peer);
        for operation in &peer.operations {
            let results = match operation.envelope() {
                Some(envelope) => envelopes::try_both_ways(&runtime, driver, &peer, &envelope),
                None => dids::try_both_ways(&runtime, driver, &peer, *operation),
            };
            rows.push(table::Row { peer: peer.title(), operation: *operation, results });
        }
    }
    table::compare_or_write(&rows);
}
