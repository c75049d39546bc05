//! `claviger token`: the commands for tokens.

mod doctor;
mod init;
mod list;
mod lock;
mod machine;
mod pin_problem;
#[cfg(feature = "yubikey")]
mod piv;
mod row;
mod unlock;

use super::{config::Config, failure::Failure, output::Out};

#[derive(clap::Subcommand)]
pub enum Command {
    List(list::Args),
    Init(init::Args),
    Unlock(unlock::Args),
    Lock(lock::Args),
    Doctor(doctor::Args),
}

impl Command {
    /// The name of the token that the command needs; none if it needs all tokens, or another one.
    pub fn token(&self) -> Option<String> {
        match self {
            Self::List(_) => None,
            Self::Init(args) => Some(args.name.clone()),
            Self::Unlock(args) => args.name.clone(),
            Self::Lock(args) => args.name.clone(),
            Self::Doctor(args) => args.name.clone(),
        }
    }
}

/// Runs a command. `config` reads the configuration, for the commands that need one.
pub fn run(command: &Command, config: &dyn Fn() -> Result<Config, Failure>, out: &Out) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(args, config, out),
        Command::Init(args) => init::run(args, &config()?, out),
        Command::Unlock(args) => unlock::run(args, &config()?, out),
        Command::Lock(args) => lock::run(args, &config()?, out),
        Command::Doctor(args) if args.sandbox => doctor::report_sandbox(out),
        Command::Doctor(args) => doctor::run(args, &config()?, out),
    }
}
