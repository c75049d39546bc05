//! `claviger completions`: prints the completion script for a shell.

use clap_complete::Shell;
use serde_json::json;

use super::{failure::Failure, output::Out};

/// Prints the completion script for a shell.
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args, command: &mut clap::Command, out: &Out) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "claviger", &mut script);
    let script = String::from_utf8_lossy(&script);
    if out.json { out.document(&json!({ "completions": script })) } else { out.line(script.trim_end()) }
}
