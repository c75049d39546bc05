//! `claviger attestation`: the command for whoever receives the attestation of a key.

pub mod certificates;
mod report;
mod verify;

use super::{config::Config, failure::Failure, output::Out};

#[derive(clap::Subcommand)]
pub enum Command {
    Verify(verify::Args),
}

pub fn run(command: &Command, config: &Config, out: &Out) -> Result<(), Failure> {
    match command {
        Command::Verify(args) => verify::run(args, config, out),
    }
}
