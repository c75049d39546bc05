//! `claviger token`.

mod doctor;
mod init;
pub mod list;
mod lock;
mod modules;
#[cfg(feature = "yubikey")]
mod piv;
mod unlock;

pub use modules::softhsm;

use super::{config::Config, failure::Failure, output::Out};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Lists the tokens; without a configuration those of this machine
    List,
    Init(init::Args),
    Unlock(unlock::Args),
    Lock(lock::Args),
    Doctor(doctor::Args),
}

/// A configuration is read only by the commands that need one.
pub fn run(command: &Command, config: &dyn Fn() -> Result<Config, Failure>, out: &Out) -> Result<(), Failure> {
    match command {
        Command::List => list::run(&config()?, out),
        Command::Init(args) => init::run(args, &config()?, out),
        Command::Unlock(args) => unlock::run(args, &config()?, out),
        Command::Lock(args) => lock::run(args, &config()?, out),
        Command::Doctor(args) if args.sandbox => doctor::try_sandbox(out),
        Command::Doctor(args) => doctor::run(args, &config()?, out),
    }
}
