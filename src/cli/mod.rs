//! The command line. Each command is a file, which contains no protocol logic.
//!
//! Data goes to stdout, messages for people go to stderr. Exit status: 0 done, 1 failed, 2 wrong arguments or
//! configuration, 3 token not ready. Arguments, configuration, message and DIDs are checked before a token is opened,
//! and only the tokens that the command needs are opened.

mod agent_client;
mod agent_commands;
mod api_callers;
mod arguments;
#[cfg(feature = "yubikey")]
mod attestation;
mod audit;
mod backup;
mod completions;
mod config;
mod confirm;
mod daemon_options;
mod demo;
mod desktop;
mod did;
mod failure;
mod init;
mod input;
mod keeper;
mod keeper_process;
mod key;
mod key_name;
mod log;
mod man;
mod message_files;
mod open;
mod output;
mod output_file;
mod own_dids;
mod pack;
mod pin;
mod pkcs11_modules;
mod private_folder;
#[cfg(all(test, feature = "yubikey"))]
mod reference;
mod reload;
mod runtime;
mod serve;
mod servers;
mod service_log;
mod shell;
mod state_dir;
mod store;
mod store_location;
mod table;
mod this_program;
mod token;
mod token_environment;
mod tokens;
mod typed_pin;
mod unix_time;
mod unpack;
mod users;
mod yubikey_wait;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand};

use claviger::process::hardening::harden;
use config::Config;
use failure::Failure;
use output::Out;
use service_log::LogFormat;

/// A DIDComm v2 agent whose private keys never leave the hardware.
#[derive(Parser)]
#[command(name = "claviger", version, max_term_width = 100)]
struct Cli {
    /// The configuration file; if not given, $CLAVIGER_CONFIG, ./claviger.toml, ~/.config/claviger/claviger.toml or
    /// /etc/claviger/claviger.toml
    #[arg(long, value_name = "FILE", global = true, help_heading = "Global options")]
    config: Option<PathBuf>,
    /// Prints one JSON document on stdout; an error is a JSON document on stderr
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Logs more on stderr; -vv and -vvv log still more
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Global options")]
    verbose: u8,
    /// Waits this many seconds for a YubiKey that is not plugged in, or that another program uses; if not given, 60 at a
    /// terminal, else 0
    #[arg(long, value_name = "SECONDS", global = true, help_heading = "Global options")]
    wait: Option<u32>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    /// Tokens: list, initialise, unlock, lock, examine
    #[command(subcommand)]
    Token(token::Command),
    /// Keys in the tokens: generate, import, list, delete, attest
    #[command(subcommand)]
    Key(key::Command),
    /// DIDs: create, list, resolve, rotate, retire, update
    #[command(subcommand)]
    Did(did::Command),
    Pack(pack::Args),
    Unpack(unpack::Args),
    Init(init::Args),
    Serve(serve::Args),
    Backup(backup::BackupArgs),
    Restore(backup::RestoreArgs),
    /// The agent's store: copy it between SQLite and PostgreSQL, check it
    #[command(subcommand)]
    Store(store::Command),
    Send(agent_commands::SendArgs),
    Ping(agent_commands::PingArgs),
    Inbox(agent_commands::InboxArgs),
    Reply(agent_commands::ReplyArgs),
    Invite(agent_commands::InviteArgs),
    Accept(agent_commands::AcceptArgs),
    Connections(agent_commands::ConnectionsArgs),
    Outbox(agent_commands::outbox::Args),
    Mediator(agent_commands::mediator::Args),
    Webhook(agent_commands::webhook::Args),
    Status(agent_commands::StatusArgs),
    Open(open::Args),
    Keeper(keeper::Args),
    /// Attestations of keys in YubiKeys: verify
    #[cfg(feature = "yubikey")]
    #[command(subcommand)]
    Attestation(attestation::Command),
    /// The keepers' audit: verify, head
    #[command(subcommand)]
    Audit(audit::Command),
    Completions(completions::Args),
    /// Prints the manual page
    Man,
}

impl Command {
    /// The format of the log of a command that runs as a service.
    fn log(&self) -> Option<LogFormat> {
        match self {
            Self::Serve(args) => Some(args.log),
            Self::Keeper(args) => args.log,
            _ => None,
        }
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // This is needed before the arguments are parsed, because the report of invalid arguments depends on `--json`.
    let out = Out { json: arguments.iter().take_while(|it| *it != "--").any(|it| it == "--json"), file: None };
    if service_log::asks_for_json(&arguments) {
        service_log::use_json();
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help and version. A closed pipe is no failure.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return out.report(&failure::invalid_arguments(&error, out.json || service_log::is_json())),
    };
    match (&cli.command, cli.command.log()) {
        (Command::Serve(args), _) => args.start_log(cli.verbose),
        (_, Some(format)) => service_log::start(format, cli.verbose),
        (_, None) => log::start(cli.verbose, out.json),
    }
    // Harden the process before it reads anything. `token doctor` reports unsupported measures.
    harden();
    let status = match run(cli, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => out.report(&failure),
    };
    service_log::finish();
    status
}

fn run(cli: Cli, out: &Out) -> Result<(), Failure> {
    // `claviger token` examines devices, and loads their modules in this process.
    let (loads_modules, needed_token) = match &cli.command {
        Command::Token(command) => (true, command.token()),
        _ => (false, None),
    };
    let is_keeper = matches!(cli.command, Command::Keeper(_));
    let log = cli.command.log();
    let config = || {
        let mut config = Config::load(cli.config.as_deref())?;
        config.wait = cli.wait.map(|seconds| Duration::from_secs(seconds.into()));
        config.flags.extend(cli.json.then(|| "--json".to_owned()));
        config.flags.extend(std::iter::repeat_n("--verbose".to_owned(), cli.verbose.into()));
        config.log = log;
        if loads_modules || config.keeper.in_process {
            token_environment::ensure(&mut config, needed_token.as_deref())?;
        }
        // The process that starts keepers has warned already.
        if !is_keeper {
            config.warn_of_faulty_tokens();
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
        Command::Serve(args) if args.openapi => serve::print_openapi(out),
        Command::Init(args) => init::run(&args, out),
        Command::Serve(args) => serve::run(&args, &config()?, out),
        Command::Backup(args) => backup::backup(&args, &config()?, out),
        Command::Restore(args) => backup::restore(&args, &config()?, out),
        Command::Store(command) => store::run(&command, &config()?, out),
        Command::Send(args) => agent_commands::run(&agent_commands::AgentCommand::Send(args), &config()?, out),
        Command::Ping(args) => agent_commands::run(&agent_commands::AgentCommand::Ping(args), &config()?, out),
        Command::Inbox(args) => agent_commands::run(&agent_commands::AgentCommand::Inbox(args), &config()?, out),
        Command::Reply(args) => agent_commands::run(&agent_commands::AgentCommand::Reply(args), &config()?, out),
        Command::Invite(args) => agent_commands::run(&agent_commands::AgentCommand::Invite(args), &config()?, out),
        Command::Accept(args) => agent_commands::run(&agent_commands::AgentCommand::Accept(args), &config()?, out),
        Command::Connections(args) => {
            agent_commands::run(&agent_commands::AgentCommand::Connections(args), &config()?, out)
        }
        Command::Outbox(args) => agent_commands::outbox::run(&args, &config()?, out),
        Command::Mediator(args) => agent_commands::mediator::run(&args, &config()?, out),
        Command::Webhook(args) => agent_commands::webhook::run(&args, &config()?, out),
        Command::Status(args) => agent_commands::run(&agent_commands::AgentCommand::Status(args), &config()?, out),
        Command::Open(args) => open::run(&args, &config()?, out),
        #[cfg(feature = "yubikey")]
        Command::Attestation(command) => attestation::run(&command, &config()?, out),
        Command::Audit(command) => audit::run(&command, &config, out),
        Command::Keeper(args) => keeper::run(&args, &config()?, out),
    }
}
