//! `claviger did`.

mod create;
mod resolve;

use super::{config::Config, failure::Failure, output::Out};

#[derive(clap::Subcommand)]
pub enum Command {
    Create(create::Args),
    Resolve(resolve::Args),
}

pub fn run(command: &Command, config: &Config, out: &Out) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create::run(args, config, out),
        Command::Resolve(args) => resolve::run(args, config, out),
    }
}
