//! `claviger key`: the commands for keys in tokens.

#[cfg(feature = "yubikey")]
mod attest;
mod delete;
mod generate;
mod import;
mod list;

use super::{config::Config, failure::Failure, output::Out};

#[derive(clap::Subcommand)]
pub enum Command {
    Generate(generate::Args),
    Import(import::Args),
    List(list::Args),
    Delete(delete::Args),
    #[cfg(feature = "yubikey")]
    Attest(attest::Args),
}

pub fn run(command: &Command, config: &Config, out: &Out) -> Result<(), Failure> {
    match command {
        Command::Generate(args) => generate::run(args, config, out),
        Command::Import(args) => import::run(args, config, out),
        Command::List(args) => list::run(args, config, out),
        Command::Delete(args) => delete::run(args, config, out),
        #[cfg(feature = "yubikey")]
        Command::Attest(args) => attest::run(args, config, out),
    }
}
