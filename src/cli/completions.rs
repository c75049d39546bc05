//! `claviger completions`.

use clap_complete::Shell;

use super::{failure::Failure, output::Out};

/// Prints the completions for a shell.
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args, command: &mut clap::Command, out: &Out) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "claviger", &mut script);
    out.line(String::from_utf8_lossy(&script).trim_end())
}
