//! `claviger key`.

mod delete;
mod generate;
mod import;
mod list;

use super::{config::Config, failure::Failure, output::Out};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Makes a key pair in a token
    Generate(generate::Args),
    /// Imports private keys that were made outside
    Import(import::Args),
    /// Lists the keys
    List(list::Args),
    /// Deletes a key pair
    Delete(delete::Args),
}

pub fn run(command: &Command, config: &Config, out: &Out) -> Result<(), Failure> {
    match command {
        Command::Generate(args) => generate::run(args, config, out),
        Command::Import(args) => import::run(args, config, out),
        Command::List(args) => list::run(args, config, out),
        Command::Delete(args) => delete::run(args, config, out),
    }
}
