//! `claviger demo`: real tokens, real messages, shown step by step.
//!
//! SoftHSM reads SOFTHSM2_CONF when it is initialised, and no safe Rust changes the environment of its own process: so
//! the demo starts itself again, with the variable set.

mod agent;
mod by_hand;
mod daemons;
mod page;
mod story;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{failure::Failure, output::Out, token::softhsm, wait};

/// Two agents, two tokens, a conversation, shown step by step.
///
/// Alice and Bob each run a daemon with its keeper and a throw-away SoftHSM token in a temporary folder. They meet by an
/// invitation and talk, and one of them is killed meanwhile. With --envelopes the messages themselves are shown, layer by
/// layer, and what the tokens do for each; a YubiKey may be among them. Nothing is left behind: the keys that are made in a
/// YubiKey are deleted at the end.
#[derive(clap::Args)]
pub struct Args {
    /// SoftHSM's PKCS#11 module, if it is not at one of its usual places
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// The serial number of a YubiKey for Alice; given again, of one for Bob
    #[cfg(feature = "yubikey")]
    #[arg(long, value_name = "SERIAL")]
    yubikey: Vec<u32>,
    /// Shows the messages themselves instead of daemons that exchange them; so does --yubikey
    #[arg(long)]
    envelopes: bool,
    /// The folder of the tokens: what the demo gives itself when it starts itself again
    #[arg(long, hide = true, value_name = "DIR")]
    stage: Option<PathBuf>,
}

pub fn run(args: &Args, out: &Out) -> Result<(), Failure> {
    let module = args.module.clone().or_else(softhsm).filter(|module| module.is_file()).ok_or_else(softhsm_missing)?;
    let yubikeys = args.yubikeys()?;
    match &args.stage {
        Some(stage) if !args.envelopes && yubikeys.is_empty() => daemons::tell(&module, stage, out),
        Some(_) => wait(story::tell(&module, &yubikeys, out)),
        None => start_again(&module, &yubikeys, args.envelopes, out),
    }
}

impl Args {
    #[cfg(feature = "yubikey")]
    fn yubikeys(&self) -> Result<Vec<u32>, Failure> {
        match &self.yubikey[..] {
            [first, second] if first == second => {
                Err(Failure::words("bad-arguments", "Alice and Bob have a YubiKey each, not the same one"))
            }
            [_, _, _, ..] => Err(Failure::words("bad-arguments", "two YubiKeys are enough: Alice's and Bob's")),
            serials => Ok(serials.to_vec()),
        }
    }

    #[cfg(not(feature = "yubikey"))]
    fn yubikeys(&self) -> Result<Vec<u32>, Failure> {
        Ok(Vec::new())
    }
}

/// That SoftHSM is not installed, and how it is.
pub fn softhsm_missing() -> Failure {
    Failure::not_ready("softhsm-missing", "SoftHSM is not installed")
        .hint("apt-get install softhsm2 (Debian, Ubuntu), dnf install softhsm (Fedora), brew install softhsm (macOS)")
}

/// Runs the demo in a process of its own that finds its tokens in a new folder, which is removed after.
fn start_again(module: &Path, yubikeys: &[u32], envelopes: bool, out: &Out) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| Failure::io("the demo's temporary folder", error);
    let stage = tempfile::Builder::new().prefix("claviger-demo-").tempdir().map_err(|error| failed(&error))?;
    let configuration = prepare(stage.path()).map_err(|error| failed(&error))?;
    let program = env::current_exe().map_err(|error| Failure::io("this program", &error))?;
    let mut command = Command::new(program);
    command.args(out.json.then_some("--json")).arg("demo").arg("--stage").arg(stage.path()).arg("--module").arg(module);
    command.args(envelopes.then_some("--envelopes"));
    command.args(yubikeys.iter().map(|serial| format!("--yubikey={serial}")));
    command.env("SOFTHSM2_CONF", configuration);
    let status = command.status().map_err(|error| Failure::io("the demo's own process", &error))?;
    match status.code() {
        Some(0) => Ok(()),
        // It has said why.
        Some(code) => {
            drop(stage);
            std::process::exit(code)
        }
        None => Err(Failure::new("failed", format!("the demo's own process ended by a signal: {status}"))),
    }
}

fn prepare(stage: &Path) -> std::io::Result<PathBuf> {
    let tokens = stage.join("tokens");
    fs::create_dir(&tokens)?;
    let configuration = stage.join("softhsm2.conf");
    let lines = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
    fs::write(&configuration, lines)?;
    Ok(configuration)
}
