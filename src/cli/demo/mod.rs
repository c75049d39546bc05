//! `claviger demo`: real tokens, real messages, shown step by step.
//!
//! SoftHSM reads SOFTHSM2_CONF when it is initialised, and no safe Rust changes the environment of its own process: so
//! the demo starts itself again, with the variable set.

mod agent;
mod by_hand;
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
/// Alice, Bob and a mediator get throw-away SoftHSM tokens in a temporary folder, and exchange a signed and
/// authcrypted message, an anoncrypted reply, and a forward. Nothing is left behind.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of the tokens: what the demo gives itself when it starts itself again
    #[arg(long, hide = true, value_name = "DIR")]
    stage: Option<PathBuf>,
}

pub fn run(args: &Args, out: &Out) -> Result<(), Failure> {
    let module = softhsm().ok_or_else(missing)?;
    match &args.stage {
        Some(_) => wait(story::tell(&module, out)),
        None => start_again(out),
    }
}

fn missing() -> Failure {
    Failure::not_ready("softhsm-missing", "SoftHSM is not installed")
        .hint("apt-get install softhsm2 (Debian, Ubuntu), dnf install softhsm (Fedora), brew install softhsm (macOS)")
}

/// Runs the demo in a process of its own that finds its tokens in a new folder, which is removed after.
fn start_again(out: &Out) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| Failure::io("the demo's temporary folder", error);
    let stage = tempfile::Builder::new().prefix("claviger-demo-").tempdir().map_err(|error| failed(&error))?;
    let configuration = prepare(stage.path()).map_err(|error| failed(&error))?;
    let program = env::current_exe().map_err(|error| Failure::io("this program", &error))?;
    let mut command = Command::new(program);
    command.args(out.json.then_some("--json")).arg("demo").arg("--stage").arg(stage.path());
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
