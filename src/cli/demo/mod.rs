//! `claviger demo`: real tokens, real messages, shown step by step.
//!
//! SoftHSM reads SOFTHSM2_CONF when its module is initialised, and safe Rust cannot change the environment of its own
//! process. So the demo runs in a second process, which has the variable set.

mod agent;
mod daemons;
mod envelopes;
mod page;
mod script;

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    failure::Failure,
    output::Out,
    pkcs11_modules::{softhsm, softhsm_missing},
    runtime::block_on,
    this_program,
};

/// Shows two agents with a token each, which exchange messages.
///
/// Alice and Bob each run a daemon with its keeper and a SoftHSM token in a temporary folder. They meet by an
/// invitation and exchange messages, and one daemon is killed and started again. With --envelopes the demo shows the
/// messages themselves, layer by layer, and the operations of the tokens; Alice and Bob may have YubiKeys. Nothing is
/// left behind: keys that were made in a YubiKey are deleted at the end. The demo needs SoftHSM.
#[derive(clap::Args)]
pub struct Args {
    /// SoftHSM's PKCS#11 module, if it is not in one of its usual places
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// The serial number of a YubiKey for Alice; given again, of one for Bob
    #[cfg(feature = "yubikey")]
    #[arg(long, value_name = "SERIAL")]
    yubikey: Vec<u32>,
    /// Shows the messages instead of the daemons that exchange them; --yubikey does the same
    #[arg(long)]
    envelopes: bool,
    /// The folder of the tokens, for the second process of the demo
    #[arg(long, hide = true, value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub fn run(args: &Args, out: &Out) -> Result<(), Failure> {
    let module = args.module.clone().or_else(softhsm).filter(|module| module.is_file()).ok_or_else(softhsm_missing)?;
    let yubikeys = args.yubikeys()?;
    match &args.folder {
        Some(folder) if !args.envelopes && yubikeys.is_empty() => daemons::run(&module, folder, out),
        Some(_) => block_on(envelopes::run(&module, &yubikeys, out)),
        None => run_second_process(&module, &yubikeys, args.envelopes, out),
    }
}

impl Args {
    #[cfg(feature = "yubikey")]
    fn yubikeys(&self) -> Result<Vec<u32>, Failure> {
        match &self.yubikey[..] {
            [first, second] if first == second => {
                Err(Failure::usage("bad-arguments", "Alice and Bob need a YubiKey each, not the same one"))
            }
            [_, _, _, ..] => Err(Failure::usage("bad-arguments", "two YubiKeys are enough: Alice's and Bob's")),
            serials => Ok(serials.to_vec()),
        }
    }

    #[cfg(not(feature = "yubikey"))]
    fn yubikeys(&self) -> Result<Vec<u32>, Failure> {
        Ok(Vec::new())
    }
}

/// Runs the demo in a second process, with a new folder for its tokens, which is removed afterwards.
fn run_second_process(module: &Path, yubikeys: &[u32], envelopes: bool, out: &Out) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| Failure::io("the demo's temporary folder", error);
    let folder = tempfile::Builder::new().prefix("claviger-demo-").tempdir().map_err(|error| failed(&error))?;
    let configuration = write_softhsm_configuration(folder.path()).map_err(|error| failed(&error))?;
    let mut command = this_program::command()?;
    command
        .args(out.json.then_some("--json"))
        .arg("demo")
        .arg("--folder")
        .arg(folder.path())
        .arg("--module")
        .arg(module);
    command.args(envelopes.then_some("--envelopes"));
    command.args(yubikeys.iter().map(|serial| format!("--yubikey={serial}")));
    command.env("SOFTHSM2_CONF", configuration);
    let status = command.status().map_err(|error| Failure::io("the demo's second process", &error))?;
    match status.code() {
        Some(0) => Ok(()),
        // The second process has printed its error.
        Some(code) => {
            drop(folder);
            std::process::exit(code)
        }
        None => Err(Failure::new("failed", format!("the demo's second process ended by a signal: {status}"))),
    }
}

fn write_softhsm_configuration(folder: &Path) -> std::io::Result<PathBuf> {
    let tokens = folder.join("tokens");
    fs::create_dir(&tokens)?;
    let configuration = folder.join("softhsm2.conf");
    let lines = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
    fs::write(&configuration, lines)?;
    Ok(configuration)
}
