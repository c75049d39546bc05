//! `claviger token`: the commands for tokens.

mod doctor;
mod init;
mod list;
mod lock;
mod pin_problem;
mod row;
mod unlock;
#[cfg(feature = "yubikey")]
mod yubikey;

use super::{config::Config, failure::Failure, output::Out};

#[derive(clap::Subcommand)]
pub enum Command {
    List(list::Args),
    Init(init::Args),
    Unlock(unlock::Args),
    Lock(lock::Args),
    Doctor(doctor::Args),
}

/// Runs a command. `config` reads the configuration, for the commands that need one.
pub fn run(command: &Command, config: &dyn Fn() -> Result<Config, Failure>, out: &Out) -> Result<(), Failure> {
    match command {
        Command::List(_) => list::run(&config()?, out),
        Command::Init(args) => init::run(args, &config()?, out),
        Command::Unlock(args) => unlock::run(args, &config()?, out),
        Command::Lock(args) => lock::run(args, &config()?, out),
        Command::Doctor(args) if args.sandbox => doctor::report_sandbox(out),
        Command::Doctor(args) => doctor::run(args, &config()?, out),
    }
}
