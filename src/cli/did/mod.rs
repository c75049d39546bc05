//! `claviger did`: the commands that create, list, resolve, change and retire DIDs.

pub mod create;
mod fetch;
mod key_maker;
mod list;
mod other_keys;
mod resolve;
mod retire;
mod rotate;
mod update;
mod webvh;

use super::{config::Config, failure::Failure, output::Out};

#[derive(clap::Subcommand)]
pub enum Command {
    Create(create::Args),
    Fetch(fetch::Args),
    List(list::Args),
    Resolve(resolve::Args),
    Retire(retire::Args),
    Rotate(rotate::Args),
    Update(update::Args),
}

pub fn run(command: &Command, config: &Config, out: &Out) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create::run(args, config, out),
        Command::Fetch(args) => fetch::run(args, config, out),
        Command::List(args) => list::run(args, config, out),
        Command::Retire(args) => retire::run(args, config, out),
        Command::Resolve(args) => resolve::run(args, config, out),
        Command::Rotate(args) => rotate::run(args, config, out),
        Command::Update(args) => update::run(args, config, out),
    }
}
