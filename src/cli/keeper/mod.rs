//! `claviger keeper`: the processes that stand between the agent and a token.

mod listen;
mod settings;
mod signals;

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use claviger::secrets::keeper::{KeeperExit, Role, end_as_failing, refuse_connection, spawn_on_socket, supervise};

use super::{
    config::Config,
    failure::Failure,
    keeper_process::{connect, keeper_command},
    output::Out,
    reload::{CONFIGURATION, ConfigurationReader},
    service_log::LogFormat,
    tokens::open::Opener,
};

/// Holds a token, its module and its PIN, for agents in other processes.
///
/// Other commands start keepers by themselves, so this command is needed only for a keeper that runs as its own user,
/// in its own unit. The agent's [[token]] then names the keeper's socket: keeper = "unix:PATH". [keeper] says who may
/// connect: `agents` may use the token's keys, `custodians` may also make and delete them.
#[derive(clap::Args)]
#[command(after_long_help = "docs/custody.md describes keepers, and how to run one as a service.")]
pub struct Args {
    /// The token's name in the configuration; without it, the only token
    #[arg(long, value_name = "NAME")]
    token: Option<String>,
    /// The socket to listen on: unix:PATH
    #[arg(long, value_name = "unix:PATH", required_unless_present_any = ["connection", "listener", "supervise"])]
    listen: Option<String>,
    /// Serves one connection, on standard input, for this role
    #[arg(long, hide = true, value_name = "ROLE", conflicts_with_all = ["listen", "listener"])]
    connection: Option<RoleName>,
    /// Serves the listening socket on standard input, as long as this process, the parent, lives
    #[arg(long, hide = true, value_name = "PROCESS", conflicts_with = "listen")]
    listener: Option<i32>,
    /// Starts keepers for the agent on standard input, with connections for this role
    #[arg(long, hide = true, value_name = "ROLE", conflicts_with_all = ["listen", "listener", "connection"])]
    supervise: Option<RoleName>,
    /// How many keepers of the token in a row have ended because the token failed
    #[arg(long, hide = true, value_name = "NUMBER", default_value_t)]
    failed_keepers: u32,
    /// The format of the log; if not given, that of the other commands' warnings
    #[arg(long, value_name = "FORMAT")]
    pub log: Option<LogFormat>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum RoleName {
    Agent,
    Custodian,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Agent => Self::Agent,
            RoleName::Custodian => Self::Custodian,
        }
    }
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    // From the beginning: a keeper that ended while it starts might end in the middle of a login.
    signals::ignore_hangup();
    if let Some(role) = args.supervise {
        return run_supervisor(config, role.into());
    }
    let token = config.token(args.token.as_deref())?;
    let opener = Opener::new(config, token)?;
    match (&args.listen, args.connection) {
        (Some(address), _) => listen::run(address, token, config, out),
        (None, Some(role)) => {
            let stream = UnixStream::from(standard_input()?);
            match settings::start_keeper(config, token, opener, args.failed_keepers, false) {
                Ok(keeper) => {
                    signals::serve(&keeper);
                    kill_process_if_failed(keeper.serve(stream, role.into()));
                }
                Err(error) => refuse_connection(stream, &error),
            }
            Ok(())
        }
        (None, None) => {
            listen::end_with_parent(args.listener)?;
            let listener = UnixListener::from(standard_input()?);
            let may_connect = settings::may_connect(config)?;
            let keeper = settings::start_keeper(config, token, opener, args.failed_keepers, true)?;
            signals::serve(&keeper);
            let ended = keeper.listen(listener, may_connect, listen::request_successor);
            kill_process_if_failed(ended.map_err(|error| Failure::io("the socket", &error))?);
            Ok(())
        }
    }
}

/// Starts keepers for the agent on standard input, connects the agent to keepers that listen on a socket, and reads the
/// configuration for the agent.
fn run_supervisor(config: &Config, role: Role) -> Result<(), Failure> {
    let agent = UnixStream::from(standard_input()?);
    let reader = ConfigurationReader::new(config);
    let served = supervise(agent, role, |name, failed_keepers| {
        if name == CONFIGURATION {
            return reader.answer().map(|answer| (answer, None));
        }
        match config.tokens.iter().find(|token| token.name == name).and_then(|token| token.keeper.as_deref()) {
            Some(address) => Ok((connect(address)?, None)),
            None => spawn_on_socket(keeper_command(config, name, role, failed_keepers)?)
                .map(|(stream, process)| (stream, Some(process))),
        }
    });
    served.map_err(|error| Failure::io("the agent's socket", &error))
}

/// The connection or the socket that this process was started with.
fn standard_input() -> Result<OwnedFd, Failure> {
    let input = io::stdin().as_fd().try_clone_to_owned();
    input.map_err(|error| Failure::io("standard input", &error))
}

/// Kills this process at once if the keeper failed. The parent starts the process again.
///
/// Threads may be inside the module: one that hangs, or one that logs in to a token which has just come back. exit(3)
/// would run the module's clean-up while they run. In one observed case, a token then refused the correct PIN of the
/// next keeper.
fn kill_process_if_failed(ended: KeeperExit) {
    match ended {
        KeeperExit::Finished | KeeperExit::Exhausted => {}
        KeeperExit::Failing => end_as_failing(),
        KeeperExit::TokenGone | KeeperExit::Hung => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
