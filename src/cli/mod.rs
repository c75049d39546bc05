//! The command line: words in, words out. No protocol logic; each command is a file.
//!
//! Data goes to stdout, what is meant for people to stderr. Exit status: 0 done, 1 it failed, 2 the words were wrong,
//! 3 the token was not ready. Arguments, configuration, message and DIDs are checked before any token is touched, and
//! only those tokens are opened that the command needs.

mod app;
mod backup;
mod completions;
mod config;
mod confirm;
mod demo;
mod desktop;
mod did;
mod environment;
mod failure;
mod init;
mod input;
mod keeper;
mod key;
mod keys;
mod log;
mod man;
mod output;
mod own;
mod pack;
mod patience;
mod pin;
mod serve;
mod state;
mod table;
mod token;
mod tokens;
mod unpack;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand};

use claviger::process::hygiene::harden;
use config::Config;
use failure::Failure;
use output::Out;

/// DIDComm v2 with private keys that never leave the hardware.
#[derive(Parser)]
#[command(name = "claviger", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    /// The configuration; else $CLAVIGER_CONFIG, ./claviger.toml, or the user's or the system's folder
    #[arg(long, value_name = "FILE", global = true, help_heading = "Everywhere")]
    config: Option<PathBuf>,
    /// One JSON document on stdout; an error is one on stderr
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    /// Says more on stderr; twice, still more
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Everywhere")]
    verbose: u8,
    /// Waits so many seconds for a YubiKey that is not plugged in; at a terminal 60 if not said, else none
    #[arg(long, value_name = "SECONDS", global = true, help_heading = "Everywhere")]
    wait: Option<u32>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    /// The tokens: list, initialise, examine
    #[command(subcommand)]
    Token(token::Command),
    /// The keys in the tokens: generate, import, list, delete
    #[command(subcommand)]
    Key(key::Command),
    /// DIDs: create our own, resolve anyone's
    #[command(subcommand)]
    Did(did::Command),
    Pack(pack::Args),
    Unpack(unpack::Args),
    Init(init::Args),
    Serve(serve::Args),
    Backup(backup::BackupArgs),
    Restore(backup::RestoreArgs),
    Send(app::SendArgs),
    Ping(app::PingArgs),
    Inbox(app::InboxArgs),
    Invite(app::InviteArgs),
    Accept(app::AcceptArgs),
    Connections(app::ConnectionsArgs),
    #[command(subcommand)]
    Mediator(app::mediator::Command),
    Status(app::StatusArgs),
    Keeper(keeper::Args),
    Completions(completions::Args),
    /// Prints the manual page
    Man,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    // Known before the arguments are understood: they may be wrong.
    let out = Out { json: words.iter().take_while(|word| *word != "--").any(|word| word == "--json") };
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help and version. A closed pipe is no fault.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return out.failed(&failure::wrong_words(&error, out.json)),
    };
    match &cli.command {
        Command::Serve(args) => args.start_log(cli.verbose),
        _ => log::start(cli.verbose, out.json),
    }
    // Before anything is read: what does not hold here, `token doctor` says.
    harden();
    match run(cli, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => out.failed(&failure),
    }
}

fn run(cli: Cli, out: &Out) -> Result<(), Failure> {
    // What examines a device loads its module itself.
    let loads_modules = matches!(cli.command, Command::Token(_));
    let config = || {
        let mut config = Config::load(cli.config.as_deref())?;
        config.wait = cli.wait.map(|seconds| Duration::from_secs(seconds.into()));
        config.flags.extend(cli.json.then(|| "--json".to_owned()));
        config.flags.extend(std::iter::repeat_n("--verbose".to_owned(), cli.verbose.into()));
        if loads_modules || config.keeper.in_process {
            environment::enter(&config)?;
        }
        Ok(config)
    };
    match cli.command {
        Command::Demo(args) => demo::run(&args, out),
        Command::Completions(args) => completions::run(&args, &mut Cli::command(), out),
        Command::Man => man::run(&Cli::command(), out),
        Command::Token(command) => token::run(&command, &config, out),
        Command::Key(command) => key::run(&command, &config()?, out),
        Command::Did(command) => did::run(&command, &config()?, out),
        Command::Pack(args) => pack::run(&args, &config()?, out),
        Command::Unpack(args) => unpack::run(&args, &config()?, out),
        Command::Serve(args) if args.openapi => serve::describe(out),
        Command::Init(args) => init::run(&args, out),
        Command::Serve(args) => serve::run(&args, &config()?, out),
        Command::Backup(args) => backup::backup(&args, &config()?, out),
        Command::Restore(args) => backup::restore(&args, &config()?, out),
        Command::Send(args) => app::run(&app::Words::Send(args), &config()?, out),
        Command::Ping(args) => app::run(&app::Words::Ping(args), &config()?, out),
        Command::Inbox(args) => app::run(&app::Words::Inbox(args), &config()?, out),
        Command::Invite(args) => app::run(&app::Words::Invite(args), &config()?, out),
        Command::Accept(args) => app::run(&app::Words::Accept(args), &config()?, out),
        Command::Connections(args) => app::run(&app::Words::Connections(args), &config()?, out),
        Command::Mediator(command) => app::mediator::run(&command, &config()?, out),
        Command::Status(args) => app::run(&app::Words::Status(args), &config()?, out),
        Command::Keeper(args) => keeper::run(&args, &config()?, out),
    }
}

/// Runs what waits for tokens and resolvers.
fn wait<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(|error| Failure::io("the runtime", &error))?.block_on(future)
}
