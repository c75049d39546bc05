//! `claviger store`: copies the agent's store to another place, and checks it.

mod check;
mod copy;

use super::{config::Config, failure::Failure, output::Out};

/// The commands for the store.
#[derive(clap::Subcommand)]
pub enum Command {
    Copy(copy::Args),
    Check(check::Args),
}

pub fn run(command: &Command, config: &Config, out: &Out) -> Result<(), Failure> {
    match command {
        Command::Copy(args) => copy::run(args, config, out),
        Command::Check(args) => check::run(args, config, out),
    }
}
