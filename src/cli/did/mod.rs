//! `claviger did`.

mod create;
mod resolve;

use super::{config::Config, failure::Failure, output::Out};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Makes a DID of ours, with the keys it is not given
    Create(create::Args),
    /// Prints the document of a DID
    Resolve(resolve::Args),
}

pub fn run(command: &Command, config: &Config, out: &Out) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create::run(args, config, out),
        Command::Resolve(args) => resolve::run(args, config, out),
    }
}
